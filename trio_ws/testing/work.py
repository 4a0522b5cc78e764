"""What a statement costs PostgreSQL: by the rows and bytes that it is about, and by the locks it waits for.

    database.costs.append(Work(database, row_seconds=0.02))

What takes more than the statement timeout fails, and is undone; who then asks for less is answered.
"""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import trio

from trio_ws.database import event_log, payments, queries
from trio_ws.testing.database import SimulatedDatabase

AHEAD = (event_log.advance, event_log.number)
PAGES = (event_log.read_events, event_log.find_events)
SCANS = {event_log.find_events: 2}  # which argument says how many events are looked at, where not the second
CHANGES = (queries.change_status, payments.record_payment)  # of the invoice that comes first
BYTES = 1000  # that take as long as a row
AFTER_SECONDS = 0.001  # who waited for a lock goes on when the other has let go, and not in the same moment


class Work:
    """A PostgreSQL that is short of processor and disk.

    Args:
        database: Where it works.
        row_seconds: How long it takes for each row, or KB of events.
    """

    def __init__(self, database: SimulatedDatabase, row_seconds: float) -> None:
        self._database = database
        self._row_seconds = row_seconds

    def __call__(self, query: Callable[..., Any], many: Sequence[tuple[Any, ...]]) -> float:
        """Return how long it takes for what is asked."""
        return self._row_seconds * sum(self._rows(query, *args) for args in many)

    def _rows(self, query: Callable[..., Any], *args: Any) -> float:
        database = self._database
        if query is queries.read_prices:
            return float(min(args[1], len(database.prices)))
        if query is queries.list_invoices:
            return float(min(args[0].most, len(database.uids)))
        if query not in (*AHEAD, *PAGES):
            return 1
        end = len(database.written) if query in AHEAD else database.numbered
        events = database.written[args[0] : min(end, args[0] + args[SCANS.get(query, 1)])]
        return len(events) + sum(len(event.data) + len(event.previous) for event in events) / BYTES


class Locks:
    """What another program holds in a transaction that is open.

    Args:
        database: Where.
        until: When it ends, on trio's clock.
        uids: The invoices that it has changed.
        log: Whether it is numbering events.
    """

    def __init__(
        self, database: SimulatedDatabase, until: float, uids: Sequence[UUID] = (), *, log: bool = False
    ) -> None:
        self._database = database
        self._until = until
        self._uids = {*uids}
        self._log = log

    def __call__(self, query: Callable[..., Any], many: Sequence[tuple[Any, ...]]) -> float:
        """Return how long what is asked waits for them."""
        waits = query in CHANGES and any(args[0] in self._uids for args in many)
        if self._log and query in AHEAD:
            waits = len(self._database.written) > self._database.numbered
        return self._until - trio.current_time() + AFTER_SECONDS if waits else 0.0
