"""One client's line: the frames that wait to be written to it, in order, bounded in bytes.

Replies wait for room; events never do, for one slow client may not delay another. So a client that sends
faster than it reads is slowed down, and one that reads slower than events come finds them in the log.
"""

import trio

# Less than any reply or event has, so that bytes are what bounds the line, and the channel is finite too.
SHORTEST_FRAME_BYTES = 16


class Outbox:
    """Frames on their way from the dispatcher and the answers to the writer.

    Args:
        limit_bytes: How much may wait.
    """

    def __init__(self, limit_bytes: int) -> None:
        most = max(1, limit_bytes // SHORTEST_FRAME_BYTES)
        self._channel, self._frames = trio.open_memory_channel[bytes](most)
        self._limit_bytes = limit_bytes
        self._room = trio.lowlevel.ParkingLot()
        self.waiting_bytes = 0

    def push(self, frame: bytes) -> bool:
        """Queue an event at once, or tell that there is no room; one event always finds room."""
        if self.waiting_bytes and self.waiting_bytes + len(frame) > self._limit_bytes:
            return False
        try:
            self._channel.send_nowait(frame)
        except trio.WouldBlock:
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True  # Its writer has gone; the connection is already on its way out.
        self.waiting_bytes += len(frame)
        return True

    async def reply(self, frame: bytes) -> None:
        """Queue a reply at once, then wait until there is room for the next one.

        At once, so that nothing comes between an action and its reply; there is one reply at a time.

        Raises:
            trio.BrokenResourceError: the writer has gone.
        """
        self.waiting_bytes += len(frame)
        await self._channel.send(frame)
        while self.waiting_bytes > self._limit_bytes:
            await self._room.park()

    def has_news(self) -> bool:
        """Tell whether `take` would return, or raise, at once."""
        known = self._frames.statistics()
        return known.current_buffer_used > 0 or known.open_send_channels == 0

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
