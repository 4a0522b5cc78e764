"""When a query came to what it waited for: for traces, and for nobody else.

A query waits to be taken into a batch, then for a connection, and then it runs. A trace gives it a `Timing`,
and the classes here fill that in. They take the place of those that they extend where traces are on, and only
there.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import trio

from trio_ws.database.batches import Batches
from trio_ws.database.lanes import Lanes, Place
from trio_ws.database.tickets import Ticket, Timing

# Of the queries that a task asks for, or works on.
_timed: ContextVar[Sequence[Timing]] = ContextVar("timed", default=())


@contextmanager
def timed() -> Iterator[Timing]:
    """Yield the timing of the query that is asked for inside."""
    timing = Timing(trio.current_time())
    token = _timed.set((timing,))
    try:
        yield timing
    finally:
        _timed.reset(token)


def seconds(timing: Timing) -> dict[str, float]:
    """Return what a query that is done spent its time with, of what is known, in seconds.

    Of one that was asked for alone, nothing is said of a batch.
    """
    moments = {
        "batch_wait": timing.taken_at,
        "connection_wait": timing.connected_at,
        "run": trio.current_time(),
    }
    found, before = {}, timing.asked_at
    for name, moment in moments.items():
        if not math.isnan(moment):
            found[name], before = moment - before, moment
    return found


class TimedBatches(Batches):
    """Batches that say when a request was taken."""

    def ask(self, *arguments: Any) -> Ticket[Any]:
        """Return what a request will bring."""
        ticket = super().ask(*arguments)
        ticket.timing = next(iter(_timed.get()), None)
        return ticket

    def _take_batch(self) -> list[Ticket[Any]]:
        batch = super()._take_batch()
        timings = [ticket.timing for ticket in batch if ticket.timing is not None]
        for timing in timings:
            timing.taken_at = trio.current_time()
        _timed.set(timings)  # of the task that works on it
        return batch


class TimedPlace(Place):
    """A place that says when it was free."""

    __slots__ = ()

    async def acquire_on_behalf_of(self, thread: object) -> None:
        """Wait until there is room."""
        await super().acquire_on_behalf_of(thread)
        for timing in _timed.get():
            timing.connected_at = trio.current_time()


class TimedLanes(Lanes):
    """Lanes of such places."""

    kind = TimedPlace
