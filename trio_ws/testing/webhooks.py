"""Webhooks without PostgreSQL and without a network: the queue of deliveries, and whom they go to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import trio

from trio_ws.database import webhooks
from trio_ws.database.webhooks import Delivery
from trio_ws.errors import NotFound
from trio_ws.messages import Event

SECRETS = ("whsec_new", "whsec_old")  # every account's


class _Named(msgspec.Struct):
    """Of an event's data, what the queue looks at."""

    uid: str = ""
    account_id: int = 0
    webhook_url: str | None = None


@dataclass
class _Queued:
    event: Event
    epoch: str
    invoice: str
    account_id: int
    url: str
    since: datetime
    due_at: datetime
    attempts: int = 0
    leased_until: datetime | None = None
    failed_at: datetime | None = None
    error: str | None = None

    @property
    def endpoint(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


class SimulatedQueue:
    """What `webhook_deliveries` and `claim_webhooks` of the schema are.

    Args:
        now: The database's clock.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._queued: dict[int, _Queued] = {}

    @property
    def waiting(self) -> list[int]:
        """The events that are to be delivered, in order."""
        return [queued.event.seq for queued in self._open()]

    @property
    def failed(self) -> list[int]:
        """The events that were given up."""
        return [seq for seq, queued in self._queued.items() if queued.failed_at is not None]

    def add(self, event: Event, epoch: str) -> None:
        """Queue an event that has its number, if it is to be POSTed."""
        named = msgspec.json.decode(event.data, type=_Named)
        if event.type.startswith("invoice.") and named.webhook_url is not None:
            now = self._now()
            self._queued[event.seq] = _Queued(
                event, epoch, named.uid, named.account_id, named.webhook_url, since=now, due_at=now
            )

    def _open(self) -> list[_Queued]:
        return [queued for queued in self._queued.values() if queued.failed_at is None]

    def _claim(self, most: int, each: int, lease_seconds: float) -> list[Delivery]:
        now = self._now()
        oldest: dict[str, _Queued] = {}
        held: dict[str, int] = {}
        for queued in self._open():
            oldest.setdefault(queued.invoice, queued)
            held[queued.endpoint] = held.get(queued.endpoint, 0) + _is_held(queued, now)
        due = [queued for queued in oldest.values() if queued.due_at <= now and not _is_held(queued, now)]
        places: list[tuple[int, datetime, int]] = []
        for queued in sorted(due, key=lambda queued: (queued.due_at, queued.event.seq)):
            held[queued.endpoint] += 1
            if held[queued.endpoint] <= each:
                places.append((held[queued.endpoint], queued.due_at, queued.event.seq))
        taken = [self._queued[seq] for *_, seq in sorted(places)[:most]]
        for queued in taken:
            queued.attempts += 1
            queued.leased_until = now + timedelta(seconds=lease_seconds)
        taken.sort(key=lambda queued: queued.event.seq)
        return [
            Delivery(
                msgspec.structs.replace(queued.event, topics=()),
                *(queued.epoch, queued.account_id, queued.url, queued.attempts, SECRETS),
            )
            for queued in taken
        ]

    def _finish(self, seq: int) -> None:
        if queued := self._queued.pop(seq, None):
            self._have_due(queued.invoice, self._now())

    def _put_off(self, delivery: Delivery, error: str, pause_seconds: float, most_seconds: float) -> bool:
        queued = self._queued.get(delivery.event.seq)
        if queued is None or queued.attempts != delivery.attempts or queued.failed_at is not None:
            return False
        now, end = self._now(), queued.since + timedelta(seconds=most_seconds)
        queued.leased_until, queued.error = None, error
        if now >= end:
            queued.failed_at = now
            self._have_due(queued.invoice, now)
            return True
        self._have_due(queued.invoice, min(end, now + timedelta(seconds=pause_seconds)))
        return False

    def _have_due(self, invoice: str, when: datetime) -> None:
        for queued in self._open():
            if queued.invoice == invoice:
                queued.due_at = when

    def _release(self, seqs: list[int]) -> None:
        for seq in seqs:
            if queued := self._queued.get(seq):
                queued.leased_until = None

    def _trim(self, age_seconds: float) -> None:
        oldest = self._now() - timedelta(seconds=age_seconds)
        for seq, queued in list(self._queued.items()):
            if queued.failed_at is not None and queued.failed_at < oldest:
                del self._queued[seq]

    def _retry(self, seq: int | None) -> int:
        wanted = self.failed if seq is None else [seq for seq in (seq,) if seq in self._queued]
        if seq is not None and not wanted:
            raise NotFound("Delivery not found, or delivered")
        for queued in map(self._queued.__getitem__, wanted):
            queued.due_at = self._now()
            queued.since = queued.since if queued.failed_at is None else self._now()
            queued.failed_at = None
        return len(wanted)

    answers: dict[Callable[..., Any], Callable[..., Any]] = {  # noqa: RUF012 - a constant table
        webhooks.claim: _claim,
        webhooks.finish: _finish,
        webhooks.put_off: _put_off,
        webhooks.release: _release,
        webhooks.trim: _trim,
        webhooks.retry: _retry,
    }


def _is_held(queued: _Queued, now: datetime) -> bool:
    return queued.leased_until is not None and queued.leased_until > now


class Posted(NamedTuple):
    """A webhook that a receiver got.

    Attributes:
        at: When, on trio's clock.
        url: Where it went.
        headers: What came with it.
        body: The event, as bytes.
        event: The same, decoded.
    """

    at: float
    url: str
    headers: Mapping[str, str]
    body: bytes
    event: dict[str, Any]


class SimulatedReceiver:
    """Takes webhooks, all of them, whatever their URLs.

    It obeys: `answers` has, by URL, the status that is answered or the error that is raised; `seconds`, how
    long that takes.

    Attributes:
        posted: What came, in order, whatever was answered.
        most: How many came at a time, at most, by URL.
    """

    def __init__(self) -> None:
        self.answers: dict[str, int | Exception] = {}
        self.seconds: dict[str, float] = {}
        self.posted: list[Posted] = []
        self.most: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._came = trio.lowlevel.ParkingLot()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Take one: what `trio_ws.server.serve` is given."""
        self._now[url] = self._now.get(url, 0) + 1
        self.most[url] = max(self.most.get(url, 0), self._now[url])
        self.posted.append(Posted(trio.current_time(), url, headers, body, msgspec.json.decode(body)))
        self._came.unpark_all()
        try:
            await trio.sleep(self.seconds.get(url, 0))
        finally:
            self._now[url] -= 1
        answer = self.answers.get(url, 200)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def receive(self, count: int) -> list[Posted]:
        """Wait until so many have come, and return them all."""
        while len(self.posted) < count:
            await self._came.park()
        return self.posted
