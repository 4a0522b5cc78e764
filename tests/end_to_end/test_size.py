"""What is large keeps nobody else from being served; `scripts/faults size` is the same, larger."""

from pathlib import Path

import pytest

from tests import clusters
from tests.end_to_end.size import MEGABYTE, SIZES, Figures, Shop

ROWS = 4000
MOST_GROWTH = 32 * MEGABYTE


def happen(name: str, data_dir: Path, rows: int = ROWS) -> tuple[str, Figures]:
    with Shop(clusters.copy_to(data_dir), rows, seconds=1) as shop:
        return SIZES[name](shop), shop.figures


@pytest.mark.parametrize("name", [name for name in SIZES if name != "nothing"])
def test_others_are_served_and_miss_nothing(tmp_path: Path, name: str) -> None:
    # So few open invoices take no memory that would be seen.
    said, figures = happen(name, tmp_path, rows=10 * ROWS if name == "unread lists" else ROWS)
    assert (figures.lost, figures.doubled, figures.cut, figures.replaced) == (0, 0, 0, 0), figures
    assert figures.refused == {}, figures
    assert figures.probes > 0
    assert figures.unready == 0, figures
    assert figures.grown < MOST_GROWTH, figures
    assert figures.troubles == [], figures
    assert len(figures.events) > 10, said
