"""What `scripts/deploy` holds fits together, and fits the server: its names, files and rules."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import trio

from tests.requirements import need
from trio_ws import metrics

NAME = re.compile(r"\b(?:trio_ws|process)_\w+")
PARTS = ("_bucket", "_count", "_sum", "_total")


@pytest.fixture
def deploy(checkout: Path) -> Path:
    return checkout / "scripts/deploy"


async def known() -> set[str]:  # in trio, for some figures ask it
    text = metrics.page().decode()
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | set(NAME.findall(text))


def bare(name: str) -> str:
    return re.sub(f"({'|'.join(PARTS)})$", "", name)


@pytest.mark.parametrize("file", ["alerts.yml", "grafana/trio-ws.json"])
async def test_each_metric_that_is_asked_for_is_one_of_ours(deploy: Path, file: str) -> None:
    asked = set(NAME.findall((deploy / file).read_text()))
    assert len(asked) >= 10
    ours = {bare(name) for name in await known()}
    assert {name for name in asked if bare(name) not in ours} == set()


def test_the_dashboard_is_one_and_each_panel_asks_for_something(deploy: Path) -> None:
    dashboard = json.loads((deploy / "grafana/trio-ws.json").read_text())
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) >= len(titles) - 2, "figures and their course may share a name"
    for panel in dashboard["panels"]:
        assert panel["targets"]
        assert all('instance=~"$instance"' in target["expr"] for target in panel["targets"])


def test_each_file_that_is_mounted_is_there(deploy: Path) -> None:
    mounted = re.findall(r"- (\./\S+?):", (deploy / "compose.yaml").read_text())
    assert len(mounted) == 5
    assert [name for name in mounted if not (deploy / name).exists()] == []


@pytest.mark.parametrize(
    ("first_line", "file"), [("location / {", "nginx.conf"), ("backend trio_ws", "haproxy.cfg")]
)
def test_the_page_on_operating_shows_what_the_files_hold(
    checkout: Path, deploy: Path, first_line: str, file: str
) -> None:
    page = (checkout / "trio_ws/docs/operating.md").read_text()
    block = re.search(rf"^    {re.escape(first_line)}\n(?:    .+\n)+", page, re.MULTILINE)
    assert block
    lines = [line.strip() for line in block[0].splitlines()]
    held = [line.strip() for line in (deploy / file).read_text().splitlines()]
    start = held.index(lines[0])
    assert held[start : start + len(lines)] == lines


def test_prometheus_takes_the_rules_and_its_configuration(deploy: Path) -> None:
    promtool = need("promtool")
    for command in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        done = subprocess.run(
            [promtool, *command], check=False, capture_output=True, text=True, cwd=deploy, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


async def test_prometheus_likes_the_names_and_units_of_what_is_measured() -> None:  # in trio, see above
    command = [need("promtool"), "check", "metrics"]
    with trio.fail_after(60):
        done = await trio.run_process(
            command, stdin=metrics.page(), check=False, capture_stdout=True, capture_stderr=True
        )
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)


CASES = """
rule_files: [{rules}]
evaluation_interval: 10s
tests:
  - interval: 10s
    input_series:
      - series: trio_ws_log_read_age_seconds{{instance="one"}}
        values: 1 1 1 20 30 40 50 60 70 80
      - series: trio_ws_log_read_age_seconds{{instance="two"}}
        values: 1 1 1 20 1 1 1 1 1 1
      - series: trio_ws_unhandled_exceptions_total{{instance="one"}}
        values: 0 0 0 0 0 1 1 1 1 1
    alert_rule_test:
      - alertname: TrioWsLogNotRead
        eval_time: 80s
        exp_alerts:
          - exp_labels: {{severity: page, instance: one}}
            exp_annotations:
              summary: "one has not read the event log for 1m 10s: is the database away?"
      - alertname: TrioWsBug
        eval_time: 80s
        exp_alerts:
          - exp_labels: {{severity: ticket, instance: one}}
            exp_annotations: {{summary: "one: an unhandled exception; see the log"}}
      - alertname: TrioWsBug
        eval_time: 20s
        exp_alerts: []
"""


def test_an_alert_comes_when_it_should_and_not_before(deploy: Path, tmp_path: Path) -> None:
    promtool = need("promtool")
    cases = tmp_path / "cases.yml"
    cases.write_text(CASES.format(rules=deploy / "alerts.yml"))
    done = subprocess.run(
        [promtool, "test", "rules", str(cases)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
