"""One client's line: the frames that wait to be written to it, in order, bounded in bytes.

Replies wait for room; events never do, for one slow client may not delay another. So a client that sends
faster than it reads is slowed down, and one that reads slower than events come runs over.
"""

from collections.abc import Callable

import trio

from trio_ws.errors import CloseCode

# Less than any reply or event has, so that bytes are what bounds the line, and the channel is finite too.
SHORTEST_FRAME_BYTES = 16


class Outbox:
    """Frames on their way from the dispatcher and the answers to the writer.

    Args:
        limit_bytes: How much may wait.
        end: Called when the line has a gap from here on, because an event found no room or can't be known;
            nothing more may be pushed then.
    """

    def __init__(self, limit_bytes: int, end: Callable[[CloseCode, str], None]) -> None:
        most = max(1, limit_bytes // SHORTEST_FRAME_BYTES)
        self._channel, self._frames = trio.open_memory_channel[bytes](most)
        self._limit_bytes = limit_bytes
        self.end = end
        self._room = trio.lowlevel.ParkingLot()
        self.waiting_bytes = 0

    def push(self, frame: bytes) -> None:
        """Queue an event at once, or run over."""
        try:
            if self.waiting_bytes + len(frame) > self._limit_bytes:
                raise trio.WouldBlock
            self._channel.send_nowait(frame)
        except trio.WouldBlock:
            self.end(CloseCode.UNRESPONSIVE, "too slow for its events")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Its writer has gone; the connection is already on its way out.
        else:
            self.waiting_bytes += len(frame)

    async def reply(self, frame: bytes) -> None:
        """Queue a reply as soon as there is room.

        Raises:
            trio.BrokenResourceError: the writer has gone.
        """
        while self.waiting_bytes >= self._limit_bytes:
            await self._room.park()
        self.waiting_bytes += len(frame)
        await self._channel.send(frame)

    async def take(self) -> bytes:
        """Return the next frame, for the writer.

        Raises:
            trio.EndOfChannel: there will be no more.
        """
        frame = await self._frames.receive()
        self.waiting_bytes -= len(frame)
        self._room.unpark_all()
        return frame

    def close(self) -> None:
        """Say that no more comes; what waits is still to be written."""
        self._channel.close()

    def abandon(self) -> None:
        """Say that nobody writes any more."""
        self._frames.close()
        self.waiting_bytes = 0
        self._room.unpark_all()
