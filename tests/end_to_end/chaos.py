"""Followers, writers and faults, all at once, on real processes; and an account of what each follower got.

Their lines are long ones, through a proxy that cuts them. A third of the followers have no WebSocket, but an
event stream.

The tables are the truth: a row at version n was changed n times, so whoever follows it from its beginning
must have got the versions 1 to n, once each and in order. `scripts/chaos` runs it at length, a test in brief.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import trio
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.end_to_end.event_stream import EventSource
from tests.end_to_end.proxy import Proxy
from tests.end_to_end.serving import free_port, start_process
from trio_ws.client import Gap
from trio_ws.client import connect as trio_client
from trio_ws.database import migrations
from trio_ws.database.embedded import EmbeddedPostgres, embedded_postgres
from trio_ws.errors import StartupError

ACCOUNTS = 4
INVOICES = 10  # of each account
WRITERS = 8
FOLLOWERS = 20  # 5 of each account: of those 2 steady, 1 slow, 1 cutting its line, and 1 both
WITHOUT_WEBSOCKET = 3  # each third follower, of each kind at least one
OPEN_SECONDS = 0.1  # longest time that a writer's transaction is open
SLOW_SECONDS = 0.01  # a slow follower's pause at each event
DELAY_SECONDS = 0.02  # of the followers' lines, each way
RESTART_SECONDS = 60.0  # until PostgreSQL has to run again
LASTS = 20, 200  # events, between which a line that its follower cuts has its end
CUTS = 5  # of all followers' lines, one soon after the other

# What reading `id > last` amounts to: what commits late has an id that was passed already.
NUMBER_BY_ID = """
CREATE OR REPLACE FUNCTION number_events(most int, read_upto bigint DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  before bigint;
  numbered int;
BEGIN
  PERFORM FROM event_log FOR UPDATE;
  SELECT last INTO before FROM event_step ORDER BY last DESC LIMIT 1;
  UPDATE event SET seq = before + place FROM (
    SELECT id, row_number() OVER (ORDER BY id) AS place FROM event
    WHERE id > (SELECT coalesce(max(id), 0) FROM event WHERE seq IS NOT NULL)) late
  WHERE event.id = late.id;
  GET DIAGNOSTICS numbered = ROW_COUNT;
  UPDATE event_step SET last = before + numbered WHERE last = before;
  RETURN numbered;
END
$$
"""


@dataclass
class Follower:
    """What one follower got."""

    name: str
    account: int
    after: str
    positions: list[int] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)  # of which invoice, and which
    gaps: int = 0
    lines: int = 0

    def note(self, invoice: int, version: int, position: str) -> None:
        self.versions.append((invoice, version))
        self.positions.append(int(position.rpartition(".")[2]))
        self.after = position

    def lost(self, truth: dict[int, dict[int, int]]) -> int:
        wanted = {(one, n) for one, last in truth[self.account].items() for n in range(1, last + 1)}
        return len(wanted - set(self.versions))

    def doubled(self) -> int:
        return sum(count - 1 for count in Counter(self.versions).values())

    def misordered(self) -> int:
        """Events before which a later one came, in the log or of the same invoice."""
        wrong = sum(later <= earlier for earlier, later in itertools.pairwise(self.positions))
        latest: dict[int, int] = {}
        for invoice, version in self.versions:
            wrong += version < latest.get(invoice, 0)
            latest[invoice] = max(version, latest.get(invoice, 0))
        return wrong


@dataclass
class Report:
    """What came of it."""

    committed: int
    expected: int
    lost: int
    doubled: int
    misordered: int
    gaps: int
    lines: int
    rolled_back: int

    def __str__(self) -> str:
        return (
            f"{self.committed} changes committed, {self.rolled_back} rolled back or broken off;"
            f" {self.expected} events expected by {FOLLOWERS} followers over {self.lines} lines:"
            f" {self.lost} lost, {self.doubled} doubled, {self.misordered} out of order, {self.gaps} gaps"
        )


class Chaos:
    """One run.

    Args:
        folder: Where the database is to be.
        pace: Seconds between faults.
        outage: Seconds that PostgreSQL is stopped.
        patience: Seconds for the last events to come, after the last fault.
        by_id: Break the numbering on purpose.
    """

    def __init__(
        self, folder: Path, pace: float, outage: float, patience: float = 90.0, *, by_id: bool = False
    ) -> None:
        self._patience = patience
        self._folder = folder
        self._pace = pace
        self._outage = outage
        self._by_id = by_id
        self._port = free_port()
        self._line = Proxy.to_port(self._port)
        self._url = f"ws://127.0.0.1:{self._line.port}"
        self._writing = threading.Event()
        self._following = threading.Event()
        self._rolled_back = itertools.count()
        self._followers: list[Follower] = []
        self._conninfo = ""

    async def run(self, say: Callable[[str], None]) -> Report:
        """Run it to the end."""
        with embedded_postgres(self._folder) as postgres, self._line:
            self._conninfo = postgres.conninfo
            self._line.delay = DELAY_SECONDS
            self._prepare()
            async with trio.open_nursery() as nursery:
                self._followers = [self._follower(number) for number in range(FOLLOWERS)]
                server = await trio.to_thread.run_sync(self._start_server)
                try:
                    for number, follower in enumerate(self._followers):
                        self._start_following(nursery, number, follower)
                    async with self._writers():
                        server = await self._break_things(postgres, server, say)
                    truth = self._truth()
                    with trio.move_on_after(self._patience):
                        while any(follower.lost(truth) for follower in self._followers):  # noqa: ASYNC110
                            await trio.sleep(0.2)
                    await trio.sleep(0.5)  # for what should not come any more
                finally:
                    self._following.set()  # no thread can be cancelled
                nursery.cancel_scope.cancel()
            server.terminate()
            status = await trio.to_thread.run_sync(server.wait)
            assert status == 0
        return self._report(truth)

    @contextlib.asynccontextmanager
    async def _writers(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for number in range(WRITERS):
                nursery.start_soon(trio.to_thread.run_sync, self._write, random.Random(number))
            try:
                yield
            finally:
                self._writing.set()

    def _prepare(self) -> None:
        migrations.migrate(self._conninfo)
        with psycopg.connect(self._conninfo, autocommit=True) as database:
            if self._by_id:
                database.execute(NUMBER_BY_ID.encode())
            database.execute("INSERT INTO accounts SELECT FROM generate_series(2, %s)", (ACCOUNTS,))
            database.execute("SELECT number_events(100)")

    def _follower(self, number: int) -> Follower:
        with psycopg.connect(self._conninfo) as database:
            ((position,),) = database.execute("SELECT name || '.' || last FROM event_end")
        return Follower(f"follower {number}", number % ACCOUNTS + 1, position)

    def _start_following(self, nursery: trio.Nursery, number: int, follower: Follower) -> None:
        kind = number % 5
        slow = SLOW_SECONDS if kind in (1, 4) else 0.0
        lasts = LASTS if kind >= 3 else None
        if number % WITHOUT_WEBSOCKET == 0:
            nursery.start_soon(self._follow_event_stream, follower, slow, lasts)
        elif kind < 2:
            nursery.start_soon(self._follow_with_our_client, follower, slow)
        else:
            nursery.start_soon(trio.to_thread.run_sync, self._follow_in_thread, follower, slow, lasts)

    async def _follow_with_our_client(self, follower: Follower, pause: float) -> None:
        async with trio_client(self._url) as client:
            topic = ("account", follower.account)
            async for event in client.follow(topic, after=follower.after):
                if isinstance(event, Gap):
                    follower.gaps += 1
                elif event.type.startswith("invoice"):
                    follower.note(event.data["id"], event.data["version"], event.position)
                    await trio.sleep(pause)
        follower.lines += 1

    async def _follow_event_stream(
        self, follower: Follower, pause: float, lasts: tuple[int, int] | None
    ) -> None:
        """Follow by plain HTTP; the arguments are those of `_follow_in_thread`."""
        own = random.Random(follower.name)
        source = EventSource(self._line.port, f"topic=account:{follower.account}", follower.after)
        while True:
            async with contextlib.aclosing(
                source.events(own.randrange(*lasts) if lasts else math.inf)
            ) as line:
                async for kind, data, position in line:
                    follower.gaps += kind == "gap"
                    if kind.startswith("invoice"):
                        assert position == data["position"], "by this it comes back"
                        follower.note(data["data"]["id"], data["data"]["version"], position)
                        await trio.sleep(pause)
            follower.lines = source.lines

    def _follow_in_thread(self, follower: Follower, pause: float, lasts: tuple[int, int] | None) -> None:
        """Follow with another library's client, with the protocol's `resume` and nothing of ours.

        Args:
            follower: What it gets is noted there.
            pause: Seconds at each event.
            lasts: Bounds of how many events a line lasts until it is cut; None: for ever.
        """
        own = random.Random(follower.name)
        while not self._following.is_set():
            with (
                contextlib.suppress(OSError, WebSocketException),
                connect(self._url, max_queue=1, open_timeout=5) as line,
            ):
                topics = [{"type": "account", "id": follower.account}]
                line.send(json.dumps({"action": "resume", "after": follower.after, "topics": topics}))
                reply = json.loads(line.recv(timeout=10))
                if reply["status"] != "success":  # as where the log can't be read just now
                    continue
                follower.lines += 1
                follower.gaps += not reply["data"]["recovered"]
                left = own.randrange(*lasts) if lasts else sys.maxsize
                while left and not self._following.is_set():
                    with contextlib.suppress(TimeoutError):
                        event = json.loads(line.recv(timeout=0.2))
                        if event["type"].startswith("invoice"):
                            invoice = event["data"]
                            follower.note(invoice["id"], invoice["version"], event["position"])
                        left -= 1
                        time.sleep(pause)
                line.socket.close()  # without a word
            time.sleep(0.1)

    def _write(self, own: random.Random) -> None:
        """Write as another program does, in transactions that stay open, fail, and are broken off."""
        while not self._writing.is_set():
            try:
                with psycopg.connect(self._conninfo, connect_timeout=2) as database:
                    while not self._writing.is_set():
                        self._change_something(database, own)
            except psycopg.Error:
                next(self._rolled_back)
                time.sleep(0.1)

    def _change_something(self, database: "psycopg.Connection[tuple[int, ...]]", own: random.Random) -> None:
        changes = own.randrange(1, 6)
        # In one order, or two writers wait for each other's rows.
        for number in sorted(own.sample(range(ACCOUNTS * INVOICES), changes)):
            account, place = divmod(number, INVOICES)
            changed = database.execute(
                "UPDATE invoices SET memo = %s WHERE account_id = %s AND address = %s",
                (str(own.random()), account + 1, f"place{place}"),
            ).rowcount
            if not changed:
                database.execute(
                    "INSERT INTO invoices (account_id, amount, currency, address) VALUES (%s, 1, 'USD', %s)",
                    (account + 1, f"place{place}"),
                )
            time.sleep(own.uniform(0, OPEN_SECONDS / changes))
        if own.random() < 0.2:
            database.rollback()
            next(self._rolled_back)
        else:
            database.commit()

    async def _break_things(
        self, postgres: EmbeddedPostgres, server: "subprocess.Popen[str]", say: Callable[[str], None]
    ) -> "subprocess.Popen[str]":
        """Do each fault after the other, and return the server that runs then."""

        async def kill_server() -> None:
            nonlocal server
            server.kill()
            await trio.to_thread.run_sync(server.wait)
            server = await trio.to_thread.run_sync(self._start_server)

        async def kill_worker() -> None:
            os.kill(_children(server.pid)[0], signal.SIGKILL)

        async def cut_lines() -> None:
            for _ in range(CUTS):
                self._line.cut()
                await trio.sleep(self._pace / CUTS)

        async def terminate_backends() -> None:
            with psycopg.connect(self._conninfo, autocommit=True) as database:
                database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )

        async def stop_postgres() -> None:
            await trio.to_thread.run_sync(postgres.stop)
            await trio.sleep(self._outage)
            await trio.to_thread.run_sync(postgres.start)

        async def crash_postgres() -> None:
            os.kill(
                int((self._folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL
            )
            while not postgres.has_ended():  # noqa: ASYNC110
                await trio.sleep(0.01)
            with trio.fail_after(RESTART_SECONDS):
                while True:
                    try:
                        await trio.to_thread.run_sync(postgres.restart)
                    except StartupError:  # its sessions are still ending, and hold its memory
                        await trio.sleep(0.1)
                    else:
                        break

        faults = (
            kill_server,
            kill_worker,
            cut_lines,
            terminate_backends,
            stop_postgres,
            kill_server,
            kill_worker,
            crash_postgres,
        )
        for fault in faults:
            await trio.sleep(self._pace)
            say(fault.__name__.replace("_", " "))
            await fault()
        await trio.sleep(self._pace)
        return server

    def _start_server(self) -> "subprocess.Popen[str]":
        settings = ["--port", str(self._port), "--workers", "2", "--database-url", self._conninfo]
        return start_process([sys.executable, "-m", "trio_ws", "serve", *settings])

    def _truth(self) -> dict[int, dict[int, int]]:
        """Each account's invoices and their versions."""
        truth: dict[int, dict[int, int]] = {account: {} for account in range(1, ACCOUNTS + 1)}
        with psycopg.connect(self._conninfo) as database:
            for account, invoice, version in database.execute("SELECT account_id, id, version FROM invoices"):
                truth[account][invoice] = version
        return truth

    def _report(self, truth: dict[int, dict[int, int]]) -> Report:
        of_account = {account: sum(versions.values()) for account, versions in truth.items()}
        everyone = self._followers
        return Report(
            committed=sum(of_account.values()),
            expected=sum(of_account[follower.account] for follower in everyone),
            lost=sum(follower.lost(truth) for follower in everyone),
            doubled=sum(follower.doubled() for follower in everyone),
            misordered=sum(follower.misordered() for follower in everyone),
            gaps=sum(follower.gaps for follower in everyone),
            lines=sum(follower.lines for follower in everyone),
            rolled_back=next(self._rolled_back),
        )


def _children(pid: int) -> list[int]:
    """The processes that a process has started; of a server on a database elsewhere, its workers."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in threads for child in path.read_text().split()]


def main() -> None:
    """Run it as a command."""
    options = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    options.add_argument("--pace", type=float, default=6.0, help="seconds between faults")
    options.add_argument("--outage", type=float, default=8.0, help="seconds that PostgreSQL is stopped")
    options.add_argument("--by-id", action="store_true", help="break the numbering, to see it noticed")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), given.pace, given.outage, by_id=given.by_id)
        report = trio.run(chaos.run, lambda fault: print(fault, flush=True))  # noqa: T201
    print(report)  # noqa: T201
    sys.exit(bool(report.lost or report.doubled or report.misordered or report.gaps))


if __name__ == "__main__":
    main()
