"""All that goes out to one client: frames that leave at once, or wait for its writer; bounded in bytes.

Where nothing waits, what comes goes out at once, and no task has to wake for it. Replies always have room,
and who sent them waits for it before the next one; events never wait, for one slow client may not delay
another. So a client that sends faster than it reads is slowed down, and one that reads slower than events
come finds them in the log. Control frames go before all that waits, but never into a frame that is half out.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

import trio

from trio_ws.wire.frames import CLOSE

# How much of what waits leaves in one call: it counts as gone, while it may still be on its way. A herd of
# one topic takes 1.4 to 1.5 µs a delivery with half of it, 0.85 with this, and with twice as much no less.
TOGETHER_BYTES = 32768

SendNow = Callable[[bytes], int]  # `Wire.send_now`


class State(Enum):
    """Whether something may go out."""

    CLEAR = auto()  # nothing is on its way: what comes goes out at once
    WAITING = auto()  # what came before goes first, through the writer, which has to begin with it
    CLOSED = auto()  # our close frame goes next, or is out: nothing else may
    DEAD = auto()  # the writer has gone: nothing does


CLEAR, WAITING, CLOSED, DEAD = State  # by these names it takes a tenth of the time


def never(_: bytes) -> int:
    """Send nothing now: all of it waits for its writer."""
    return 0


class Outbox:
    """Frames on their way from the dispatcher and the answers to the client.

    Args:
        limit_bytes: How much may wait.
        send_now: Sends what it can at once.

    Attributes:
        state: Whether something may go out.
        together_bytes: About how much leaves in one call.
        waiting_bytes: How much waits.
        messages: How many messages came, those that are gone included.
        meanwhile: What its writer does while nothing waits: it reads the log, until something does.
    """

    __slots__ = (  # see `Follower`
        "_channel",
        "_control",
        "_frames",
        "_limit_bytes",
        "_parked",
        "_rest",
        "_send_now",
        "meanwhile",
        "messages",
        "state",
        "together_bytes",
        "waiting_bytes",
    )

    def __init__(self, limit_bytes: int, send_now: SendNow = never) -> None:
        self._channel, self._frames = trio.open_memory_channel[bytes](math.inf)  # in bytes it is bounded
        self._limit_bytes = limit_bytes
        self._send_now = send_now
        self._rest = b""  # of a frame that is half out
        self._control: dict[int, bytes] = {}  # frames by their kinds
        self._parked: trio.lowlevel.ParkingLot | None = (
            None  # while somebody waits for room, or another state
        )
        self.state = WAITING
        self.together_bytes = TOGETHER_BYTES
        self.waiting_bytes = 0
        self.messages = 0
        self.meanwhile: trio.CancelScope | None = None

    def push(self, frame: bytes) -> bool:
        """Send or queue an event, or tell that there is no room; one event always finds room."""
        send_now = self._send_now  # called as an attribute, it would be looked for as a method first
        sent = send_now(frame) if self.state is CLEAR else 0
        if sent < len(frame):  # hardly ever
            if self.waiting_bytes and self.waiting_bytes + len(frame) > self._limit_bytes:
                return False
            try:
                self._queue(frame, sent)
            except trio.BrokenResourceError:
                return True  # it is nobody's: the connection is on its way out
        self.messages += 1
        return True

    def put(self, frames: bytes, count: int = 1) -> None:
        """Send or queue so many messages, whether there is room or not.

        At once, so that nothing comes between an action and its reply.

        Raises:
            trio.BrokenResourceError: nothing goes out any more.
        """
        sent = self._send_now(frames) if self.state is CLEAR else 0
        if sent < len(frames):
            self._queue(frames, sent)
        self.messages += count

    def control(self, kind: int, frame: bytes) -> None:
        """Send a ping, a pong or the like before all that waits.

        It takes the place of one of its kind that waits: of several pings only the newest has to be answered,
        RFC 6455 section 5.5.3. So a client that pings and does not read takes no memory with it.
        """
        sent = self._send_now(frame) if self.state is CLEAR else 0
        if sent == len(frame) or self.state in (CLOSED, DEAD):
            return
        if not sent:
            self._control[kind], frame = frame, b""
        if self.state is CLEAR:
            self._queue(frame, sent)

    def _queue(self, frames: bytes, sent: int) -> None:
        """Have the writer send what did not go out at once: the rest of a frame before all others."""
        if sent:
            self._rest, frames = frames[sent:], b""
        try:
            self._channel.send_nowait(frames)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError from None
        self.waiting_bytes += len(frames)
        self.state = WAITING
        self._interrupt()

    def _interrupt(self) -> None:
        if self.meanwhile is not None:
            self.meanwhile.cancel()

    @property
    def has_room(self) -> bool:
        """Return whether there is room for one more."""
        return self.waiting_bytes <= self._limit_bytes

    async def room(self) -> None:
        """Wait until there is."""
        while not self.has_room:
            await self._park()

    async def past(self, state: State) -> None:
        """Wait until it is in this state no more."""
        while self.state is state:
            await self._park()

    async def _park(self) -> None:
        self._parked = self._parked or trio.lowlevel.ParkingLot()
        await self._parked.park()

    def _unpark(self) -> None:
        if self._parked is not None:
            self._parked.unpark_all()
            self._parked = None

    def has_news(self) -> bool:
        """Return whether `take` would return, or raise, at once."""
        known = self._frames.statistics()
        is_next = self._rest or self._control or known.current_buffer_used
        return bool(is_next) or known.open_send_channels == 0

    async def take(self) -> bytes:
        """Return the next frames, for the writer; none: there is something else to do.

        Raises:
            trio.EndOfChannel: there will be no more.
        """
        frames = [] if self._rest or self._control else [await self._frames.receive()]
        size = sum(map(len, frames))
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while size < self.together_bytes:
                frames.append(self._frames.receive_nowait())
                size += len(frames[-1])
        first = [self._rest, *self._control.values()]
        self._rest = b""
        self._control.clear()
        if self.state is CLOSED:  # perhaps only since one was handed over: it is dropped, too
            return b"".join(first)
        self.waiting_bytes -= size
        self._unpark()
        return b"".join(filter(None, first + frames))  # one alone is not copied

    def written(self) -> None:
        """Say that all that was taken is out."""
        if self.state is WAITING and not self.has_news():
            self.state = CLEAR
            self._unpark()

    def wake(self) -> None:
        """Have `take` return, though nothing may have come."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._channel.send_nowait(b"")
            self._interrupt()

    def close(self, last: bytes | None) -> None:
        """Drop what waits and send a close frame or the like, the last that goes out; None: without one."""
        if self.state in (CLOSED, DEAD):
            return
        with suppress(trio.WouldBlock):
            while True:
                self._frames.receive_nowait()
        self._control.clear()
        self.waiting_bytes = 0
        if last is not None:
            self.control(CLOSE, last)
        self.state = CLOSED
        self.wake()  # else the writer, where it waits, would see the end before the frame
        self._channel.close()
        self._unpark()

    def abandon(self) -> None:
        """Say that nobody writes any more."""
        self.state = DEAD
        self._frames.close()
        self.waiting_bytes = 0
        self._unpark()
