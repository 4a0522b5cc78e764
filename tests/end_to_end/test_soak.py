"""Clients that come and go leave nothing behind; `scripts/soak` is the same for as long as one likes."""

from pathlib import Path

from tests.end_to_end.soak import soak


def test_clients_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    run = soak(tmp_path, seconds=6)
    assert run.troubles == []
    assert run.visits > 50
    assert run.events > 10
    run.draw(tmp_path / "soak.svg")
    assert (tmp_path / "soak.svg").read_text().count("<polyline") == 3
