"""PostgreSQL in trouble, one fault after the other, under a server with clients: what they notice of it.

A client asks all the time, each request under an idempotency key of its own, and asks anew until it is done;
another follows. What must hold: the lines stay, each request is answered in seconds, nothing is lost or done
twice, and all is well soon after PostgreSQL is. `scripts/faults` prints the table, a test holds it.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from websockets.sync.client import ClientConnection, connect

from tests.end_to_end.proxy import Proxy
from tests.end_to_end.serving import PATIENCE_SECONDS, free_port, start_process
from tests.replicas import processes_of
from trio_ws.database import migrations
from trio_ws.database.embedded import embedded_postgres

MAX_CONNECTIONS = 30
QUIET_SECONDS = 0.05  # pause between two requests
FAR_SECONDS = 0.1  # of light in glass around half the globe
CHANGE = "UPDATE invoices SET memo = version WHERE id = (SELECT max(id) FROM invoices)"
SMALL_DISK_BYTES = 128 * 1024 * 1024


@dataclass
class Outcome:
    """What the clients noticed of a fault.

    Args:
        name: Which.
        answers: How often each code was answered while it lasted.
        longest: The longest wait for an answer, in seconds.
        back: From its end to the next request that was done, in seconds.
        latest: The longest from a change until the follower was told of it, in seconds.
        created: Invoices that the asking client was told of.
        lost: Changes that it was not told of.
        doubled: Those that it was told twice.
        extra: Invoices that nobody was told of, that have gone, or that one key made twice.
    """

    name: str
    answers: dict[str, int] = field(default_factory=dict)
    longest: float = 0.0
    back: float = 0.0
    latest: float = 0.0
    created: int = 0
    lost: int = 0
    doubled: int = 0
    extra: int = 0

    def __str__(self) -> str:
        answers = ", ".join(f"{count} {code}" for code, count in sorted(self.answers.items())) or "none"
        return (
            f"{self.name:<28} answers: {answers}; longest {self.longest:.1f} s; back after {self.back:.1f} s;"
            f" events {self.latest:.1f} s late at most;"
            f" {self.created} created, {self.lost} lost, {self.doubled} doubled, {self.extra} extra"
        )


class Bench:
    """A PostgreSQL, a server on it, and two clients on lines that are never opened anew.

    Args:
        name: The fault's.
        folder: Where the database is to be.
        seconds: How long the fault lasts.

    Attributes:
        folder: That of the database.
        line: Between the server and PostgreSQL.
        listen_line: The same for notifications, where those have one of their own.
    """

    def __init__(self, name: str, folder: Path, seconds: float) -> None:
        self.folder = folder / "data" / "postgres"
        self._fault = FAULTS[name]
        self._outcome = Outcome(name)
        self._seconds = seconds
        self._stack = ExitStack()
        self._port = free_port()
        self._done = threading.Event()
        self._events: list[tuple[str, int]] = []

    def __enter__(self) -> "Bench":
        with self._stack:  # what was started is stopped where something else does not start
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        data = self.folder.parent
        data.mkdir(exist_ok=True)
        if self._fault.on_small_disk:
            self._stack.enter_context(small_disk(data))
        options = {"max_connections": str(MAX_CONNECTIONS), "superuser_reserved_connections": "3"}
        self.postgres = self._stack.enter_context(embedded_postgres(data, options=options))
        migrations.migrate(self.postgres.conninfo)
        self.line, self.listen_line = (
            self._stack.enter_context(Proxy.to_postgres(self.postgres.conninfo)) for _ in range(2)
        )
        self.server = self._start_server()
        self._stack.callback(self._stop_server)
        self._asking = self._stack.enter_context(self._connect())
        following = self._stack.enter_context(self._connect())
        ask(following, action="subscribe", type="account", id=1)
        follower = threading.Thread(target=self._follow, args=(following,))
        follower.start()
        self._stack.callback(follower.join)
        self._stack.callback(self._done.set)

    def suffer(self) -> Outcome:
        """Have the fault last, and return what the clients noticed."""
        told: dict[str, str] = {}  # the invoice of each key
        self._create(told, "before")
        key = str(uuid.uuid4())
        with self._fault.happens(self):
            until = time.monotonic() + self._seconds
            while time.monotonic() < until:
                if self._create(told, key):
                    key = str(uuid.uuid4())
                time.sleep(QUIET_SECONDS)
        ended = time.monotonic()
        while not self._create(told, key):  # what was not done is asked anew, under its key
            time.sleep(QUIET_SECONDS)
        self._outcome.back = time.monotonic() - ended
        self._settle(told)
        return self._outcome

    def _create(self, told: dict[str, str], key: str) -> bool:
        outcome = self._outcome
        began = time.monotonic()
        fields = {"amount": 1, "currency": "USD", "account_id": 1, "idempotency_key": key}
        reply = ask(self._asking, action="create_invoice", **fields)
        outcome.longest = max(outcome.longest, time.monotonic() - began)
        code = reply.get("code", "success")
        outcome.answers[code] = outcome.answers.get(code, 0) + 1
        if code == "success":
            assert told.setdefault(key, reply["data"]["uid"]) == reply["data"]["uid"], "one key, one invoice"
        return bool(code == "success")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Do something to the database, or ask it, as another program."""
        with psycopg.connect(self.postgres.conninfo, autocommit=True) as database:
            done = database.execute(statement.encode())
            return done.fetchall() if done.description else []

    def wait_until_told(self) -> int:
        """Wait long enough for the follower to be told of all changes; return of how many it was not."""
        rows = self.execute("SELECT uid::text, version FROM invoices")
        changes = {(uid, version) for uid, last in rows for version in range(1, last + 1)}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not changes <= set(self._events) and time.monotonic() < deadline:
            time.sleep(0.05)
        return len(changes - set(self._events))

    def _settle(self, told: dict[str, str]) -> None:
        """Count what came of it."""
        outcome = self._outcome
        outcome.created = len(told)
        outcome.lost = self.wait_until_told()
        time.sleep(0.3)  # for what should not come any more
        outcome.doubled = len(self._events) - len(set(self._events))
        rows = self.execute("SELECT idempotency_key, uid::text FROM invoices")
        outcome.extra = len(set(rows) ^ set(told.items()))

    def _follow(self, line: ClientConnection) -> None:
        while not self._done.is_set():
            with contextlib.suppress(TimeoutError):
                event = json.loads(line.recv(timeout=0.2))
                if event["type"].startswith("invoice"):
                    invoice = event["data"]
                    self._events.append((invoice["uid"], invoice["version"]))
                    late = time.time() - datetime.fromisoformat(invoice["updatedAt"]).timestamp()
                    self._outcome.latest = max(self._outcome.latest, late)

    def _connect(self) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self._port}", open_timeout=PATIENCE_SECONDS)

    def _start_server(self) -> "subprocess.Popen[str]":
        direct = self.postgres.conninfo
        settings = {"TRIO_WS_DATABASE_URL": self.line.conninfo(direct)}
        if self._fault.listens_apart:
            settings["TRIO_WS_LISTEN_URL"] = self.listen_line.conninfo(direct)
        command = [sys.executable, "-m", "trio_ws", "serve", "--port", str(self._port)]
        return start_process(command, **settings)

    def _stop_server(self) -> None:
        self.server.terminate()
        assert self.server.wait(PATIENCE_SECONDS) == 0


def ask(line: ClientConnection, **fields: object) -> dict[str, Any]:
    """Send a request, and return its reply; the line must hold."""
    line.send(json.dumps(fields))
    reply: dict[str, Any] = json.loads(line.recv(timeout=PATIENCE_SECONDS))
    return reply


@contextmanager
def _executing_again_and_again(bench: Bench, statement: str, pause: float) -> Iterator[None]:
    """As another program."""
    done = threading.Event()

    def execute() -> None:
        while not done.wait(pause):
            bench.execute(statement)

    thread = threading.Thread(target=execute)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def restart(bench: Bench) -> Iterator[None]:
    """Stopped in good order, and started after a while."""
    bench.postgres.stop()
    yield
    bench.postgres.start()


@contextmanager
def crash(bench: Bench) -> Iterator[None]:
    """Killed, and started after a while."""
    os.kill(processes_of(bench.folder)[0], signal.SIGKILL)
    yield
    while not bench.postgres.has_ended():
        time.sleep(0.01)
    bench.postgres.restart()


@contextmanager
def standstill(bench: Bench) -> Iterator[None]:
    """Stopped where it stands, which nobody tells anybody."""
    stopped = processes_of(bench.folder)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def backends_terminated(bench: Bench) -> Iterator[None]:
    """All sessions but ours ended, again and again; that of LISTEN, too."""
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    with _executing_again_and_again(bench, terminate, 0.2):
        yield


@contextmanager
def no_connections_left(bench: Bench) -> Iterator[None]:
    """All of them taken by others, and ours ended."""
    with ExitStack() as taken:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(psycopg.connect(bench.postgres.conninfo))
                taken.enter_context(psycopg.connect(bench.postgres.conninfo)).execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'trio-ws'"
                )
        yield


@contextmanager
def table_locked(bench: Bench) -> Iterator[None]:
    """Nobody else can write invoices."""
    with psycopg.connect(bench.postgres.conninfo) as database:
        database.execute("LOCK TABLE invoices IN SHARE MODE")
        yield


@contextmanager
def read_only(bench: Bench) -> Iterator[None]:
    """As a standby is."""
    bench.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    bench.execute("SELECT pg_reload_conf()")
    yield
    bench.execute("ALTER SYSTEM RESET default_transaction_read_only")
    bench.execute("SELECT pg_reload_conf()")


@contextmanager
def database_slow(bench: Bench) -> Iterator[None]:
    """As on the other side of the world."""
    bench.line.delay = FAR_SECONDS
    yield
    bench.line.delay = 0.0


@contextmanager
def database_black_holed(bench: Bench) -> Iterator[None]:
    """What is sent to it, and by it, gets lost, which nobody tells anybody."""
    bench.line.black_hole()
    yield
    bench.line.heal()


@contextmanager
def listen_black_holed(bench: Bench) -> Iterator[None]:
    """Notifications get lost, while another program writes."""
    bench.listen_line.black_hole()
    with _executing_again_and_again(bench, CHANGE, QUIET_SECONDS):
        yield
    bench.execute(CHANGE)
    assert not bench.wait_until_told(), "with nobody asking, which would wake the server, either"
    bench.listen_line.heal()


class CannotBeMadeHere(Exception):
    """A fault needs what this machine does not give."""


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Put a folder on a disk of its own."""
    size = f"size={SMALL_DISK_BYTES},mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "trio-ws-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        raise CannotBeMadeHere(mounted.stderr.partition("\n")[0])
    try:
        yield
    finally:
        # A process of PostgreSQL may take a moment longer to end than its first one.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def disk_full(bench: Bench) -> Iterator[None]:
    """No room for another row."""
    ballast = bench.folder.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65536))
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            bench.execute(CHANGE)  # there may be some room on the pages that it has
    yield
    ballast.unlink()


@contextmanager
def disk_full_of_wal(bench: Bench) -> Iterator[None]:
    """No room to log a change, which PostgreSQL does not survive, nor does it start so."""
    with disk_full(bench):
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                bench.execute("SELECT pg_switch_wal()")
                bench.execute("UPDATE accounts SET name = name")
        yield
    bench.postgres.restart()


class Fault(NamedTuple):
    """What happens, and where.

    Args:
        happens: Lasts as long as its block.
        listens_apart: Whether notifications come by a `listen_url`.
        on_small_disk: Whether the database has a disk of its own, which can be filled.
        is_borne: Whether all requests are done all the same.
    """

    happens: Callable[[Bench], AbstractContextManager[None]]
    listens_apart: bool = False
    on_small_disk: bool = False
    is_borne: bool = False


FAULTS = {
    "restart": Fault(restart),
    "kill -9": Fault(crash),
    "SIGSTOP": Fault(standstill),
    "backends terminated": Fault(backends_terminated),
    "no connections left": Fault(no_connections_left),
    "table locked": Fault(table_locked),
    "read-only": Fault(read_only),
    "disk full": Fault(disk_full, on_small_disk=True),
    "disk full of WAL": Fault(disk_full_of_wal, on_small_disk=True),
    "database slow": Fault(database_slow, is_borne=True),
    "database black-holed": Fault(database_black_holed),
    "LISTEN black-holed": Fault(listen_black_holed, listens_apart=True, is_borne=True),
}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    options.add_argument("--seconds", type=float, default=8.0, help="how long each fault lasts")
    options.add_argument("names", nargs="*", default=list(FAULTS), help=f"of {', '.join(FAULTS)}; all")
    given = options.parse_args()
    for name in given.names:
        try:
            with tempfile.TemporaryDirectory() as folder, Bench(name, Path(folder), given.seconds) as bench:
                print(bench.suffer(), flush=True)  # noqa: T201
        except CannotBeMadeHere as error:
            print(f"{name:<28} can't be made here: {error}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
