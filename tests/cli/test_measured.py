"""Figures out of what `/metrics` says: sums, rates, quantiles."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws import metrics
from trio_ws.cli.measured import Change, parse, quantile, sparkline, together
from trio_ws.cli.top import FIGURES

TEXT = """\
# TYPE asked counter
asked_total{action="ping",code="success"} 5
asked_total{action="ping",code="timeout"} 1
asked_total{action="fetch",code="success"} 2
# TYPE there gauge
there 3
"""


def test_levels_and_rates_are_summed_over_labels_or_kept_apart_by_one() -> None:
    before, now = parse(TEXT), parse(TEXT.replace("} 5", "} 25").replace("there 3", "there 4"))
    change = Change(before, now, 2.0)
    assert (change.level("there"), change.rate("asked_total")) == (4, 10)
    assert change.rates("asked_total", "action") == {"ping": 10}
    assert (change.level("nothing"), change.rate("nothing")) == (0, 0)


def test_several_servers_are_one() -> None:
    both = together([parse(TEXT), parse(TEXT)])
    assert Change({}, both, 1.0).level("there") == 6
    assert Change({}, both, 1.0).rates("asked_total", "action") == {"ping": 12, "fetch": 4}


def test_a_server_that_began_anew_has_done_what_it_says() -> None:
    change = Change(parse(TEXT), parse(TEXT.replace("} 5", "} 3")), 1.0)
    assert change.rate("asked_total") == 3


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_is_in_the_bucket_that_holds_it(values: list[float], share: float) -> None:
    edges = [0.1, 0.25, 0.5, 0.75, 1.0, math.inf]
    found = quantile({edge: sum(value <= edge for value in values) for edge in edges}, share)
    exact = sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    upper = next(edge for edge in edges if exact <= edge)
    lower = max([0.0, *(edge for edge in edges if edge < upper)])
    assert found is not None
    assert lower <= found <= upper


def test_a_quantile_of_nothing_is_none_and_above_all_edges_it_is_the_last_one() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0, math.inf: 0}, 0.5) is None
    assert quantile({1.0: 0, math.inf: 5}, 0.5) == 1.0


@pytest.mark.parametrize(
    ("values", "line"), [([], ""), ([0, 0], "▁▁"), ([0, 4, 8], "▁▅█"), ([None, 8], " █"), ([None], " ")]
)
def test_a_line_is_as_high_as_its_values(values: list[float | None], line: str) -> None:
    assert sparkline(values) == line


async def test_each_figure_is_measured_under_the_name_that_it_is_asked_by() -> None:
    known = {sample.name for family in metrics.REGISTRY.collect() for sample in family.samples}
    # What has labels is there once it was counted.
    known |= {"trio_ws_connections_closed_total", "trio_ws_requests_total"}

    asked: set[str] = set()

    class Asked(Change):
        def level(self, name: str) -> float:
            asked.add(name)
            return 0

        rate = level

        def quantile(self, name: str, share: float, **labels: str) -> float | None:
            asked.add(f"{name}_bucket")
            return None

    for figure in FIGURES:
        figure.measure(Asked({}, {}, 1.0))
    assert asked
    assert asked <= known
