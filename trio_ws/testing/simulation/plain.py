"""A WebSocket client made of a stream and RFC 6455, and of nothing that the server is made of.

It costs a fraction of what a library's does, so that a run has hours of many.
"""

import struct
from collections.abc import AsyncIterator

from trio_ws.testing.lines import SimulatedStream

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
TWO_BYTES, EIGHT_BYTES = 126, 127
OPENING = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2ltdWxhdGlvbnNpbXVsYQ==\r\n\r\n"
)
ACCEPTED = b"HTTP/1.1 101 "

Frame = tuple[int, bytes]


class NotOpenedError(Exception):
    """The server did not let us in, and says why."""


def encode(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame, under a mask that changes nothing."""
    size = len(payload)
    if size < TWO_BYTES:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    else:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | TWO_BYTES, size)
    return head + bytes(4) + payload


async def open_line(stream: SimulatedStream) -> bytes:
    """Shake hands, and return what has come of the first frames.

    Raises:
        NotOpenedError: the server would not.
        trio.BrokenResourceError: the line is cut.
    """
    await stream.send_all(OPENING)
    head = b""
    while b"\r\n\r\n" not in head:
        if not (data := await stream.receive_some()):
            break
        head += data
    head, _, rest = head.partition(b"\r\n\r\n")
    if not head.startswith(ACCEPTED):
        raise NotOpenedError(head.partition(b"\r\n")[0].decode())
    return rest


async def frames(stream: SimulatedStream, buffer: bytes) -> AsyncIterator[Frame]:
    """Yield each frame's opcode and payload until the stream ends; a server's are whole and not masked."""
    while True:
        at = 0
        while (end := _find_end(buffer, at)) is not None:
            size = end[1] - end[0]
            yield buffer[at] & 0x0F, buffer[end[0] : end[0] + size]
            at = end[1]
        buffer = buffer[at:]
        if not (data := await stream.receive_some(65536)):
            return
        buffer += data


def _find_end(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Return where the payload of the frame begins and ends that begins there, once it is whole."""
    if len(buffer) < at + 2:
        return None
    size, start = buffer[at + 1], at + 2
    if size == TWO_BYTES:
        start, size = start + 2, int.from_bytes(buffer[start : start + 2], "big")
    elif size == EIGHT_BYTES:
        start, size = start + 8, int.from_bytes(buffer[start : start + 8], "big")
    return (start, start + size) if len(buffer) >= start + size else None
