"""scripts/bench still runs: its measurements lean on what the server and its database look like."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import slow


@slow
@pytest.mark.skipif(not shutil.which("cc"), reason="scripts/bench needs a C compiler, and there is no cc")
def test_a_short_round_measures_ours_and_another(checkout: Path, tmp_path: Path) -> None:
    told, chart = tmp_path / "told.json", tmp_path / "chart.svg"
    bench = [sys.executable, "-m", "scripts.benchmarks", "--quick", "--against", "bare C"]
    subprocess.run(
        [*bench, "fanout=20", "requests=4", "--json", told, "--chart", chart],
        cwd=checkout,
        check=True,
        timeout=100,
    )
    contests = json.loads(told.read_text())["contests"]
    assert set(contests) == {"fanout", "requests"}
    for contest in contests.values():
        for case in contest["cases"].values():
            assert set(case["contenders"]) == {"ours", "bare C"}
            assert all(figures["median"] > 0 for figures in case["contenders"].values())
    assert "bare C" in chart.read_text()
