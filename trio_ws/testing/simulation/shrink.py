"""From a scenario that fails to a short one that still does: what is left out did not matter.

Delta debugging: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002.
"""

from collections.abc import Callable

import msgspec

from trio_ws.testing.simulation.scenario import Scenario, Step

MOST_RUNS = 200


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool], most_runs: int = MOST_RUNS) -> Scenario:
    """Return a scenario with as few steps as can be found, that fails.

    Args:
        scenario: One that does.
        fails: Plays one, and tells.
        most_runs: How many are played, at most.
    """
    left = most_runs

    def still_fails(shorter: Scenario) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(shorter)

    scenario = _cut_off(scenario, still_fails)
    size = max(1, len(scenario.steps) // 2)
    while left > 0:
        before = len(scenario.steps)
        scenario = _leave_out(scenario, size, still_fails)
        if size == 1 and len(scenario.steps) == before:
            break
        size = max(1, min(size // 2, len(scenario.steps) // 2))
    return scenario


def _cut_off(scenario: Scenario, fails: Callable[[Scenario], bool]) -> Scenario:
    """Leave out the end, as long as that changes nothing."""
    steps = scenario.steps
    while len(steps) > 1:
        half = steps[: len(steps) // 2]
        if not fails(_with(scenario, half)):
            break
        steps = half
    return _with(scenario, steps)


def _leave_out(scenario: Scenario, size: int, fails: Callable[[Scenario], bool]) -> Scenario:
    """Leave out each so many steps that can be, from the last ones on."""
    steps = scenario.steps
    for start in range((len(steps) - 1) // size * size, -1, -size):
        without = steps[:start] + steps[start + size :]
        if fails(_with(scenario, without)):
            steps = without
    return _with(scenario, steps)


def _with(scenario: Scenario, steps: tuple[Step, ...]) -> Scenario:
    seconds = max((step.at + step.seconds for step in steps), default=0.0)
    return msgspec.structs.replace(scenario, steps=steps, seconds=min(scenario.seconds, seconds))
