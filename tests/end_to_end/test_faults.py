"""PostgreSQL in trouble is said, sat out, and leaves nothing wrong; `scripts/faults` is the same, longer."""

from pathlib import Path

import pytest

from tests.end_to_end.faults import FAULTS, Bench


@pytest.mark.parametrize("name", FAULTS)
def test_clients_stay_are_answered_and_miss_nothing(tmp_path: Path, name: str) -> None:
    with Bench(tmp_path, seconds=1.5) as bench:
        outcome = bench.suffer(name, FAULTS[name])
    assert set(outcome.answers) <= {"success", "unavailable", "timeout"}, outcome
    assert outcome.created > 1, outcome
    assert (outcome.lost, outcome.doubled, outcome.extra) == (0, 0, 0), outcome
