"""Seeds play well, each the same each time; what fails is shrunk. Which bugs are found: `test_planted.py`."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from trio_ws.cli.main import app
from trio_ws.cli.simulating import simulate
from trio_ws.errors import StartupError
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.testing.simulation import Scenario, imagine, play, shrink
from trio_ws.testing.simulation.credentials import CUSTOMER, KINDS, OPERATOR
from trio_ws.testing.simulation.scenario import FAULTS, Step
from trio_ws.testing.simulation.timeline import Entry, draw


def small(seed: int) -> Scenario:
    """A quarter of an hour of a few clients."""
    return imagine(seed, hours=0.25, clients=20)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_breaks_each_client_is_told_all_that_it_must_be(seed: int) -> None:
    outcome = play(small(seed))
    assert outcome.violation is None
    assert outcome.events > 0


def test_without_faults_nobody_is_told_of_a_gap() -> None:
    outcome = play(imagine(1, hours=0.25, faults=(), clients=20))
    assert (outcome.violation, outcome.gaps) == (None, 0)


def test_customers_are_told_of_invoices_and_refused_all_else_and_operators_manage() -> None:
    entries: list[Entry] = []
    scenario = imagine(4)
    assert (scenario.settings["auth"], scenario.settings["checkout"]) == ("token", True)
    assert play(scenario, lambda *entry: entries.append(Entry(*entry))).violation is None

    def said_of(kind: int) -> str:
        """Return what clients of a kind were told."""
        who = {f"client {number}" for number in range(kind, scenario.clients, KINDS)}
        return "\n".join(what for _, name, what in entries if name in who)

    customers, operators = said_of(CUSTOMER), said_of(OPERATOR)
    for what in ("is told invoice.updated", "list_prices: error unauthorized", "authenticate token-"):
        assert what in customers
    for action in ("list_accounts", "list_connections", "end_connection", "create_token", "revoke_token"):
        assert re.search(f"is answered {action}[^:]*: success", operators)
    assert "error forbidden" not in operators


def test_two_runs_of_a_seed_are_the_same_to_the_byte_also_in_processes_of_their_own(checkout: Path) -> None:
    def trace_of(seed: int, hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "trio_ws", "simulate", "--seed", str(seed), "--hours", "0.1"]
        return subprocess.run(
            [*command, "--trace"],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            cwd=checkout,
        ).stdout.rpartition(b"1 seeds")[0]

    first = trace_of(3, "1")
    assert first.count(b"\n") > 100
    assert trace_of(3, "2") == first
    assert trace_of(4, "1") != first

    entries: list[Entry] = []
    scenario = imagine(3, hours=0.1)
    for _ in range(2):
        entries.clear()
        play(scenario, lambda *entry: entries.append(Entry(*entry)))
        assert "".join(f"{entry}\n" for entry in entries).encode() == first


def test_what_was_just_trimmed_may_still_be_told_from_memory() -> None:
    steps = (
        Step(195.068, "follow", 2, value="invoice"),
        Step(241.093, "insert", value="address"),
        Step(267.799, "create", 16, value="soon"),
        Step(1212.968, "create", 14),
        Step(1351.455, "update", value="memo"),
        Step(1363.404, "trim"),
        Step(1370.118, "hang_up", 2),
    )
    settings = {"poll_seconds": 10.0, "expiry_seconds": 10.0}
    assert play(Scenario(1, 1400.0, 20, 1, settings, 0, splits=False, steps=steps)).violation is None


def test_who_interrupts_it_gets_no_traceback_of_all_that_ran() -> None:
    def interrupt(at: float, _: str, __: str) -> None:
        if at > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # which the command line knows, and no group of it
        play(small(1), interrupt)
    assert play(small(1)).violation is None


# Shrinking, a picture, and the shell


def test_what_fails_is_shrunk_to_the_steps_that_matter() -> None:
    scenario = imagine(1, hours=1)
    cuts = [step for step in scenario.steps if step.what == "cut"][:2]
    assert len(cuts) == 2

    def fails(shorter: Scenario) -> bool:
        return set(cuts) <= set(shorter.steps)

    shrunk = shrink(scenario, fails, most_runs=10_000)
    assert shrunk.steps == tuple(cuts)
    assert fails(shrunk)
    assert len(shrink(scenario, fails, most_runs=5).steps) > 2, "it stops in time"


def forget_an_unsubscribe(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "unsubscribe", lambda self, topic, follower: None)


def test_a_broken_server_is_found_and_shrunk_and_replayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_an_unsubscribe(monkeypatch)
    saved, plot = tmp_path / "scenario.json", tmp_path / "run.svg"
    with pytest.raises(SystemExit) as exited:
        simulate(seeds=200, clients=20, save=saved, plot=plot)
    assert exited.value.code == 1
    said = capsys.readouterr().out
    assert "was not asked for" in said
    assert "unfollow" in said
    shrunk = msgspec.json.decode(saved.read_bytes(), type=Scenario)
    assert len(shrunk.steps) <= 12
    ElementTree.fromstring(plot.read_text())  # noqa: S314 - it is ours
    with pytest.raises(SystemExit):
        simulate(replay=saved)
    monkeypatch.undo()
    simulate(replay=saved)
    assert capsys.readouterr().out.endswith("each once, in order, whole and in time\n")


def test_what_fails_is_shown_as_it_is_where_it_is_not_to_be_shrunk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_an_unsubscribe(monkeypatch)
    saved = tmp_path / "scenario.json"
    with pytest.raises(SystemExit) as exited:
        simulate(save=saved, shrink=False)
    assert exited.value.code == 1
    said = capsys.readouterr().out
    assert "was not asked for" in said
    assert "are enough" not in said
    failed = msgspec.json.decode(saved.read_bytes(), type=Scenario)
    assert failed == imagine(failed.seed)


def test_a_picture_has_a_lane_for_each_who_acts_and_a_bar_for_each_fault() -> None:
    scenario = imagine(1, hours=0.3, clients=5)
    entries: list[Entry] = []
    outcome = play(scenario, lambda *entry: entries.append(Entry(*entry)))
    picture = draw(scenario, entries, outcome.violation)
    ElementTree.fromstring(picture)  # noqa: S314 - it is ours
    assert {f">client {number}</text>" in picture for number in range(5)} == {True}
    assert picture.count('class="fault"') == sum(step.seconds > 0 for step in scenario.steps)
    assert "all is well" in picture


@pytest.mark.parametrize("faults", [*FAULTS, "none"])
def test_faults_can_be_chosen(faults: Any, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(seeds=1, hours=0.2, clients=5, faults=[faults])
    assert capsys.readouterr().out.startswith("1 seeds, 1 client-hours")


def test_no_option_says_no_faults_and_means_all(capsys: pytest.CaptureFixture[str]) -> None:
    app(["simulate", "--help"], exit_on_error=False)
    assert "--empty-faults" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clients": "many"}, "can't read .*: Expected `int`"),
        ({"servers": 0}, "it takes a client and a server"),
        ({"steps": [{"at": 1, "what": "dance"}]}, "there is no step 'dance'"),
        ({"steps": [{"at": 1, "what": "cut", "number": 9}]}, "cut 9 is about one of 5"),
        ({"steps": [{"at": 1, "what": "kill", "number": -1}]}, "kill -1 is about one of"),
    ],
)
def test_a_file_that_is_no_scenario_is_said(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    scenario = msgspec.to_builtins(imagine(1, hours=0.1, clients=5)) | changes
    (tmp_path / "other").write_bytes(msgspec.json.encode(scenario))
    with pytest.raises(StartupError, match=said):
        simulate(replay=tmp_path / "other")
