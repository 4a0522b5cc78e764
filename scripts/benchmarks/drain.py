"""SIGTERM, and thousands of clients of whom some never read: how long until the server has ended."""

import json
import signal
import time

import psycopg

from scripts.benchmarks.target import PATIENCE_SECONDS, read_until, serving, text_frame

CLIENTS = 5000
STUCK = 10  # one of so many never reads
EVENTS = 400  # for these, some 1.5 KB each: more than kernels and an outbox take
DRAIN_SECONDS = 10


def measure(clients=CLIENTS):
    """Return the line."""
    with serving(connections="none", drain_seconds=DRAIN_SECONDS, ping_seconds=600) as target:
        stuck = [_follow(target, 1, receive_buffer=4096) for _ in range(clients // STUCK)]
        readers = [_follow(target, 2) for _ in range(clients - len(stuck))]
        with psycopg.connect(target.conninfo, autocommit=True) as database:
            database.execute("INSERT INTO accounts VALUES (2)")
            database.execute(
                "INSERT INTO invoices (account_id, amount, currency, memo)"
                " SELECT 1, 1, 'USD', repeat('x', 1000) FROM generate_series(1, %s)",
                (EVENTS,),
            )
            database.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (2, 1, 'USD')")
        read_until(readers, b'"invoice.created"', 1)
        begin = time.monotonic()
        target.process.send_signal(signal.SIGTERM)
        late = read_until(readers, b"retry_after=", 1)
        told = time.monotonic() - begin
        for line in readers:
            line.close()
        status = target.process.wait(PATIENCE_SECONDS)
        seconds = time.monotonic() - begin
    return (
        f"{len(readers)} clients and {len(stuck)} that never read, drain_seconds {DRAIN_SECONDS}:"
        f" {len(readers) - late} were told within {told:.1f} s; exit {status} after {seconds:.1f} s"
    )


def _follow(target, account, **options):
    request = {"action": "subscribe", "type": "account", "id": account}
    return target.connect(first=text_frame(json.dumps(request).encode()), **options)
