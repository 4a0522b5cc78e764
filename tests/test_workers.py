"""The parent's part: a worker that dies is started anew, one that does not stop is killed, none is left."""

import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from trio_ws import workers
from trio_ws.errors import StartupError
from trio_ws.workers import Workers

SERVES = "import os, sys; orders = sys.stdin.readline(); print('serves', flush=True); "
NOTES = "open(orders.strip(), 'a').write(f'{os.getpid()}\\n'); "
OBEYS = "sys.stdin.readline()"


def worker(*parts: str) -> list[str]:
    return [sys.executable, "-c", "".join(parts)]


@asynccontextmanager
async def running(command: list[str], orders: Path, count: int = 2) -> AsyncIterator[trio.Event]:
    shutdown = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            crew = Workers(command, str(orders).encode(), shutdown, patience_seconds=0.5)
            await nursery.start(crew.run, count)
            yield shutdown
            shutdown.set()


async def noted(path: Path, count: int) -> list[int]:
    """Wait until so many workers have noted their process ids."""
    lines: list[str] = []
    while len(lines) < count:
        await trio.sleep(0.01)
        with contextlib.suppress(FileNotFoundError):
            lines = (await trio.Path(path).read_text()).splitlines()
    return [int(line) for line in lines]


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_all_workers_are_told_to_stop_and_waited_for(tmp_path: Path) -> None:
    end = "open(orders.strip(), 'a').write('stopped\\n')"
    async with running(worker(SERVES, OBEYS, "; ", end), tmp_path / "note"):
        pass
    assert (tmp_path / "note").read_text() == "stopped\n" * 2


async def test_a_worker_that_dies_is_started_anew_again_and_again(tmp_path: Path) -> None:
    async with running(worker(SERVES, NOTES, "os.kill(os.getpid(), 9)"), tmp_path / "note", count=1):
        assert len(set(await noted(tmp_path / "note", 3))) == 3


async def test_a_worker_that_does_not_stop_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(worker(SERVES, NOTES, "import time; time.sleep(1000)"), tmp_path / "note"):
        pids = await noted(tmp_path / "note", 2)
    assert sorted(f"worker process {pid} does not stop: killing it" for pid in pids) == sorted(
        record.getMessage() for record in caplog.records if "killing" in record.getMessage()
    )
    assert not any(map(runs, pids))


@pytest.mark.parametrize("command", [worker("raise SystemExit(1)"), worker("input(); raise SystemExit(1)")])
async def test_a_worker_that_never_served_ends_them_all(command: list[str], tmp_path: Path) -> None:
    with pytest.RaisesGroup(StartupError, flatten_subgroups=True):
        async with running(command, tmp_path / "note", count=1):
            raise AssertionError("it says that it serves")


async def test_stopping_while_they_start_stops_them(tmp_path: Path) -> None:
    shutdown = trio.Event()
    crew = Workers(worker("import sys; sys.stdin.readline(); ", OBEYS), b"", shutdown, patience_seconds=30)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.run, 2)
            await trio.testing.wait_all_tasks_blocked()
            shutdown.set()


async def test_workers_end_with_a_parent_that_is_cancelled(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with running(worker(SERVES, NOTES, "import time; time.sleep(1000)"), tmp_path / "note"):
            pids = await noted(tmp_path / "note", 2)
            scope.cancel()
    assert not any(map(runs, pids))


async def test_a_worker_that_hangs_is_killed_and_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENCE_SECONDS", 0.05)
    async with running(worker(SERVES, NOTES, "import time; time.sleep(60)"), tmp_path / "note", count=1):
        assert len(set(await noted(tmp_path / "note", 3))) == 3


async def test_workers_hear_of_what_has_changed_and_so_do_those_that_come_later(tmp_path: Path) -> None:
    again = "[open(line.strip(), 'a').write(f'{os.getpid()}\\n') for line in sys.stdin if line != 'stop\\n']"
    shutdown = trio.Event()
    crew = Workers(
        worker(SERVES, NOTES, again), str(tmp_path / "old").encode(), shutdown, patience_seconds=0.5
    )
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(crew.run, 2)
            pids = await noted(tmp_path / "old", 2)
            await crew.reload(str(tmp_path / "new").encode())
            assert sorted(await noted(tmp_path / "new", 2)) == sorted(pids)
            os.kill(pids[0], signal.SIGKILL)
            assert len(await noted(tmp_path / "new", 3)) == 3
            shutdown.set()
