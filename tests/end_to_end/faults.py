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
from pathlib import Path
from typing import Any

import psycopg
from websockets.sync.client import ClientConnection, connect

from tests.end_to_end.serving import PATIENCE_SECONDS, free_port, start_process
from trio_ws.database import migrations
from trio_ws.database.embedded import embedded_postgres

MAX_CONNECTIONS = 30
QUIET_SECONDS = 0.05  # pause between two requests


@dataclass
class Outcome:
    """What the clients noticed of a fault.

    Args:
        name: Which.
        answers: How often each code was answered while it lasted.
        longest: The longest wait for an answer, in seconds.
        back: From its end to the next request that was done, in seconds.
        created: Invoices that the asking client was told of.
        lost: Of those, the ones that the follower was not told of.
        doubled: Events that it was told twice.
        extra: Invoices that nobody was told of, or that one key made twice.
    """

    name: str
    answers: dict[str, int] = field(default_factory=dict)
    longest: float = 0.0
    back: float = 0.0
    created: int = 0
    lost: int = 0
    doubled: int = 0
    extra: int = 0

    def __str__(self) -> str:
        answers = ", ".join(f"{count} {code}" for code, count in sorted(self.answers.items())) or "none"
        return (
            f"{self.name:<28} answers: {answers}; longest {self.longest:.1f} s; back after {self.back:.1f} s;"
            f" {self.created} created, {self.lost} lost, {self.doubled} doubled, {self.extra} extra"
        )


class Bench:
    """A PostgreSQL, a server on it, and two clients on lines that are never opened anew.

    Args:
        folder: Where the database is to be.
        seconds: How long a fault lasts.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self.folder = folder / "postgres"
        self._folder = folder
        self._stack = ExitStack()
        self._port = free_port()
        self._done = threading.Event()
        self._events: list[tuple[str, int]] = []

    def __enter__(self) -> "Bench":
        options = {"max_connections": str(MAX_CONNECTIONS), "superuser_reserved_connections": "3"}
        self.postgres = self._stack.enter_context(embedded_postgres(self._folder, options=options))
        migrations.migrate(self.postgres.conninfo)
        self.server = self._start_server()
        self._stack.callback(self._stop_server)
        self._asking = self._stack.enter_context(self._connect())
        following = self._stack.enter_context(self._connect())
        ask(following, action="subscribe", type="account", id=1)
        follower = threading.Thread(target=self._follow, args=(following,))
        follower.start()
        self._stack.callback(follower.join)
        self._stack.callback(self._done.set)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def suffer(self, name: str, fault: Callable[["Bench"], AbstractContextManager[None]]) -> Outcome:
        """Have the fault last, and return what the clients noticed."""
        outcome = Outcome(name)
        told: dict[str, str] = {}  # the invoice of each key
        self._create(outcome, told, "before")
        key = str(uuid.uuid4())
        with fault(self):
            until = time.monotonic() + self.seconds
            while time.monotonic() < until:
                if self._create(outcome, told, key):
                    key = str(uuid.uuid4())
                time.sleep(QUIET_SECONDS)
        ended = time.monotonic()
        while not self._create(outcome, told, key):  # what was not done is asked anew, under its key
            time.sleep(QUIET_SECONDS)
        outcome.back = time.monotonic() - ended
        self._settle(outcome, told)
        return outcome

    def _create(self, outcome: Outcome, told: dict[str, str], key: str) -> bool:
        began = time.monotonic()
        fields = {"amount": 1, "currency": "USD", "account_id": 1, "idempotency_key": key}
        reply = ask(self._asking, action="create_invoice", **fields)
        outcome.longest = max(outcome.longest, time.monotonic() - began)
        code = reply.get("code", "success")
        outcome.answers[code] = outcome.answers.get(code, 0) + 1
        if code == "success":
            assert told.setdefault(key, reply["data"]["uid"]) == reply["data"]["uid"], "one key, one invoice"
        return bool(code == "success")

    def _settle(self, outcome: Outcome, told: dict[str, str]) -> None:
        """Wait until the follower has been told of all, and count."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not set(told.values()) <= {uid for uid, _ in self._events}:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        time.sleep(0.3)  # for what should not come any more
        known = {uid for uid, _ in self._events}
        with psycopg.connect(self.postgres.conninfo) as database:
            rows = database.execute("SELECT idempotency_key, uid::text FROM invoices").fetchall()
        keys: dict[str, str] = dict(rows)
        outcome.created = len(told)
        outcome.lost = len(set(told.values()) - known)
        outcome.doubled = len(self._events) - len(set(self._events))
        outcome.extra = sum(keys.get(key) != uid for key, uid in told.items())
        outcome.extra += len(set(keys.values()) - set(told.values()))

    def _follow(self, line: ClientConnection) -> None:
        while not self._done.is_set():
            with contextlib.suppress(TimeoutError):
                event = json.loads(line.recv(timeout=0.2))
                if event["type"].startswith("invoice"):
                    self._events.append((event["data"]["uid"], event["data"]["version"]))

    def _connect(self) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self._port}", open_timeout=PATIENCE_SECONDS)

    def _start_server(self) -> "subprocess.Popen[str]":
        settings = ["--port", str(self._port), "--database-url", self.postgres.conninfo]
        return start_process([sys.executable, "-m", "trio_ws", "serve", *settings])

    def _stop_server(self) -> None:
        self.server.terminate()
        assert self.server.wait(PATIENCE_SECONDS) == 0


def ask(line: ClientConnection, **fields: object) -> dict[str, Any]:
    """Send a request, and return its reply; the line must hold."""
    line.send(json.dumps(fields))
    reply: dict[str, Any] = json.loads(line.recv(timeout=PATIENCE_SECONDS))
    return reply


def _processes(postgres_folder: Path) -> list[int]:
    """The postmaster and its children."""
    first = int((postgres_folder / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [first, *map(int, children)]


@contextmanager
def restart(bench: Bench) -> Iterator[None]:
    """Stopped in good order, and started after a while."""
    bench.postgres.stop()
    yield
    bench.postgres.start()


@contextmanager
def crash(bench: Bench) -> Iterator[None]:
    """Killed, and started after a while."""
    os.kill(_processes(bench.folder)[0], signal.SIGKILL)
    yield
    while not bench.postgres.has_ended():
        time.sleep(0.01)
    bench.postgres.restart()


@contextmanager
def standstill(bench: Bench) -> Iterator[None]:
    """Stopped where it stands, which nobody tells anybody."""
    stopped = _processes(bench.folder)
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
    done = threading.Event()

    def terminate() -> None:
        while not done.wait(0.2):
            with psycopg.connect(bench.postgres.conninfo, autocommit=True) as database:
                database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )

    thread = threading.Thread(target=terminate)
    thread.start()
    yield
    done.set()
    thread.join()


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
    with psycopg.connect(bench.postgres.conninfo, autocommit=True) as database:
        database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        database.execute("SELECT pg_reload_conf()")
        yield
        database.execute("SET default_transaction_read_only = off")
        database.execute("ALTER SYSTEM RESET default_transaction_read_only")
        database.execute("SELECT pg_reload_conf()")


FAULTS: dict[str, Callable[[Bench], AbstractContextManager[None]]] = {
    "restart": restart,
    "kill -9": crash,
    "SIGSTOP": standstill,
    "backends terminated": backends_terminated,
    "no connections left": no_connections_left,
    "table locked": table_locked,
    "read-only": read_only,
}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    options.add_argument("--seconds", type=float, default=8.0, help="how long each fault lasts")
    given = options.parse_args()
    for name, fault in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder, Bench(Path(folder), given.seconds) as bench:
            print(bench.suffer(name, fault), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
