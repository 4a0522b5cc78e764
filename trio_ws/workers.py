"""Several processes that serve as one: started, watched, restarted, and stopped together.

A worker's stdin is a pipe from its parent, who alone holds the other end. The first line on it is what the
worker is to do, another one like it is what has changed of that, the word `stop` is to stop, draining; and
its end, that the parent has died, however it died: then the worker ends at once, so that nothing is left
behind. Its first line on stdout says that it serves, each further one that it makes progress.
"""

import logging
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import trio

from trio_ws.errors import StartupError

logger = logging.getLogger(__name__)

STOP = b"stop\n"
RESTART_SECONDS = (0.1, 10.0)  # first and longest pause before a worker that has ended is started again
WELL_SECONDS = 10.0  # who lived so long begins with the first pause again
BEAT_SECONDS = 2.0  # pause between the lines of a worker that makes progress
SILENCE_SECONDS = 30.0  # no line for so long: it hangs
START_SECONDS = 60.0  # before the first one, which takes a second: there may be many workers, and few cores
STDIN, STDOUT = 0, 1


class Workers:
    """The workers, seen from their parent.

    Args:
        command: What a worker is; its number is put behind it.
        orders: What it is told, one line.
        shutdown: When it is set, all of them get the word to stop.
        patience_seconds: How long they may take for that; then they are killed.
    """

    def __init__(
        self, command: Sequence[str], orders: bytes, shutdown: trio.Event, patience_seconds: float
    ) -> None:
        self._command = command
        self._orders = orders
        self._shutdown = shutdown
        self._patience_seconds = patience_seconds
        self._living: list[_Line] = []
        self._has_served = False  # any of them

    async def run(self, count: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep so many workers serving until `shutdown` is set and they have stopped.

        It has started once each worker serves, or has failed to. Those that fail are started again.

        Raises:
            StartupError: not one of them serves.
        """
        async with trio.open_nursery() as living:
            async with trio.open_nursery() as starting:
                for number in range(1, count + 1):
                    starting.start_soon(living.start, self._keep, number)
            if not (self._has_served or self._shutdown.is_set()):
                raise StartupError("no worker starts: what they said stands above")
            task_status.started()

    def reload(self, orders: bytes, patience_seconds: float) -> None:
        """Tell all workers, and those that come, what has changed of what they were told."""
        self._orders = orders
        self._patience_seconds = patience_seconds
        for line in self._living:
            line.say(orders + b"\n")

    async def _keep(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep one worker serving, whatever ends it, or keeps it from being started."""
        is_awaited = True
        first, longest = RESTART_SECONDS
        pause = first

        def be_awaited_no_more() -> None:
            nonlocal is_awaited
            if is_awaited:
                task_status.started()
            is_awaited = False

        def say_that_it_serves() -> None:
            self._has_served = True
            be_awaited_no_more()

        while not self._shutdown.is_set():
            began = trio.current_time()
            try:
                ended = f"has ended, status {await self._run_one(number, say_that_it_serves)}"
            except Exception as error:  # noqa: BLE001 - no descriptor, process, memory or thread for it
                ended = f"can't be kept ({_cause(error)})"
            be_awaited_no_more()
            if self._shutdown.is_set():
                break
            if trio.current_time() - began > WELL_SECONDS:
                pause = first
            logger.warning("worker %d %s: starting it again", number, ended)
            with trio.move_on_after(pause * random.uniform(0.5, 1)):  # noqa: S311 - spreads, hides nothing
                await self._shutdown.wait()
            pause = min(2 * pause, longest)
        be_awaited_no_more()

    async def _run_one(self, number: int, say_that_it_serves: Callable[[], None]) -> int:
        """Run a worker to its end, and return its exit status."""
        async with self._process(number) as process, trio.open_nursery() as nursery:
            line = _Line(process)
            line.say(self._orders + b"\n")
            self._living.append(line)
            try:
                nursery.start_soon(line.carry)
                nursery.start_soon(self._stop_in_time, line)
                if await self._hear(process, START_SECONDS):
                    logger.info("worker %d serves, process %d", number, process.pid)
                    say_that_it_serves()
                    while await self._hear(process, SILENCE_SECONDS):
                        pass
                status = await process.wait()
            finally:
                self._living.remove(line)
                nursery.cancel_scope.cancel()
        return status

    @asynccontextmanager
    async def _process(self, number: int) -> AsyncIterator[trio.Process]:
        """Run a worker, which has ended in the end."""
        # In a process group of its own, else Ctrl-C would reach it beside our word to stop.
        process: trio.Process = await trio.lowlevel.open_process(
            [*self._command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
        assert process.stdio  # noqa: S101 - two pipes
        try:
            yield process
        finally:
            process.kill()  # where we were cancelled; else it has ended
            with trio.CancelScope(shield=True):
                await process.stdio.aclose()
                await process.wait()

    async def _hear(self, process: trio.Process, seconds: float) -> bytes | bytearray:
        """Return what a worker says; nothing if it has ended, or was killed since it hangs."""
        assert process.stdout  # noqa: S101 - a pipe
        with trio.move_on_after(seconds):
            return await process.stdout.receive_some()
        logger.warning("worker process %d hangs: killing it", process.pid)
        process.kill()
        return b""

    async def _stop_in_time(self, line: "_Line") -> None:
        await self._shutdown.wait()
        line.say(STOP)
        await trio.sleep(self._patience_seconds)
        logger.warning("worker process %d does not stop: killing it", line.process.pid)
        line.process.kill()


def _cause(error: Exception) -> Exception:
    """Return the first of those that tasks of a nursery have raised."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


class _Line:
    """What a worker is told, one thing after the other: new orders and the word to stop may come at once.

    Args:
        process: The worker's.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        # Signals are few, and nobody need wait until a worker has read of them.
        self._to_carry, self._said = trio.open_memory_channel[bytes](math.inf)

    def say(self, text: bytes) -> None:
        """Have it told."""
        self._to_carry.send_nowait(text)

    async def carry(self) -> None:
        """Tell what is said, until cancelled."""
        assert self.process.stdin  # noqa: S101 - a pipe
        async for text in self._said:
            with suppress(trio.BrokenResourceError):  # it is ending
                await self.process.stdin.send_all(text)


class Heart:
    """Tells the parent, on stdout, that this worker makes progress."""

    def __init__(self) -> None:
        self._next_beat = time.monotonic() + BEAT_SECONDS

    def ready(self) -> None:
        """See `Listening on` printed, which says so."""

    def reloading(self) -> None:
        """Do what the parent told."""

    def stopping(self) -> None:
        """Do what the parent told."""

    def alive(self) -> None:
        """Say so, as often as it is so; most of it is not passed on."""
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            with suppress(OSError):  # a parent that is not there ends us another way
                os.write(STDOUT, b"alive\n")


def read_orders() -> bytes:
    """Return what the parent wants of this worker. Blocking; takes no byte more."""
    with open(STDIN, "rb", buffering=0, closefd=False) as lifeline:
        return lifeline.readline()


async def heed_parent(shutdown: trio.Event, obey: Callable[[bytes], None]) -> None:
    """Do what the parent says, and end this process at once when there is no parent.

    Args:
        shutdown: Set when it says to stop.
        obey: Called with each other line.
    """
    async with trio.lowlevel.FdStream(os.dup(STDIN)) as lifeline:
        text = b""
        while more := await lifeline.receive_some():
            *lines, text = (text + more).split(b"\n")
            for line in lines:
                if line == STOP.strip():
                    shutdown.set()
                else:
                    obey(line)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
