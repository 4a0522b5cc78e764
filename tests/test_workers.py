"""The parent's part: a worker that dies is started again, one that does not stop is killed, none is left."""

import contextlib
import itertools
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_one_way_pair, wait_all_tasks_blocked

from trio_ws import workers
from trio_ws.errors import StartupError
from trio_ws.workers import Heart, Workers, heed_parent

SERVES = "import os, sys; orders = sys.stdin.readline(); print('serves', flush=True); "
NOTES = "open(orders.strip(), 'a').write(f'{os.getpid()}\\n'); "
OBEYS = "sys.stdin.readline()"


def worker(*parts: str) -> list[str]:
    return [sys.executable, "-c", "".join(parts)]


@asynccontextmanager
async def running(
    command: list[str], orders: Path, count: int = 2, patience_seconds: float = 0.5
) -> AsyncIterator[trio.Event]:
    shutdown = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            crew = Workers(command, str(orders).encode(), shutdown, patience_seconds)
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
    end = "import time; time.sleep(0.1); open(orders.strip(), 'a').write('stopped\\n')"
    async with running(worker(SERVES, OBEYS, "; ", end), tmp_path / "note", patience_seconds=30):
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


async def test_a_worker_that_hangs_before_it_serves_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first serves and ends, the next two sleep before they serve, and the fourth serves."""
    hangs = "1 < len(open(orders.strip()).readlines()) < 4 and __import__('time').sleep(60)\n"
    command = worker("import os, sys; orders = sys.stdin.readline(); ", NOTES, hangs, "print('serves'); ")
    monkeypatch.setattr(workers, "START_SECONDS", 1.0)
    async with running(command, tmp_path / "note", count=1):
        assert len(set(await noted(tmp_path / "note", 4))) >= 4


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
            crew.reload(str(tmp_path / "new").encode(), 0.5)
            assert sorted(await noted(tmp_path / "new", 2)) == sorted(pids)
            os.kill(pids[0], signal.SIGKILL)
            _, _, another = await noted(tmp_path / "new", 3)
            crew.reload(str(tmp_path / "newer").encode(), 0.5)
            assert sorted(await noted(tmp_path / "newer", 2)) == sorted([pids[1], another])
            shutdown.set()


async def test_a_worker_that_does_not_listen_keeps_the_others_from_nothing(tmp_path: Path) -> None:
    shutdown = trio.Event()
    deaf = worker(SERVES, "os.close(0); ", NOTES, "import time; time.sleep(1000)")
    crew = Workers(deaf, str(tmp_path / "note").encode(), shutdown, patience_seconds=1000)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(crew.run, 2)
            await noted(tmp_path / "note", 2)
            crew.reload(b"new", patience_seconds=0.1)
            shutdown.set()


async def test_new_orders_and_the_word_to_stop_may_come_at_once(tmp_path: Path) -> None:
    """As where SIGTERM follows SIGHUP at once: all of it reaches each worker, in order."""
    hears = "[open(orders.strip(), 'a').write(line) for line in sys.stdin]"
    for _ in range(5):
        note = tmp_path / "note"
        note.unlink(missing_ok=True)
        shutdown = trio.Event()
        crew = Workers(worker(SERVES, hears), str(note).encode(), shutdown, patience_seconds=0.5)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(crew.run, 1)
                crew.reload(b"x" * 100_000, 0.5)
                crew.reload(b"new", 0.5)
                shutdown.set()
        assert note.read_text() == "x" * 100_000 + "\nnew\nstop\n"


@pytest.mark.parametrize(
    "error",
    [OSError(24, "Too many open files"), OSError(11, "try again"), RuntimeError("can't start new thread")],
)
@pytest.mark.parametrize("target", ["trio.lowlevel.open_process", "trio.Process.wait"])
async def test_a_worker_that_cannot_be_started_again_or_watched_costs_the_others_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    target: str,
    error: Exception,
) -> None:
    """Without a descriptor for it, trio waits for a process in a thread, which there may not be either."""
    tried_twice = trio.Event()
    tries = itertools.count(1)

    async def fail(*_: object, **__: object) -> None:
        if next(tries) == 2:
            tried_twice.set()
        raise error

    async with running(worker(SERVES, NOTES, OBEYS), tmp_path / "note"):
        first, second = await noted(tmp_path / "note", 2)
        with monkeypatch.context() as patch:
            patch.setattr(target, fail)
            os.kill(first, signal.SIGKILL)
            await tried_twice.wait()
            assert runs(second)
        await noted(tmp_path / "note", 3)
    assert f"can't be kept ({error}): starting it again" in caplog.text


async def test_some_workers_that_fail_to_start_keep_none_of_the_others_from_serving(tmp_path: Path) -> None:
    """As where PostgreSQL has no session left for them."""
    fails = "sys.argv[1] == '1' and sys.exit(1)\n"
    command = worker(
        "import os, sys; orders = sys.stdin.readline()\n",
        fails,
        "print('serves', flush=True); ",
        NOTES,
        OBEYS,
    )
    async with running(command, tmp_path / "note", count=3):
        await noted(tmp_path / "note", 2)


async def test_ctrl_c_reaches_the_parent_alone(tmp_path: Path) -> None:
    async with running(worker(SERVES, NOTES, OBEYS), tmp_path / "note"):
        for pid in await noted(tmp_path / "note", 2):
            assert os.getpgid(pid) == pid


# How long it waits before it starts one anew


class Mortals(Workers):
    """Workers that are no processes: each lives for as long as it is told to, and the last until the end."""

    def __init__(self, lives: Sequence[float], shutdown: trio.Event) -> None:
        super().__init__([], b"", shutdown, patience_seconds=1)
        self.lives = list(lives)
        self.ends = [0.0]
        self.pauses: list[float] = []

    async def _run_one(self, _: int, say_that_it_serves: Callable[[], None]) -> int:
        self.pauses.append(trio.current_time() - self.ends[-1])
        say_that_it_serves()
        if self.lives:
            await trio.sleep(self.lives.pop(0))
        else:
            await self._shutdown.wait()
        self.ends.append(trio.current_time())
        return 1


async def pauses_after(*lives: float) -> list[float]:
    shutdown = trio.Event()
    crew = Mortals(lives, shutdown)
    async with trio.open_nursery() as nursery:
        await nursery.start(crew.run, 1)
        await trio.sleep(10_000)
        shutdown.set()
    return crew.pauses[1:]


async def test_who_dies_again_and_again_is_started_at_longer_and_longer_intervals(
    autojump_clock: MockClock,
) -> None:
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, *[10.0] * 93]
    pauses = await pauses_after(*[9.9] * 100)
    assert all(bound / 2 - 1e-6 <= pause <= bound + 1e-6 for pause, bound in zip(pauses, bounds, strict=True))
    assert max(pauses[7:]) - min(pauses[7:]) > 2, "spread, or all of them come in the same moment"


async def test_who_lived_well_for_a_while_is_started_at_once_again(autojump_clock: MockClock) -> None:
    pauses = await pauses_after(*[0.0] * 6, 10.1, 0.0)
    assert pauses[5] >= 1.6
    assert pauses[6] <= 0.1
    assert 0.1 <= pauses[7] <= 0.2


async def test_who_is_to_be_started_anew_is_not_when_all_are_to_stop(autojump_clock: MockClock) -> None:
    shutdown = trio.Event()
    crew = Mortals([0.0] * 1000, shutdown)
    async with trio.open_nursery() as nursery:
        await nursery.start(crew.run, 1)
        await trio.sleep(1000)
        born = len(crew.pauses)
        shutdown.set()
        stopping = trio.current_time()
    assert trio.current_time() == stopping
    assert len(crew.pauses) == born


# A sign of life, and what it is a sign of


class Quiet:
    """A worker's process that says what it is told to."""

    pid = 1

    def __init__(self) -> None:
        self.says, self.stdout = memory_stream_one_way_pair()
        self.killed_at = math.inf

    def kill(self) -> None:
        self.killed_at = trio.current_time()
        self.says.close()


class Listening(Workers):
    """Workers that are no processes, of which one is listened to."""

    def __init__(self, process: Any) -> None:
        super().__init__([], b"", trio.Event(), 1)
        self.process = process

    async def listen(self) -> None:
        while await self._hear(self.process, workers.SILENCE_SECONDS):
            pass


async def test_a_worker_hangs_when_it_has_made_no_progress_for_long_not_when_it_is_old(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    process = Quiet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Listening(process).listen)
        for _ in range(100):
            await trio.sleep(workers.SILENCE_SECONDS - 1)
            await process.says.send_all(b"alive\n")
        last = trio.current_time()
    assert process.killed_at == last + workers.SILENCE_SECONDS
    assert "worker process 1 hangs: killing it" in caplog.text


async def test_a_worker_says_so_now_and_then_however_often_it_makes_progress(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: now))
    heart = Heart()
    for tick in range(1, 200):
        now = tick / 10
        heart.alive()
    assert capfd.readouterr().out == "alive\n" * 9


async def test_what_the_parent_says_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(workers, "STDIN", reading)
    shutdown = trio.Event()
    heard: list[bytes] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed_parent, shutdown, heard.append)
            for piece in (b"or", b"ders\nother ", b"orders\nst", b"op\n"):
                assert not shutdown.is_set()
                os.write(writing, piece)
                await wait_all_tasks_blocked()
            await shutdown.wait()
            nursery.cancel_scope.cancel()  # before the pipe's end, which would be that of this process
    os.close(reading)
    os.close(writing)
    assert heard == [b"orders", b"other orders"]
