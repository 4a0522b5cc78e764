"""A network of simulated lines: a listener to serve from, and clients that connect to it."""

import errno
import json
import os
from collections import deque
from random import Random
from typing import Any, cast

import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

from trio_ws.errors import leaves
from trio_ws.testing.lines import SimulatedLine, SimulatedStream

Stream = trio.abc.HalfCloseableStream
SUBPROTOCOL_HEADER = "sec-websocket-protocol"  # the library wants to write it itself


class SimulatedNetwork(trio.abc.Listener[Stream]):
    """What `trio_ws.server.serve` accepts from.

    Attributes:
        room_bytes: How much each new line holds of what nobody read; 0: who does not is felt at once.
        delay: How long bytes are under way on each new line, in seconds.
        split: Says in which pieces they come on new lines; None: as they were sent.
        lacks_descriptors: While true, the server can't accept: the process has no descriptor left.
    """

    def __init__(self) -> None:
        self.room_bytes = 0
        self.delay = 0.0
        self.split: Random | None = None
        self.lacks_descriptors = False
        self._trickle: Random | None = None
        self._backlog: deque[SimulatedStream] = deque()  # whom the kernel has let in, and nobody has accepted
        self._lines: list[SimulatedLine] = []
        self._calls, self._accepted = trio.open_memory_channel[SimulatedStream](0)

    def listen(self) -> None:
        """Accept connections again, for a server that restarts."""
        self._accepted.close()
        self._calls, self._accepted = trio.open_memory_channel[SimulatedStream](0)

    def trickle(self, sizes: Random | None) -> None:
        """Have the kernel take as much of what is sent as this says, on all lines and new ones; None: all."""
        self._trickle = sizes
        for line in self.lines:
            line.trickle = sizes

    @property
    def lines(self) -> list[SimulatedLine]:
        """Those that were made, and are there still, in order."""
        self._lines = [line for line in self._lines if not line.is_over]
        return self._lines

    async def accept(self) -> Stream:
        """Return the server's end of the next line.

        Raises:
            OSError: there is no descriptor for it; it waits for one.
        """
        if self._backlog:
            await trio.lowlevel.checkpoint()
        else:
            try:
                self._backlog.append(await self._accepted.receive())
            except trio.EndOfChannel:
                raise trio.ClosedResourceError from None
        if self.lacks_descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._backlog.popleft()

    def close(self) -> None:
        """Accept no more connections: new clients are refused, and those that wait, too."""
        self._accepted.close()
        while self._backlog:
            self._backlog.popleft().line.cut()

    async def aclose(self) -> None:
        """Do the same, as listeners do."""
        self.close()  # first, since closing it may be cancelled
        await trio.lowlevel.checkpoint()

    async def call(self) -> SimulatedStream:
        """Return the client's end of a new line.

        Raises:
            ConnectionRefusedError: the server does not listen any more.
        """
        line = SimulatedLine(self.room_bytes, self.split)
        line.delay, line.trickle = self.delay, self._trickle
        ours, theirs = line.ends
        self._lines.append(line)
        try:
            await self._calls.send(theirs)
        except trio.BrokenResourceError:
            line.cut()
            raise ConnectionRefusedError from None
        except BaseException:
            line.cut()
            raise
        return ours


class SimulatedClient:
    """A client on the simulated network, with a dict for each message.

    Attributes:
        socket: The WebSocket, for what the methods do not offer.
        stream: Its end of the line, to write what no client should; `stream.line` is the line itself.
    """

    def __init__(self, socket: WebSocketConnection, stream: SimulatedStream) -> None:
        self.socket = socket
        self.stream = stream

    @classmethod
    async def open(
        cls, network: SimulatedNetwork, nursery: trio.Nursery, path: str = "/", **headers: str
    ) -> "SimulatedClient":
        """Call and shake hands; the client's reader lives in the nursery.

        Raises:
            trio_websocket.ConnectionRejected: the server turned it away.
        """
        stream = await network.call()
        protocols = headers.pop(SUBPROTOCOL_HEADER, "")
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]

        async def stay(*, task_status: trio.TaskStatus[WebSocketConnection]) -> None:
            try:
                async with trio.open_nursery() as reading:
                    socket = await wrap_client_stream(
                        reading,
                        cast("Any", stream),  # any stream will do, whatever the annotation says
                        "localhost",
                        path,
                        subprotocols=[name.strip() for name in protocols.split(",") if name],
                        extra_headers=extra,
                    )
                    task_status.started(socket)
            except* ConnectionRejected as errors:
                raise leaves(errors)[0] from None

        return cls(await nursery.start(stay), stream)

    async def send(self, **fields: object) -> None:
        """Send a message."""
        await self.socket.send_message(json.dumps(fields))

    async def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            trio_websocket.ConnectionClosed: there is none, and here is why.
        """
        message: dict[str, Any] = json.loads(await self.socket.get_message())
        return message

    async def request(self, **fields: object) -> dict[str, Any]:
        """Send a message and return the next one, which is its reply where nothing is followed."""
        await self.send(**fields)
        return await self.receive()

    async def aclose(self) -> None:
        """Close as a well-behaved client does."""
        await self.socket.aclose()

    async def vanish(self) -> None:
        """Hang up without a word."""
        await trio.aclose_forcefully(self.stream)
