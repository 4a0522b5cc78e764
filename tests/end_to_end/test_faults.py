"""PostgreSQL in trouble is said, sat out, and leaves nothing wrong; `scripts/faults` is the same, longer."""

from pathlib import Path

import pytest

from tests import clusters
from tests.end_to_end.faults import FAULTS, Bench, CannotBeMadeHere


@pytest.mark.parametrize("name", FAULTS)
def test_clients_stay_are_answered_and_miss_nothing(tmp_path: Path, name: str) -> None:
    clusters.copy_to(tmp_path / "data")
    try:
        with Bench(name, tmp_path, seconds=1.5) as bench:
            outcome = bench.suffer()
    except CannotBeMadeHere as error:
        pytest.skip(str(error))
    refusals = set() if FAULTS[name].is_borne else {"unavailable", "timeout"}
    assert set(outcome.answers) <= {"success", *refusals}, outcome
    assert outcome.created > 1, outcome
    assert (outcome.lost, outcome.doubled, outcome.extra) == (0, 0, 0), outcome
