"""What each server costs the PostgreSQL that all of them share: idle, and while another program writes.

CPU time, counts and bytes hold on a busy machine, too; times would not. PostgreSQL's CPU time is that of all
its processes, the writer's session included. So what counts is the difference that a further server makes.
"""

import math
import os
import re
import socket
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from scripts.benchmarks.target import serving
from trio_ws.database import migrations
from trio_ws.database.embedded import SOCKET_NAME, embedded_postgres

SERVERS = 4
LOADS = {  # commits/s × events of each
    "idle": (0, 0),
    "200 × 1": (200, 1),
    "200 × 10": (200, 10),
    "20 × 100": (20, 100),
    "most × 1": (math.inf, 1),
}
SECONDS = 10.0  # for each load
WARM_SECONDS = 3.0  # until sessions are open, and statements prepared
# Vacuuming what one load has left would count as the next one's.
OPTIONS = {"autovacuum": "off"}
TICKS = os.sysconf("SC_CLK_TCK")
WRITE = "INSERT INTO invoices (account_id, amount, currency) SELECT 1, 1, 'USD' FROM generate_series(1, %s)"
COUNT = (
    "SELECT last, (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trio-ws') FROM event_end"
)
# By the servers, each a transaction. PostgreSQL's own count is late: a session that listens seldom reports.
QUERIES = re.compile(r"^trio_ws_database_query_seconds_count{.*} (\S+)$", re.MULTILINE)
ROW = "| {:>7} | {:<11} | {:>8} | {:>8} | {:>9} | {:>7} | {:>8} | {:>11} | {:>12} |"
HEAD = (
    "servers",
    "load",
    "sessions",
    "events/s",
    "queries/s",
    "PG ms/s",
    "kB/s out",
    "PG µs/event",
    "own µs/event",
)


class Reading(NamedTuple):
    """What has been counted up to a moment, or between two.

    Args:
        seconds: The moment.
        events: That have their number.
        queries: Of all servers.
        cpu: Of all processes of PostgreSQL, in seconds.
        sent: Bytes from PostgreSQL to servers.
        own_cpu: Of all servers, in seconds.
    """

    seconds: float
    events: float
    queries: float
    cpu: float
    sent: float
    own_cpu: float

    def since(self, before):
        """Return what has come since another reading."""
        return Reading(*(now - then for now, then in zip(self, before, strict=True)))


def measure(servers=SERVERS):
    """Return the table.

    Args:
        servers: How many at most; also measured are 1, 2, 4 and so on below it.
    """
    numbers = [1 << power for power in range(16) if 1 << power < servers] + [servers]
    rows = [ROW.format(*HEAD), "|---" * len(HEAD) + "|"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(embedded_postgres(folder, options=OPTIONS))
        migrations.migrate(postgres.conninfo)
        relay = Relay(stack.enter_context(tempfile.TemporaryDirectory()), postgres.conninfo)
        postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        database = stack.enter_context(psycopg.connect(postgres.conninfo, autocommit=True))
        targets = []
        for number in numbers:
            while len(targets) < number:
                targets.append(stack.enter_context(serving(database_url=relay.conninfo)))
            for load, (rate, events) in LOADS.items():
                _write(postgres.conninfo, rate, events, WARM_SECONDS)
                before, _ = _read(database, postmaster, relay, targets)
                _write(postgres.conninfo, rate, events, SECONDS)
                after, sessions = _read(database, postmaster, relay, targets)
                rows.append(_row(number, load, sessions, after.since(before)))
    return "\n".join(["", *rows])


def _row(number, load, sessions, came):
    figures = [came.events, came.queries, came.cpu * 1e3, came.sent / 1e3]
    figures = [figure / came.seconds for figure in figures]
    if came.events:
        figures += [came.cpu * 1e6 / came.events, came.own_cpu * 1e6 / came.events / number]
    texts = [f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}" for figure in figures]
    return ROW.format(number, load, sessions, *texts, *[""] * (len(HEAD) - 3 - len(texts)))


def _write(conninfo, rate, events, seconds):
    """Commit steadily, so many events at a time, as another program does."""
    if not rate:
        time.sleep(seconds)
        return
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=0) as database:
        begin = time.monotonic()
        commits = 0
        while time.monotonic() < begin + seconds:
            database.execute(WRITE, (events,))
            commits += 1
            time.sleep(max(0, begin + commits / rate - time.monotonic()))


def _read(database, postmaster, relay, targets):
    """Return what has been counted up to now, and how many sessions the servers have."""
    ((events, sessions),) = database.execute(COUNT)
    queries = sum(map(_queries, targets))
    own_cpu = sum(target.cpu_seconds() for target in targets)
    cpu = _cpu_seconds(postmaster)
    return Reading(time.monotonic(), events, queries, cpu, relay.sent, own_cpu), sessions


def _queries(target):
    with urllib.request.urlopen(f"http://127.0.0.1:{target.port}/metrics") as answer:
        return sum(map(float, QUERIES.findall(answer.read().decode())))


def _cpu_seconds(postmaster):
    """Return how long PostgreSQL's processes have kept a core busy, those that have ended included."""
    process = Path(f"/proc/{postmaster}")
    ended = process.joinpath("stat").read_text().rpartition(")")[2].split()[13:15]  # cutime and cstime
    running = process.joinpath(f"task/{postmaster}/children").read_text().split()
    nanoseconds = 0
    for pid in (postmaster, *running):
        with suppress(OSError):  # it has just ended
            nanoseconds += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return nanoseconds / 1e9 + sum(map(int, ended)) / TICKS


class Relay:
    """Stands before PostgreSQL, and counts what it sends.

    Args:
        folder: For its socket.
        conninfo: PostgreSQL's.

    Attributes:
        conninfo: Its own.
        sent: Bytes.
    """

    def __init__(self, folder, conninfo):
        self.conninfo = make_conninfo(conninfo, host=folder)
        self.sent = 0
        self._lock = threading.Lock()
        self._postgres = f"{conninfo_to_dict(conninfo)['host']}/{SOCKET_NAME}"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f"{folder}/{SOCKET_NAME}")
        self._listening.listen()
        _start(self._accept)

    def _accept(self):
        while True:
            server, _ = self._listening.accept()
            postgres = socket.socket(socket.AF_UNIX)
            postgres.connect(self._postgres)
            _start(self._carry, server, postgres, 0)
            _start(self._carry, postgres, server, 1)

    def _carry(self, source, sink, share):
        with suppress(OSError), source, sink:
            while data := source.recv(1 << 18):
                with self._lock:
                    self.sent += len(data) * share
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


def _start(target, *args):
    threading.Thread(target=target, args=args, daemon=True).start()
