"""One event for many followers: what a delivery costs the server, and when the last of them has it.

Ours reads the event in PostgreSQL, where another program has written a row; a peer is sent, by one more
client, a text as long as our event, for all others.
"""

import json
import statistics
import time
from functools import partial

import psycopg

from scripts.benchmarks import load, peers
from scripts.benchmarks.contest import OURS, Case, Contest, Goal, present
from scripts.benchmarks.target import serving, text_frame

CONNECTIONS = 1000
EVENTS = 100
EVENTS_PER_SECOND = 20
FOLLOW = json.dumps({"action": "subscribe", "type": "account", "id": 1})
INSERT = "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1000, 'USD')"
COST, MEDIAN, LATE = "a delivery", "until the last has it, p50", "until the last has it, p99"


def contest(connections, wanted, *, quick):
    """Return it."""
    connections = connections or CONNECTIONS
    run = _Run(connections, EVENTS // 5 if quick else EVENTS)
    names, absent = present(wanted)
    return Contest(
        f"fanout: an event for each of {connections:,} connections, {EVENTS_PER_SECOND} events/s",
        {
            COST: Case("µs of CPU", "less", {"bare C": Goal("≤", 1.35), "websockets": Goal("≤", 0.6)}),
            MEDIAN: Case("ms", "less", {OURS: Goal("≤", 15)}),
            LATE: Case("ms", "less", {OURS: Goal("≤", 40)}),
        },
        {OURS: run.measure_ours} | {name: partial(run.measure_peer, name) for name in names},
        absent,
    )


class _Run:
    def __init__(self, connections, events):
        self._connections = connections
        self._events = events
        self._size = 0  # of our event, in bytes: ours is measured first

    def measure_ours(self):
        with serving() as target, psycopg.connect(target.conninfo, autocommit=True) as database:
            return self._measure(target, FOLLOW, lambda: database.execute(INSERT))

    def measure_peer(self, name):
        text = b"publish".ljust(self._size, b".")
        with peers.running(name) as target, target.connect() as publisher:
            return self._measure(target, "hello", lambda: publisher.sendall(text_frame(text)))

    def _measure(self, target, first, publish):
        with load.holding(target, [first], connections=self._connections, pushed=self._events) as wait:
            before = target.cpu_seconds()
            published = self._publish(publish)
            told = wait()
            seconds = target.cpu_seconds() - before
        self._size = self._size or told["bytes"] // told["messages"]
        late = [(last - at) * 1000 for last, at in zip(told["last_had_it"], published, strict=True)]
        return {
            COST: seconds / told["messages"] * 1e6,
            MEDIAN: statistics.median(late),
            LATE: statistics.quantiles(late, n=100, method="inclusive")[-1],
        }

    def _publish(self, publish):
        """Return when each was out, in s of the clock of all programs."""
        published = []
        begin = time.monotonic()
        for number in range(self._events):
            time.sleep(max(0, begin + number / EVENTS_PER_SECOND - time.monotonic()))
            publish()
            published.append(time.monotonic())
        return published
