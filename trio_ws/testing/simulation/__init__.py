"""The simulator: hours of servers, clients and faults in seconds, each run a seed's and the same again.

    outcome = play(imagine(seed=7, hours=2.0))
    assert outcome.violation is None

`trio-ws simulate` plays many. `scenario.py` says what is to happen, `actors.py` does it, `truth.py` knows
what clients must be told, `run.py` brings them together; `chance.py` makes a seed decide all that is random,
`shrink.py` finds the few steps that matter, and `timeline.py` draws them.

How it stays the same: no wall clock (the simulated database's is trio's), no thread, no socket, and no order
that comes of addresses in memory. A new fault is a method of `Actors`, and a row of `FAULT_STEPS`; it says
for how long it excuses delay, and nothing excuses what is lost, doubled or out of order.
"""

from trio_ws.testing.simulation.run import Outcome, play
from trio_ws.testing.simulation.scenario import Scenario, Step, imagine
from trio_ws.testing.simulation.shrink import shrink

__all__ = ["Outcome", "Scenario", "Step", "imagine", "play", "shrink"]
