"""What `load.c` sends and counts."""

import json
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.programs import build

SOURCE = Path(__file__).with_name("load.c")
PATIENCE_SECONDS = 60


class LoadFailed(Exception):
    """A server did not do what it was to; or the load client itself did not, and said so on stderr."""


def ask(target, messages, *, connections, in_flight, seconds):
    """Keep so many requests unanswered on each connection; return the figures.

    Returns:
        `rate` in replies/s; `cost` in s of the server's CPU for each; `p50` and `p99` from request to reply,
        in s.
    """
    with _load(target, messages, "ask", connections, in_flight, seconds) as (load, _):
        before = target.cpu_seconds()
        told = _told(load)
        busy = target.cpu_seconds() - before
        load.wait(PATIENCE_SECONDS)
    return {"rate": told["replies"] / told["seconds"], "cost": busy / told["replies"], **told}


@contextmanager
def holding(target, messages, *, connections, pushed=1):
    """Hold connections open, each of which has sent a message and had its reply.

    Yields:
        A function that waits until each connection was told so often, and returns the figures: how many
        `messages` that were, of how many `bytes`, and when the last connection had each, in s of the clock.
    """
    with _load(target, messages, "hold", connections, pushed, PATIENCE_SECONDS) as (load, _):

        def wait():
            return _whole(_told(load))

        yield wait
        load.wait(PATIENCE_SECONDS)


def resume(target, messages, *, connections, pushed):
    """Connect, send a message from each connection, all at once, and wait for its reply and what is pushed.

    Returns:
        `connected`: after how many s all were; `seconds` from then on, and `cost` in s of the server's CPU
        for each message.
    """
    with _load(target, messages, "herd", connections, 1 + pushed, PATIENCE_SECONDS) as (load, connected):
        before, begin = target.cpu_seconds(), time.monotonic()
        told = _whole(_told(load))
        cost = (target.cpu_seconds() - before) / told["messages"]
        seconds = time.monotonic() - begin
        load.wait(PATIENCE_SECONDS)
    return {"connected": connected, "seconds": seconds, "cost": cost}


@contextmanager
def idle(target, first, connections):
    """Hold connections open, each of which has sent its first message, had its reply, and sends nothing more.

    Yields:
        The figures of opening them: `seconds` that it took; `cost` in s of the server's CPU for each.
    """
    before = target.cpu_seconds()
    with _load(target, [first], "hold", connections, 1, PATIENCE_SECONDS) as (_, seconds):
        yield {"seconds": seconds, "cost": (target.cpu_seconds() - before) / connections}


@contextmanager
def _load(target, messages, *job):
    """Run it until the block ends, which begins once all are open: yield it, and how long that took, in s."""
    command = [build(SOURCE), str(target.port), *map(str, job)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
        try:
            load.stdin.write("".join(f"{message}\n" for message in messages))
            load.stdin.close()
            yield load, _told(load)["connected"]
        finally:
            load.terminate()


def _whole(told):
    if told["missing"]:
        raise LoadFailed(f"{told['missing']} of {told['missing'] + told['messages']} messages did not come")
    return told


def _told(load):
    line = load.stdout.readline()
    if not line:
        raise LoadFailed("the load client ended early, as it says above")
    told = json.loads(line)
    if told.get("failures"):
        raise LoadFailed(f"{told['failures']} requests failed")
    return told
