"""PostgreSQLs that follow one another: a primary, its standbys, and what may happen to each.

Each is run as the embedded one is, by the same programs and user, but on a port of loopback, where the others
reach it. Whatever state it is left in, stopped by a signal too, it ends with its `Replicas`.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from tests import clusters
from trio_ws.database import programs

PROGRAMS = ("pg_basebackup", "pg_rewind")
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.02
# Below the ports that Linux gives to clients (net.ipv4.ip_local_port_range): on one of those a client that
# tries again and again to reach a stopped PostgreSQL may be connected to itself, and keep the port.
PORTS = range(20_000, 32_000)
# In its file, where pg_rewind finds them, which starts PostgreSQL by itself to end what was killed.
SETTINGS = """
fsync = off
full_page_writes = on  # this and the next for pg_rewind
wal_log_hints = on
wal_keep_size = 256MB  # whoever was away finds what it missed
wal_retrieve_retry_interval = 100ms  # and comes back at once
shared_buffers = 16MB
"""


def missing_programs() -> list[str]:
    """Return what this machine's PostgreSQL lacks for it."""
    bindir = programs.find()
    return [name for name in PROGRAMS if not os.access(bindir / name, os.X_OK)]


def processes_of(cluster: Path) -> list[int]:
    """Return the processes of the PostgreSQL that runs on a cluster, its first one first."""
    first = int((cluster / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [first, *map(int, children)]


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(POLL_SECONDS)


class Replica:
    """One of them; made by `Replicas`.

    Args:
        name: Its name, for the others and for people.
        data_dir: Where its data is.

    Attributes:
        port: Where it listens.
        conninfo: How it is reached.
    """

    def __init__(self, name: str, data_dir: Path) -> None:
        self.name = name
        self.data_dir = data_dir
        self.cluster = data_dir / "postgres"
        self.port = _free_port()
        self.conninfo = make_conninfo(
            host="127.0.0.1",
            port=str(self.port),
            user="postgres",
            dbname="postgres",
            connect_timeout="5",
            options=f"-c statement_timeout={PATIENCE_SECONDS:.0f}s",  # none waits for a standby for ever
        )
        self._programs = programs.Programs(None, programs.user_of(self.cluster))
        self._process: subprocess.Popen[bytes] | None = None
        self._hung: list[int] = []

    def start(self) -> None:
        """Start it, as what it was: a primary, or a standby."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",  # pg_rewind would copy a socket in the cluster, and fails
            "cluster_name": self.name,  # by which a standby is known to synchronous_standby_names
        }
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.data_dir / "postgres.log").open("ab") as log:
            self._process = self._programs.start("postgres", self.cluster, *arguments, output=log)
        until(self._accepts, f"{self.name} to start: see its postgres.log")

    def _accepts(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            return self.execute("SELECT true") == [(True,)]
        assert self._process
        assert self._process.poll() is None, (self.data_dir / "postgres.log").read_text(errors="replace")
        return False

    def stop(self) -> None:
        """Stop it in good order, as an operator does; its standbys get all that it has."""
        self.wake()
        self._end(signal.SIGINT)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        try:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_SECONDS)
        finally:
            self._process.kill()  # where it did not end
            self._process.wait()
            programs.release(self._process)
            self._process = None

    def kill(self) -> None:
        """Have all of it end at once, as by a power cut.

        It is stopped first. A session that sees its postmaster die ceases to wait for a standby, and others
        would see what it has committed, and what no standby has.
        """
        self.hang()
        killed, self._hung = self._hung, []
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._end(signal.SIGKILL)
        until(lambda: not any(map(_runs, killed)), f"the end of {self.name}")

    def hang(self) -> None:
        """Have all of it stand still, which nobody tells anybody."""
        self._hung = processes_of(self.cluster)
        for pid in self._hung:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Have it go on."""
        for pid in self._hung:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._hung = []

    def promote(self) -> None:
        """Make a standby a primary, on a timeline of its own."""
        assert self.execute("SELECT pg_promote(true, 60)") == [(True,)]

    def hold_back(self) -> None:
        """Have a standby get nothing more of its primary. It stays a standby."""
        self.set("primary_conninfo", "")
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)"
        until(lambda: self.execute(gone) == [(True,)], f"{self.name} to be cut off")

    def rewind(self, source: "Replica") -> None:
        """Make one that was a primary a standby of another, without what only it has; and start it."""
        _run(
            self._programs,
            "pg_rewind",
            self.cluster,
            *("--source-server", source.conninfo, "--write-recovery-conf", "--no-sync"),
        )
        self.start()

    def back_up(self, source: "Replica") -> None:
        """Make it a standby of another, by a base backup; and start it."""
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        self._programs.own(self.cluster)
        _run(
            self._programs,
            "pg_basebackup",
            self.cluster,
            *("--dbname", source.conninfo, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        )
        self.start()

    def copy(self, source: "Replica") -> None:
        """Make it a copy of one that is stopped, as a snapshot of its volume is. It does not run yet."""
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["cp", "-a", source.cluster, self.data_dir], check=True)  # which keeps the owner

    def set(self, name: str, value: str) -> None:
        """Change a setting."""
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Do something there, or query it, as another program."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            done = connection.execute(statement.encode(), values or None)
            return done.fetchall() if done.description else []

    def wait_for(self, standby: "Replica") -> None:
        """Wait until a standby has shown all that is here now."""
        ((end,),) = self.execute("SELECT pg_current_wal_lsn()")
        query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        until(lambda: standby.execute(query, end) == [(True,)], f"{standby.name} to follow {self.name}")

    def demand(self, standby: "Replica") -> None:
        """Have no commit return before a standby has it."""
        self.set("synchronous_standby_names", standby.name)
        state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = %s"
        until(lambda: self.execute(state, standby.name) == [("sync",)], f"{standby.name} to be synchronous")


class Replicas:
    """PostgreSQLs on one machine, which end with the block.

    Args:
        folder: Where their data is to be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> "Replicas":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def primary(self, name: str) -> Replica:
        """Return a new one that runs, with our schema."""
        data_dir = clusters.copy_to(self._folder / name)
        with (data_dir / "postgres" / "postgresql.conf").open("a") as settings:
            settings.write(SETTINGS)
        replica = self._add(name, data_dir)
        replica.start()
        return replica

    def standby(self, name: str, primary: Replica) -> Replica:
        """Return a standby that runs."""
        replica = self.spare(name)
        replica.back_up(primary)
        return replica

    def spare(self, name: str) -> Replica:
        """Return one that has no data yet, and does not run."""
        return self._add(name, self._folder / name)

    def _add(self, name: str, data_dir: Path) -> Replica:
        replica = Replica(name, data_dir)
        self._stack.callback(replica.stop)
        return replica


def url_of(*replicas: Replica) -> str:
    """Return what leads to whichever of them is the primary, the first of them first."""
    return make_conninfo(
        host=",".join("127.0.0.1" for _ in replicas),
        port=",".join(str(replica.port) for replica in replicas),
        user="postgres",
        dbname="postgres",
        target_session_attrs="read-write",
    )


def _run(tools: programs.Programs, name: str, folder: Path, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on a folder, to its end."""
    with tempfile.TemporaryFile() as output:
        process = tools.start(name, folder, *arguments, output=output.fileno())
        try:
            status = process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()  # where it did not end
            process.wait()
            programs.release(process)
        output.seek(0)
        assert status == 0, output.read().decode(errors="replace")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _free_port() -> int:
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", random.choice(PORTS))) as made:
            return int(made.getsockname()[1])
