"""A private PostgreSQL under a data directory: made on first use, kept between runs, ended with its owner.

One owner at a time: the process that holds the lock on `DATA_DIR/lock` starts and stops the server. The
kernel releases the lock when the owner dies, however it dies, and the guard of `programs.py` stops the server
then.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from psycopg.conninfo import make_conninfo

from trio_ws.database.programs import Programs, release, user_of
from trio_ws.errors import StartupError

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # recovery after a crash replays the WAL first
STOP_SECONDS = 30.0
POLL_SECONDS = 0.01
SOCKET_NAME = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 107 if os.uname().sysname == "Linux" else 103  # sockaddr_un's sun_path, less its NUL

INITDB = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions")
OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",  # trust authentication trusts anybody who gets this far
    "port": "5432",
    # Nobody rotates its log: no checkpoints in it, and no statement that a client got wrong.
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_min_messages": "fatal",
}


class DataDirectoryInUse(StartupError):
    """Another process owns the server of this data directory."""


@contextmanager
def embedded_postgres(
    data_dir: Path, bindir: Path | None = None, options: Mapping[str, str] | None = None
) -> Iterator["EmbeddedPostgres"]:
    """Run PostgreSQL, as its owner. Blocking.

    Args:
        data_dir: Made if it is not there.
        bindir: The folder of PostgreSQL's programs; None: look for it.
        options: Further settings of PostgreSQL.

    Raises:
        DataDirectoryInUse: another process is the owner.
        StartupError: PostgreSQL is not there, or does not start.
    """
    with _sole_owner(data_dir):
        postgres = EmbeddedPostgres(data_dir, bindir, {**OPTIONS, **(options or {})})
        postgres.start(create=True)
        try:
            yield postgres
        finally:
            postgres.stop()


def running_conninfo(data_dir: Path) -> str | None:
    """Return the conninfo of the data directory's server, if it is ready for connections."""
    cluster = data_dir / "postgres"
    pid, state = _postmaster(cluster)
    return conninfo(data_dir) if state == "ready" and _runs_on(pid, cluster) else None


def conninfo(data_dir: Path) -> str:
    """Return how the data directory's server is reached when it runs."""
    return make_conninfo(host=str(_socket_dir(data_dir)), port="5432", user="postgres", dbname="postgres")


def cluster_of(data_dir: Path) -> Path:
    """Return the folder of PostgreSQL's own files."""
    return data_dir / "postgres"


class OtherVersion(NamedTuple):
    """Which major version made a cluster, and which one its programs are of."""

    made_by: str
    found: str

    @property
    def advice(self) -> str:
        """What to do."""
        return f"set TRIO_WS_POSTGRES_BINDIR to the programs of {self.made_by}, or dump and restore"


def other_version(cluster: Path, said: str) -> OtherVersion | None:
    """Return how a cluster and the programs differ; None: they are of one major version.

    Args:
        cluster: The folder, as it was made.
        said: What `postgres --version` says.
    """
    made_by = (cluster / "PG_VERSION").read_text().strip()
    found = re.search(r"\d+", said)
    return OtherVersion(made_by, found[0]) if found and found[0] != made_by else None


class EmbeddedPostgres:
    """The server process.

    Attributes:
        conninfo: How it is reached.
    """

    def __init__(self, data_dir: Path, bindir: Path | None, options: Mapping[str, str]) -> None:
        self.conninfo = conninfo(data_dir)
        self._data_dir = data_dir
        self._cluster = cluster_of(data_dir)
        self._socket_dir = _socket_dir(data_dir)
        self._options = options
        self._programs = Programs(bindir, user_of(self._cluster))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, create: bool = False) -> None:
        """Start it, and wait until it takes connections.

        Args:
            create: Make the database where there is none, which is for a server's own start only: one that
                has gone meanwhile is to be put back, not replaced by an empty one.

        Raises:
            StartupError: it does not.
        """
        try:
            self._end_orphan()
            for begun in self._data_dir.glob("postgres.new-*"):
                shutil.rmtree(begun, ignore_errors=True)  # a first start that was killed
            if not (self._cluster / "PG_VERSION").exists():
                if not create:
                    raise StartupError(f"{self._cluster} is missing: restore it")
                self._create()
            self._check_version()
            self._spawn()
        except OSError as error:
            raise StartupError(f"can't run PostgreSQL in {self._data_dir}: {error}") from None

    def _spawn(self) -> None:
        if self._socket_dir != self._cluster:
            self._programs.own(self._socket_dir)
        sockets = "." if self._socket_dir == self._cluster else str(self._socket_dir)
        options = {**self._options, "unix_socket_directories": sockets}
        stale = _note(self._cluster)
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self._data_dir / "postgres.log").open("ab") as log:
            self._process = self._programs.start("postgres", self._cluster, *arguments, output=log)
        try:
            self._wait_until_ready(self._process, stale)
        except BaseException:
            self.stop()
            raise

    def has_ended(self) -> bool:
        """Return whether it has ended by itself, or by somebody else's hand."""
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """End it, by force if it must be."""
        if self._process is None:
            return
        _end(self._process)
        self._process = None
        if self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)

    def restart(self) -> None:
        """Start it again after it has ended.

        Raises:
            StartupError: it does not start.
        """
        self.stop()
        self.start()

    def _end_orphan(self) -> None:
        """Wait for the server of an owner that was killed: it is being stopped, or is stopped here."""
        pid, _ = _postmaster(self._cluster)
        if not _runs_on(pid, self._cluster):
            return
        logger.info("waiting for the PostgreSQL of a killed trio-ws to stop, process %d", pid)
        deadline = time.monotonic() + STOP_SECONDS
        os.kill(pid, signal.SIGINT)
        while _runs_on(pid, self._cluster):
            if time.monotonic() > deadline:
                raise StartupError(f"the PostgreSQL left by a killed trio-ws, process {pid}, does not stop")
            time.sleep(POLL_SECONDS)

    def _create(self) -> None:
        """Make the database cluster, whole or not at all."""
        begun = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._data_dir))
        begun.rmdir()
        self._programs.own(begun)
        with tempfile.TemporaryFile() as output:
            process = self._programs.start("initdb", begun, *INITDB, output=output.fileno())
            try:
                status = process.wait()
            finally:
                _end(process)  # if a signal said to stop meanwhile
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines() or ["no error message"]
        if status:
            reason = next((line for line in said if "error:" in line), said[-1])
            raise StartupError(
                f"can't make a database in {self._data_dir} ({reason}): fix it, or use --database-url"
            )
        begun.rename(self._cluster)

    def _check_version(self) -> None:
        other = other_version(self._cluster, self._programs.run("postgres", "--version").stdout)
        if other is not None:
            raise StartupError(
                f"{self._cluster} was made by PostgreSQL {other.made_by}, and this is {other.found}:"
                f" {other.advice}"
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes], stale: list[str]) -> None:
        """Wait for its own note: one that was killed may have had the same process id, in a container."""
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if _postmaster(self._cluster) == (process.pid, "ready") and _note(self._cluster) != stale:
                return
            time.sleep(POLL_SECONDS)
        log = self._data_dir / "postgres.log"
        last = (log.read_text(errors="replace").splitlines() or ["no error message"])[-1]
        raise StartupError(f"PostgreSQL does not start ({last}): see {log}")


@contextmanager
def _sole_owner(data_dir: Path) -> Iterator[None]:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("w")
    except OSError as error:
        raise StartupError(f"can't write {data_dir} ({error.strerror}): choose another --data-dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirectoryInUse(
                f"another trio-ws uses {data_dir}: stop it, or choose another --data-dir"
            ) from None
        yield


def _socket_dir(data_dir: Path) -> Path:
    """Return where the server's socket lies: in the cluster, or where libpq could not name that place."""
    cluster = data_dir / "postgres"
    name = os.fsencode(cluster / SOCKET_NAME)
    if len(name) <= LONGEST_SOCKET_PATH and b"," not in name:  # a comma would part two hosts
        return cluster
    return Path("/tmp") / f"trio-ws-{hashlib.sha256(name).hexdigest()[:12]}"  # noqa: S108 - Programs.own it


def _end(process: subprocess.Popen[bytes]) -> None:
    """End one of PostgreSQL's programs, by force if it must be, and then its guard."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, at once
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("PostgreSQL does not stop on %s", number.name)
    release(process)


def _note(cluster: Path) -> list[str]:
    """Return what the server notes of itself, line by line, or the one before it did; [] for nothing."""
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def _postmaster(cluster: Path) -> tuple[int, str]:
    """Return the server's process id and state, as noted; (0, "") where it does not run."""
    try:
        pid, *_, state = _note(cluster)
        return int(pid), state.strip()
    except ValueError:
        return 0, ""


def _runs_on(pid: int, cluster: Path) -> bool:
    """Return whether that process is the cluster's server: the note of one that was killed outlives it."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(cluster)  # PostgreSQL works in its cluster
    except OSError:
        return False
