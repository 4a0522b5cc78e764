"""One server's own way to a simulated database: what befalls it there befalls no other server.

database = SimulatedDatabase()
here, there = SimulatedGateway(database), SimulatedGateway(database)
async with simulated_server(here) as cut_off, simulated_server(there) as world:
    here.is_cut = True
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple

import trio

from trio_ws.database.gateway import Wake
from trio_ws.database.lanes import Lane
from trio_ws.errors import Outage
from trio_ws.testing.answering import Answering
from trio_ws.testing.database import SimulatedDatabase

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class SimulatedGateway(Answering):
    """The sessions of one server, for `simulated_server`.

    Args:
        database: The one that it shares with others.

    Attributes:
        is_cut: While true, the database can't be reached from here, and its notifications do not arrive.
        lacks_descriptors: While true, it can open no session: those that it has go on.
        refused: Lanes for which PostgreSQL has no session left.
    """

    def __init__(self, database: SimulatedDatabase) -> None:
        self.database = database
        self.is_cut = False
        self.lacks_descriptors = False
        self.refused: frozenset[Lane] = frozenset()
        self._listening = trio.CancelScope()
        self._sessions: dict[Lane, None] = {}  # the lanes that have one
        super().__init__()

    def now(self) -> float:
        """Return what time it is, in Unix seconds."""
        return self.database.now()

    def end_sessions(self) -> None:
        """End all of them, as an administrator does, or PostgreSQL when it restarts."""
        self._sessions.clear()
        self._listening.cancel()

    def move(self, database: SimulatedDatabase) -> None:
        """Go on with another database, to which the name of the one before leads now."""
        self.database = database
        self.end_sessions()

    async def watch(self, wake: Wake) -> None:
        """Notify, as long as the database can be reached, and work on batches, until cancelled."""

        def pass_on(upto: float = math.inf) -> None:
            if not self.is_cut:
                wake(upto)

        async with trio.open_nursery() as nursery:
            self._start_batches(nursery)
            while True:
                with trio.CancelScope() as self._listening:
                    await self.database.watch(pass_on)
                pass_on()  # for what came between

    async def _run_together(
        self, query: Callable[..., T], lane: Lane, many: Sequence[tuple[Any, ...]]
    ) -> list[T | Exception]:
        if self.is_cut or not self._has_session(lane):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise Outage("The database can't be reached")
        outcomes = await self.database._run_together(query, lane, many)  # noqa: SLF001 - ours
        if self.is_cut or lane not in self._sessions:
            raise Outage("The database failed; whether this was done is not known")
        return outcomes

    def _has_session(self, lane: Lane) -> bool:
        if lane not in self._sessions and not self.lacks_descriptors and lane not in self.refused:
            self._sessions[lane] = None
        return lane in self._sessions
