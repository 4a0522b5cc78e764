"""Many clients come back at once to a server that has just started, from a position far behind.

First each follows one of many accounts, so that the server looks through all that came since for each.
Then half as many all follow the same one, and missed a lot of it.
"""

import json
import tempfile
import time
from pathlib import Path

import psycopg

from scripts.benchmarks import load
from scripts.benchmarks.contest import OURS, Case, Contest, Goal
from scripts.benchmarks.target import PATIENCE_SECONDS, read_until, serving, text_frame

CLIENTS = 10_000
ACCOUNTS = 500
EVENTS = 4  # of each account, while they were away
EVENTS_OF_ONE = 500  # where all follow one
STATISTICS_SECONDS = 11.0  # an idle session of PostgreSQL tells what it did after 10 s (PGSTAT_IDLE_INTERVAL)
START = b'{"type":"invoice.created"'
CONNECTED, CAUGHT_UP = "all have come to the door", "all have what they missed"
LOST, READS = f"without it after {PATIENCE_SECONDS:.0f} s", "PostgreSQL has looked into the log"
ONE_TOPIC, DELIVERY = "all of one topic have what they missed", "a delivery of it, when all are connected"
MEMORY = "memory for it"


def contest(clients, _others, *, quick):
    """Return it."""
    clients = clients or (CLIENTS // 10 if quick else CLIENTS)
    return Contest(
        f"herd: {clients:,} clients at once, {ACCOUNTS * EVENTS:,} events behind;"
        f" {clients // 2:,} of one topic, {EVENTS_OF_ONE} behind",
        {
            CONNECTED: Case("s", "less"),
            CAUGHT_UP: Case("s", "less", {OURS: Goal("≤", 8)}),
            LOST: Case("clients", "less", {OURS: Goal("≤", 0)}),
            READS: Case("reads", "less"),
            ONE_TOPIC: Case("s", "less", {OURS: Goal("≤", 6)}),
            DELIVERY: Case("µs of CPU", "less", {OURS: Goal("≤", 1.5)}),
            MEMORY: Case("MB", "less"),
        },
        {OURS: lambda: _measure(clients) | _measure_one_topic(clients // 2)},
    )


def _measure(clients):
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder)) as target:
            position = _write(target)
        # No look at the log but for what they ask.
        with serving(Path(folder), connections="none", poll_seconds=3600, ping_seconds=600) as target:
            before = _reads(target)
            begin = time.monotonic()
            lines = []
            for number in range(clients):
                account = number % ACCOUNTS + 1
                request = {"action": "subscribe", "type": "account", "id": account, "after": position}
                asked = text_frame(json.dumps(request, separators=(",", ":")).encode())
                lines.append(target.connect(first=asked))
            connected = time.monotonic() - begin
            late = read_until(lines, START, EVENTS)
            seconds = time.monotonic() - begin
            reads = _reads(target) - before
    return {CONNECTED: connected, CAUGHT_UP: seconds, LOST: late, READS: reads}


def _measure_one_topic(clients):
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder)) as target, psycopg.connect(target.conninfo, autocommit=True) as database:
            position = _end(database)
            database.execute(
                "INSERT INTO invoices (account_id, amount, currency)"
                " SELECT 1, 1000, 'USD' FROM generate_series(1, %s)",
                (EVENTS_OF_ONE,),
            )
            _number(database)
        with serving(Path(folder), connections="none") as target:
            before = target.resident_bytes()
            request = {"action": "subscribe", "type": "account", "id": 1, "after": position}
            told = load.resume(target, [json.dumps(request)], connections=clients, pushed=EVENTS_OF_ONE)
            memory = target.resident_bytes() - before
    return {
        ONE_TOPIC: told["connected"] + told["seconds"],
        DELIVERY: told["cost"] * 1e6,
        MEMORY: memory / 1e6,
    }


def _write(target):
    """Write what the clients will have missed, and return the position where they left."""
    with psycopg.connect(target.conninfo, autocommit=True) as database:
        database.execute("INSERT INTO accounts SELECT FROM generate_series(2, %s)", (ACCOUNTS,))
        position = _end(database)
        for _ in range(EVENTS):
            database.execute(
                "INSERT INTO invoices (account_id, amount, currency) SELECT id, 1, 'USD' FROM accounts"
            )
        _number(database)
    return position


def _end(database):
    """Return the position of the last event."""
    _number(database)
    ((position,),) = database.execute("SELECT name || '.' || last FROM event_end")
    return position


def _number(database):
    while database.execute("SELECT number_events(1000)").fetchone()[0]:
        pass


def _reads(target):
    """Return how often PostgreSQL has looked up events by their number."""
    time.sleep(STATISTICS_SECONDS)
    with psycopg.connect(target.conninfo, autocommit=True) as database:
        ((scans,),) = database.execute(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'event_seq_key'"
        )
    return scans
