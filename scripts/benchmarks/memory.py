"""What an idle connection takes of the server's memory."""

import time
from functools import partial

from scripts.benchmarks import load, peers
from scripts.benchmarks.contest import OURS, Case, Contest, Goal, present
from scripts.benchmarks.target import serving

CONNECTIONS = 5000
SETTLING_SECONDS = 1.0
EACH = "an idle connection"


def contest(connections, wanted, *, quick):
    """Return it."""
    connections = connections or (CONNECTIONS // 10 if quick else CONNECTIONS)
    names, absent = present(
        [name for name in wanted if name != "bare C"]
    )  # its buffers are a matter of taste
    return Contest(
        f"memory: {connections:,} connections",
        {EACH: Case("KB resident", "less", {OURS: Goal("≤", 20)})},
        {OURS: partial(_measure, serving, connections)}
        | {name: partial(_measure, partial(peers.running, name), connections) for name in names},
        absent,
    )


def _measure(run, connections):
    with run() as target:
        before = target.resident_bytes()
        with load.idle(target, connections):
            time.sleep(SETTLING_SECONDS)
            return {EACH: (target.resident_bytes() - before) / connections / 1000}
