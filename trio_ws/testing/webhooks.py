"""Webhooks without PostgreSQL: the queue of deliveries."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

import msgspec

from trio_ws.database import webhooks
from trio_ws.database.webhooks import Change, Claim, Delivery, Figures, Outcome, Result
from trio_ws.errors import NotFound
from trio_ws.topics import Event

SECRETS = ("whsec_new", "whsec_old")  # every account's
FAILURES = 4  # in a row, after which an endpoint is dead: `settle_webhooks` of the schema
DROPPABLE = 500  # of what has waited for a dead one for too long, in one call: likewise


class _Named(msgspec.Struct):
    """Of an event's data, what the queue looks at."""

    account_id: int
    uid: str = ""
    invoice: str = ""  # of a payment


@dataclass
class Queued:
    """A delivery."""

    id: str
    origin: str
    event: Event
    invoice: str
    account_id: int
    url: str
    since: datetime
    due_at: datetime  # where nothing older of its invoice is left
    attempts: int = 0
    leased_until: datetime | None = None
    failed_at: datetime | None = None
    is_held: bool = False
    delivered_at: datetime | None = None  # in the history
    status: int | None = None  # of the last answer
    error: str | None = None

    @cached_property
    def key(self) -> tuple[int, str]:
        """Its account and endpoint."""
        parts = urlsplit(self.url)
        return self.account_id, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()

    def is_under_way(self, now: datetime) -> bool:
        """Return whether an attempt is being made."""
        return self.leased_until is not None and self.leased_until > now


@dataclass
class Endpoint:
    """What is known of an account's endpoint."""

    turn: int = 0  # when it had its turn, as a number of turns
    failures: int = 0
    failing_since: datetime | None = None
    paused_until: datetime | None = None  # of a dead one
    wait_until: datetime | None = None  # of one that fails, at its word

    def is_paused(self, now: datetime) -> bool:
        """Whether no attempt is to be made."""
        return any(until is not None and until > now for until in (self.paused_until, self.wait_until))

    @property
    def is_failing(self) -> bool:
        """Whether its last attempt failed."""
        return self.failing_since is not None


class SimulatedQueue:
    """What the tables and functions of the schema are that are about webhooks.

    Args:
        now: The database's clock.

    Attributes:
        origin: Which database it is in. A copy's is another one.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.origin = "original"
        self._now = now
        self._queued: dict[str, Queued] = {}
        self._history: dict[str, Queued] = {}
        self._endpoints: defaultdict[tuple[int, str], Endpoint] = defaultdict(Endpoint)
        self._turns: Counter[tuple[int, bool]] = Counter()  # when an account had its turn
        self._last_turn = 0
        self._droppable = 0  # by the call that is under way

    @property
    def waiting(self) -> list[int]:
        """The events that are to be delivered, in order."""
        return [queued.event.seq for queued in self._open()]

    @property
    def failed(self) -> list[int]:
        """The events whose delivery failed for good."""
        return [
            queued.event.seq
            for queued in self._queued.values()
            if queued.failed_at is not None and not queued.is_held
        ]

    @property
    def held(self) -> list[int]:
        """The events that another database has queued."""
        return [queued.event.seq for queued in self._queued.values() if queued.is_held]

    @property
    def dead(self) -> list[str]:
        """The endpoints that are dead."""
        return [name for (_, name), endpoint in self._endpoints.items() if endpoint.paused_until is not None]

    @property
    def delivered(self) -> list[int]:
        """The events that were delivered, as far as they are remembered."""
        return [queued.event.seq for queued in self._history.values()]

    @property
    def queued(self) -> Collection[Queued]:
        """What waits, has failed or is held."""
        return self._queued.values()

    @property
    def history(self) -> Collection[Queued]:
        """What was delivered, as far as it is remembered."""
        return self._history.values()

    def endpoint(self, key: tuple[int, str]) -> Endpoint:
        """Return what is known of an account's endpoint."""
        return self._endpoints.get(key, Endpoint())

    def copy(self) -> "SimulatedQueue":
        """Return the same, to go on by itself; with another `origin`, it holds what it has."""
        other = SimulatedQueue(self._now)
        other.origin, other._last_turn = self.origin, self._last_turn
        other._queued = {id_: replace(queued) for id_, queued in self._queued.items()}
        other._history = {id_: replace(queued) for id_, queued in self._history.items()}
        other._endpoints.update((key, replace(endpoint)) for key, endpoint in self._endpoints.items())
        other._turns = self._turns.copy()
        return other

    def lose(self, seq: int) -> None:
        """Lose what comes after an event."""
        self._queued = {id_: queued for id_, queued in self._queued.items() if queued.event.seq <= seq}
        self._history = {id_: queued for id_, queued in self._history.items() if queued.event.seq <= seq}

    def hurry(self) -> None:
        """Have all that waits be due at once, as `trio-ws webhooks retry` has one."""
        for queued in self._open():
            self.retry(queued.id)

    def add(self, id_: str, url: str, event: Event) -> None:
        """Queue an event that is to be POSTed there, and has its number."""
        named = msgspec.json.decode(event.data, type=_Named)
        now = self._now()
        what = (id_, self.origin, event, named.uid or named.invoice, named.account_id, url)
        self._queued.setdefault(id_, Queued(*what, since=now, due_at=now))

    def _open(self) -> list[Queued]:
        return [queued for queued in self._queued.values() if queued.failed_at is None]

    @property
    def oldest(self) -> list[Queued]:
        """Of each invoice, the oldest that is left."""
        oldest: dict[str, Queued] = {}
        for queued in self._open():
            oldest.setdefault(queued.invoice, queued)
        return list(oldest.values())

    def _claim(self, most: int, lease_seconds: float, held: Sequence[Delivery]) -> Claim:
        now = self._now()
        due = self._due(now)
        places = [(delivery.account_id, delivery.is_failing) for delivery in held]
        taken: list[Delivery] = []
        for is_failing in (False, True):
            accounts: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
            for key in due:
                if self._endpoints[key].is_failing is is_failing:
                    accounts[key[0]].append(key)
            while accounts and (free := _free(most, places, is_failing=is_failing)) > 0:
                account = min(accounts, key=lambda account: self._turns[account, is_failing])
                keys = [key for key in accounts[account] if due[key]]
                if not keys or places.count((account, is_failing)) >= free:
                    del accounts[account]
                    continue
                key = min(keys, key=lambda key: self._endpoints[key].turn)
                self._last_turn += 1
                self._turns[account, is_failing] = self._endpoints[key].turn = self._last_turn
                places.append((account, is_failing))
                if due[key][0].origin != self.origin:
                    return Claim(sorted(taken, key=lambda delivery: delivery.event.seq), has_more=False)
                queued = due[key].pop(0)
                queued.attempts += 1
                queued.leased_until = queued.due_at = now + timedelta(seconds=lease_seconds)
                taken.append(
                    Delivery(
                        queued.id,
                        msgspec.structs.replace(queued.event, topics=()),
                        *(account, queued.url, queued.attempts, is_failing, SECRETS),
                    )
                )
        taken.sort(key=lambda delivery: delivery.event.seq)
        return Claim(taken, has_more=False)

    def _figures(self) -> Figures:
        now, waiting = self._now(), self._open()
        oldest = min((queued.since for queued in waiting), default=now)
        return Figures(len(waiting), len(self.held), len(self.dead), (now - oldest).total_seconds())

    def _hold(self, most: int) -> int:
        now = self._now()
        others = [queued for queued in self._open() if queued.origin != self.origin][:most]
        for queued in others:
            queued.is_held, queued.failed_at, queued.leased_until = True, now, None
        for queued in others:
            self._advance(queued.invoice)
        return len(others)

    def _release(self) -> int:
        now = self._now()
        others = [queued for queued in self._queued.values() if queued.origin != self.origin]
        for queued in others:
            queued.origin = self.origin
            if queued.is_held:
                queued.is_held, queued.failed_at, queued.since, queued.due_at = False, None, now, now
        return len(others)

    def _due(self, now: datetime) -> dict[tuple[int, str], list[Queued]]:
        """Return what may be sent now, by endpoint: no more of each than it may have besides what it has."""
        due: defaultdict[tuple[int, str], list[Queued]] = defaultdict(list)
        oldest = [queued for queued in self.oldest if queued.due_at <= now]
        if not oldest:
            return due
        under_way = Counter(queued.key for queued in self._open() if queued.is_under_way(now))
        for queued in sorted(oldest, key=lambda queued: (queued.due_at, queued.event.seq)):
            due[queued.key].append(queued)
        for key, waiting in due.items():
            endpoint = self._endpoints[key]
            most = 0 if endpoint.is_paused(now) else 1 if endpoint.is_failing else webhooks.EACH
            del waiting[max(0, most - under_way[key]) :]
        return due

    def _settle(
        self,
        outcomes: Sequence[Outcome],
        keep_seconds: float,
        has_history: bool = False,  # noqa: FBT001, FBT002 - as webhooks.settle
    ) -> list[Change]:
        changes: list[Change] = []
        self._droppable = DROPPABLE
        for outcome in outcomes:
            queued = self._queued.get(outcome.delivery.id)
            if queued is None:
                continue
            endpoint = self._endpoints[queued.key]
            change = partial(Change, queued.id, *queued.key)
            if outcome.result is not Result.DELIVERED and (
                queued.attempts != outcome.delivery.attempts or queued.leased_until is None
            ):
                continue
            if outcome.result is not Result.RELEASED:
                queued.status, queued.error = outcome.status, outcome.error
            if outcome.result in (Result.DELIVERED, Result.GONE):
                if outcome.result is Result.GONE:
                    queued.failed_at, queued.leased_until = self._now(), None
                    changes.append(change("failed"))
                else:
                    del self._queued[queued.id]
                    if has_history:
                        self._history[queued.id] = replace(queued, delivered_at=self._now())
                if endpoint.paused_until is not None:
                    changes.append(change("alive"))
                self._endpoints[queued.key] = Endpoint(endpoint.turn)
            else:
                queued.leased_until, queued.due_at = None, self._now()
                if outcome.result is Result.FAILED:
                    keep = timedelta(seconds=keep_seconds)
                    changes += map(change, self._fail(queued, endpoint, outcome, keep))
            self._advance(queued.invoice)
        return changes

    def _advance(self, invoice: str) -> None:
        """Have what waited for an older one of its invoice come after what was due before."""
        of_it = [queued for queued in self._open() if queued.invoice == invoice]
        if of_it and not of_it[0].attempts:
            of_it[0].due_at = self._now()

    def _fail(self, queued: Queued, endpoint: Endpoint, outcome: Outcome, keep: timedelta) -> Iterator[str]:
        now = self._now()
        first, longest = webhooks.PAUSE_SECONDS

        def pause(failures: int) -> timedelta:
            return timedelta(seconds=outcome.chance * min(longest, first * 2.0 ** min(failures - 1, 30)))

        queued.due_at = min(now + pause(queued.attempts), queued.since + keep)
        if outcome.wait_seconds > 0:
            wait_until = now + timedelta(seconds=outcome.wait_seconds)
            queued.due_at = max(queued.due_at, wait_until)
            endpoint.wait_until = max(endpoint.wait_until or wait_until, wait_until)
        if now >= queued.since + keep:
            queued.failed_at = now
            yield "failed"
        was_dead = endpoint.paused_until is not None
        endpoint.failing_since = endpoint.failing_since or now
        endpoint.failures += queued.attempts == 1 or was_dead
        if endpoint.failures >= FAILURES:
            if not was_dead:
                yield "dead"
            late = [
                other
                for other in self.oldest
                if other.key == queued.key and other.since < now - keep and not other.is_under_way(now)
            ]
            for other in late[: self._droppable]:
                other.failed_at = now
                self._advance(other.invoice)
            has_more = len(late) > self._droppable
            self._droppable = max(0, self._droppable - len(late))
            endpoint.paused_until = now if has_more else now + pause(endpoint.failures - FAILURES + 1)

    def _repair(self, after: str | None, most: int) -> None:
        """Nothing changes this queue but its functions."""

    def _trim(self, age_seconds: float, most: int) -> int:
        oldest = self._now() - timedelta(seconds=age_seconds)
        old = [
            id_
            for id_, queued in self._queued.items()
            if queued.failed_at is not None and queued.failed_at < oldest
        ]
        for id_ in old[:most]:
            del self._queued[id_]
        used = {queued.key for queued in self._queued.values()}
        for key, endpoint in [*self._endpoints.items()]:
            if key not in used and endpoint.failing_since is not None and endpoint.failing_since < oldest:
                del self._endpoints[key]
        return len(old[:most])

    def _trim_history(self, age_seconds: float, most: int) -> int:
        oldest = self._now() - timedelta(seconds=age_seconds)
        old = [
            id_
            for id_, queued in self._history.items()
            if queued.delivered_at is not None and queued.delivered_at < oldest
        ][:most]
        for id_ in old:
            del self._history[id_]
        return len(old)

    def retry(self, id_: str | None) -> int:
        """Have a delivery be due now, as `webhooks.retry` does."""
        if id_ is None:
            return self._revive([queued for queued in self._queued.values() if queued.failed_at is not None])
        delivered = self._history.get(id_)
        if delivered is not None and delivered.origin == self.origin:
            del self._history[id_]
            self._requeue(delivered)
        retried = self._revive([queued for queued in self._queued.values() if queued.id == id_])
        if not retried:
            raise NotFound("Webhook not found, or held")
        return retried

    def _retry_all(self) -> int:
        now, oldest = self._now(), self.oldest
        return self._revive(
            [
                queued
                for queued in self._queued.values()
                if queued.failed_at is not None
                or (queued.attempts and queued in oldest and not queued.is_under_way(now))
            ]
        )

    def _requeue(self, delivered: Queued) -> None:
        """Have what was delivered be sent again, in the place that its event has."""
        now = self._now()
        again = replace(delivered, delivered_at=None, leased_until=None, attempts=0, since=now, due_at=now)
        queue = sorted([*self._queued.values(), again], key=lambda queued: queued.event.seq)
        self._queued = {queued.id: queued for queued in queue}

    def _revive(self, wanted: list[Queued]) -> int:
        now = self._now()
        wanted = [queued for queued in wanted if not queued.is_held and queued.origin == self.origin]
        for queued in wanted:
            if queued.failed_at is not None:
                queued.failed_at, queued.since, queued.attempts = None, now, 0
            queued.due_at = max(now, queued.leased_until or now)
            endpoint = self._endpoints[queued.key]
            endpoint.wait_until = None
            if endpoint.paused_until is not None:
                endpoint.failures, endpoint.paused_until = 0, None
        return len(wanted)

    answers: dict[Callable[..., Any], Callable[..., Any]] = {  # noqa: RUF012 - a constant table
        webhooks.claim: _claim,
        webhooks.figures: _figures,
        webhooks.hold: _hold,
        webhooks.release: _release,
        webhooks.repair: _repair,
        webhooks.settle: _settle,
        webhooks.trim: _trim,
        webhooks.trim_history: _trim_history,
        webhooks.retry: retry,
        webhooks.retry_all: _retry_all,
    }


def _free(most: int, places: list[tuple[int, bool]], *, is_failing: bool) -> int:
    """How many places are left to endpoints that fail, or to those that don't."""
    share = max(1, most // 2 if is_failing else most - most // 8)
    return min(most - len(places), share - sum(failing is is_failing for _, failing in places))
