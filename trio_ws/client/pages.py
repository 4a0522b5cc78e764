"""Lists, which come in pages: read to their end, a page when its first item is wanted."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, NamedTuple, Self, TypeVar

import msgspec

from trio_ws.client.closing import broken
from trio_ws.client.line import understood

T = TypeVar("T")


class Page(NamedTuple, Generic[T]):
    """A part of a list, and the cursor of the next one; None: it is the last."""

    items: list[T]
    next: str | None


class _Reply(msgspec.Struct):
    data: list[dict[str, Any]]
    next: str | None = None


def page_of(reply: dict[str, Any], cursor: str | None) -> Page[dict[str, Any]]:
    """Return the page that a reply is, to who asked for it with a cursor.

    Raises:
        ConnectionClosed: it is none, or would have us read the same one for ever.
    """
    page = understood(reply, _Reply)
    if page.next is not None and page.next == cursor:
        raise broken("a page names itself as the next one")
    return Page(page.data, page.next)


class Items(Generic[T]):
    """What `Requests.all` returns: an iterator over a list's items.

    It is a class, and no generator, so that `break` leaves nothing behind that has to be closed.
    """

    def __init__(self, ask: Callable[[str | None], Awaitable[Page[T]]]) -> None:
        self._ask = ask
        self._items: Iterator[T] = iter(())
        self._cursor: str | None = None
        self._is_last = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            for item in self._items:
                return item
            if self._is_last:
                raise StopAsyncIteration
            items, self._cursor = await self._ask(self._cursor)
            self._items, self._is_last = iter(items), self._cursor is None
