"""The private PostgreSQL: kept between runs, one owner at a time, never left behind."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests import clusters
from trio_ws.database import embedded, programs
from trio_ws.database.embedded import DataDirectoryInUse, conninfo, embedded_postgres, running_conninfo
from trio_ws.errors import StartupError

OPTIONS = {"fsync": "off"}
PATIENCE_SECONDS = 30

OWNER = """
import sys
from pathlib import Path
from trio_ws.database.embedded import embedded_postgres
with embedded_postgres(Path(sys.argv[1]), options={"fsync": "off"}) as postgres:
    print(postgres.conninfo, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory as an earlier start has left it."""
    return clusters.copy_to(tmp_path / "data")


@contextmanager
def owner(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the server, and is killed if it must be."""
    command = [sys.executable, "-c", OWNER, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline().startswith("host=")
            yield process
        finally:
            process.kill()


def processes_of(data_dir: Path) -> list[int]:
    """The processes whose PostgreSQL data directory that is, or whose parent's is."""
    cluster = (data_dir / "postgres").stat()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                inside = (entry / "cwd").stat()
            except OSError:
                continue
            if (inside.st_dev, inside.st_ino) == (cluster.st_dev, cluster.st_ino):
                found.append(int(entry.name))
    return found


def wait_until_gone(data_dir: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while processes_of(data_dir) or running_conninfo(data_dir):
        assert time.monotonic() < deadline, "PostgreSQL was left behind"
        time.sleep(0.02)


def execute(conninfo: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_data_is_kept_between_runs(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path / "data", options=OPTIONS) as first:
        execute(first.conninfo, "CREATE TABLE kept AS SELECT 1 AS x")
        assert processes_of(tmp_path / "data")
    assert not processes_of(tmp_path / "data")
    with embedded_postgres(tmp_path / "data", options=OPTIONS) as second:
        assert execute(second.conninfo, "SELECT x FROM kept") == [(1,)]


def test_it_can_be_reached_by_others_while_it_runs(data_dir: Path) -> None:
    assert running_conninfo(data_dir) is None
    with embedded_postgres(data_dir, options=OPTIONS) as running:
        assert running_conninfo(data_dir) == conninfo(data_dir) == running.conninfo
    assert running_conninfo(data_dir) is None


def test_a_second_owner_is_refused_and_the_first_unharmed(data_dir: Path) -> None:
    with embedded_postgres(data_dir, options=OPTIONS) as first:
        with (
            pytest.raises(DataDirectoryInUse, match=r"another trio-ws uses .*: stop it, or choose another"),
            embedded_postgres(data_dir),
        ):
            pass
        assert execute(first.conninfo, "SELECT 1") == [(1,)]


def test_a_killed_owner_leaves_no_process_behind_and_no_data_lost(data_dir: Path) -> None:
    with owner(data_dir) as process:
        execute(conninfo(data_dir), "CREATE TABLE kept AS SELECT 1 AS x")
        process.kill()
        process.wait()
        wait_until_gone(data_dir)
    with embedded_postgres(data_dir, options=OPTIONS) as again:
        assert execute(again.conninfo, "SELECT x FROM kept") == [(1,)]


def test_the_next_owner_need_not_wait_for_a_killed_ones_server(data_dir: Path) -> None:
    with owner(data_dir) as process:
        process.kill()
        process.wait()
        with embedded_postgres(data_dir, options=OPTIONS) as again:
            assert execute(again.conninfo, "SELECT 1") == [(1,)]


def test_a_server_whose_owner_and_guard_were_killed_is_replaced(data_dir: Path) -> None:
    with owner(data_dir) as process:
        server = int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        for guard in session_of(server) - set(processes_of(data_dir)):
            os.kill(guard, signal.SIGKILL)
        process.kill()
        process.wait()
        time.sleep(0.2)  # in which a guard that lived would have ended it
        assert running_conninfo(data_dir)
        with embedded_postgres(data_dir, options=OPTIONS) as again:
            assert execute(again.conninfo, "SELECT 1") == [(1,)]
    wait_until_gone(data_dir)


def session_of(leader: int) -> set[int]:
    """The processes of a session: the sixth field of /proc/PID/stat, after the name in brackets."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader:
                found.add(int(entry.name))
    return found


def test_the_note_of_a_killed_server_harms_no_process_that_has_its_number_now(data_dir: Path) -> None:
    with embedded_postgres(data_dir, options=OPTIONS):
        note = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    with subprocess.Popen(["/bin/sh", "-c", "exec sleep 60", "postgres"]) as innocent:
        (data_dir / "postgres" / "postmaster.pid").write_text("\n".join([str(innocent.pid), *note[1:]]))
        assert running_conninfo(data_dir) is None
        with embedded_postgres(data_dir, options=OPTIONS) as again:
            assert execute(again.conninfo, "SELECT 1") == [(1,)]
        assert innocent.poll() is None
        innocent.kill()


def test_a_server_that_ended_can_be_started_anew(data_dir: Path) -> None:
    with embedded_postgres(data_dir, options=OPTIONS) as running:
        assert not running.has_ended()
        os.kill(int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not running.has_ended():
            assert time.monotonic() < deadline
        running.restart()
        assert execute(running.conninfo, "SELECT 1") == [(1,)]


def test_a_stale_note_with_the_same_number_is_not_taken_for_readiness(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, each run's processes may have the numbers that the last one's had."""
    with embedded_postgres(data_dir, options=OPTIONS):
        kept = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    read, reads = embedded._note, itertools.count()  # noqa: SLF001

    def note(cluster: Path) -> list[str]:
        """What the killed one left, for a while; then the truth."""
        return kept if next(reads) < 10 else read(cluster)

    monkeypatch.setattr(embedded, "_note", note)
    monkeypatch.setattr(embedded, "_runs_on", lambda pid, cluster: False)
    popen = programs.Programs.start

    def start(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        process = popen(*args, **kwargs)
        kept[0] = str(process.pid)
        return process

    monkeypatch.setattr(programs.Programs, "start", start)
    with embedded_postgres(data_dir, options=OPTIONS) as again:
        assert next(reads) > 10
        assert execute(again.conninfo, "SELECT 1") == [(1,)]


def test_a_restart_that_fails_can_be_tried_again(data_dir: Path) -> None:
    with embedded_postgres(data_dir, options=OPTIONS) as running:
        os.kill(int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        log = data_dir / "postgres.log"
        log.unlink()
        log.mkdir()
        with pytest.raises(StartupError, match="can't run PostgreSQL"):
            running.restart()
        assert running.has_ended()
        log.rmdir()
        running.restart()
        assert execute(running.conninfo, "SELECT 1") == [(1,)]


def test_a_restart_makes_no_new_database_in_the_place_of_one_that_has_gone(data_dir: Path) -> None:
    with embedded_postgres(data_dir, options=OPTIONS) as running:
        running.stop()
        (data_dir / "postgres").rename(data_dir / "away")
        with pytest.raises(StartupError, match="is missing: restore it"):
            running.restart()
        assert not (data_dir / "postgres").exists()
        (data_dir / "away").rename(data_dir / "postgres")
        running.restart()
        assert execute(running.conninfo, "SELECT 1") == [(1,)]


def test_a_guard_stays_no_longer_than_its_server(data_dir: Path) -> None:
    with embedded_postgres(data_dir, options=OPTIONS):
        server = int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        assert session_of(server) - set(processes_of(data_dir))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while session_of(server):
        assert time.monotonic() < deadline


def test_a_first_start_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not list(tmp_path.glob("postgres.new-*/PG_VERSION")):
            assert time.monotonic() < deadline
        process.kill()
    with embedded_postgres(tmp_path, options=OPTIONS) as running:
        assert execute(running.conninfo, "SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("bindir", "complaint"), [("/nowhere", "no PostgreSQL in /nowhere: check TRIO_WS_POSTGRES_BINDIR")]
)
def test_programs_that_are_not_there_are_said(tmp_path: Path, bindir: str, complaint: str) -> None:
    with pytest.raises(StartupError, match=complaint), embedded_postgres(tmp_path, Path(bindir)):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else's")
def test_a_squatter_on_the_sockets_folder_is_refused(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    with embedded_postgres(long, options=OPTIONS) as running:
        sockets = Path(str(conninfo_to_dict(running.conninfo)["host"]))
    sockets.mkdir(mode=0o700)
    os.chown(sockets, 12345, 12345)
    try:
        with pytest.raises(StartupError, match="is not ours alone"), embedded_postgres(long):
            pass
    finally:
        sockets.rmdir()


def test_a_server_that_was_killed_itself_recovers(data_dir: Path) -> None:
    with embedded_postgres(data_dir, options=OPTIONS) as running:
        execute(running.conninfo, "CREATE TABLE kept AS SELECT 1 AS x")
        pid = int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
    with embedded_postgres(data_dir, options=OPTIONS) as again:
        assert execute(again.conninfo, "SELECT x FROM kept") == [(1,)]


def test_a_first_start_that_was_killed_begins_again(tmp_path: Path) -> None:
    (tmp_path / "postgres.new-1").mkdir()
    (tmp_path / "postgres.new-1" / "PG_VERSION").write_text("half")
    with embedded_postgres(tmp_path, options=OPTIONS) as running:
        assert execute(running.conninfo, "SELECT 1") == [(1,)]
    assert not list(tmp_path.glob("postgres.new*"))


@pytest.mark.parametrize("name", ["with space", "quo'te", 'quo"te', "comma,", "ünï", "x" * 120])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    with embedded_postgres(tmp_path / name, options=OPTIONS) as running:
        assert execute(running.conninfo, "SELECT 1") == [(1,)]


def test_a_folder_that_nobody_else_may_enter_will_do(tmp_path: Path) -> None:
    """Where we are root, PostgreSQL runs as somebody who can't."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with embedded_postgres(private / "data", options=OPTIONS) as running:
        assert execute(running.conninfo, "SELECT 1") == [(1,)]
    assert private.stat().st_mode & 0o777 == 0o700


def test_programs_that_can_t_be_copied_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(programs, "CACHE", tmp_path / "file" / "cache")
    monkeypatch.setattr(programs.Programs, "_can_run", lambda *_: False)
    with pytest.raises(StartupError, match=r"can't copy PostgreSQL from .*: .*Not a directory"):
        programs.Programs(None, programs.User(1, 1))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a copy of programs in its own folders")
def test_programs_that_nobody_else_may_reach_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = programs.find().parent
    package = tmp_path / "private" / original.parent.name
    shutil.copytree(original, package / original.name, symlinks=True)
    libraries = original.parent.with_name(f"{original.parent.name}.libs")
    shutil.copytree(libraries, package.with_name(libraries.name), symlinks=True)
    (tmp_path / "private").chmod(0o700)
    with tempfile.TemporaryDirectory() as reachable:
        Path(reachable).chmod(0o755)
        monkeypatch.setattr(programs, "CACHE", Path(reachable) / "cache")
        for _ in range(2):
            with embedded_postgres(tmp_path / "data", package / original.name / "bin", OPTIONS) as running:
                assert execute(running.conninfo, "SELECT 1") == [(1,)]
        assert len(list((Path(reachable) / "cache").iterdir())) == 1


def test_data_of_another_postgresql_is_refused(data_dir: Path) -> None:
    with embedded_postgres(data_dir, options=OPTIONS):
        pass
    (data_dir / "postgres" / "PG_VERSION").write_text("12\n")
    with (
        pytest.raises(StartupError, match="was made by PostgreSQL 12, and this is"),
        embedded_postgres(data_dir),
    ):
        pass


def test_a_postgresql_that_does_not_start_says_why(data_dir: Path) -> None:
    with (
        pytest.raises(StartupError, match=r"does not start \(.*nonsense.*\): see .*postgres\.log"),
        embedded_postgres(data_dir, options={"nonsense": "1"}),
    ):
        pass
    assert not processes_of(data_dir)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StartupError, match=r"can't write .*: choose another --data-dir"),
        embedded_postgres(tmp_path / "file" / "data"),
    ):
        pass
