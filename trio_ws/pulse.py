"""Who is to be pinged next: one task for all clients. One that sleeps for each takes 3 KB of a connection."""

import heapq
import math
from collections.abc import Callable
from types import TracebackType

import trio


class Pulse:
    """Beats, each at its time. They come while `run` does."""

    def __init__(self) -> None:
        self._beats: list[Beat] = []  # a heap
        self._nap = trio.CancelScope()

    async def run(self) -> None:
        """Have beats come, until cancelled."""
        while True:
            now = trio.current_time()
            while self._beats and self._beats[0].moment <= now:
                heapq.heappop(self._beats).come()
            with trio.CancelScope(deadline=self._beats[0].moment if self._beats else math.inf) as self._nap:
                await trio.sleep_forever()

    def beat(self, seconds: float, act: Callable[[], None]) -> "Beat":
        """Return what calls after so many seconds, and once more for each `again`, until it is left."""
        beat = Beat(self, seconds, act)
        beat.again()
        return beat

    def add(self, beat: "Beat") -> None:
        """Have it come at its moment."""
        heapq.heappush(self._beats, beat)
        self._nap.deadline = min(self._nap.deadline, beat.moment)


class Beat:
    """What calls one client; made by `Pulse.beat`.

    Attributes:
        moment: When it comes, on trio's clock.
    """

    __slots__ = ("_act", "_pulse", "_seconds", "moment")

    def __init__(self, pulse: Pulse, seconds: float, act: Callable[[], None]) -> None:
        self.moment = math.inf
        self._pulse = pulse
        self._seconds = seconds
        self._act: Callable[[], None] | None = act

    def __lt__(self, other: "Beat") -> bool:
        return self.moment < other.moment

    def again(self) -> None:
        """Come once more, from now on after the same time, unless it has been left."""
        if self._act is not None:
            self.moment = trio.current_time() + self._seconds
            self._pulse.add(self)

    def come(self) -> None:
        """Call, unless it has been left."""
        if self._act is not None:
            self._act()

    def __enter__(self) -> "Beat":
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._act = None  # what it holds goes at once; it is looked at once more at its moment
