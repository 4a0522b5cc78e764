"""The checkout's own `.venv`: made on first use, brought up to date when the pins change.

Standard library only, so that a fresh machine needs nothing but Python and pip (or uv). Each script
names the lock it runs from; each of `LOCKS` holds all that the one before it does, in the same versions.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = ("serve.lock", "test.lock", "bench.lock")


def enter(lock_name):
    """Make `.venv` hold what `scripts/LOCK_NAME` pins, and this checkout; return its `bin` folder."""
    if sys.version_info < (3, 11):  # noqa: UP036 - asked before anything that needs it
        sys.exit(f"trio-ws needs Python 3.11 or later, and this is {sys.version.split()[0]}")
    try:
        VENV.mkdir(exist_ok=True)
        lock = (VENV / ".lock").open("w")
    except OSError as error:
        sys.exit(f"trio-ws can't write {VENV} ({error.strerror}): use a checkout of your own")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first uses at once: the second finds it done
        if not _is_up_to_date(lock_name):
            _install(lock_name)
    return PYTHON.parent


def _is_up_to_date(lock_name):
    # A later lock's contents will do, so that serving never takes the test tools away.
    names = LOCKS[LOCKS.index(lock_name) :]
    return _stamp().exists() and _stamp().read_text() in {_fingerprint(name) for name in names}


def _stamp():
    return VENV / ".installed"


def _fingerprint(lock_name):
    """Everything that a changed installation would have to follow."""
    parts = [lock_name, sys.version, sysconfig.get_platform(), str(PROJECT)]
    parts += [(PROJECT / name).read_text() for name in ("pyproject.toml", f"scripts/{lock_name}")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _install(lock_name):
    print(f"Installing what scripts/{lock_name} pins into {VENV} …", file=sys.stderr, flush=True)
    _stamp().unlink(missing_ok=True)
    if not _runs_this_python():
        _make_venv()
    install = _installer()
    lock = PROJECT / "scripts" / lock_name
    for arguments in (
        ["--require-hashes", "-r", str(lock)],
        # The build backend is in the lock too, so nothing is fetched unpinned.
        ["--no-deps", "--no-build-isolation", "-e", str(PROJECT)],
    ):
        done = subprocess.run([*install, *arguments], check=False)
        if done.returncode:
            sys.exit(f"installing failed (exit {done.returncode}); what it said stands above")
    _stamp().write_text(_fingerprint(lock_name))


def _runs_this_python():
    config = VENV / "pyvenv.cfg"
    if not (PYTHON.exists() and config.exists()):
        return False
    asked = [str(PYTHON), "-c", "import sys; print(sys.version)"]
    answer = subprocess.run(asked, check=False, capture_output=True, text=True)
    return answer.stdout.strip() == sys.version


def _make_venv():
    for old in VENV.iterdir():
        if old.name != ".lock":
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    try:
        import venv  # noqa: PLC0415 - some distributions leave it out
    except ImportError:
        sys.exit("trio-ws needs Python's venv module: apt install python3-venv, or the like")
    # Without pip: it needs ensurepip, which Debian keeps in python3-venv, and a minute nobody misses.
    venv.create(VENV, symlinks=True, with_pip=False)


def _installer():
    """The command that installs into `.venv`: uv, this Python's pip, or a pip of the venv's own."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", str(PYTHON)]
    options = ["install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location"]
    if _succeeds(sys.executable, "-m", "pip", "--python", str(PYTHON), "--version"):
        return [sys.executable, "-m", "pip", "--python", str(PYTHON), *options]
    if _succeeds(str(PYTHON), "-m", "ensurepip"):
        return [str(PYTHON), "-m", "pip", *options]
    sys.exit("trio-ws needs pip (22.3 or later) or uv to install: apt install python3-pip, or the like")


def _succeeds(*command):
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def become(*command):
    """Replace this process, so that signals and the exit status are the command's own."""
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted
