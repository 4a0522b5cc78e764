"""Requests of one kind joined into one query: under load, one hop to a thread and one commit serve hundreds.

While a batch is in its thread the next one collects, so a request that comes alone goes at once, and the more
come, the more go together.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import trio

from trio_ws import metrics
from trio_ws.errors import ActionError, Unavailable

MOST = 256  # in a batch: one takes some 10 ms, and who comes next waits for it
LANES = 2  # batches at a time: one waits for the disk while another is read and written
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
        self.outcomes: list[Any] = [None] * len(many)
        self.trace: TracebackType | None = None  # of the last error, which grows each time that it is raised
        self._left = len(many)

    def settle(self, place: int, outcome: Any) -> None:
        self.outcomes[place] = outcome
        if isinstance(outcome, Exception):
            self.trace = outcome.__traceback__
        self._left -= 1
        if not self._left:
            self.done.set()


class _Request(NamedTuple):
    """One of a group."""

    group: _Group
    place: int

    @property
    def arguments(self) -> Arguments:
        return self.group.many[self.place]

    def settle(self, outcome: Any) -> None:
        self.group.settle(self.place, outcome)


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
                for place in range(len(group.many)):
                    group.settle(place, Unavailable("The database is busy"))

    def _take(self) -> _Group:
        group = self._waiting.popleft()
        self._size -= len(group.many)
        group.is_taken = True
        return group

    def _take_batch(self) -> list[_Request]:
        """Take what has waited longest, whole groups, up to the size of a batch or a little more."""
        batch: list[_Request] = []
        while self._waiting and len(batch) < MOST:
            group = self._take()
            batch += [_Request(group, place) for place in range(len(group.many))]
        return batch

    async def work(self) -> None:
        """Do what is asked, a batch at a time, for ever."""
        async with trio.open_nursery() as alone:
            while True:
                while not self._waiting:
                    await self._news.park()
                batch = self._take_batch()
                metrics.DATABASE_BATCH.labels(self._name).observe(len(batch))
                metrics.DATABASE_WAIT.labels(self._name).observe(trio.current_time() - batch[0].group.since)
                if len(batch) == 1:
                    await self._answer_alone(batch[0])
                else:
                    await self._answer(batch, alone)

    async def _answer(self, batch: list[_Request], alone: trio.Nursery) -> None:
        try:
            arguments = [request.arguments for request in batch]
            outcomes = await self._in_time(batch[0], self._run, arguments)
        except ActionError as error:
            outcomes = [type(error)(error.message) for _ in batch]
        except Exception as error:  # noqa: BLE001 - a bug, which is for who asked to report
            outcomes = [error for _ in batch]
        for request, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                alone.start_soon(self._answer_alone, request)
            else:
                request.settle(outcome)

    async def _answer_alone(self, request: _Request) -> None:
        try:
            request.settle(await self._in_time(request, self._run_alone, *request.arguments))
        except Exception as error:  # noqa: BLE001 - who asked gets it
            request.settle(error)

    async def _in_time(self, oldest: _Request, run: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run a query if it can begin in time: once in its thread, it is not cancelled.

        Raises:
            Unavailable: it could not.
        """
        try:
            with trio.fail_at(oldest.group.since + self._patience_seconds):
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
