"""A line between two ends, which can do all that a network does to one: delay, split, hold, cut.

    ours, theirs = (line := SimulatedLine()).ends
    line.delay = 0.2        # seconds each way
    line.hold()             # a black hole: what is sent arrives when it heals
    line.heal()
    line.cut()              # gone, at both ends and at once
    line.trickle = Random(7)  # the kernel takes a part of what it is given, and the rest later

Bytes are in order, whole, and each there once, as TCP has them; when they come, and in which pieces, is the
line's to say. A send ends when all but `room_bytes` of it has been taken at the other end: with none, which
is the default, a peer that does not read is felt at once; with some, as with a kernel's buffers, later.
"""

import math
import operator
from collections import deque
from random import Random

import trio

Stream = trio.abc.HalfCloseableStream


class SimulatedLine:
    """Two ends and what is between them.

    Args:
        room_bytes: How much each direction holds of what nobody has read.
        split: Says in which pieces bytes come; None: as they were sent, or more at once.

    Attributes:
        ends: The two streams.
        delay: How long bytes are on their way, in seconds, from now on.
        trickle: Says how much is taken at a time of what is sent; None: all that there is room for.
        is_cut: Whether it is gone.
    """

    def __init__(self, room_bytes: int = 0, split: Random | None = None) -> None:
        self.delay = 0.0
        self.trickle: Random | None = None
        self.is_cut = False
        self._is_held = False
        ways = _Way(self, room_bytes, split), _Way(self, room_bytes, split)
        self.ends = SimulatedStream(ways[0], ways[1]), SimulatedStream(ways[1], ways[0])
        self._ways = ways

    @property
    def is_held(self) -> bool:
        """Return whether nothing arrives."""
        return self._is_held

    @property
    def is_left(self) -> bool:
        """Return whether the second of its ends is closed: the server's."""
        return self.is_cut or self._ways[0].is_abandoned

    @property
    def is_over(self) -> bool:
        """Return whether nothing will ever come of it again."""
        return self.is_cut or all(way.is_abandoned for way in self._ways)

    def hold(self) -> None:
        """Let nothing arrive any more, and tell nobody."""
        self._is_held = True

    def heal(self) -> None:
        """Let everything arrive again, first of all what was held."""
        self._is_held = False
        for way in self._ways:
            way.wake()

    def cut(self) -> None:
        """Break it: what is under way is lost, and both ends learn of it at once."""
        self.is_cut = True
        for way in self._ways:
            way.wake()


class _Way:
    """One direction."""

    def __init__(self, line: SimulatedLine, room_bytes: int, split: Random | None) -> None:
        self.line = line
        self._room_bytes = room_bytes
        self._split = split
        self._chunks: deque[tuple[float, bytes]] = deque()  # when each arrives, and what it is
        self._size = 0
        self._count = 0  # of chunks that were sent, and of the rests of those that were taken in part
        self._arrives = -math.inf  # what was sent last: nothing overtakes it
        self._ends_at = math.inf  # when the reader learns that there is no more
        self.is_abandoned = False
        self._change = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        self._change.unpark_all()

    def put(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            trio.BrokenResourceError: nobody will ever read them.
        """
        if self.line.is_cut or self.is_abandoned:
            raise trio.BrokenResourceError("the line is cut")
        self._arrives = max(self._arrives, trio.current_time() + self.line.delay)
        self._chunks.append((self._arrives, data))
        self._size += len(data)
        self._count += 1
        self.wake()

    def put_some(self, data: bytes) -> int:
        """Send what there is room for, and return how much: all of it or nothing, or as it trickles."""
        most = min(len(data), self._room_bytes - self._size)
        if self.line.trickle is not None:
            most = self.line.trickle.randint(0, max(0, most))
        elif most < len(data):
            return 0
        if most <= 0 or self.line.is_cut or self.is_abandoned or self._ends_at < math.inf:
            return 0
        self.put(data[:most])
        return most

    async def room(self) -> None:
        """Wait until all but what there is room for has been taken."""
        has_waited = False
        while self._size > self._room_bytes:
            if self.line.is_cut or self.is_abandoned:
                raise trio.BrokenResourceError("the line is cut")
            if self._ends_at < math.inf:
                raise trio.ClosedResourceError
            await self._change.park()
            has_waited = True
        if not has_waited:
            await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """Say that there is no more."""
        if self._ends_at == math.inf:
            self._ends_at = max(self._arrives, trio.current_time() + self.line.delay)
            self.wake()

    def abandon(self) -> None:
        """Read no more."""
        self.is_abandoned = True
        self._chunks.clear()
        self._size = 0
        self.wake()

    async def take(self, max_bytes: int | None) -> bytes:
        """Return what has arrived; nothing at the end."""
        has_waited = False
        while True:
            if self.is_abandoned:
                raise trio.ClosedResourceError
            if self.line.is_cut:
                raise trio.BrokenResourceError("the line is cut")
            arrives = self._chunks[0][0] if self._chunks else self._ends_at
            if self.line.is_held or arrives > trio.current_time():
                await self._wait(math.inf if self.line.is_held else arrives)
            elif has_waited:
                return self._pop(max_bytes)
            else:
                await trio.lowlevel.checkpoint()
            has_waited = True

    def take_now(self, max_bytes: int) -> bytes | None:
        """Return what has arrived; nothing at the end, None where nothing has yet."""
        if self.line.is_cut or self.is_abandoned:
            return b""
        arrives = self._chunks[0][0] if self._chunks else self._ends_at
        return None if self.line.is_held or arrives > trio.current_time() else self._pop(max_bytes)

    @property
    def is_over(self) -> bool:
        """Return whether the end has arrived, behind what was not read yet."""
        now = trio.current_time()
        is_whole = not self._chunks or self._chunks[-1][0] <= now
        return self.line.is_cut or (self._ends_at <= now and is_whole)

    async def news(self, known: int) -> int:
        """Wait until more has arrived, or the end, than what is known; return how much."""
        while True:
            now = trio.current_time()
            to_come = [arrives for arrives, _ in self._chunks if arrives > now]
            arrived = self._count - len(to_come) + self.is_over
            if arrived > known and (self.line.is_cut or not self.line.is_held):
                return arrived
            until = min([*to_come, self._ends_at if self._ends_at > now else math.inf])
            await self._wait(math.inf if self.line.is_held else until)

    async def _wait(self, until: float) -> None:
        """Wait for a change, or for a moment."""
        if until == math.inf:
            await self._change.park()
        else:
            with trio.move_on_at(until):
                await self._change.park()

    def _pop(self, max_bytes: int | None) -> bytes:
        now = trio.current_time()
        arrived = b""
        while self._chunks and self._chunks[0][0] <= now:
            arrived += self._chunks.popleft()[1]
        most = len(arrived) if max_bytes is None else min(max_bytes, len(arrived))
        if self._split is not None and most:
            most = self._split.choice([most, most, most, self._split.randint(1, most), 1])
        taken, rest = arrived[:most], arrived[most:]
        if rest:  # as if it had come in a piece of its own
            self._chunks.appendleft((now, rest))
            self._count += 1
        self._size -= len(taken)
        self.wake()
        return taken


class SimulatedStream(Stream):
    """One end of a line."""

    def __init__(self, outwards: _Way, inwards: _Way) -> None:
        self._outwards = outwards
        self._inwards = inwards
        self._is_sending = self._is_receiving = False
        self._is_closed = self._has_ended = False

    @property
    def line(self) -> SimulatedLine:
        """What it is an end of."""
        return self._outwards.line

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, and wait until the line has room for them; see `trio.abc.SendStream`.

        Where they trickle, who is cancelled meanwhile has sent a part.
        """
        self._check_sending()
        rest = bytes(data)
        while (trickle := self.line.trickle) is not None and len(rest) > 1:
            size = trickle.randint(1, len(rest))
            self._outwards.put(rest[:size])
            rest = rest[size:]
            await self.wait_send_all_might_not_block()
        if rest:
            self._outwards.put(rest)
        await self.wait_send_all_might_not_block()

    def send_some(self, data: bytes) -> int:
        """Send what the line has room for, at once, and return how much: as a kernel does."""
        return 0 if self._is_closed or self._has_ended else self._outwards.put_some(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room; see `trio.abc.SendStream`."""
        self._check_sending()
        self._is_sending = True
        try:
            await self._outwards.room()
        finally:
            self._is_sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come; see `trio.abc.ReceiveStream`."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._is_receiving = True
        try:
            return await self._inwards.take(max_bytes)
        finally:
            self._is_receiving = False

    def receive_now(self, max_bytes: int) -> bytes | None:
        """Return what has come; nothing at the end, None where nothing has yet."""
        return self._inwards.take_now(max_bytes)

    async def news(self, known: int) -> int:
        """Wait until more has come than what is known, which begins with 0; return how much."""
        return await self._inwards.news(known)

    @property
    def is_over(self) -> bool:
        """Return whether the end has come, behind what was not read yet."""
        return self._inwards.is_over

    async def send_eof(self) -> None:
        """Say that there is no more; see `trio.abc.HalfCloseableStream`."""
        await trio.lowlevel.checkpoint()
        if self._is_closed:
            raise trio.ClosedResourceError
        if not self._has_ended:
            self._check_sending()
        self._has_ended = True
        self._outwards.end()

    async def aclose(self) -> None:
        """Hang up."""
        self._is_closed = True
        self._outwards.end()
        self._outwards.wake()
        self._inwards.abandon()
        await trio.lowlevel.checkpoint()

    def _check_sending(self) -> None:
        if self._is_closed or self._has_ended:
            raise trio.ClosedResourceError
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")
