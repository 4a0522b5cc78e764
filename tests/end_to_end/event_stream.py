"""A follower over plain HTTP: it reads an event stream as a browser does, and comes back as one does.

It has nothing of ours in it: h11 reads the response, HTML's section 9.2 says what a block is. Other than a
browser, it also comes back where the server says 503: as its `Retry-After` asks.
"""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import h11
import trio

HOST = "127.0.0.1"
RETRY_SECONDS = 0.1  # until the server says something else; browsers take 3
OPEN_SECONDS = 10.0  # longest wait for a response's head
CLIENT_ERRORS = range(400, 429)  # what would be the same the next time


class Block(NamedTuple):
    """One event of a stream.

    Args:
        kind: Its name.
        data: Its JSON.
        position: The last id that came, with it or before.
    """

    kind: str
    data: Any
    position: str


class Blocks:
    """Takes a stream apart."""

    def __init__(self, position: str) -> None:
        self.position = position
        self.retry: float | None = None  # in seconds
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Block]:
        """Return the blocks that are whole now."""
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        for text in whole:
            fields: dict[str, str] = {}
            for line in text.decode().split("\n"):
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            self.position = fields.get("id", self.position)
            if "retry" in fields:
                self.retry = int(fields["retry"]) / 1000
            if "data" in fields:
                yield Block(fields.get("event", "message"), json.loads(fields["data"]), self.position)


class EventSource:
    """One follower.

    Args:
        port: Where the server, or a proxy before it, is.
        query: What it follows.
        position: After which position it begins; none: the end of the log.

    Attributes:
        lines: How many responses there were with events.
        refused: The statuses of the others.
        retries: How often a stream said when to come back.
    """

    def __init__(self, port: int, query: str, position: str = "") -> None:
        self.lines = 0
        self.refused: list[int] = []
        self.retries = 0
        self._port = port
        self._query = query
        self._blocks = Blocks(position)

    async def events(self, most: float = float("inf")) -> AsyncGenerator[Block]:
        """Yield each block of one line, up to so many; then wait as long as one should before the next."""
        wait = RETRY_SECONDS
        with suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError, trio.TooSlowError):
            with trio.fail_after(OPEN_SECONDS):
                stream = await trio.open_tcp_stream(HOST, self._port)
            async with stream:
                connection = h11.Connection(h11.CLIENT)
                await stream.send_all(connection.send(self._request()) or b"")
                with trio.fail_after(OPEN_SECONDS):
                    response = await _next(connection, stream)
                assert isinstance(response, h11.Response)
                if response.status_code == 200:
                    self.lines += 1
                    self._blocks = Blocks(self._blocks.position)  # what was cut off within a block is gone
                    while most > 0 and isinstance(data := await _next(connection, stream), h11.Data):
                        for block in self._blocks.feed(bytes(data.data)):
                            yield block
                            most -= 1
                            if most <= 0:
                                break
                else:
                    self.refused.append(response.status_code)
                    assert response.status_code not in CLIENT_ERRORS, response
                    wait = float(dict(response.headers).get(b"retry-after", b"0.1"))
        if self._blocks.retry is not None:
            self.retries += 1
            wait, self._blocks.retry = self._blocks.retry, None
        await trio.sleep(wait)

    def _request(self) -> h11.Request:
        headers = [("Host", f"localhost:{self._port}"), ("Accept", "text/event-stream")]
        if self._blocks.position:
            headers.append(("Last-Event-ID", self._blocks.position))
        return h11.Request(method="GET", target=f"/events?{self._query}", headers=headers)


async def _next(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some())
    return event
