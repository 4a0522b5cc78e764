"""Who is to be pinged next: one task for all clients. One that sleeps for each takes 3 KB of a connection."""

import heapq
import math
from collections.abc import Callable

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
        """Return what calls once, after so many seconds, unless it has been left."""
        beat = Beat(trio.current_time() + seconds, act)
        heapq.heappush(self._beats, beat)
        self._nap.deadline = min(self._nap.deadline, beat.moment)
        return beat


class Beat:
    """What calls one client; made by `Pulse.beat`.

    Attributes:
        moment: When it comes, on trio's clock.
    """

    __slots__ = ("_act", "moment")

    def __init__(self, moment: float, act: Callable[[], None]) -> None:
        self.moment = moment
        self._act: Callable[[], None] | None = act

    def __lt__(self, other: "Beat") -> bool:
        return self.moment < other.moment

    def come(self) -> None:
        """Call, unless it has been left."""
        if self._act is not None:
            self._act()

    def leave(self) -> None:
        """Have it not come; what it holds goes at once."""
        self._act = None
