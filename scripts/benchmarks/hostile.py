"""What a bystander notices of clients that send the dearest messages there are, as fast as they can.

They go on until they are closed, and connect again: without a token where one is needed, and where none is. A
message may have 64 KiB.
"""

import multiprocessing
import time
from contextlib import suppress

from scripts.benchmarks.target import serving
from tests.hostile import MESSAGES
from tests.raw import TEXT, frame

CLIENTS = 4
SECONDS = 10.0
STATES = {"without a token": "token", "with everything allowed": "open"}
PAUSE_SECONDS = 0.02  # between a bystander's pings, so that it keeps to its own rate
PING = frame(TEXT, b'{"action":"ping"}')


def measure(clients=CLIENTS):
    """Return the line."""
    return f"{clients} clients, {len(MESSAGES)} kinds of messages, a bystander's pings: " + "; ".join(
        f"{state} {_measure(clients, auth)}" for state, auth in STATES.items()
    )


def _measure(clients, auth):
    with serving(auth=auth, authenticate_seconds="none") as target:
        alone = _wait_for_pongs(target, SECONDS / 5)
        context = multiprocessing.get_context("fork")
        attackers = [context.Process(target=_attack, args=(target, number)) for number in range(clients)]
        for attacker in attackers:
            attacker.start()
        time.sleep(0.5)
        busy = target.cpu_seconds()
        beside = _wait_for_pongs(target, SECONDS)
        busy = target.cpu_seconds() - busy
        for attacker in attackers:
            attacker.terminate()
            attacker.join()
    return f"{_told(beside)}, alone {_told(alone)}, the server's core {busy / SECONDS:.0%} busy"


def _wait_for_pongs(target, seconds):
    line = target.connect()
    waits = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.monotonic()
        line.sendall(PING)
        assert b'"pong"' in line.recv(4096)
        waits.append((time.monotonic() - begin) * 1000)
        time.sleep(PAUSE_SECONDS)
    return sorted(waits)


def _attack(target, number):
    frames = [frame(TEXT, text.encode()) for text in MESSAGES.values()]
    place = number * len(frames) // CLIENTS
    while True:
        place = (place + 7) % len(frames)  # each time it begins with others
        line = target.connect()
        line.settimeout(5)
        with suppress(OSError):
            line.sendall(b"".join(frames[place:] + frames[:place]))  # until the server hangs up
        line.close()


def _told(waits):
    median, late = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    return f"p50 {median:.1f} ms, p99 {late:.1f}, max {waits[-1]:.1f}"
