"""The Python client: asks and follows, comes back after any loss of line, and goes on where it was.

    async with connect("ws://localhost:8080", token=TOKEN) as client:
        invoice = await client.create_invoice(amount=1000, currency="USD", account_id=1)
        async for event in client.follow(("invoice", invoice["uid"])):
            if event.data["status"] == "paid":
                break

Requests share one line. Each `follow` has a line of its own, so that a consumer who takes his time slows down
that line alone: the server then catches it up from its log, and nothing is lost or queued up here.
"""

import itertools
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from trio_ws.errors import CloseCode, leaves

logger = logging.getLogger(__name__)

# Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): a random time up to a doubling bound.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0
OPEN_SECONDS = 10.0  # for the line and its handshake
CLOSE_SECONDS = 1.0
REPLY_SECONDS = 30.0  # the server answers within 5 s or so, or its line is dead
SILENCE_SECONDS = 40.0  # the server pings each 20 s by default; we ask after so long
NOT_OPENED = (OSError, trio.TooSlowError, HandshakeError, ConnectionClosed, trio.BrokenResourceError)
FINAL_CODES = range(4400, 5000)  # the protocol's section 6: not again without a change
FINAL_STATUSES = (400, 401, 403, 404, 405, 426, 431)  # and before the upgrade

Stream = trio.abc.HalfCloseableStream
OpenStream = Callable[[], Awaitable[Stream]]
TopicName = tuple[str, str | int]


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        code: The protocol's, section 5.
        detail: Which field, and why; None: the server did not say.
        retry_after_seconds: When to try again; None: not without a change.
    """

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(reply.get("message", ""))
        self.code: str = reply.get("code", "internal")
        self.detail: str | None = reply.get("detail")
        self.retry_after_seconds: float | None = reply.get("retry_after_seconds")


class Disconnected(Exception):
    """The line was lost before the reply came; whether the request was done is not known."""


class Event(NamedTuple):
    """A change of what is followed: the protocol's section 4."""

    type: str
    data: dict[str, Any]
    previous: dict[str, Any] | None
    position: str


class Gap(NamedTuple):
    """Something may have been missed before this position: fetch anew what matters."""

    position: str


@asynccontextmanager
async def connect(
    url: str, *, token: str | None = None, open_stream: OpenStream | None = None
) -> AsyncIterator["Client"]:
    """Yield a client of the server at a `ws://` or `wss://` URL; its lines are opened when they are needed.

    Args:
        url: Where the server is.
        token: Who we are; None: nobody, for a server that asks for none.
        open_stream: How to get there; None: TCP, and TLS for `wss://`. Tests give the simulated network's.

    Raises:
        ValueError: the URL is none of these.
    """
    address = _Address.of(url, token, open_stream)
    async with _open_nursery() as nursery:
        yield Client(address, nursery)


class Client:
    """Asks and follows; made by `connect`."""

    def __init__(self, address: "_Address", nursery: trio.Nursery) -> None:
        self._address = address
        self._nursery = nursery
        self._opening = trio.Lock()
        self._line: _Line | None = None

    async def call(self, action: str, **fields: object) -> Any:
        """Do an action and return its reply's data; for a reply without data, the reply.

        Raises:
            Refused: the server answered with an error, or does not let us in.
            Disconnected: no line came about in time, or it was lost before the reply came.
        """
        line = None
        with trio.move_on_after(REPLY_SECONDS):
            async with self._opening:
                if self._line is None or self._line.is_lost:
                    self._line = await self._nursery.start(self._hold_line)
                line = self._line
            return await line.ask({"action": action, **fields})
        if line is not None:
            line.give_up()  # what is on it is lost, most likely, and the next request needs one that is not
        raise Disconnected("no reply in time")

    async def create_invoice(self, **fields: object) -> dict[str, Any]:
        """Make an invoice, and return it."""
        invoice: dict[str, Any] = await self.call("create_invoice", **fields)
        return invoice

    async def fetch_invoice(self, uid: str) -> dict[str, Any]:
        """Return an invoice."""
        invoice: dict[str, Any] = await self.call("fetch_invoice", id=uid)
        return invoice

    async def list_prices(self) -> list[dict[str, Any]]:
        """Return all prices."""
        prices: list[dict[str, Any]] = await self.call("list_prices")
        return prices

    def follow(self, *topics: TopicName, after: str | None = None) -> "Following":
        """Follow topics: iterate over what comes, each event once and in order, across lost lines.

        It ends when nobody holds on to the iterator any more, so `break` will do; in other Pythons than
        CPython, use it in an `async with`.

        Args:
            topics: `(type, id)` of each.
            after: A position to go on from; None: from now on.
        """
        to_consumer, events = trio.open_memory_channel[Event | Gap | Refused](0)
        following = trio.CancelScope()
        self._nursery.start_soon(_Follower(self._address, topics, after, to_consumer).run, following)
        return Following(events, following)

    async def _hold_line(self, *, task_status: trio.TaskStatus["_Line"]) -> None:
        async with _open_patiently(self._address) as socket:
            line = _Line(socket)
            task_status.started(line)
            await line.run()


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


class _Address(NamedTuple):
    """Where the server is, how to get there, and what to say at the door."""

    host: str
    path: str
    headers: list[tuple[bytes, bytes]]
    open_stream: OpenStream

    @classmethod
    def of(cls, url: str, token: str | None, open_stream: OpenStream | None) -> "_Address":
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"{url!r} is no ws:// or wss:// URL")
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)

        async def open_socket() -> Stream:
            socket = await trio.open_tcp_stream(host, port)
            if parts.scheme == "ws":
                return socket
            encrypted: Any = trio.SSLStream(socket, ssl.create_default_context(), server_hostname=host)
            return encrypted  # type: ignore[no-any-return] # a Stream; it lacks send_eof, which nobody calls

        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        return cls(parts.netloc.rpartition("@")[2], parts.path or "/", headers, open_stream or open_socket)


class _Line:
    """A WebSocket on which requests and replies pass, matched by request_id."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.is_lost = False
        self._running = trio.CancelScope()
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}

    async def run(self) -> None:
        """Hand out replies until the line is lost."""
        try:
            with self._running:
                while True:
                    reply = await _next_message(self._socket)
                    if answered := self._waiting.get(reply.get("request_id", 0)):
                        answered.send_nowait(reply)
        except ConnectionClosed:
            pass
        finally:
            self.is_lost = True
            for waiting in self._waiting.values():
                waiting.close()

    def give_up(self) -> None:
        """Lose the line now."""
        self.is_lost = True
        self._running.cancel()

    async def ask(self, request: dict[str, Any]) -> Any:
        """Send a request, and return its reply's data."""
        number = next(self._numbers)
        self._waiting[number], reply_channel = trio.open_memory_channel[dict[str, Any]](1)
        try:
            if self.is_lost:
                raise Disconnected("the line was lost")
            await self._socket.send_message(_encode({**request, "request_id": number}))
            reply = await reply_channel.receive()
        except (ConnectionClosed, trio.EndOfChannel):
            raise Disconnected("the line was lost before the reply came") from None
        finally:
            del self._waiting[number]
        if reply["status"] != "success":
            raise Refused(reply)
        return reply.get("data", reply)


class _Follower:
    """A line of its own that follows topics, again and again from where it was."""

    def __init__(
        self,
        address: _Address,
        topics: tuple[TopicName, ...],
        after: str | None,
        consumer: "trio.MemorySendChannel[Event | Gap | Refused]",
    ) -> None:
        self._address = address
        self._topics = [{"type": type_, "id": id_} for type_, id_ in topics]
        self._after = after
        self._consumer = consumer
        self._pauses = _pauses()

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
            async with _open_patiently(self._address) as socket:
                await self._subscribe(socket)
                while True:
                    await self._hand_on(await _next_message(socket))
        except ConnectionClosed as closed:
            return self._pause_after(closed)
        except Refused as refused:
            if refused.retry_after_seconds is None:
                raise
            return max(refused.retry_after_seconds, next(self._pauses))

    async def _subscribe(self, socket: WebSocketConnection) -> None:
        after = self._after or "none.0"  # from no log's position: it begins at the end of this one
        await socket.send_message(_encode({"action": "resume", "after": after, "topics": self._topics}))
        reply = await _next_message(socket)
        if reply["status"] != "success":
            raise Refused(reply)
        self._pauses = _pauses()
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


@asynccontextmanager
async def _open_patiently(address: _Address) -> AsyncIterator[WebSocketConnection]:
    """Yield an open WebSocket, after as many tries as it takes.

    Raises:
        Refused: the server will not have us, however often we try.
    """
    for number, pause in enumerate(_pauses()):
        opened, least_pause = None, 0.0
        # Once, where somebody may see it; after that it is no news.
        say = logger.info if number else logger.warning
        try:
            async with _open_nursery() as nursery:
                opened = await _open(address, nursery, say)
                if opened is not None:
                    socket, stream = opened
                    try:
                        yield socket
                    finally:
                        with trio.move_on_after(CLOSE_SECONDS, shield=True):
                            await socket.aclose()
                        await trio.aclose_forcefully(stream)  # which a socket that was lost leaves open
        except* ConnectionRejected as errors:
            (rejected,) = leaves(errors)
            assert isinstance(rejected, ConnectionRejected)  # noqa: S101 - it is what was caught
            status = rejected.status_code
            if status in FINAL_STATUSES:
                code = "unauthorized" if status == HTTPStatus.UNAUTHORIZED else "forbidden"
                message = f"The server turned us away: {status} {HTTPStatus(status).phrase}"
                raise Refused({"message": message, "code": code}) from None
            say("%s turns us away for now: HTTP status %d", address.host, status)
            least_pause = _retry_after(rejected)
        if opened is not None:
            return
        await trio.sleep(max(pause, least_pause))


@asynccontextmanager
async def _open_nursery() -> AsyncIterator[trio.Nursery]:
    """Yield a nursery that ends with the block, and lets the block's error out as it was raised."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001 - through the nursery it would come as a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _pauses() -> Iterator[float]:
    """Yield how long to wait before each next try, in seconds."""
    bound = FIRST_PAUSE_SECONDS
    while True:
        yield random.uniform(0, bound)  # noqa: S311 - spreads, hides nothing
        bound = min(2 * bound, LONGEST_PAUSE_SECONDS)


def _retry_after(rejected: ConnectionRejected) -> float:
    """Return how long the server wants to be left alone, in seconds."""
    headers = {name.lower(): value for name, value in rejected.headers}
    seconds = headers.get(b"retry-after", b"0")
    return float(seconds) if seconds.isdigit() else 0.0


async def _open(
    address: _Address, nursery: trio.Nursery, say: Callable[..., None]
) -> tuple[WebSocketConnection, Stream] | None:
    stream: Any = None
    try:
        with trio.fail_after(OPEN_SECONDS):
            stream = await address.open_stream()
            socket = await wrap_client_stream(
                nursery, stream, address.host, address.path, extra_headers=address.headers
            )
            return socket, stream
    except BaseException as error:
        if stream is not None:
            await trio.aclose_forcefully(stream)
        if not isinstance(error, NOT_OPENED):
            raise
        say("can't connect to %s: %s; trying on", address.host, error or type(error).__name__)
        return None


async def _next_message(socket: WebSocketConnection) -> dict[str, Any]:
    """Return the next message; a line on which nothing comes is tried, and given up if it is dead.

    Raises:
        ConnectionClosed: there is none.
    """
    while True:
        with trio.move_on_after(SILENCE_SECONDS):
            message = await socket.get_message()
            return msgspec.json.decode(message, type=dict[str, Any])
        with trio.move_on_after(SILENCE_SECONDS):
            await socket.ping()
            continue
        raise ConnectionClosed(None)


def _encode(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
