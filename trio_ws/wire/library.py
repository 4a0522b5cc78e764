"""What trio-websocket is shown of a client, and all that we know of how it behaves.

It answers pings, waits for the answers to ours, and hands over messages. It is given a handshake that we have
written ourselves, and then whole messages and control frames that were screened; never a client's own head or
broken frames, which can end the process of who trusts it with them. It learns of trouble by the end of the
stream and in no other way: that one it bears well.
"""

import sys
from contextlib import suppress

import trio
from trio_websocket import WebSocketConnection, wrap_server_stream

from trio_ws.wire.head import WEBSOCKET_VERSION
from trio_ws.wire.stream import Wire


async def accept(nursery: trio.Nursery, wire: Wire, key: str, subprotocol: str | None) -> WebSocketConnection:
    """Accept a handshake, and return the WebSocket.

    Args:
        nursery: Where the library's reader will live.
        wire: The client's, whose head has been read.
        key: From that head.
        subprotocol: The one that is spoken, if any.
    """
    stream = _LibraryStream(wire, _encode_head(key, subprotocol))
    request = await wrap_server_stream(nursery, stream, max_message_size=sys.maxsize)
    socket = await request.accept(subprotocol=subprotocol)
    stream.accepted.set()
    return socket


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
    def __init__(self, wire: Wire, head: bytes) -> None:
        self.accepted = trio.Event()  # it takes frames for more of the head before
        self._wire = wire
        self._head = head

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - as much as there is
        if self._head:
            head, self._head = self._head, b""
            await trio.lowlevel.checkpoint()
            return head
        await self.accepted.wait()
        return await self._wire.receive_frames()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with suppress(trio.BrokenResourceError):  # what comes in ends then too, and that it will see
            await self._wire.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
