"""A hot standby in memory, that shows what its primary has numbered, and fails as one may."""

from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import trio

from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.errors import Outage
from trio_ws.testing.database import SimulatedDatabase

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class SimulatedStandby:
    """A standby of a simulated database, for `Replicated`.

    Attributes:
        behind: How many of the primary's events it does not show yet.
        is_paused: While true, it shows nothing new.
        away: While true, it can't be reached.
        hangs: While true, it does not answer.
        delay: How long it takes to answer, in seconds.
        own: The database that it is once it was promoted, with events of its own; None: a standby.
        reads: How often it was asked.
        turns: How often another host was asked for.
    """

    def __init__(self, primary: SimulatedDatabase) -> None:
        self.behind = 0
        self.is_paused = False
        self.away = False
        self.hangs = False
        self.delay = 0.0
        self.own: SimulatedDatabase | None = None
        self.reads = 0
        self.turns = 0
        self._primary = primary
        self._shown = primary.copy(primary.numbered)

    async def run(
        self,
        query: Callable[[Connection, *Arguments], T],
        *args: *Arguments,
        lane: Lane = Lane.CATCH_UP,  # noqa: ARG002 - none is ever busy
    ) -> T:
        """Answer as a standby of PostgreSQL would."""
        self.reads += 1
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Outage("The database can't be reached")
        if self.hangs:
            await trio.sleep_forever()
        await trio.sleep(self.delay)
        shown: Any = self.own or self._follow()
        answer: T = shown.answers[query](shown, *args)
        return answer

    async def watch(self) -> None:
        """Never return."""
        await trio.sleep_forever()

    def turn(self) -> None:
        """Count it."""
        self.turns += 1

    def promote(self) -> SimulatedDatabase:
        """Make it a primary, and return that."""
        own = self.own = self._follow()
        return own

    def _follow(self) -> SimulatedDatabase:
        if not self.is_paused:
            self._shown = self._primary.copy(max(0, self._primary.numbered - self.behind))
        return self._shown
