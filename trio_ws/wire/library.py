"""What trio-websocket does for a client, what it is shown of it, and all that we know of how it behaves.

It accepts the handshake, answers pings and waits for the answers to ours. It is given a handshake that we
have written ourselves, and then pings and pongs that were screened; never a client's own head, messages or
broken frames, which can end the process of who trusts it with them.

Its own reader, a task that would wait here for each client, does not run: what comes is handed at once to
the method that the reader would hand it to. And what only a reader, a message or a handshake needs is taken
off it once the handshake is done. With both, an idle client takes 12 KB less (`scripts/bench memory`). The
names that this takes are private, and `tests/wire/test_library.py` fails where they move.
"""

import sys
from contextlib import nullcontext, suppress
from typing import cast

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import Ping, Pong, Request

from trio_ws.wire.frames import encode_frame
from trio_ws.wire.head import WEBSOCKET_VERSION
from trio_ws.wire.stream import Wire


class Library:
    """trio-websocket on a client's wire; made by `accept`."""

    __slots__ = ("_has_ended", "_nursery", "_socket")

    def __init__(self, nursery: trio.Nursery, socket: WebSocketConnection) -> None:
        self._nursery = nursery
        self._socket = socket
        self._has_ended = False

    async def show(self, opcode: int, payload: bytes) -> None:
        """Hand over a ping or pong, and wait until it has been answered or noted."""
        frames = Connection(ConnectionType.SERVER)  # anew takes 3 µs; one that is kept takes 1 KB
        frames.receive_data(encode_frame(opcode, payload, masked=True))
        for event in frames.events():
            if isinstance(event, Pong):
                await self._socket._handle_pong_event(event)  # noqa: SLF001 - see above
                await trio.lowlevel.checkpoint()  # it makes none
            elif isinstance(event, Ping):
                answered = trio.Event()
                # In a task: who waits may be cancelled, and half a pong would be the last that goes out.
                self._nursery.start_soon(self._answer, event, answered)
                await answered.wait()

    async def _answer(self, ping: Ping, answered: trio.Event) -> None:
        await trio.lowlevel.checkpoint()  # replies that were queued before it are taken to be written
        await self._socket._handle_ping_event(ping)  # noqa: SLF001 - see above
        answered.set()

    def show_the_end(self) -> None:
        """Say that nothing more will come."""
        self._has_ended = True

    async def ping(self) -> None:
        """Ping the client, and wait for its pong.

        Raises:
            trio_websocket.ConnectionClosed: nothing more will come.
        """
        if self._has_ended:
            raise ConnectionClosed(None)
        await self._socket.ping()


async def accept(nursery: trio.Nursery, wire: Wire, key: str, subprotocol: str | None) -> Library:
    """Accept a handshake.

    Args:
        nursery: Where pings are answered.
        wire: The client's, whose head has been read.
        key: From that head.
        subprotocol: The one that is spoken, if any.
    """
    protocol = WSConnection(ConnectionType.SERVER)
    protocol.receive_data(_encode_head(key, subprotocol))
    (request,) = protocol.events()
    socket = WebSocketConnection(_LibraryStream(wire), protocol, max_message_size=sys.maxsize)
    await WebSocketRequest(socket, cast(Request, request)).accept(subprotocol=subprotocol)
    _slim(socket)
    return Library(nursery, socket)


def _speaker() -> WSConnection:
    speaker = WSConnection(ConnectionType.SERVER)
    speaker.connection = Connection(ConnectionType.SERVER)
    return speaker


# Puts pings and pongs into frames, for all clients: that changes nothing in it.
SPEAKER = _speaker()
# Frames wait for each other in the wire.
NO_LOCK = cast(trio.StrictFIFOLock, nullcontext())


def _slim(socket: WebSocketConnection) -> None:
    """Take off what is not needed any more, 7 KB a client."""
    socket._wsproto = SPEAKER  # noqa: SLF001 - the one of before has h11, and reads frames
    socket._stream_lock = NO_LOCK  # noqa: SLF001
    del socket._send_channel, socket._recv_channel  # noqa: SLF001 - for messages
    del socket._connection_proposal, socket._open_handshake  # noqa: SLF001
    del socket._close_handshake, socket._for_testing_peer_closed_connection  # noqa: SLF001


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
    """Where the library writes. It is never asked to read: what comes is shown to it."""

    __slots__ = ("_wire",)

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with suppress(trio.BrokenResourceError):  # who reads the wire sees it, too
            await self._wire.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - there is nothing
        await trio.lowlevel.checkpoint()
        return b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
