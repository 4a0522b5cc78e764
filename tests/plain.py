"""A client that speaks plain HTTP: bytes as they are, or the same requests and events as a WebSocket's."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlencode

import trio

from trio_ws.testing import SimulatedDatabase, World

JSON = "application/json"
PATIENCE_SECONDS = 20  # far more than anything takes; only a test that fails waits so long

# What each code's status is: the protocol's section 9.
STATUSES = {
    "invalid_message": 400,
    "invalid_topic": 400,
    "invalid_value": 400,
    "too_many_subscriptions": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "idempotency_mismatch": 422,
    "rate_limited": 429,
    "internal": 500,
    "unavailable": 503,
    "timeout": 504,
}


def bearer(token: str) -> str:
    """The header that brings a token."""
    return f"Authorization: Bearer {token}"


class Answer(NamedTuple):
    """A response, with the names of its headers in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def reply(self) -> dict[str, Any]:
        """What it holds, where that is one of the protocol's replies."""
        assert self.headers["content-type"] == JSON, self
        found: dict[str, Any] = json.loads(self.body)
        assert self.status == STATUSES.get(found.get("code", ""), 200), self
        return found


class Block(NamedTuple):
    """What an event stream says at a time, read as HTML's section 9.2.6 has it."""

    event: str | None
    id: str | None
    data: Any
    retry: int | None
    is_comment: bool

    @classmethod
    def parse(cls, text: str) -> "Block":
        """Return the block that these lines are."""
        fields: dict[str, list[str]] = {}
        for line in text.split("\n"):
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
        assert all(len(values) == 1 for values in fields.values()), text
        assert fields.keys() <= {"event", "id", "data", "retry", ""}, text
        data = fields.get("data", ["null"])[0]
        retry = fields.get("retry", [None])[0]
        return cls(
            fields.get("event", [None])[0],
            fields.get("id", [None])[0],
            json.loads(data),
            None if retry is None else int(retry),
            "" in fields,
        )


def request(method: str, target: str, *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A request as it goes out; a Host that is not given is `localhost`."""
    lines = [f"{method} {target} HTTP/{version}", *fields]
    if not any(field.lower().startswith("host:") for field in fields):
        lines.insert(1, "Host: localhost")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(body: bytes | Mapping[str, object], *fields: str, version: str = "1.1") -> bytes:
    """A request for an action; what is said of its body is right, unless the fields say it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {field.partition(":")[0].lower() for field in fields}
    said = [*fields]
    if "content-type" not in names:
        said.append(f"Content-Type: {JSON}")
    if not names & {"content-length", "transfer-encoding"}:
        said.append(f"Content-Length: {len(content)}")
    return request("POST", "/actions", *said, body=content, version=version)


class Caller:
    """One connection, on which bytes go out and answers come in."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._come = b""

    async def send(self, data: bytes) -> None:
        """Send bytes; who does not read them is no reason to wait for long."""
        with trio.fail_after(PATIENCE_SECONDS):
            await self.stream.send_all(data)

    async def answer(self, *, has_body: bool = True, seconds: float = PATIENCE_SECONDS) -> Answer:
        """Return the next response."""
        with trio.fail_after(seconds):
            lines = (await self._until(b"\r\n\r\n")).decode("ascii").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            assert len(headers) == len(lines) - 1, f"each is there once: {lines}"
            status = int(lines[0].split(" ")[1])
            assert lines[0].startswith("HTTP/1.1 ")
            size = 0
            if has_body and status >= 200 and headers.get("content-type") != "text/event-stream":
                size = int(headers["content-length"])
            while len(self._come) < size:
                await self._receive()
            body, self._come = self._come[:size], self._come[size:]
            return Answer(status, headers, body)

    async def ask(self, data: bytes) -> Answer:
        """Send a request, and return its response."""
        await self.send(data)
        return await self.answer()

    async def act(self, *fields: str, **action: object) -> Answer:
        """Ask for an action, with these header lines."""
        return await self.ask(post(action, *fields))

    async def follow(self, query: str, *fields: str) -> Answer:
        """Ask for events; what comes behind the head is for `block`."""
        return await self.ask(request("GET", f"/events?{query}", *fields))

    async def block(self, seconds: float = PATIENCE_SECONDS) -> Block:
        """Return the next of an event stream."""
        with trio.fail_after(seconds):
            return Block.parse((await self._until(b"\n\n")).decode())

    async def event(self) -> Block:
        """Return the next that is no comment."""
        with trio.fail_after(PATIENCE_SECONDS):
            while (block := await self.block()).is_comment:
                pass
        return block

    async def rest(self, seconds: float = PATIENCE_SECONDS) -> bytes:
        """Return all that comes until the server has hung up, and hang up, too."""
        with trio.fail_after(seconds):
            try:
                while data := await self.stream.receive_some(65536):
                    self._come += bytes(data)
            except trio.BrokenResourceError:
                pass
            await trio.aclose_forcefully(self.stream)
        rest, self._come = self._come, b""
        return rest

    async def _until(self, end: bytes) -> bytes:
        while end not in self._come:
            await self._receive()
        found, _, self._come = self._come.partition(end)
        return found

    async def _receive(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise trio.EndOfChannel(f"the line has ended after {self._come!r}")
        self._come += bytes(data)


@contextmanager
def held(database: SimulatedDatabase) -> Iterator[trio.Event]:
    """Have all queries wait until the event that is yielded is set, or the block ends, however it does."""
    database.gate = trio.Event()
    try:
        yield database.gate
    finally:
        database.gate.set()


async def call(world: World) -> Caller:
    """Return a new connection to a server."""
    return Caller(await world.network.call())


class PlainClient:
    """What a `SimulatedClient` does, without a WebSocket: events are streams, all else is POSTed.

    Replies and events come in one order, in which they came in: that of each stream is the log's, and that of
    several is anybody's guess.
    """

    def __init__(self, world: World, nursery: trio.Nursery, actions: Caller, fields: Sequence[str]) -> None:
        self.socket = self  # to write what is no message
        self._world = world
        self._nursery = nursery
        self._actions = actions
        self._fields = fields
        self._callers = [actions]
        self._to_inbox, self._inbox = trio.open_memory_channel[dict[str, Any]](math.inf)
        nursery.start_soon(self._take_replies)

    async def send_message(self, text: str) -> None:
        """Send what may be no message at all."""
        await self._actions.send(post(text.encode(), *self._fields))

    async def send(self, **fields: object) -> None:
        """Send a message."""
        if fields.get("action") not in ("subscribe", "resume"):
            await self._actions.send(post(fields, *self._fields))
            return
        assert "request_id" not in fields, "a stream has none"
        topics: Any = fields.get("topics", [fields])
        query = [("topic", f"{topic['type']}:{topic['id']}") for topic in topics]
        query += [("after", str(fields["after"]))] if fields.get("after") is not None else []
        query += [("snapshot", "true")] if fields.get("snapshot") else []
        caller = await call(self._world)
        self._callers.append(caller)
        await caller.send(request("GET", f"/events?{urlencode(query)}", *self._fields))
        self._nursery.start_soon(self._take_events, caller)

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        return await self._inbox.receive()

    async def request(self, **fields: object) -> dict[str, Any]:
        """Send a message and return the next one."""
        await self.send(**fields)
        return await self.receive()

    async def vanish(self) -> None:
        """Hang up without a word."""
        for caller in self._callers:
            await trio.aclose_forcefully(caller.stream)

    async def _take_replies(self) -> None:
        with suppress(trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                self._to_inbox.send_nowait((await self._actions.answer(seconds=math.inf)).reply)

    async def _take_events(self, caller: Caller) -> None:
        with suppress(trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
            answer = await caller.answer()
            if answer.status != 200:
                self._to_inbox.send_nowait(answer.reply)
                return
            while True:
                block = await caller.block(math.inf)
                if "position" in (block.data or {}) and block.event != "gap":
                    assert (block.event, block.id) == (block.data["type"], block.data["position"])
                if not block.is_comment and block.event != "gap":
                    self._to_inbox.send_nowait(block.data)


class PlainWorld:
    """A `World` whose clients speak plain HTTP.

    Args:
        world: The world.
        nursery: Where what its clients receive is read.
    """

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery
        self._known: list[PlainClient] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    async def connect(self, **headers: str) -> PlainClient:
        """Return a new client; what it says in its requests beside."""
        fields = [f"{name}: {value}" for name, value in headers.items()]
        client = PlainClient(self._world, self._nursery, await call(self._world), fields)
        self._known.append(client)
        return client

    async def vanish(self) -> None:
        """Have all its clients hang up without a word."""
        for client in self._known:
            await client.vanish()
