"""Pages of lists: no list grows without bound."""

import re
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from trio_ws.errors import InvalidValue

PAGE_DEFAULT = 50  # items, where a client does not say how many
PAGE_ITEMS = 100  # of a list or a snapshot; of prices more
PAGE_BYTES = 128 * 1024  # that end a page: most clients' libraries take messages of 1 MiB


class Cursor(NamedTuple):
    """Where a page of a list begins. Opaque to clients, as a position is.

    Args:
        kind: What of the list: a currency or `*` of prices, `open` or `all` of invoices, the uid of an
            invoice of its payments.
        last: The id of the last item of the page before.
    """

    kind: str
    last: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.last}"

    @classmethod
    def parse(cls, text: str, kinds: str) -> "Cursor":
        """Return the cursor that a client was given.

        Args:
            text: What it sent.
            kinds: A pattern of the kinds that this list has.

        Raises:
            InvalidValue: it is none of this list.
        """
        match = re.fullmatch(rf"(?P<kind>{kinds})\.(?P<last>[0-9]{{1,18}})", text, re.ASCII)
        if match is None:
            raise InvalidValue("Expected a cursor as the server gave it - at `$.cursor`")
        return cls(match["kind"], int(match["last"]))


def begin_after(cursor: str | None, kind: str) -> int:
    """Return the id after which a page begins; 0: it is the first page.

    Args:
        cursor: What the client sent, if it sent one.
        kind: The only kind that the list has, or a pattern of it.

    Raises:
        InvalidValue: it is no cursor of this list.
    """
    return 0 if cursor is None else Cursor.parse(cursor, kind).last


def next_cursor(kind: str, last: int | None) -> str | UnsetType:
    """Return the cursor of the page after an item; None: there is no such page."""
    return UNSET if last is None else str(Cursor(kind, last))
