"""What trio-websocket does for a client, what it is shown of it, and all that we know of how it behaves.

It accepts the handshake, answers pings and waits for the answers to ours. It is given a handshake that we
have written ourselves, and then pings and pongs that were screened; never a client's own head, messages or
broken frames, which can end the process of who trusts it with them. It learns of trouble by the end of the
stream and in no other way: that one it bears well.
"""

import sys
from contextlib import suppress

import trio
from trio_websocket import WebSocketConnection, wrap_server_stream

from trio_ws.wire.frames import encode_frame
from trio_ws.wire.head import WEBSOCKET_VERSION
from trio_ws.wire.stream import Wire


class Library:
    """trio-websocket on a client's wire; made by `accept`."""

    def __init__(self, socket: WebSocketConnection, stream: "_LibraryStream") -> None:
        self._socket = socket
        self._stream = stream

    async def show(self, opcode: int, payload: bytes) -> None:
        """Hand over a ping or pong, and wait until it has been answered or noted."""
        await self._stream.show(encode_frame(opcode, payload, masked=True))

    def show_the_end(self) -> None:
        """Say that nothing more will come."""
        self._stream.show_the_end()

    async def ping(self) -> None:
        """Ping the client, and wait for its pong.

        Raises:
            trio_websocket.ConnectionClosed: nothing more will come.
        """
        await self._socket.ping()


async def accept(nursery: trio.Nursery, wire: Wire, key: str, subprotocol: str | None) -> Library:
    """Accept a handshake.

    Args:
        nursery: Where the library's reader will live.
        wire: The client's, whose head has been read.
        key: From that head.
        subprotocol: The one that is spoken, if any.
    """
    stream = _LibraryStream(wire, _encode_head(key, subprotocol))
    request = await wrap_server_stream(nursery, stream, max_message_size=sys.maxsize)
    socket = await request.accept(subprotocol=subprotocol)
    return Library(socket, stream)


def _encode_head(key: str, subprotocol: str | None) -> bytes:
    lines = [
        "GET / HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Version: {WEBSOCKET_VERSION}",
        f"Sec-WebSocket-Key: {key}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class _LibraryStream(trio.abc.Stream):
    """What the library reads: our head, and then what it is shown. A channel would take 2 KB a client."""

    def __init__(self, wire: Wire, head: bytes) -> None:
        self._wire = wire
        self._shown = head
        self._has_ended = False
        self._comes_for_more = False
        self._change = trio.lowlevel.ParkingLot()

    async def show(self, frame: bytes) -> None:
        """Have it read a frame, and wait until it comes for more."""
        self._shown, self._comes_for_more = frame, False
        self._change.unpark_all()
        while not (self._comes_for_more or self._has_ended):
            await self._change.park()

    def show_the_end(self) -> None:
        self._has_ended = True
        self._change.unpark_all()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - as much as there is
        await trio.lowlevel.checkpoint()
        if not self._shown:
            self._comes_for_more = True
            self._change.unpark_all()
        while not (self._shown or self._has_ended):
            await self._change.park()
        shown, self._shown = self._shown, b""
        return shown

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with suppress(trio.BrokenResourceError):  # what comes in ends then too, and that it will see
            await self._wire.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.show_the_end()
        await trio.lowlevel.checkpoint()
