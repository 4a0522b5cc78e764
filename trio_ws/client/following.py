"""A line of its own that follows topics, again and again from where it was."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trio_ws.client.closing import Backoff, Lost, broken
from trio_ws.client.errors import Disconnected, Refused
from trio_ws.client.line import REPLY_SECONDS, encode, next_message, understood
from trio_ws.client.opening import Address, open_patiently
from trio_ws.client.pages import page_of

BATCH_BYTES = 32768  # of topics in one message; a server takes 64 KiB by default

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
TopicName = tuple[str, str | int]
State = dict[str, Any]


class Event(NamedTuple):
    """A change of what is followed: the protocol's section 4."""

    type: str
    data: dict[str, Any]
    previous: dict[str, Any] | None
    position: str


class Gap(NamedTuple):
    """Events may be missing before this position: fetch again what matters."""

    position: str


class _Received(msgspec.Struct):
    type: str
    data: dict[str, Any]
    position: str
    previous: dict[str, Any] | None = None


class _Followed(msgspec.Struct):
    position: str
    recovered: bool
    snapshot: Any = None
    next: str | None = None


class Following(Generic[T]):
    """What `Client.follow` and `Client.watch` return: an iterator over what comes.

    Iterating raises `Refused` where the server will not have us follow, and `Disconnected` where it could not
    be reached and `connect` was to have no patience.
    """

    def __init__(
        self, found: "trio.MemoryReceiveChannel[T | Refused | Disconnected]", following: trio.CancelScope
    ) -> None:
        self._found = found
        self._following = following

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            found = await self._found.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if isinstance(found, (Refused, Disconnected)):
            raise found
        return found

    async def aclose(self) -> None:
        """Follow no more."""
        self._following.cancel()
        await self._found.aclose()

    def __del__(self) -> None:
        """Follow no more, as after a `break`."""
        if trio.lowlevel.in_trio_run():
            self._following.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Asker:
    """Asks on a line of events, before these begin."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket

    async def ask(self, action: str, **fields: object) -> dict[str, Any]:
        """Return a reply; events that come before it are dropped.

        Raises:
            Refused: it is an error.
            ConnectionClosed: none comes, though the server may well answer pings.
        """
        with trio.move_on_after(REPLY_SECONDS):
            await self._socket.send_message(encode({"action": action, **fields}))
            while "status" not in (reply := await next_message(self._socket)):
                pass
            if reply["status"] != "success":
                raise Refused(reply)
            return reply
        raise broken("no reply in time")

    async def resume(self, after: str, topics: Sequence[dict[str, object]]) -> _Followed:
        """Follow topics from a position on, named in as many messages as it takes."""
        *first, last = _batches(topics)
        for batch in first:
            await self.ask("resume", after=after, topics=batch, more=True)
        reply = await self.ask("resume", after=after, topics=last)
        return understood(reply.get("data"), _Followed)


class Source(Protocol[T_co]):
    """What is made of a line's messages."""

    async def begin(self, asker: Asker) -> Sequence[T_co]:
        """Follow on a new line, and return what is to be handed on before its events."""

    def take(self, event: Event) -> Sequence[T_co]:
        """Return what is to be handed on of an event."""


class Events:
    """Topics' events, and gaps between them."""

    def __init__(self, topics: tuple[TopicName, ...], after: str | None) -> None:
        self._topics: list[dict[str, object]] = [{"type": type_, "id": id_} for type_, id_ in topics]
        self._after = after

    async def begin(self, asker: Asker) -> Sequence[Event | Gap]:
        """Resume; where that is not exact, say so, unless we begin only now."""
        after = self._after or "none.0"  # from no log's position: it begins at the end of this one
        followed = await asker.resume(after, self._topics)
        if followed.recovered:
            return []  # and our own position stays until its events have come
        was_following, self._after = self._after is not None, followed.position
        return [Gap(followed.position)] if was_following else []

    def take(self, event: Event) -> Sequence[Event | Gap]:
        """Hand it on as it is."""
        self._after = event.position
        return [event]


class States:
    """A topic's states: those of now, and then each newer one. After a gap, those of now again.

    What is read may be newer than the first events after it: these are older states then, and are left out.
    A list that is longer than a page is read to its end before its events are.
    """

    def __init__(self, type_: str, id_: str | int) -> None:
        self._topic: dict[str, Any] = {"type": type_, "id": id_}
        self._kind = "price." if type_ == "price" else "invoice."
        self._after: str | None = None
        self._read: dict[object, tuple[int, str]] = {}  # how new each state is that was read

    async def begin(self, asker: Asker) -> Sequence[State]:
        """Resume; where that is not exact, read what there is, and follow from there on."""
        if self._after is not None:
            if (await asker.resume(self._after, [self._topic])).recovered:
                return []
            self._after = None  # until there is a snapshot, it is a gap
            await asker.ask("unsubscribe", **self._topic)
        reply = await asker.ask("subscribe", **self._topic, snapshot=True)
        followed = understood(reply.get("data"), _Followed)
        found = followed.snapshot
        states: list[State] = understood(
            found if isinstance(found, list) else [found] if found else [], list[State]
        )
        if followed.next is not None:
            await asker.ask("unsubscribe", **self._topic)
            states += [state async for state in self._pages(asker, followed.next)]
            if not (await asker.resume(followed.position, [self._topic])).recovered:
                raise broken("the log was lost meanwhile")  # once more, from the beginning
        self._read = dict(map(_key_and_newness, states))
        self._after = followed.position
        return states

    async def _pages(self, asker: Asker, cursor: str | None) -> Any:
        action = "list_prices" if self._kind == "price." else "list_invoices"
        while cursor is not None:
            states, cursor = page_of(await asker.ask(action, cursor=cursor), cursor)
            for state in states:
                yield state

    def take(self, event: Event) -> Sequence[State]:
        """Hand on the state that it brings, if it is one of ours."""
        if not event.type.startswith(self._kind):
            self._after = event.position
            return []
        key, newness = _key_and_newness(event.data)
        self._after = event.position
        read = self._read.get(key)
        return [event.data] if read is None or newness > read else []


class _Known(msgspec.Struct):
    """What an invoice or a price is known by, and what grows with each change of one, or of the other."""

    uid: str | None = None
    id: str | int | None = None
    version: int | None = None
    updatedAt: str | None = None  # noqa: N815 - the protocol's spelling


def _key_and_newness(state: State) -> tuple[object, tuple[int, str]]:
    known = understood(state, _Known)
    return known.uid or known.id, (known.version or 0, known.updatedAt or "")


class Follower(Generic[T]):
    """A line of its own that follows, again and again from where it was."""

    def __init__(
        self,
        address: Address,
        source: Source[T],
        consumer: "trio.MemorySendChannel[T | Refused | Disconnected]",
    ) -> None:
        self._address = address
        self._source = source
        self._consumer = consumer
        self._backoff = Backoff()

    async def run(self, following: trio.CancelScope) -> None:
        """Follow until nobody listens any more, or the server will not have it."""
        # Consumers go when they like, also while a refusal waits for them.
        async with self._consumer:
            with following, contextlib.suppress(trio.BrokenResourceError):
                try:
                    while True:  # noqa: ASYNC110 - nothing notifies us when the server is back
                        await trio.sleep(await self._follow_once())
                except (Refused, Disconnected) as error:
                    await self._consumer.send(error)

    async def _follow_once(self) -> float:
        """Follow until the line is lost, and return how long to wait before the next one."""
        begin = trio.current_time()
        try:
            async with open_patiently(self._address) as socket:
                begin = trio.current_time()
                for found in await self._source.begin(Asker(socket)):
                    await self._consumer.send(found)
                while True:
                    received = understood(await next_message(socket), _Received)
                    event = Event(received.type, received.data, received.previous, received.position)
                    for found in self._source.take(event):
                        await self._consumer.send(found)
        except ConnectionClosed as closed:
            lost = Lost.of(closed)
            lost.check()
            asked = lost.asked_seconds
        except Refused as refused:
            if refused.retry_after_seconds is None:
                raise
            asked = refused.retry_after_seconds
        return self._backoff.pause_after(begin, asked)


def _batches(topics: Sequence[dict[str, object]]) -> Iterator[list[dict[str, object]]]:
    batch: list[dict[str, object]] = []
    size = 0
    for topic in topics:
        size += len(encode(topic).encode()) + 1
        if batch and size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(topic)
    yield batch
