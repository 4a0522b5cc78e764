"""The result of a query: asked for at once, and waited for by any number of tasks, or by none."""

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import trio

T = TypeVar("T")
U = TypeVar("U")

_PENDING: Any = object()


class Timing:
    """When a query came to what it waited for, on trio's clock; NaN: not yet, or there was no such thing.

    Args:
        asked_at: When it was asked for.

    Attributes:
        taken_at: When it was taken into a batch.
        connected_at: When it had a connection.
    """

    __slots__ = ("asked_at", "connected_at", "taken_at")

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at
        self.taken_at = self.connected_at = math.nan


class Ticket(Generic[T]):
    """The outcome of a query, which may come later.

    Args:
        arguments: Of the query.
        since: When it was asked, on trio's clock.

    Attributes:
        joins: Whether it is to be in one batch with the one that was asked before it.
        is_dropped: Whether nobody wants it any more: what has not begun is left undone.
        timing: Where traces are on, and there alone, what is noted of it; None: nothing.
    """

    __slots__ = (
        *("_calls", "_make", "_outcome", "_trace", "arguments", "is_dropped", "joins", "since", "timing"),
    )
    timing: Timing | None

    def __init__(self, arguments: tuple[Any, ...], since: float) -> None:
        self.arguments = arguments
        self.since = since
        self.joins = self.is_dropped = False
        self._outcome: T | Exception = _PENDING
        self._trace: TracebackType | None = None  # of an error, which grows each time that it is raised
        self._make: Callable[[Any], Any] | None = None
        self._calls: list[Callable[[], object]] = []

    def then(self, make: Callable[[T], U]) -> "Ticket[U]":
        """Have the outcome, unless it is an error, be what `make` returns for it."""
        self._make = make
        return cast("Ticket[U]", self)

    def on_settled(self, call: Callable[[], object]) -> None:
        """Have `call` be called when there is an outcome; at once, if there is."""
        if self.is_settled:
            call()
        else:
            self._calls.append(call)

    @property
    def is_settled(self) -> bool:
        """Return whether there is an outcome."""
        return self._outcome is not _PENDING

    @property
    def outcome(self) -> T | Exception:
        """The outcome, once there is one."""
        return self._outcome

    def settle(self, outcome: Any) -> None:
        """Set its outcome. Callbacks wait for `tell`, so that all of a batch run together."""
        if isinstance(outcome, Exception):
            self._trace = outcome.__traceback__
        elif self._make is not None:
            try:
                outcome = self._make(outcome)
            except Exception as error:  # noqa: BLE001 - a bug, which is for who asked to report
                outcome = error
        self._outcome = outcome

    def tell(self) -> None:
        """Run the callbacks, and wake those that wait."""
        for call in self._calls:
            call()
        self._calls.clear()

    async def wait(self) -> T:
        """Return the outcome; who is cancelled drops it.

        Raises:
            Exception: the outcome is one.
        """
        settled = trio.Event()
        self.on_settled(settled.set)
        try:
            await settled.wait()
        finally:
            self.is_dropped = True
        if isinstance(self._outcome, Exception):
            raise self._outcome.with_traceback(self._trace)
        return self._outcome
