"""Whoever asks for `trio_ws_world` learns what is missing to run the test."""

import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, test: str, *options: str) -> str:
    (folder / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--strict-markers", *options]
    done = subprocess.run(
        [*command, folder], check=False, capture_output=True, text=True, cwd=folder, timeout=120
    )
    return done.stdout


ASYNC = "async def test_it(autojump_clock, trio_ws_world):\n    assert trio_ws_world.is_running\n"
MARKED = f"import pytest\n@pytest.mark.trio\n{ASYNC}"
DRAWN = (
    "from hypothesis import HealthCheck, given, settings, strategies\n"
    "@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])\n"
    "@given(number=strategies.integers())\n"
    "async def test_it(trio_ws_world, number):\n    pass\n"
)


@pytest.mark.parametrize(
    ("test", "options", "said"),
    [
        (ASYNC, ["-o", "trio_mode=true"], " 1 passed"),
        (MARKED, [], " 1 passed"),
        (DRAWN, ["-o", "trio_mode=true"], " 1 passed"),
        (
            ASYNC,
            [],
            "trio_ws_world needs trio mode: write `trio_mode = true` under [tool.pytest.ini_options]",
        ),
        (DRAWN, [], "trio_ws_world needs trio mode: write `trio_mode = true`"),
        ("def test_it(trio_ws_world): pass", ["-o", "trio_mode=true"], "make it `async def test_it`"),
        ("def test_it(trio_ws_world): pass", [], "make it `async def test_it`"),
        (ASYNC.replace("autojump_clock, ", ""), ["-p", "no:trio"], "pip install 'trio-ws[testing]'"),
    ],
)
def test_what_is_missing_is_said_and_nothing_else(
    tmp_path: Path, test: str, options: list[str], said: str
) -> None:
    output = run(tmp_path, test, *options)
    assert said in output
    assert "Traceback" not in output
    assert "RuntimeError" not in output


def test_a_test_that_does_not_ask_for_it_is_left_alone(tmp_path: Path) -> None:
    assert " 1 passed" in run(tmp_path, "def test_it(): pass")
