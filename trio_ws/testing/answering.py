"""How a simulated database is asked, as the real one is: by itself, or with others like it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar, TypeVarTuple

import trio

from trio_ws.database import queries
from trio_ws.database.batches import Batches
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.database.tickets import Ticket

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Answering(ABC):
    """What the server asks for; see `trio_ws.database.gateway.Database`.

    Attributes:
        batches: What joins requests.
    """

    batches: ClassVar[type[Batches]] = Batches

    def __init__(self) -> None:
        self._batches = self._open_batches()

    async def run(
        self,
        query: Callable[[Connection, *Arguments], T],
        *args: *Arguments,
        lane: Lane = Lane.CLIENTS,
    ) -> T:
        """Answer the query as PostgreSQL would."""
        (outcome,) = await self._run_together(query, lane, [args])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def ask(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> Ticket[T]:
        """Answer it with others like it, as the real one does."""
        return self._batches[query].ask(*args)

    def _open_batches(self) -> dict[Callable[..., Any], Batches]:
        return {
            query: self.batches(
                query.__name__,
                partial(self._run_together, query, joined.lane),
                partial(self.run, query, lane=joined.lane),
                math.inf,  # what waits has all the time
            )
            for query, joined in queries.TOGETHER.items()
        }

    def _start_batches(self, nursery: trio.Nursery) -> None:
        for batches in self._batches.values():
            nursery.start_soon(batches.work)

    @abstractmethod
    async def _run_together(
        self, query: Callable[..., T], lane: Lane, many: Sequence[tuple[Any, ...]]
    ) -> list[T | Exception]:
        """Return what comes of each, one after the other, in one statement."""
