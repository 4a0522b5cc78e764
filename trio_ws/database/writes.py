"""Whether clients' writes come through. A PostgreSQL with a full disk, or without its standby, may only read.

It is judged by what clients ask for. A write of our own would show less: it may do well on a full disk, and
it would be one more that waits for the standby. When nobody asks any more, failures are forgotten after a
while. Else a server that gets no clients, because it is not ready, would never be ready again.
"""

import math
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from trio_ws.database import payments, queries, webhook_lists
from trio_ws.database.gateway import Database, Wake
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.database.tickets import Ticket
from trio_ws.errors import ActionError, Timeout, Unavailable

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

# What clients write: each changes a row, or is refused for what it asks.
WRITES: frozenset[Callable[..., object]] = frozenset(
    {
        *(queries.create_invoice, queries.change_status, queries.set_price),
        *(payments.record_payment, webhook_lists.retry_delivery),
    }
)
# If PostgreSQL still refuses them, clients meet failures for 5 s (`server.WRITE_SECONDS`) of each 15 s.
FORGET_SECONDS = 10.0


class Writes:
    """A database, with a memory of what came of its clients' writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._through_at = -math.inf  # when a write last came through
        self._failed_from = math.inf  # when the first was asked for that failed since; inf: none has
        self._failed_at = -math.inf  # when one last failed

    def failing_seconds(self) -> float:
        """Return for how long writes have been asked for of which none came through."""
        if trio.current_time() - self._failed_at > FORGET_SECONDS:
            return 0.0
        return max(0.0, self._failed_at - self._failed_from)

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        """Run a query as the database does.

        Raises:
            ActionError: what the query raises, or `Unavailable`, or `Timeout`.
        """
        began = trio.current_time()
        try:
            answer = await self._database.run(query, *args, lane=lane)
        except Exception as error:
            self._note(query, began, error)
            raise
        self._note(query, began, answer)
        return answer

    def ask(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> Ticket[T]:
        """Ask the database."""
        ticket = self._database.ask(query, *args)
        ticket.on_settled(lambda: self._note(query, ticket.since, ticket.outcome))
        return ticket

    async def watch(self, wake: Wake) -> None:
        """Call `wake` whenever there may be new events; never return."""
        await self._database.watch(wake)

    def _note(self, query: Callable[..., object], began: float, outcome: object) -> None:
        if query not in WRITES:
            return
        now = trio.current_time()
        if isinstance(outcome, Unavailable):
            if now - self._failed_at > FORGET_SECONDS:
                self._failed_from = math.inf
            self._failed_from = min(self._failed_from, max(began, self._through_at))
            self._failed_at = now
        elif isinstance(outcome, Timeout):
            pass  # as where another program has locked the row
        elif isinstance(outcome, ActionError) or not isinstance(outcome, Exception):  # a bug says nothing
            self._through_at, self._failed_from = now, math.inf
