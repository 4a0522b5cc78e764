"""Requests of one kind joined into one query: under load, one hop to a thread and one commit serve hundreds.

While a batch is in its thread the next one collects, so a request that comes alone goes at once, and the more
come, the more go together.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

import trio

from trio_ws import metrics
from trio_ws.errors import ActionError, Unavailable

MOST = 256  # in a batch: one takes some 10 ms, and who comes next waits for it
WORKERS = 2  # batches at a time: one waits for the disk while another is read and written
LOOKS = 10  # for those that wait too long, in the time that they may
QUEUE = 10_000  # requests that wait, at most: as many as there are connections, by default

T = TypeVar("T")
Arguments = tuple[Any, ...]


class _Group:
    """Requests of one client that came together, and what comes of them."""

    def __init__(self, many: Sequence[Arguments]) -> None:
        self.many = many
        self.since = trio.current_time()
        self.is_taken = False  # from those that wait
        self.done = trio.Event()
        self.outcomes: list[Any] = []
        self.trace: TracebackType | None = None  # of the last error, which grows each time that it is raised

    def settle(self, outcomes: list[Any]) -> None:
        self.outcomes = outcomes
        if isinstance(outcomes[-1], Exception):
            self.trace = outcomes[-1].__traceback__
        self.done.set()


class Batches:
    """Joins requests of one kind.

    Args:
        name: Of the query, for the metrics.
        run: Answers many at once, each with its answer, an `ActionError` to raise, or None: to be done alone.
        run_alone: Answers one.
        patience_seconds: How long after it came a request may still begin, with others or then alone.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Arguments]], Awaitable[list[Any]]],
        run_alone: Callable[..., Awaitable[Any]],
        patience_seconds: float,
    ) -> None:
        self._name = name
        self._run = run
        self._run_alone = run_alone
        self._patience_seconds = patience_seconds
        self._waiting: deque[_Group] = deque()
        self._size = 0  # how many requests wait
        self._news = trio.lowlevel.ParkingLot()

    async def ask(self, many: Sequence[Arguments]) -> list[Any]:
        """Return what comes of requests that belong together: for each its answer, or what the query raises.

        They are done in the same batch, or alone, so none of them sees an older state than one before it.

        Raises:
            Unavailable: too many wait.
        """
        return (await self._settled(many)).outcomes

    async def ask_one(self, *arguments: Any) -> Any:
        """Return the answer to one request.

        Raises:
            Unavailable: too many wait, or this one did for too long.
            Exception: what the query raises for it.
        """
        group = await self._settled([arguments])
        (outcome,) = group.outcomes
        if isinstance(outcome, Exception):
            raise outcome.with_traceback(group.trace)
        return outcome

    async def _settled(self, many: Sequence[Arguments]) -> _Group:
        if self._size + len(many) > QUEUE:
            raise Unavailable("The database is busy")
        group = _Group(many)
        self._waiting.append(group)
        self._size += len(many)
        self._news.unpark()
        try:
            await group.done.wait()
        finally:
            if not group.is_taken:
                self._waiting.remove(group)
                self._size -= len(many)
        return group

    async def refuse_the_late(self) -> None:
        """Turn away those that have waited too long, for ever: cheaper than a deadline for each."""
        while True:
            await trio.sleep(self._patience_seconds / LOOKS)
            while self._waiting and self._waiting[0].since < trio.current_time() - self._patience_seconds:
                group = self._take()
                group.settle([Unavailable("The database is busy") for _ in group.many])

    def _take(self) -> _Group:
        group = self._waiting.popleft()
        self._size -= len(group.many)
        group.is_taken = True
        return group

    def _take_batch(self) -> list[_Group]:
        """Take what has waited longest, up to the size of a batch or a little more."""
        batch: list[_Group] = []
        size = 0
        while self._waiting and size < MOST:
            batch.append(self._take())
            size += len(batch[-1].many)
        return batch

    async def work(self) -> None:
        """Do what is asked, a batch at a time, for ever."""
        async with trio.open_nursery() as alone:
            while True:
                while not self._waiting:
                    await self._news.park()
                batch = self._take_batch()
                many = [arguments for group in batch for arguments in group.many]
                metrics.DATABASE_BATCH.labels(self._name).observe(len(many))
                metrics.DATABASE_WAIT.labels(self._name).observe(trio.current_time() - batch[0].since)
                if len(many) == 1:
                    await self._finish_alone(batch[0], [None])
                else:
                    await self._answer(batch, many, alone)

    async def _answer(self, batch: list[_Group], many: list[Arguments], alone: trio.Nursery) -> None:
        try:
            outcomes = await self._in_time(batch[0].since, self._run, many)
        except ActionError as error:
            outcomes = [type(error)(error.message) for _ in many]
        except Exception as error:  # noqa: BLE001 - a bug, which is for who asked to report
            outcomes = [error for _ in many]
        rest = iter(outcomes)
        for group in batch:
            its = list(islice(rest, len(group.many)))
            if any(outcome is None for outcome in its):
                alone.start_soon(self._finish_alone, group, its)
            else:
                group.settle(its)

    async def _finish_alone(self, group: _Group, outcomes: list[Any]) -> None:
        """Do what has no outcome yet, one after the other, each as if it came after the one before."""
        since = group.since
        for place, arguments in enumerate(group.many):
            if outcomes[place] is None:
                try:
                    outcomes[place] = await self._in_time(since, self._run_alone, *arguments)
                except Exception as error:  # noqa: BLE001 - who asked gets it
                    outcomes[place] = error
                since = trio.current_time()
        group.settle(outcomes)

    async def _in_time(self, since: float, run: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run a query if it can begin in time: once in its thread, it is not cancelled.

        Raises:
            Unavailable: it could not.
        """
        try:
            with trio.fail_at(since + self._patience_seconds):
                return await run(*args)
        except trio.TooSlowError:
            raise Unavailable("The database is busy") from None


async def one_by_one(
    run_alone: Callable[..., Awaitable[T]], many: Sequence[tuple[Any, ...]]
) -> list[T | Exception]:
    """Return what `Batches.ask` would, without a batch."""
    outcomes: list[T | Exception] = []
    for arguments in many:
        try:
            outcomes.append(await run_alone(*arguments))
        except Exception as error:  # noqa: BLE001 - who asked gets it
            outcomes.append(error)
    return outcomes
