"""The stream that trio-websocket is given instead of the socket.

It knows three things that the library does not tell: that the peer has gone before it ever asked for a
WebSocket, that a cancelled send may have left half a frame, and how to hang up so that the peer still
reads our last frame.
"""

import trio

HANG_UP_CHUNK_BYTES = 65536


class Wire(trio.abc.Stream):
    """One client's bytes.

    Attributes:
        ended: Set once no more bytes come or the library has done with them.
        torn: Whether half a frame may have gone out; then nothing more may follow it.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self.ended = trio.Event()
        self.torn = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole frames, which is how the library hands them over."""
        if self.torn:
            raise trio.BrokenResourceError("half a frame has gone out")
        self.torn = True  # until it is out: a cancelled send does not say how far it came
        await self._stream.send_all(data)
        self.torn = False

    async def wait_send_all_might_not_block(self) -> None:
        """As the socket's."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the socket's."""
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self.ended.set()
        return data

    async def aclose(self) -> None:
        """Note that the library has done; `hang_up` closes the socket."""
        self.ended.set()
        await trio.lowlevel.checkpoint()

    async def hang_up(self) -> None:
        """Close the socket so that the peer reads what was sent last.

        A socket closed with bytes unread answers them with a reset, which may overtake our close frame. So
        say that we are done, and read on until the peer is, or the caller's patience ends.
        """
        try:
            if not self.torn:
                await self._stream.send_eof()
                while await self._stream.receive_some(HANG_UP_CHUNK_BYTES):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It has hung up on us.
        finally:
            await trio.aclose_forcefully(self._stream)
