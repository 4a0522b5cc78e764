"""Clients that connect, subscribe and stay idle: what a handshake costs, and how much memory each then takes.

Many connect at a time, so that the server is never idle meanwhile. A client is connected when it has the
reply to its first message. Ours notes what it follows; a peer sends the text back.
"""

import time
from functools import partial

from scripts.benchmarks import load, peers
from scripts.benchmarks.contest import OURS, Case, Contest, Goal, present
from scripts.benchmarks.requests import REQUESTS
from scripts.benchmarks.target import serving

CONNECTIONS = 5000
SETTLING_SECONDS = 1.0
OPEN, RATE, COST = "all connect and subscribe", "handshakes", "a handshake and a first reply"
EACH = "an idle connection"


def contest(connections, wanted, *, quick):
    """Return it."""
    connections = connections or (CONNECTIONS // 10 if quick else CONNECTIONS)
    # How large bare C's buffers are is a matter of taste.
    names, absent = present([name for name in wanted if name != "bare C"])
    return Contest(
        f"connections: {connections:,}",
        {
            OPEN: Case("s", "less", {OURS: Goal("≤", 2.0)} if connections == CONNECTIONS else {}),
            RATE: Case("a second", "more"),
            COST: Case("µs of CPU", "less"),
            EACH: Case("KB resident", "less", {OURS: Goal("≤", 16)}),
        },
        {OURS: partial(_measure, serving, connections)}
        | {name: partial(_measure, partial(peers.running, name), connections) for name in names},
        absent,
    )


def _measure(run, connections):
    with run() as target:
        before = target.resident_bytes()
        with load.idle(target, REQUESTS["subscribe"], connections) as opened:
            time.sleep(SETTLING_SECONDS)
            resident = target.resident_bytes() - before
    return {
        OPEN: opened["seconds"],
        RATE: connections / opened["seconds"],
        COST: opened["cost"] * 1e6,
        EACH: resident / connections / 1000,
    }
