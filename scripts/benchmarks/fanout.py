"""One event for many followers: what a delivery costs the server, and when the last of them has it.

Ours reads the event in PostgreSQL, where another program has written a row; a peer is sent, by one more
client, a text as long as our event, for all others. So ours has more to do for an event, which its deliveries
share: an event for one connection (`fanout=1`) costs that.

The cost is taken at two rates, each with a server of its own: between events that come seldom the processor
forgets what they need. Latencies are those of the lower one.

Where it goes, in one process with 1,000 sockets: a Python loop over `os.write` takes 6.2 to 7.0 µs for each.
Ours takes 8.0 to 8.3, and 0.3 where the data is in the processor's cache and nothing is written. So some
1.4 µs are spent waiting for memory: a follower, an outbox and a wire, for each of a thousand. A server also
reads the event, which takes 0.7 to 1 ms, shared by all deliveries. Fewer objects for each would be a gain.
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
SELDOM, OFTEN = 20, 50  # events/s; at more, some peers have no idle moment
FOLLOW = json.dumps({"action": "subscribe", "type": "account", "id": 1})
INSERT = "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1000, 'USD')"
MEDIAN, LATE = "until the last has it, p50", "until the last has it, p99"
GOALS = {"bare C": Goal("≤", 1.35), "websockets": Goal("≤", 0.6)}


def contest(connections, wanted, *, quick):
    """Return it."""
    connections = connections or CONNECTIONS
    run = _Run(connections, EVENTS // 5 if quick else EVENTS)
    names, absent = present(wanted)
    return Contest(
        f"fanout: an event for each of {connections:,} connections, {SELDOM} events/s",
        {
            _cost(SELDOM): Case("µs of CPU", "less", GOALS),
            _cost(OFTEN): Case("µs of CPU", "less", GOALS),
            MEDIAN: Case("ms", "less", {OURS: Goal("≤", 15)}),
            LATE: Case("ms", "less", {OURS: Goal("≤", 40)}),
        },
        {OURS: run.measure_ours} | {name: partial(run.measure_peer, name) for name in names},
        absent,
    )


def _cost(rate):
    return f"a delivery, {rate} events/s"


class _Run:
    def __init__(self, connections, events):
        self._connections = connections
        self._events = events
        self._size = 0  # of our event, in bytes: ours is measured first

    def measure_ours(self):
        return self._measure(self._push_ours)

    def measure_peer(self, name):
        return self._measure(partial(self._push_peer, name))

    def _push_ours(self, rate):
        with serving() as target, psycopg.connect(target.conninfo, autocommit=True) as database:
            return self._push(target, FOLLOW, lambda: database.execute(INSERT), rate)

    def _push_peer(self, name, rate):
        text = b"publish".ljust(self._size, b".")
        with peers.running(name) as target, target.connect() as publisher:
            return self._push(target, "hello", lambda: publisher.sendall(text_frame(text)), rate)

    def _measure(self, push):
        seldom, published, told = push(SELDOM)
        often, _, _ = push(OFTEN)
        self._size = self._size or told["bytes"] // told["messages"]
        late = [(last - at) * 1000 for last, at in zip(told["last_had_it"], published, strict=True)]
        return {
            _cost(SELDOM): seldom,
            _cost(OFTEN): often,
            MEDIAN: statistics.median(late),
            LATE: statistics.quantiles(late, n=100, method="inclusive")[-1],
        }

    def _push(self, target, first, publish, rate):
        """Return what a delivery cost in µs, when each event was out, and what the load client says."""
        with load.holding(target, [first], connections=self._connections, pushed=self._events) as wait:
            before = target.cpu_seconds()
            published = self._publish(publish, rate)
            told = wait()
            seconds = target.cpu_seconds() - before
        return seconds / told["messages"] * 1e6, published, told

    def _publish(self, publish, rate):
        """Return when each was out, in s of the clock of all programs."""
        published = []
        begin = time.monotonic()
        for number in range(self._events):
            time.sleep(max(0, begin + number / rate - time.monotonic()))
            publish()
            published.append(time.monotonic())
        return published
