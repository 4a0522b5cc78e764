"""The pages on clusters name what there is: scenarios, metrics, sessions, lines of the server's log."""

import re

from prometheus_client.metrics import MetricWrapperBase

from tests.docs.pages import DOCS
from tests.end_to_end.failover import SCENARIOS
from trio_ws import metrics
from trio_ws.database.lanes import sessions
from trio_ws.settings import Settings

TWO = (DOCS / "two-postgresqls.md").read_text()
MANY = (DOCS / "many-servers.md").read_text()


def table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading."""
    _, _, section = page.partition(f"\n## {heading}\n")
    rows = re.findall(r"^\| (.*) \|$", section.partition("\n## ")[0], re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def test_each_scenario_of_a_fail_over_has_a_row() -> None:
    assert {name for name, *_ in table(TWO, "What was measured")} == SCENARIOS.keys()


def test_where_nothing_was_lost_the_row_says_so() -> None:
    for name, closes, gaps, _, lost, doubled, missed, _ in table(TWO, "What was measured"):
        assert (doubled, missed) == ("0", "0")
        assert [int(count.split()[0]) > 0 for count in (closes, gaps, lost)] == [SCENARIOS[name].loses] * 3


def test_the_metrics_that_they_name_are_there() -> None:
    names = {name.removesuffix("_total") for name in re.findall(r"`(trio_ws_[a-z_]+)[`{]", TWO)}
    assert len(names) >= 5
    # Described, not collected: some are known inside of trio alone.
    known = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]
    assert names <= {family.name for one in known for family in one.describe()}


def test_sessions_are_counted_as_the_server_does() -> None:
    most = sessions(Settings().database_connections)
    assert f"{most} by default" in TWO
    assert f"{most} by default" in " ".join(MANY.split())
    for _, processes, *_, held in table(MANY, "How far one primary goes"):
        assert int(held) == int(processes) * most
