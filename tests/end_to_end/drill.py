"""A cluster of PostgreSQLs, two servers on it, and clients who note what they get, for `failover.py`.

On each server a client makes invoices. Each request has an idempotency key and is repeated until it succeeds.
Each server has two followers, one of a busy account and one of a quiet one. When a connection ends, its
follower resumes on the other server. One more is away while it happens. Another program inserts by SQL.
"""

import contextlib
import itertools
import json
import os
import re
import socket
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.end_to_end.serving import PATIENCE_SECONDS, SERVE, call, running
from tests.replicas import Replica, Replicas, until, url_of
from trio_ws.database import lanes
from trio_ws.settings import Settings

SERVERS = 2
SESSIONS = lanes.sessions(Settings().database_connections)  # that a server holds at most
BUSY, QUIET = 1, 2  # accounts
CROWD = 8  # clients of each server that come to those that there are
PAUSE_SECONDS = 0.02  # between two writes of a client, and before another try
PROBE_SECONDS = 0.1
SETTLE_SECONDS = 15.0  # for followers to get all that there is
SPREAD_SECONDS = 1.0  # over which a server spreads the return of clients that it has closed
INSERT = "INSERT INTO invoices (account_id, amount, currency) VALUES (%s, 1, 'USD') RETURNING uid::text"
FINAL_LOG = (
    "SELECT first - 1, trimmed_name, ARRAY[]::text[] FROM event_log"
    " UNION ALL SELECT seq, name, topics FROM event WHERE seq IS NOT NULL ORDER BY 1"
)
OUR_SESSIONS = "FROM pg_stat_activity WHERE application_name = 'trio-ws'"


@dataclass
class Outcome:
    """What the clients noticed.

    Args:
        closes: How often a server closed a connection, by code.
        recovered: How often a resume was exact.
        gaps: How often it was not, and said so.
        missed: Events that a follower did not get, and was not notified of.
        unsaid: Followers that got events which are no more, and were not notified of it.
        needless: Gaps that were notified where nothing was amiss.
        stale: Events, which are no more, that followers got.
        doubled: Events that a follower got twice or out of order, and invoices that one key made twice.
        acknowledged: Invoices that our servers said were made.
        lost: Those that are no more.
        others_lost: The same of the program that inserts by SQL.
        hole: The longest time without an acknowledged invoice, of each server, in seconds.
        unready: How long it was not ready, of each server, in seconds.
        sessions: How many of PostgreSQL's sessions our servers had at most, where that was counted.
        standby_reads: How often events came from the standby of `log_url`, of each server.
    """

    closes: Counter[int] = field(default_factory=Counter)
    recovered: int = 0
    gaps: int = 0
    missed: int = 0
    unsaid: int = 0
    needless: int = 0
    stale: int = 0
    doubled: int = 0
    acknowledged: int = 0
    lost: int = 0
    others_lost: int = 0
    hole: list[float] = field(default_factory=list)
    unready: list[float] = field(default_factory=list)
    sessions: int = 0
    standby_reads: list[float] = field(default_factory=list)


class Writer:
    """A client that makes invoices on one server.

    Args:
        url: The server's.
        repeats: Whether it sends a request again until it succeeds; else each one is another.
    """

    def __init__(self, url: str, *, repeats: bool = True) -> None:
        self.closes: Counter[int] = Counter()
        self.acknowledged: list[tuple[str, str]] = []  # key, uid
        self.acknowledged_at: list[float] = []
        self._url = url
        self._repeats = repeats

    def run(self, done: threading.Event) -> None:
        key = str(uuid.uuid4())
        while not done.is_set():
            with _connected(self._url, self.closes, done) as line:
                while not done.wait(PAUSE_SECONDS):
                    fields = {"amount": 1, "currency": "USD", "account_id": BUSY, "idempotency_key": key}
                    reply = call(line, action="create_invoice", **fields)
                    if reply["status"] == "success":
                        self.acknowledged.append((key, reply["data"]["uid"]))
                        self.acknowledged_at.append(time.monotonic())
                    if reply["status"] == "success" or not self._repeats:
                        key = str(uuid.uuid4())

    @property
    def hole(self) -> float:
        """The longest time between two acknowledged invoices, in seconds."""
        return max(b - a for a, b in itertools.pairwise(self.acknowledged_at))


class Program:
    """Another program, which inserts by SQL and does not know of us."""

    def __init__(self, conninfo: str) -> None:
        self.inserted: list[str] = []
        self._conninfo = conninfo
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def run(self, done: threading.Event) -> None:
        while not done.wait(PAUSE_SECONDS):
            with (
                contextlib.suppress(psycopg.Error),
                psycopg.connect(self._conninfo, autocommit=True, connect_timeout=2) as connection,
            ):
                self._connection = connection
                while not done.wait(PAUSE_SECONDS):
                    ((uid,),) = connection.execute(INSERT.encode(), (BUSY,))
                    self.inserted.append(uid)

    def cut(self) -> None:
        """Have it lose its connection, where PostgreSQL does not end it: nothing else wakes who waits."""
        if self._connection is None:
            return
        with (
            contextlib.suppress(psycopg.Error, OSError),  # it has ended by itself
            socket.socket(fileno=os.dup(self._connection.fileno())) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)


class Logged(NamedTuple):
    """An event of the log that remains, or the place before its first."""

    seq: int
    name: str
    topics: list[str]


class Section(NamedTuple):
    """What a follower got between two gaps that it was notified of.

    Args:
        start: The position at which it began.
        events: Each with its position, uid and version.
    """

    start: str
    events: list[tuple[str, str, int]]


class Follower:
    """A client that follows one account, on each server in turn, from where it was."""

    def __init__(self, urls: Sequence[str], account: int) -> None:
        self.account = account
        self.closes: Counter[int] = Counter()
        self.recovered = 0
        self.sections: list[Section] = []
        self.uids: set[str] = set()
        self.is_connected = False
        self.is_away = threading.Event()
        self._urls = urls
        self._position = ""

    @property
    def gaps(self) -> int:
        """How often it was notified of one."""
        return len(self.sections) - 1

    def run(self, done: threading.Event) -> None:
        turn = 0
        while not done.wait(PAUSE_SECONDS):
            if self.is_away.is_set():
                continue
            with _connected(self._urls[turn % len(self._urls)], self.closes, done) as line:
                if not self._resume(line):
                    continue
                self.is_connected = True
                turn += 1
                while not (done.is_set() or self.is_away.is_set()):
                    with contextlib.suppress(TimeoutError):
                        self._take(json.loads(line.recv(timeout=PROBE_SECONDS)))
            self.is_connected = False

    def _resume(self, line: ClientConnection) -> bool:
        topics = [{"type": "account", "id": self.account}]
        if not self._position:
            reply = call(line, action="subscribe", **topics[0])
        else:
            reply = call(line, action="resume", after=self._position, topics=topics)
        if reply["status"] != "success":
            return False
        if self._position and reply["data"]["recovered"]:
            self.recovered += 1
            return True
        start = reply["data"]["position"]
        self.sections.append(Section(start, []))
        self._position = start
        return True

    def _take(self, event: dict[str, Any]) -> None:
        self._position = event["position"]
        if event["type"].startswith("invoice."):
            data = event["data"]
            self.sections[-1].events.append((self._position, data["uid"], data["version"]))
            self.uids.add(data["uid"])


@contextmanager
def _connected(url: str, closes: Counter[int], done: threading.Event) -> Iterator[ClientConnection]:
    """Connect a client; count how the server closes it, and come back when the server asks for it."""
    try:
        with connect(url, open_timeout=PATIENCE_SECONDS) as line:
            yield line
    except ConnectionClosed as closed:
        if done.is_set():
            return
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
        closes[code] += 1
        name, _, seconds = reason.partition("=")
        done.wait(float(seconds) if name == "retry_after" else PAUSE_SECONDS)
    except (OSError, InvalidStatus):  # TimeoutError, too
        done.wait(PAUSE_SECONDS)


class Drill:
    """A cluster, two servers on it, and their clients.

    Args:
        folder: Where all of it is to be.
        writes: How many invoices each client makes before something happens, and after it.
        outage: How long something lasts that may last as long as one likes, in seconds.

    Attributes:
        replicas: The PostgreSQLs.
        outcome: What the clients noticed.
        program: The other program.
    """

    def __init__(self, folder: Path, writes: int, outage: float) -> None:
        self.outage = outage
        self.outcome = Outcome()
        self._writes = writes
        self._folder = folder
        self._stack = ExitStack()
        self._writing_done, self._done = threading.Event(), threading.Event()

    def __enter__(self) -> "Drill":
        self.replicas = self._stack.enter_context(Replicas(self._folder))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def pair(self, *, is_synchronous: bool = False) -> tuple[Replica, Replica]:
        """Return a primary and its standby, which may have all that is acknowledged."""
        primary = self.replicas.primary("a")
        standby = self.replicas.standby("b", primary)
        if is_synchronous:
            primary.demand(standby)
        return primary, standby

    def begin(self, *replicas: Replica, **settings: str) -> None:
        """Start servers on these, the first of which is the primary, and all clients; have them work."""
        replicas[0].execute("INSERT INTO accounts (id, name) VALUES (%s, 'quiet')", QUIET)
        environment = {
            "TRIO_WS_DATABASE_URL": url_of(*replicas),
            "TRIO_WS_RETRY_SPREAD_SECONDS": str(SPREAD_SECONDS),
            **{f"TRIO_WS_{name.upper()}": value for name, value in settings.items()},
        }
        self.servers = [
            self._stack.enter_context(running([*SERVE, "--port", "0"], self._folder, environment))
            for _ in range(SERVERS)
        ]
        for server in self.servers:
            self._stack.callback(server.stop)
        urls = [server.url for server in self.servers]
        self.writers = [Writer(url) for url in urls]
        self.followers = [
            Follower(turns, account) for turns in (urls, urls[::-1]) for account in (BUSY, QUIET)
        ]
        self.traveller = Follower(urls, BUSY)
        self.program = Program(url_of(*replicas))
        self.outcome.unready = [0.0 for _ in urls]
        everyone = [*self.followers, self.traveller]
        self._following = [self._start(follower.run, self._done) for follower in everyone]
        until(lambda: all(one.is_connected for one in everyone), "all followers")
        for number in range(len(urls)):
            self._start(self._probe, number)
        self._writing = [
            *(self._start(writer.run, self._writing_done) for writer in self.writers),
            self._start(self.program.run, self._writing_done, unblock=self.program.cut),
        ]
        ((uid,),) = replicas[0].execute(INSERT, QUIET)
        quiet = [one for one in self.followers if one.account == QUIET]
        until(lambda: all(uid in one.uids for one in quiet), "the quiet followers")
        self.work()

    def work(self) -> None:
        """Wait until each server has made so many more invoices, and each follower has got one of those."""
        before = [len(writer.acknowledged) for writer in self.writers]

        def new() -> list[set[str]]:
            return [
                {uid for _, uid in writer.acknowledged[count:]}
                for writer, count in zip(self.writers, before, strict=True)
            ]

        until(lambda: all(len(uids) >= self._writes for uids in new()), "invoices of both servers")
        busy = [one for one in (*self.followers, self.traveller) if one.account == BUSY]
        busy = [one for one in busy if not one.is_away.is_set()]
        until(lambda: all(one.uids & uids for one in busy for uids in new()), "each follower to go on")

    def travel(self) -> None:
        """Have one follower leave, until all is over: no server closes it, its position alone must do."""
        self.traveller.is_away.set()
        until(lambda: not self.traveller.is_connected, "one to leave")

    def crowd(self, seconds: float) -> None:
        """Have more clients come, who repeat nothing: what waits for a repeated key takes no new session."""
        done = threading.Event()
        writers = [Writer(server.url, repeats=False) for server in self.servers * CROWD]
        with ThreadPoolExecutor(len(writers)) as threads:
            tasks = [threads.submit(writer.run, done) for writer in writers]
            done.wait(seconds)
            done.set()
        for task in tasks:
            task.result()

    def terminate_sessions(self, replica: Replica) -> None:
        """Have the servers open sessions anew, and choose a host for each."""
        replica.execute(f"SELECT pg_terminate_backend(pid) {OUR_SESSIONS}")

    def outgrow(self, twin: Replica, other: Replica) -> None:
        """Have one log grow past another."""
        end = "SELECT max(seq) FROM event"
        ((wanted,),) = other.execute(end)
        # More than the servers read at once, and more than what is written to the other meanwhile.
        while twin.execute(end)[0][0] < wanted + 1000:
            twin.execute(
                "INSERT INTO invoices (account_id, amount, currency)"
                " SELECT %s, n, 'USD' FROM generate_series(1, 200) n",
                BUSY,
            )
            twin.execute("SELECT number_events(500)")

    def settle(self, final: Replica) -> Outcome:
        """Have all clients end, and count what came of it, by the PostgreSQL that remains."""
        self._writing_done.set()
        for thread in self._writing:
            thread.join(PATIENCE_SECONDS)
        self.traveller.is_away.clear()
        everyone = [*self.followers, self.traveller]
        until(lambda: all(one.is_connected for one in everyone), "all followers to be back")
        for account in (BUSY, QUIET):
            ((uid,),) = final.execute(INSERT, account)
            with contextlib.suppress(AssertionError):  # then it is counted as missed
                here = [one for one in everyone if one.account == account]
                until(lambda: all(uid in one.uids for one in here), "the end", SETTLE_SECONDS)  # noqa: B023
        self._done.set()
        for thread in self._following:
            thread.join(PATIENCE_SECONDS)
        outcome = self.outcome
        outcome.standby_reads = [_standby_reads(server.url) for server in self.servers]
        log = [Logged(*row) for row in final.execute(FINAL_LOG)]
        for follower in everyone:
            self._judge(follower, log)
        self._count_invoices(final)
        outcome.hole = [writer.hole for writer in self.writers]
        for closes in (*(one.closes for one in everyone), *(one.closes for one in self.writers)):
            outcome.closes += closes
        return outcome

    def _judge(self, follower: Follower, log: Sequence[Logged]) -> None:
        """Hold what a follower got against the log that remains."""
        outcome = self.outcome
        outcome.recovered += follower.recovered
        outcome.gaps += follower.gaps
        remains = {(event.seq, event.name) for event in log}
        topic = f"account:{follower.account}"
        for number, section in enumerate(follower.sections):
            was_notified = number < follower.gaps  # of the gap that ends it
            positions = [_parts(position) for position, *_ in section.events]
            changes = [change for _, *change in section.events]
            stale = [position for position in positions if position not in remains]
            outcome.stale += len(stale)
            must_know = bool(stale) or _parts(section.start) not in remains
            outcome.unsaid += must_know and not was_notified
            outcome.needless += was_notified and not must_know
            outcome.doubled += len(changes) - len(set(map(tuple, changes)))
            outcome.doubled += sum(a >= b for (a, _), (b, _) in itertools.pairwise(positions))
            # Before a gap that it was notified of, it has all up to the last event that remains.
            good = [seq for seq, name in positions if (seq, name) in remains]
            first, last = _parts(section.start)[0], log[-1].seq
            if was_notified:
                last = good[-1] if good else first
            wanted = {
                (event.seq, event.name)
                for event in log
                if first < event.seq <= last and topic in event.topics
            }
            outcome.missed += len(wanted - set(positions))

    def _count_invoices(self, final: Replica) -> None:
        outcome = self.outcome
        query = "SELECT idempotency_key, uid::text FROM invoices WHERE account_id = %s"
        rows = final.execute(query, BUSY)
        acknowledged = {pair for writer in self.writers for pair in writer.acknowledged}
        outcome.acknowledged = len(acknowledged)
        outcome.lost = len(acknowledged - set(rows))
        outcome.others_lost = len(set(self.program.inserted) - {uid for _, uid in rows})
        told = dict(acknowledged)
        outcome.doubled += sum(told.get(key, uid) != uid for key, uid in rows)

    def _start(
        self, target: Callable[..., None], *args: Any, unblock: Callable[[], None] = lambda: None
    ) -> threading.Thread:
        """Start a thread, which ends with the drill, whatever it waits for."""
        thread = threading.Thread(target=target, args=args)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(unblock)
        self._stack.callback(self._done.set)
        self._stack.callback(self._writing_done.set)
        return thread

    def _probe(self, number: int) -> None:
        url = self.servers[number].url.replace("ws://", "http://") + "/readyz"
        since = time.monotonic()
        while not self._done.wait(PROBE_SECONDS):
            try:
                urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - http, ours
            except OSError:  # an answer but 200, too
                self.outcome.unready[number] += time.monotonic() - since
            since = time.monotonic()


def _standby_reads(url: str) -> float:
    with urllib.request.urlopen(url.replace("ws://", "http://") + "/metrics", timeout=5) as page:  # noqa: S310
        found = re.findall(r'\ntrio_ws_log_reads_total{server="standby"} (.*)', page.read().decode())
    return sum(map(float, found))


def _parts(position: str) -> tuple[int, str]:
    name, _, seq = position.rpartition(".")
    return int(seq), name
