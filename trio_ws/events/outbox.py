"""One client's line: the frames that wait to be written to it, in order, bounded in bytes.

Where nothing waits, what comes goes out at once, and no task has to wake for it. Replies always have room,
and who sent them waits for it before the next one; events never wait, for one slow client may not delay
another. So a client that sends faster than it reads is slowed down, and one that reads slower than events
come finds them in the log.
"""

import math
from collections.abc import Callable
from contextlib import suppress

import trio

# How much of what waits leaves in one call: it counts as gone, while it may still be on its way.
TOGETHER_BYTES = 16384

SendNow = Callable[[bytes], int]  # `Wire.send_now`


def never(_: bytes) -> int:
    """Send nothing now: all of it waits for its writer."""
    return 0


class Outbox:
    """Frames on their way from the dispatcher and the answers to the writer.

    Args:
        limit_bytes: How much may wait.
        send_now: Sends what it can at once.

    Attributes:
        together_bytes: About how much leaves in one call.
        waiting_bytes: How much waits.
        messages: How many frames came, those that are gone included.
    """

    __slots__ = (  # see `Follower`
        "_channel",
        "_frames",
        "_limit_bytes",
        "_room",
        "_send_now",
        "messages",
        "together_bytes",
        "waiting_bytes",
    )

    def __init__(self, limit_bytes: int, send_now: SendNow = never) -> None:
        self._channel, self._frames = trio.open_memory_channel[bytes](math.inf)  # in bytes it is bounded
        self._limit_bytes = limit_bytes
        self._send_now = send_now
        self._room: trio.lowlevel.ParkingLot | None = None  # while somebody waits for it
        self.together_bytes = TOGETHER_BYTES
        self.waiting_bytes = 0
        self.messages = 0

    def push(self, frame: bytes) -> bool:
        """Send or queue an event, or tell that there is no room; one event always finds room."""
        send_now = self._send_now  # called as an attribute, it would be looked for as a method first
        sent = 0 if self.waiting_bytes else send_now(frame)
        if sent == len(frame):  # nearly always
            self.messages += 1
            return True
        if self.waiting_bytes and self.waiting_bytes + len(frame) > self._limit_bytes:
            return False
        with suppress(trio.BrokenResourceError):  # its writer has gone; the connection is on its way out
            self._queue(frame, sent, 1)
        return True

    def put(self, frames: bytes, count: int = 1) -> None:
        """Send or queue so many frames, whether there is room or not.

        At once, so that nothing comes between an action and its reply.

        Raises:
            trio.BrokenResourceError: the writer has gone.
        """
        sent = 0 if self.waiting_bytes else self._send_now(frames)
        if sent == len(frames):
            self.messages += count
        else:
            self._queue(frames, sent, count)

    def _queue(self, frames: bytes, sent: int, count: int) -> None:
        # Where the beginning has gone out, the wire sends the rest, and before anything else.
        queued = b"" if sent else frames
        try:
            self._channel.send_nowait(queued)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError from None
        self.waiting_bytes += len(queued)
        self.messages += count

    @property
    def has_room(self) -> bool:
        """Tell whether there is room for one more."""
        return self.waiting_bytes <= self._limit_bytes

    async def room(self) -> None:
        """Wait until there is."""
        while not self.has_room:
            self._room = self._room or trio.lowlevel.ParkingLot()
            await self._room.park()

    def _tell_of_room(self) -> None:
        if self._room is not None:
            self._room.unpark_all()
            self._room = None

    def has_news(self) -> bool:
        """Tell whether `take` would return, or raise, at once."""
        known = self._frames.statistics()
        return known.current_buffer_used > 0 or known.open_send_channels == 0

    async def take(self) -> bytes:
        """Return the next frames, for the writer; none: there is something else to do, or the rest to send.

        Raises:
            trio.EndOfChannel: there will be no more.
        """
        frames = [await self._frames.receive()]
        size = len(frames[0])
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while size < self.together_bytes:
                frames.append(self._frames.receive_nowait())
                size += len(frames[-1])
        self.waiting_bytes -= size
        self._tell_of_room()
        return b"".join(frames)

    def wake(self) -> None:
        """Have `take` return, though nothing may have come."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._channel.send_nowait(b"")

    def hold(self) -> None:
        """Have all that comes from now on wait for the writer."""
        self._send_now = never

    def close(self) -> None:
        """Say that no more comes; what waits is still to be written."""
        self.hold()
        self._channel.close()

    def abandon(self) -> None:
        """Say that nobody writes any more."""
        self.hold()
        self._frames.close()
        self.waiting_bytes = 0
        self._tell_of_room()
