"""What is large, on a real server: how others fare meanwhile, and how much memory it takes.

Something large happens on account 1. Beside it, on account 2, one client makes invoices, another program
inserts some, a follower gets the events of both, and a probe asks whether the server is ready. What must
hold: all requests are answered, no event is lost or doubled, the server stays ready, no process of it is
replaced, and its memory stays bounded. `scripts/faults size` prints the figures, a test has the same smaller.
"""

import argparse
import contextlib
import json
import os
import resource
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests import raw
from tests.end_to_end.serving import PATIENCE_SECONDS, SERVE, call, running, workers_of
from tests.end_to_end.test_webhooks import receiving
from trio_ws.database import embedded

LARGE, BESIDE = 1, 2  # accounts
ROWS = 400_000
LONG_SECONDS = 4 * PATIENCE_SECONDS  # for what is large
QUIET_SECONDS = 0.02  # pause between two requests, or two changes
PROBE_SECONDS = 0.1
SAMPLE_SECONDS = 0.05
MEGABYTE = 1_000_000
INSERT = (
    "INSERT INTO invoices (account_id, amount, currency) SELECT %s, n, 'USD' FROM generate_series(1, %s) n"
)
# As large as an invoice may be: JSON takes six bytes for a control character, and four for others at most.
LARGEST = (
    "INSERT INTO invoices (account_id, amount, currency, memo, address, webhook_url, redirect_url)"
    " SELECT %s, n, 'USD', repeat(chr(1), 1000), repeat('😀', 128),"
    " rpad('https://shop.example/', 2000, '😀'), rpad('https://shop.example/', 2000, '😀')"
    " FROM generate_series(1, %s) n"
)
PRICES = (
    "INSERT INTO prices (account_id, currency, amount, value)"
    " SELECT %s, 'C' || lpad(n::text, 6, '0'), n, n FROM generate_series(1, %s) n"
)


@dataclass
class Figures:
    """What was noticed beside something large.

    Args:
        requests: How long each request took, in seconds.
        events: How long it took from each commit of another program to its event, in seconds.
        refused: How often each code was answered but success.
        cut: How many connections were closed by the server.
        probes: How often it was asked whether it is ready.
        unready: How often it was not.
        memory: What the server's processes had in memory, in bytes, from the beginning on.
        replaced: How many processes of it were.
        lost: Events that the follower did not get.
        doubled: Those that it got twice.
        troubles: What else was wrong.
    """

    requests: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    probes: int = 0
    unready: int = 0
    memory: list[int] = field(default_factory=list)
    replaced: int = 0
    lost: int = 0
    doubled: int = 0
    troubles: list[str] = field(default_factory=list)

    @property
    def grown(self) -> int:
        """By how much the memory was more than in the beginning, at most, in bytes."""
        return max(self.memory) - self.memory[0]

    def __str__(self) -> str:
        counts = {
            "cut": self.cut,
            "replaced": self.replaced,
            "lost": self.lost,
            "doubled": self.doubled,
            **self.refused,
        }
        return "; ".join(
            [
                f"requests {_spread(self.requests)}",
                f"events {_spread(self.events)}",
                f"ready {self.probes - self.unready} of {self.probes} times",
                f"memory {self.memory[0] / MEGABYTE:.0f} → {max(self.memory) / MEGABYTE:.0f} MB",
                *(f"{count} {name}" for name, count in counts.items() if count),
                *self.troubles,
            ]
        )


def _spread(seconds: Sequence[float]) -> str:
    """The median and the 99th percentile, in milliseconds."""
    if len(seconds) < 2:  # which no percentile can be made of
        return "none"
    percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"p50 {1000 * percentiles[49]:.1f} p99 {1000 * percentiles[98]:.1f} ms of {len(seconds)}"


class Shop:
    """A server of two processes, and those who use it.

    Args:
        data_dir: The server's. One that has no PostgreSQL in it gets one that is as durable as a user's.
        rows: How large "large" is.
        seconds: How long something lasts that may last as long as one likes.

    Attributes:
        figures: What is noticed while `bystanders` are there.
    """

    def __init__(self, data_dir: Path, rows: int, seconds: float) -> None:
        self.rows = rows
        self.seconds = seconds
        self.figures = Figures()
        self._data_dir = data_dir
        self._stack = ExitStack()
        self._done = threading.Event()
        self._follows = threading.Event()
        self._committed: dict[str, float] = {}  # when, of each invoice of the other program
        self._arrived: dict[str, float] = {}  # when, of each invoice whose event came
        self._doubled = 0
        self._after = ""  # the position from which the follower follows

    def __enter__(self) -> "Shop":
        with self._stack:  # what was started is stopped where something else does not start
            command = [*SERVE, "--port", "0", "--workers", "2", "--data-dir", str(self._data_dir)]
            allowed = {
                "TRIO_WS_WEBHOOK_PRIVATE_ADDRESSES": "true",
                "TRIO_WS_PING_SECONDS": "600",  # those who read nothing answer none
                "TRIO_WS_LOG_LEVEL": "warning",
            }
            self._server = self._stack.enter_context(running(command, self._data_dir, allowed))
            self._stack.callback(self._server.stop)
            self._database = self._stack.enter_context(self.connect_to_database())
            self.execute("INSERT INTO accounts (id, name) VALUES (%s, 'beside')", BESIDE)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def connect_to_database(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """Connect as another program does."""
        return psycopg.connect(embedded.conninfo(self._data_dir), autocommit=True)

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Do something to the database, or query it, as another program."""
        done = self._database.execute(statement.encode(), values)
        return done.fetchall() if done.description else []

    def wait_until_numbered(self) -> float:
        """Wait until all events have their numbers, and return how many seconds that took."""
        began = time.monotonic()
        while self.execute("SELECT EXISTS (SELECT FROM event WHERE seq IS NULL)") == [(True,)]:
            if time.monotonic() - began > LONG_SECONDS:
                self.figures.troubles.append("the log does not go on")
                break
            time.sleep(PROBE_SECONDS)
        return time.monotonic() - began

    def settle(self) -> None:
        """Wait until nothing of what was done keeps the database busy, its disk included."""
        self.wait_until_numbered()
        self.execute("CHECKPOINT")

    def position(self) -> str:
        """Return where the event log is now."""
        with self._server.connect() as client:
            return str(call(client, action="subscribe", type="account", id=BESIDE)["data"]["position"])

    def raw_connection(self, *requests: dict[str, object], receive_buffer: int = 0) -> socket.socket:
        """Connect, send requests, and leave what is answered unread."""
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(LONG_SECONDS)
        client.connect(("127.0.0.1", int(self._server.url.rpartition(":")[2])))
        frames = [raw.frame(raw.TEXT, json.dumps(request).encode()) for request in requests]
        client.sendall(raw.head() + b"".join(frames))
        return client

    @contextmanager
    def bystanders(self) -> Iterator[None]:
        """Have them there for a while, and note how they fare."""
        before = workers_of(self._server)
        self._after = self.position()  # before there is anything that must not be missed
        work = (self._make_invoices, self._insert, self._follow, self._probe, self._measure)
        with ThreadPoolExecutor(len(work)) as threads:
            tasks = [threads.submit(one) for one in work]
            try:
                assert self._follows.wait(PATIENCE_SECONDS)
                yield
                self._wait_for_the_follower()
            finally:
                self._done.set()
        for task in tasks:
            task.result()
        self.figures.replaced = len(before - workers_of(self._server))
        self._count()

    def _wait_for_the_follower(self) -> None:
        time.sleep(5 * QUIET_SECONDS)
        wanted = self._wanted()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not wanted <= set(self._arrived) and time.monotonic() < deadline:
            time.sleep(PROBE_SECONDS)
        self.figures.lost = len(wanted - set(self._arrived))

    def _wanted(self) -> set[str]:
        rows = self.execute("SELECT uid::text FROM invoices WHERE account_id = %s", BESIDE)
        return {uid for (uid,) in rows}

    def _count(self) -> None:
        figures = self.figures
        figures.doubled = self._doubled
        both = self._committed.keys() & self._arrived.keys()
        # The event may come before the commit's reply.
        figures.events = [max(0.0, self._arrived[uid] - self._committed[uid]) for uid in both]
        seqs = "SELECT count(*) FILTER (WHERE seq IS NOT NULL), max(seq) - min(seq) + 1 FROM event"
        ((count, expected),) = self.execute(seqs)
        if count != expected:
            figures.troubles.append(f"{count} events have numbers, of {expected}")

    def _make_invoices(self) -> None:
        while not self._done.is_set():
            with self._connected() as client:
                while not self._done.wait(QUIET_SECONDS):
                    began = time.monotonic()
                    reply = call(client, action="create_invoice", amount=1, currency="USD", account_id=BESIDE)
                    self.figures.requests.append(time.monotonic() - began)
                    if reply["status"] != "success":
                        self.figures.refused[reply["code"]] += 1

    def _insert(self) -> None:
        insert = (
            "INSERT INTO invoices (account_id, amount, currency) VALUES (%s, 1, 'USD') RETURNING uid::text"
        )
        with self.connect_to_database() as database:
            while not self._done.wait(QUIET_SECONDS):
                ((uid,),) = database.execute(insert, (BESIDE,))
                self._committed[uid] = time.monotonic()

    def _follow(self) -> None:
        after, topics = self._after, [{"type": "account", "id": BESIDE}]
        while not self._done.is_set():
            with self._connected() as client:
                reply = call(client, action="resume", after=after, topics=topics)
                if not reply["data"]["recovered"]:
                    self.figures.troubles.append("the follower was not recovered")
                self._follows.set()
                while not self._done.is_set():
                    with contextlib.suppress(TimeoutError):
                        event = json.loads(client.recv(timeout=0.2))
                        after, uid = event["position"], event["data"]["uid"]
                        self._doubled += uid in self._arrived
                        self._arrived.setdefault(uid, time.monotonic())

    @contextmanager
    def _connected(self) -> Iterator[ClientConnection]:
        """Connect a client whose connection may be cut."""
        try:
            with self._server.connect() as client:
                yield client
        except (ConnectionClosed, OSError):  # TimeoutError, too
            self.figures.cut += 1
            time.sleep(QUIET_SECONDS)

    def _probe(self) -> None:
        url = self._server.url.replace("ws://", "http://") + "/readyz"
        while not self._done.wait(PROBE_SECONDS):
            self.figures.probes += 1
            try:
                urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - http, ours
            except OSError:  # an answer but 200, too
                self.figures.unready += 1

    def _measure(self) -> None:
        while True:
            self.figures.memory.append(sum(map(_resident_bytes, workers_of(self._server))))
            if self._done.wait(SAMPLE_SECONDS):
                break


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def nothing(shop: Shop) -> str:
    """For comparison."""
    with shop.bystanders():
        time.sleep(shop.seconds)
    return "nothing happens"


def large_transaction(shop: Shop) -> str:
    """Another program inserts many rows at once."""
    with shop.bystanders():
        began = time.monotonic()
        shop.execute(INSERT, LARGE, shop.rows)
        took = time.monotonic() - began
        numbered = shop.wait_until_numbered()
    return f"{shop.rows} rows in {took:.1f} s, all numbered {numbered:.1f} s later"


def uncommitted_rows(shop: Shop) -> str:
    """Another program inserts many rows, does something else for a while, and commits."""
    rows = shop.rows // 2
    with shop.bystanders():
        with shop.connect_to_database() as other, other.transaction():
            other.execute(INSERT.encode(), (LARGE, rows))
            time.sleep(shop.seconds)
        numbered = shop.wait_until_numbered()
    return f"{rows} rows, committed {shop.seconds:g} s later, all numbered after {numbered:.1f} s"


def held_snapshot(shop: Shop) -> str:
    """Another program, as pg_dump does, holds a snapshot while many events pass."""
    rows, together = shop.rows // 10, 100
    with shop.bystanders(), shop.connect_to_database() as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with other.transaction():
            other.execute("SELECT count(*) FROM invoices")
            began = time.monotonic()
            for _ in range(0, rows, together):
                shop.execute(INSERT, LARGE, together)
                time.sleep(QUIET_SECONDS)
            took = time.monotonic() - began
            numbered = shop.wait_until_numbered()
            time.sleep(shop.seconds)  # now there is most to pass over
    return f"{rows} events in {took:.1f} s, all numbered {numbered:.1f} s later"


def large_rows(shop: Shop) -> str:
    """Another program inserts rows that are too large, which is refused, and the largest that are not."""
    rows = max(2, shop.rows // 800)
    too_large = INSERT.replace("currency)", "currency, memo)").replace("'USD'", "'USD', repeat('x', 1000000)")
    with shop.bystanders():
        try:
            shop.execute(too_large, LARGE, rows)
            shop.figures.troubles.append("memos of 1 MB were taken")
        except psycopg.errors.CheckViolation:
            pass
        shop.execute(LARGEST, LARGE, rows)
        numbered = shop.wait_until_numbered()
    return f"{rows} memos of 1 MB refused, {rows} of the largest rows numbered {numbered:.1f} s later"


def unread_lists(shop: Shop) -> str:
    """Clients ask for many open invoices and many prices, several times, and read nothing."""
    rows, prices, clients = shop.rows // 4, shop.rows // 20, 20
    shop.execute(INSERT, LARGE, rows)
    shop.execute(PRICES, LARGE, prices)
    shop.settle()
    invoices: dict[str, object] = {"action": "subscribe", "type": "account", "id": LARGE, "snapshot": True}
    requests: list[dict[str, object]] = [invoices, {"action": "list_prices"}] * 3
    with shop.bystanders(), ExitStack() as connections:
        for client in [
            connections.enter_context(shop.raw_connection(*requests, receive_buffer=4096))
            for _ in range(clients)
        ]:
            _wait_for_a_reply(client)
        time.sleep(shop.seconds)
    return f"{clients} clients, {rows} open invoices, {prices} prices"


def _wait_for_a_reply(client: socket.socket) -> None:
    """Wait until there is the beginning of one, and leave it unread."""
    deadline = time.monotonic() + LONG_SECONDS
    while b'"status"' not in (received := client.recv(4096, socket.MSG_PEEK)):
        assert time.monotonic() < deadline, received
        time.sleep(QUIET_SECONDS)


def far_behind(shop: Shop) -> str:
    """Clients ask for what came after the log's beginning, of an invoice whose one event is its last."""
    rows, clients = shop.rows * 3 // 4, 200
    after = shop.position()
    shop.execute(INSERT, LARGE, rows)
    shop.settle()
    uid = "5735e250-b53e-4ace-a025-afac1bc77ee2"
    shop.execute(
        "INSERT INTO invoices (uid, account_id, amount, currency) VALUES (%s, %s, 1, 'USD')", uid, LARGE
    )
    topic = {"type": "invoice", "id": uid}
    requests: list[dict[str, object]] = [
        {"action": "subscribe", **topic, "after": after},
        {"action": "resume", "topics": [topic], "after": after},
    ]
    with shop.bystanders(), ExitStack() as connections:
        began = time.monotonic()
        behind = [
            connections.enter_context(shop.raw_connection(requests[number % len(requests)]))
            for number in range(clients)
        ]
        received = [_receive_until(b'"invoice.created"', client) for client in behind]
        took = time.monotonic() - began
    for messages in received:
        if b'"recovered":true' not in messages or messages.count(b'"invoice.created"') != 1:
            shop.figures.troubles.append(f"a client got {messages[-200:]!r}")
    return f"{clients} clients, {rows} events behind; each was at the end after {took:.1f} s at most"


def _receive_until(text: bytes, client: socket.socket) -> bytes:
    """Receive until that comes, and return what has come. Nothing may take longer than `LONG_SECONDS`."""
    received = b""
    with contextlib.suppress(TimeoutError):
        while text not in received and (more := client.recv(65536)):
            received += more
    return received


def dead_endpoints(shop: Shop) -> str:
    """One account's webhooks go to many servers that never answer, another account's to one that does."""
    endpoints = max(10, shop.rows * 640 // ROWS)
    delays: list[float] = []
    with (
        socket.create_server(("0.0.0.0", 0), backlog=4096) as dead,  # noqa: S104 - all of 127.0.0.0/8
        receiving() as receiver,
        shop.bystanders(),
    ):
        insert = (
            "INSERT INTO invoices (account_id, amount, currency, webhook_url) SELECT %s, 1, 'USD',"
            " 'http://127.0.' || 1 + n / 250 || '.' || 1 + n %% 250 || ':' || %s || '/'"
            " FROM generate_series(0, %s) n"
        )
        shop.execute(insert, LARGE, dead.getsockname()[1], endpoints - 1)
        until = time.monotonic() + shop.seconds
        while time.monotonic() < until or not delays:
            began = time.monotonic()
            shop.execute(
                "INSERT INTO invoices (account_id, amount, currency, webhook_url) VALUES (%s, 1, 'USD', %s)",
                BESIDE,
                receiver.url,
            )
            receiver.posted.get(timeout=LONG_SECONDS)
            delays.append(time.monotonic() - began)
            time.sleep(QUIET_SECONDS)
    at_most = f"at most {1000 * max(delays):.1f} ms"
    return f"{endpoints} dead ones; webhooks of another account {_spread(delays)}, {at_most}"


SIZES: dict[str, Callable[[Shop], str]] = {
    "nothing": nothing,
    "large transaction": large_transaction,
    "uncommitted rows": uncommitted_rows,
    "held snapshot": held_snapshot,
    "large rows": large_rows,
    "unread lists": unread_lists,
    "far behind": far_behind,
    "dead endpoints": dead_endpoints,
}


def main() -> None:
    """Print the figures."""
    options = argparse.ArgumentParser(prog="scripts/faults size", description=__doc__)
    options.add_argument("--rows", type=int, default=ROWS, help=f"how large; {ROWS}")
    options.add_argument(
        "--seconds", type=float, default=10.0, help="how long what has no end of its own lasts"
    )
    options.add_argument("names", nargs="*", help=f"of {', '.join(SIZES)}; all")
    given = options.parse_args()
    if unknown := [name for name in given.names if name not in SIZES]:
        options.error(f"there is no {', '.join(unknown)}: see --help")
    for name in given.names or SIZES:
        with tempfile.TemporaryDirectory() as folder, Shop(Path(folder), given.rows, given.seconds) as shop:
            said = SIZES[name](shop)
            load = f"load average {os.getloadavg()[0]:.1f}"
            print(f"{name}: {said}; {load}\n    {shop.figures}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
