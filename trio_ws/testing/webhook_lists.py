"""Lists of webhooks without PostgreSQL: pages of a `SimulatedQueue`."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

from trio_ws.database import webhook_lists
from trio_ws.database.webhook_lists import Listed, ListedPage, Place, Wanted
from trio_ws.errors import NotFound
from trio_ws.testing.tables import wire_time
from trio_ws.testing.webhooks import Queued, SimulatedQueue
from trio_ws.topics import Event


class SimulatedWebhookLists:
    """What people ask about the queue.

    Args:
        queue: The queue.
    """

    def __init__(self, queue: SimulatedQueue) -> None:
        self._queue = queue

    def _list_page(self, wanted: Wanted) -> ListedPage:
        by_time = wanted.invoice is None and wanted.state in ("failed", "delivered")
        found = sorted(
            ((_place(one, by_time=by_time), one) for one in self._wanted(wanted)),
            key=lambda pair: pair[0],
            reverse=True,
        )
        left = [pair for pair in found if wanted.before is None or pair[0] < wanted.before]
        page = left[: wanted.most]
        following = page[-1][0] if len(left) > wanted.most else None
        return ListedPage([self._listed(one) for _, one in page], following)

    def _wanted(self, wanted: Wanted) -> Iterable[Queued]:
        for one in (*self._queue.queued, *self._queue.history):
            if wanted.account_id in (None, one.account_id) and self._is_wanted(one, wanted):
                yield one

    def _is_wanted(self, one: Queued, wanted: Wanted) -> bool:
        if wanted.invoice is not None:
            return one.invoice == wanted.invoice and wanted.state in (None, self._state(one))
        is_delivered = one.delivered_at is not None
        if wanted.state == "waiting":  # also what is held soon, as another database's
            return not is_delivered and one.failed_at is None
        return not is_delivered if wanted.state is None else self._state(one) == wanted.state

    def _state(self, one: Queued) -> str:
        if one.delivered_at is not None:
            return "delivered"
        if one.is_held or (one.failed_at is None and one.origin != self._queue.origin):
            return "held"
        return "waiting" if one.failed_at is None else "failed"

    def _listed(self, one: Queued) -> Listed:
        ended_at = one.delivered_at or one.failed_at
        is_open = ended_at is None
        is_behind = is_open and one not in self._queue.oldest
        endpoint = self._queue.endpoint(one.key)
        moments = (one.due_at, one.since, endpoint.paused_until, endpoint.wait_until)
        next_at = max(moment for moment in moments if moment is not None)
        return Listed(
            one.id,
            one.account_id,
            one.invoice,
            one.event.type,
            one.key[1],
            one.attempts,
            self._state(one),
            is_behind,
            one.status,
            None if one.delivered_at else one.error,
            wire_time(one.since),
            wire_time(next_at) if is_open and not is_behind else None,
            None if ended_at is None else wire_time(ended_at),
        )

    def _find_delivery(self, id_: str, owner: int | None = None) -> tuple[Listed, str, Event]:
        for one in (*self._queue.queued, *self._queue.history):
            if one.id == id_ and owner in (None, one.account_id):
                return self._listed(one), one.url, one.event
        raise NotFound("Webhook not found")

    def _retry_delivery(self, id_: str, owner: int | None) -> Listed:
        self._find_delivery(id_, owner)
        self._queue.retry(id_)
        listed, _, _ = self._find_delivery(id_, owner)
        return listed

    answers: dict[Callable[..., Any], Callable[..., Any]] = {  # noqa: RUF012 - a constant table
        webhook_lists.list_page: _list_page,
        webhook_lists.find_delivery: _find_delivery,
        webhook_lists.retry_delivery: _retry_delivery,
    }


def _place(one: Queued, *, by_time: bool) -> Place:
    moment = cast(datetime, one.delivered_at or one.failed_at) if by_time else None
    return Place(0 if moment is None else round(moment.timestamp() * 1_000_000), one.event.seq)
