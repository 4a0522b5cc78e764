"""A database that is far away: what the log says is on its way for as long as a test likes."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from trio_ws.database import event_log
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.testing import SimulatedDatabase

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class LateDatabase(SimulatedDatabase):
    """A database whose answers about the log are on their way until `arrival` is set."""

    arrival: trio.Event | None = None

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        answer = await super().run(query, *args, lane=lane)
        if self.arrival is not None and query is event_log.advance:  # type: ignore[comparison-overlap]
            await self.arrival.wait()
        return answer
