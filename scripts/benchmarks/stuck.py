"""What a client that never reads costs the server, when there is far more for it than its outbox holds.

Each follows an account of its own, so that no two share a frame.
"""

import json
import time

import psycopg

from scripts.benchmarks.target import serving, text_frame

CLIENTS = 50
EVENTS = 1500  # for each, some 400 bytes each: more than twice what fits in an outbox
START = b'{"type":"invoice.created"'


def measure():
    """Return the line."""
    with serving(log_memory_bytes=1_000_000, write_seconds=600, ping_seconds=600) as target:
        with psycopg.connect(target.conninfo, autocommit=True) as database:
            database.execute("INSERT INTO accounts SELECT FROM generate_series(2, %s)", (CLIENTS,))
        reader = target.connect()
        for account in range(1, CLIENTS + 1):
            _follow(reader, account)
        _tell(target, reader)  # and what that takes is part of the server's size
        before = target.resident_bytes()
        stuck = [target.connect(receive_buffer=4096) for _ in range(CLIENTS)]
        for account, line in enumerate(stuck, start=1):
            _follow(line, account)
        _tell(target, reader)
        after = target.resident_bytes()
    kilobytes = (after - before) / CLIENTS / 1000
    return f"{CLIENTS} clients that never read, {EVENTS} events for each: {kilobytes:,.0f} KB each"


def _follow(line, account):
    request = {"action": "subscribe", "type": "account", "id": account}
    line.sendall(text_frame(json.dumps(request).encode()))
    line.recv(4096)


def _tell(target, reader):
    """Have each account's followers told of invoices, and wait until one who reads has them all."""
    with psycopg.connect(target.conninfo, autocommit=True) as database:
        for _ in range(EVENTS):
            database.execute(
                "INSERT INTO invoices (account_id, amount, currency, memo)"
                " SELECT id, 1, 'USD', repeat('x', 100) FROM accounts"
            )
    told = 0
    rest = b""
    reader.settimeout(60)
    while told < EVENTS * CLIENTS:
        received = reader.recv(1 << 20)
        assert received, "the server has hung up"
        data = rest + received
        told += data.count(START)
        rest = data[-len(START) + 1 :]
    time.sleep(1)  # the last of the others
