"""What the README says of settings and files is so."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec

from trio_ws.settings import FIELDS


def test_what_it_says_of_settings_is_so(checkout: Path) -> None:
    readme = (checkout / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", readme.partition("## Settings")[2], re.MULTILINE))
    told = {name: row for name, row in rows.items() if name in FIELDS}
    assert len(told) >= 12
    for name, row in told.items():
        field = FIELDS[name]
        default = "none" if field.default is None else msgspec.json.encode(field.default).decode().strip('"')
        assert row == f"{default} | {field.type.__metadata__[-1].description}"


def test_the_files_it_names_are_there(checkout: Path) -> None:
    readme = (checkout / "README.md").read_text()
    named = re.findall(r"(?:trio_ws|tests|scripts|\.ci)/[\w/.-]+", readme)
    assert named
    assert [name for name in named if not (checkout / name.rstrip(".")).exists()] == []


def test_the_test_of_its_till_passes_with_the_plugin_that_is_installed(
    checkout: Path, tmp_path: Path
) -> None:
    readme = (checkout / "README.md").read_text()
    ((name, text),) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", readme, re.DOTALL)
    (tmp_path / name).write_text(text)
    (command,) = re.findall(r"\$ pytest (.*test_till.py)", readme)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", tmp_path, *command.split()],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert " 1 passed" in done.stdout, done.stdout
    assert "warning" not in done.stdout


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
