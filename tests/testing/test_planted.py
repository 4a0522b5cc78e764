"""Planted bugs are found: by a seed of the simulator, or where it can't, by a test of another room."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import SLOW, one_in_some
from tests.testing import planted
from tests.testing.planted import BUGS, FOUND_BY, FOUND_ELSEWHERE, Bug
from trio_ws.cli.simulating import RUNS

BY_A_SEED = [bug for bug in BUGS if bug.name in FOUND_BY]
ELSEWHERE = [bug for bug in BUGS if bug.name in FOUND_ELSEWHERE]
TESTS_FAILED = 1  # pytest's exit status
HANGS_SECONDS = 60.0  # many times what such a test takes without the bug
NO_BUG = Bug("no_bug", "none", "connection.py", '"""One client:', '"""A client:')


def named(bug: Bug) -> str:
    return bug.name


def test_there_are_many_bugs_and_each_has_a_name_of_its_own() -> None:
    names = {bug.name for bug in BUGS}
    assert len(names) == len(BUGS) >= 40
    assert names == {*FOUND_BY, *FOUND_ELSEWHERE}
    assert not FOUND_BY.keys() & FOUND_ELSEWHERE.keys()


def test_each_bug_changes_what_stands_once_in_its_file_and_the_file_compiles() -> None:
    for bug in BUGS:
        text = planted.changed(bug)
        if bug.path.endswith(".py"):
            compile(text, bug.path, "exec")


def test_a_bug_that_is_nowhere_is_said() -> None:
    with pytest.raises(ValueError, match="nowhere: 0 places"):
        planted.changed(Bug("nowhere", "none", "server.py", "no such text", ""))


def test_the_seeds_that_find_bugs_are_those_that_are_played_where_there_is_none() -> None:
    assert {*FOUND_BY.values()} <= {*range(RUNS)}


def test_a_copy_without_a_bug_is_what_is_played_and_plays_well() -> None:
    with planted.planted(NO_BUG) as folder:
        assert planted.imported_from(folder) == folder / "trio_ws"
    assert not folder.exists()
    assert planted.play(NO_BUG, seeds=1)[:2] == (None, "")


def test_what_ends_without_an_answer_is_no_bug_that_was_found() -> None:
    broken = Bug("broken", "none", "cli/simulating.py", "LAST_ENTRIES = 40", "raise SystemExit(1)")
    with pytest.raises(RuntimeError, match="exit status 1"):
        planted.play(broken, seeds=1)


def test_the_table_has_a_row_for_each_bug_and_a_line_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    planted.main(["find_nothing", "--seeds", "3"])
    row, sums, line = capsys.readouterr().out.splitlines()
    assert row.split()[:2] == ["find_nothing", "invoices"]
    assert "was not found, and is there" in row
    assert sums == "1 of 1 were found by 3 seeds"
    assert line.startswith('    "find_nothing": ')


@pytest.mark.parametrize("bug", one_in_some(BY_A_SEED, named))
def test_a_bug_is_found_by_a_seed(bug: Bug) -> None:
    assert planted.play(bug).seed is not None


@SLOW
@pytest.mark.parametrize("bug", ELSEWHERE, ids=named)
def test_what_no_seed_finds_fails_or_hangs_a_test_of_another_room(bug: Bug, checkout: Path) -> None:
    with planted.planted(bug) as folder:
        shutil.copytree(checkout / "tests", folder / "tests", ignore=shutil.ignore_patterns("*.pyc.*"))
        shutil.copy(checkout / "pyproject.toml", folder)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, FOUND_ELSEWHERE[bug.name].test],
                check=False,
                capture_output=True,
                text=True,
                timeout=HANGS_SECONDS,
                env=planted.environment(folder),
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            assert FOUND_ELSEWHERE[bug.name].hangs
            return
    assert done.returncode == TESTS_FAILED, done.stdout
