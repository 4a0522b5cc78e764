"""What is large keeps nobody else from being served; `scripts/faults size` is the same, larger."""

from pathlib import Path

import pytest

from tests import clusters
from tests.end_to_end.size import MEGABYTE, SIZES, Shop

ROWS = 4000
MOST_GROWTH = 32 * MEGABYTE  # by both processes together


# Some of it begins with more: memory that would be seen, and clients for whom PostgreSQL finds events.
MORE = {"unread lists": 10, "far behind": 10}


@pytest.mark.parametrize("name", [name for name in SIZES if name != "nothing"])
def test_others_are_served_and_miss_nothing(tmp_path: Path, name: str) -> None:
    with Shop(clusters.copy_to(tmp_path), MORE.get(name, 1) * ROWS, seconds=1) as shop:
        SIZES[name](shop)
    figures = shop.figures
    assert figures.troubles == [], str(figures)
    assert (figures.lost, figures.doubled, figures.cut, figures.replaced) == (0, 0, 0, 0), str(figures)
    assert figures.refused == {}, str(figures)
    assert figures.unready == 0, str(figures)
    assert figures.grown < MOST_GROWTH, str(figures)
    assert min(figures.probes, len(figures.requests), len(figures.events)) > 1, str(figures)
