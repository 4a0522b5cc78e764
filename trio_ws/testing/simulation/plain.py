"""A WebSocket client made of a stream and RFC 6455, and of nothing that the server is made of.

It costs a fraction of what a library's does, so that a run has hours of many.
"""

import struct

from trio_ws.testing.lines import SimulatedStream

CONTINUATION, TEXT, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x9, 0xA
FINAL = 0x80
TWO_BYTES, EIGHT_BYTES = 126, 127
OPENING = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2ltdWxhdGlvbnNpbXVsYQ==\r\n"
)
ACCEPTED = b"HTTP/1.1 101 "

Frame = tuple[int, bytes]


class NotOpenedError(Exception):
    """The server did not let us in, and says why."""


def encode(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Return a client's frame, under a mask that changes nothing."""
    size, first = len(payload), opcode | (FINAL if final else 0)
    if size < TWO_BYTES:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | TWO_BYTES, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | EIGHT_BYTES, size)
    return head + bytes(4) + payload


async def open_line(stream: SimulatedStream, token: str | None = None) -> bytes:
    """Shake hands, and return what has come of the first frames.

    Args:
        stream: The line.
        token: What to bring; None: nothing.

    Raises:
        NotOpenedError: the server would not.
        trio.BrokenResourceError: the line is cut.
    """
    bearer = b"" if token is None else b"Authorization: Bearer %s\r\n" % token.encode()
    await stream.send_all(OPENING + bearer + b"\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        if not (data := await stream.receive_some()):
            break
        head += data
    head, _, rest = head.partition(b"\r\n\r\n")
    if not head.startswith(ACCEPTED):
        raise NotOpenedError(head.partition(b"\r\n")[0].decode())
    return rest


class Frames:
    """The frames that come on a line; a server's are whole and not masked.

    Args:
        stream: The line, opened.
        buffer: What has come of them.
    """

    def __init__(self, stream: SimulatedStream, buffer: bytes) -> None:
        self._stream = stream
        self._buffer = buffer

    async def receive(self) -> Frame | None:
        """Return the next one's opcode and payload; None: there will be no more."""
        while (place := _find_end(self._buffer)) is None:
            if not (data := await self._stream.receive_some(65536)):
                return None
            self._buffer += data
        start, end = place
        frame = self._buffer[0] & 0x0F, self._buffer[start:end]
        self._buffer = self._buffer[end:]
        return frame


def _find_end(buffer: bytes) -> tuple[int, int] | None:
    """Return where the payload of the first frame begins and ends, once it is whole."""
    if len(buffer) < 2:  # noqa: PLR2004 - opcode and length
        return None
    size, start = buffer[1], 2
    if size == TWO_BYTES:
        size, start = int.from_bytes(buffer[2:4], "big"), 4
    elif size == EIGHT_BYTES:
        size, start = int.from_bytes(buffer[2:10], "big"), 10
    return (start, start + size) if len(buffer) >= start + size else None
