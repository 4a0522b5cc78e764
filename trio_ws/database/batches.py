"""Requests of one kind joined into one query: under load, one hop to a thread and one commit serve hundreds.

While a batch is in its thread the next one collects, so a request that comes alone goes at once, and the more
come, the more go together.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from trio_ws import metrics
from trio_ws.database.tickets import Ticket
from trio_ws.errors import ActionError, Unavailable

MOST = 256  # in a batch: one takes some 10 ms, and the next request waits for it
WORKERS = 2  # one batch waits for the disk while another is read and written
LOOKS = 10  # for those that wait too long, in the time that they may
QUEUE = 10_000  # requests that wait, at most: as many as there are connections, by default

Arguments = tuple[Any, ...]


class Batches:
    """Joins requests of one kind.

    Args:
        name: Of the query, for the metrics.
        run: Answers many at once, each with its answer, an `ActionError`, or None: to be done alone.
        run_alone: Answers one.
        patience_seconds: How long after it came a request may still begin, with others or then alone.
        workers: How many batches there may be at a time.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Arguments]], Awaitable[list[Any]]],
        run_alone: Callable[..., Awaitable[Any]],
        patience_seconds: float,
        workers: int = WORKERS,
    ) -> None:
        self._name = name
        self._run = run
        self._run_alone = run_alone
        self._patience_seconds = patience_seconds
        self._workers = workers
        self._waiting: deque[Ticket[Any]] = deque()
        self._news = trio.lowlevel.ParkingLot()

    def ask(self, *arguments: Any) -> Ticket[Any]:
        """Return what a request will bring: its answer, what the query raises, or `Unavailable`."""
        ticket: Ticket[Any] = Ticket(arguments, trio.current_time())
        if len(self._waiting) < QUEUE:
            if not self._waiting:  # who is woken takes those that come before it runs, too
                self._news.unpark()
            self._waiting.append(ticket)
        else:
            ticket.settle(Unavailable("The database is busy"))
        return ticket

    async def work(self) -> None:
        """Do what is asked, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._refuse_the_late)
            for _ in range(self._workers):
                nursery.start_soon(self._work, nursery)

    async def _refuse_the_late(self) -> None:
        """Turn away those that have waited too long, for ever: cheaper than a deadline for each."""
        while True:
            await trio.sleep(self._patience_seconds / LOOKS)
            while self._waiting and self._waiting[0].since < trio.current_time() - self._patience_seconds:
                _settle([(self._waiting.popleft(), Unavailable("The database is busy"))])

    async def _work(self, nursery: trio.Nursery) -> None:
        while True:
            while not self._waiting:
                await self._news.park()
            if batch := self._take_batch():
                metrics.DATABASE_BATCH.labels(self._name).observe(len(batch))
                metrics.DATABASE_WAIT.labels(self._name).observe(trio.current_time() - batch[0].since)
                if len(batch) == 1:
                    await self._answer_alone(batch[0])
                else:
                    await self._answer(batch, nursery)

    def _take_batch(self) -> list[Ticket[Any]]:
        """Take what has waited longest, up to the size of a batch, and what is joined to the last of it."""
        batch: list[Ticket[Any]] = []
        while self._waiting and (len(batch) < MOST or self._waiting[0].joins):
            ticket = self._waiting.popleft()
            if not ticket.is_dropped:
                batch.append(ticket)
        return batch

    async def _answer(self, batch: list[Ticket[Any]], nursery: trio.Nursery) -> None:
        try:
            many = [ticket.arguments for ticket in batch]
            outcomes = await self._in_time(batch[0], self._run, many)
            answered = list(zip(batch, outcomes, strict=True))
        except ActionError as error:
            answered = [(ticket, type(error)(error.message)) for ticket in batch]
        except Exception as error:  # noqa: BLE001 - a bug, which is for who asked to report
            answered = [(ticket, error) for ticket in batch]
        for ticket, outcome in answered:
            if outcome is None:
                nursery.start_soon(self._answer_alone, ticket)
        _settle([(ticket, outcome) for ticket, outcome in answered if outcome is not None])

    async def _answer_alone(self, ticket: Ticket[Any]) -> None:
        try:
            outcome = await self._in_time(ticket, self._run_alone, *ticket.arguments)
        except Exception as error:  # noqa: BLE001 - who asked gets it
            outcome = error
        _settle([(ticket, outcome)])

    async def _in_time(self, ticket: Ticket[Any], run: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run a query if it can begin in time: once in its thread, it is not cancelled.

        Raises:
            Unavailable: it could not.
        """
        try:
            with trio.fail_at(ticket.since + self._patience_seconds):
                return await run(*args)
        except trio.TooSlowError:
            raise Unavailable("The database is busy") from None


def _settle(done: Sequence[tuple[Ticket[Any], Any]]) -> None:
    """Set all outcomes before any callback runs: a client that asked for several gets them together."""
    for ticket, outcome in done:
        ticket.settle(outcome)
    for ticket, _ in done:
        ticket.tell()
