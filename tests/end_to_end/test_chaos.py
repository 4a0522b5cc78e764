"""Nothing is lost, doubled or out of order, whatever dies; `scripts/chaos` is the same at length."""

from pathlib import Path

from tests import clusters
from tests.end_to_end.chaos import Chaos
from tests.requirements import slow


async def test_every_change_reaches_each_follower_once_and_in_order_through_all_faults(
    tmp_path: Path,
) -> None:
    report = await Chaos(clusters.copy_to(tmp_path), pace=1.0, outage=1.0).run(print)
    assert (report.lost, report.doubled, report.misordered, report.gaps) == (0, 0, 0, 0), report
    assert report.expected > 1000, report


@slow
async def test_it_would_notice_events_read_by_id(tmp_path: Path) -> None:
    report = await Chaos(clusters.copy_to(tmp_path), pace=0.5, outage=0.1, by_id=True, patience=5).run(print)
    assert report.lost > 0, report
