"""The testing page's programs and their tests, run as they stand."""

import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS, programs, write

PAGE = "testing.md"


def run(folder: Path, *command: str) -> str:
    for name in programs(PAGE):
        write(PAGE, name, folder)
    done = subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, cwd=folder, timeout=120
    )
    return done.stdout + done.stderr


def test_its_tests_pass_with_the_settings_that_it_shows(tmp_path: Path) -> None:
    toml = (DOCS / PAGE).read_text().partition("```toml\n# pyproject.toml\n")[2].partition("```")[0]
    (tmp_path / "pyproject.toml").write_text(toml)
    output = run(tmp_path, "-m", "pytest", "test_till.py", "test_processor.py")
    assert " 5 passed" in output, output
    assert "warning" not in output


def test_its_processor_does_the_same_on_postgresql(tmp_path: Path, conninfo: str) -> None:
    assert run(tmp_path, "on_postgresql.py", conninfo) == "[] paid\n"
