"""A line of its own that follows topics, again and again from where it was."""

from typing import Any, NamedTuple, Self

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trio_ws.client.errors import Refused
from trio_ws.client.line import encode, next_message
from trio_ws.client.opening import Address, open_patiently, pauses
from trio_ws.errors import CloseCode

FINAL_CODES = range(4400, 5000)  # the protocol's section 6: not again without a change

TopicName = tuple[str, str | int]


class Event(NamedTuple):
    """A change of what is followed: the protocol's section 4."""

    type: str
    data: dict[str, Any]
    previous: dict[str, Any] | None
    position: str


class Gap(NamedTuple):
    """Something may have been missed before this position: fetch anew what matters."""

    position: str


class Following:
    """What `Client.follow` returns: an iterator over `Event`s and, where something may be missing, `Gap`s.

    Iterating raises `Refused` where the server will not have us follow.
    """

    def __init__(
        self, events: "trio.MemoryReceiveChannel[Event | Gap | Refused]", following: trio.CancelScope
    ) -> None:
        self._events = events
        self._following = following

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Gap:
        try:
            found = await self._events.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if isinstance(found, Refused):
            raise found
        return found

    async def aclose(self) -> None:
        """Follow no more."""
        self._following.cancel()
        await self._events.aclose()

    def __del__(self) -> None:
        """Follow no more, as after a `break`."""
        if trio.lowlevel.in_trio_run():
            self._following.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Follower:
    """A line of its own that follows topics, again and again from where it was."""

    def __init__(
        self,
        address: Address,
        topics: tuple[TopicName, ...],
        after: str | None,
        consumer: "trio.MemorySendChannel[Event | Gap | Refused]",
    ) -> None:
        self._address = address
        self._topics = [{"type": type_, "id": id_} for type_, id_ in topics]
        self._after = after
        self._consumer = consumer
        self._pauses = pauses()

    async def run(self, following: trio.CancelScope) -> None:
        """Follow until nobody listens any more, or the server will not have it."""
        async with self._consumer:
            try:
                with following:
                    while True:  # noqa: ASYNC110 - nobody tells us when the server is back
                        await trio.sleep(await self._follow_once())
            except trio.BrokenResourceError:
                pass  # The consumer has gone.
            except Refused as error:
                await self._consumer.send(error)

    async def _follow_once(self) -> float:
        """Follow until the line is lost, and return how long to wait before the next one."""
        try:
            async with open_patiently(self._address) as socket:
                await self._subscribe(socket)
                while True:
                    await self._hand_on(await next_message(socket))
        except ConnectionClosed as closed:
            return self._pause_after(closed)
        except Refused as refused:
            if refused.retry_after_seconds is None:
                raise
            return max(refused.retry_after_seconds, next(self._pauses))

    async def _subscribe(self, socket: WebSocketConnection) -> None:
        after = self._after or "none.0"  # from no log's position: it begins at the end of this one
        await socket.send_message(encode({"action": "resume", "after": after, "topics": self._topics}))
        reply = await next_message(socket)
        if reply["status"] != "success":
            raise Refused(reply)
        self._pauses = pauses()
        position = reply["data"]["position"]
        if reply["data"]["recovered"]:
            return  # and our own position stays until its events have come
        was_following, self._after = self._after is not None, position
        if was_following:
            await self._consumer.send(Gap(position))

    async def _hand_on(self, message: dict[str, Any]) -> None:
        position = message["position"]
        event = Event(message["type"], message["data"], message.get("previous"), position)
        await self._consumer.send(event)
        self._after = position

    def _pause_after(self, closed: ConnectionClosed) -> float:
        code = closed.reason.code if closed.reason else 1006
        reason = (closed.reason.reason if closed.reason else None) or ""
        if code in FINAL_CODES:
            name = "unauthorized" if code == CloseCode.UNAUTHORIZED else "forbidden"
            raise Refused({"message": reason or f"closed with {code}", "code": name})
        name, _, seconds = reason.partition("=")
        if name == "retry_after" and seconds.replace(".", "", 1).isdigit():
            return float(seconds)
        return next(self._pauses)
