"""The README is short, and the files that it names are there."""

import re
import subprocess
import sys
from pathlib import Path

MOST_LINES = 150


def test_it_is_short(checkout: Path) -> None:
    assert len((checkout / "README.md").read_text().splitlines()) <= MOST_LINES


def test_the_files_it_names_are_there(checkout: Path) -> None:
    readme = (checkout / "README.md").read_text()
    named = re.findall(r"(?:trio_ws|tests|scripts|\.ci)/[\w/.-]+", readme)
    assert named
    assert [name for name in named if not (checkout / name.rstrip(".")).exists()] == []


def test_a_test_may_choose_the_settings(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.trio_ws(message_bytes=1000)\n"
        "async def test_it(autojump_clock, trio_ws_world):\n"
        "    assert trio_ws_world.settings.message_bytes == 1000\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--strict-markers", "-o", "trio_mode=true"]
    done = subprocess.run([*command, tmp_path], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert " 1 passed" in done.stdout, done.stdout
