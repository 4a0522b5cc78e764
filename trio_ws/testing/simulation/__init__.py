"""The simulator: hours of servers, clients and faults in seconds, each run a seed's and the same again.

    outcome = play(imagine(seed=7, hours=2.0))
    assert outcome.violation is None

`trio-ws simulate` plays many. `scenario.py` says what is to happen, `actors.py` does it, `client.py` is who
asks and follows, `truth.py` knows what clients must be told, `run.py` brings them together; `chance.py`
makes a seed decide all that is random, `shrink.py` finds the few steps that matter, and `timeline.py` draws
them.

**How it stays the same.** No wall clock (the simulated database's is trio's), no thread, no socket, and no
order that comes of addresses in memory: dictionaries stand in for ordered sets. Whoever needs chance has a
`Random` of the seed and a name, so that a step that is left out changes nothing for the others.

**How to read a trace.** A line is a moment in seconds, who acts, and what. Without a name it is a step of
the scenario, with its number, its value, and how long it lasts; `client 7 asks …` and `is answered …` are a
request and its reply, `is told …` an event with its position, `has a line` and `has no line` what they say.
Begin at the end, where the violation is, and look for the last fault before it that bears that client's
number or none.

**How to write a fault.** A method of `Actors`, and a row of `FAULT_STEPS` that says how often it comes. It
takes the step, which says for how long, and undoes at the end what it has done; it says whom it troubles,
and so for how long lateness is excused. Nothing excuses what is lost, doubled, out of order or not asked
for.
"""

from trio_ws.testing.simulation.run import Outcome, play
from trio_ws.testing.simulation.scenario import Scenario, Step, imagine
from trio_ws.testing.simulation.shrink import shrink

__all__ = ["Outcome", "Scenario", "Step", "imagine", "play", "shrink"]
