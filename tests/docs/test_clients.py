"""The first programs that a newcomer pastes, run as they stand, by a real server."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, programs, write
from tests.end_to_end.serving import PATIENCE_SECONDS, Server, execute, serving
from tests.web.test_client_js import node

README = "../../README.md"
TEN_LINES = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "data") as server:
        yield server


@pytest.mark.parametrize(
    ("page", "name"), [(README, "sell.py"), (README, "sell.mjs"), ("clients.md", "watching.py")]
)
def test_it_prints_what_the_invoice_is_and_what_becomes_of_it(
    server: Server, tmp_path: Path, page: str, name: str
) -> None:
    shutil.copy(DOCS.parent / "web/trio-ws.js", tmp_path)
    file = write(page, name, tmp_path, server.url)
    command = [*(node() if name.endswith(".mjs") else [sys.executable]), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as program:
        assert program.stdout
        assert program.stdout.readline() == "1 unpaid\n"
        execute(server.data_dir, "UPDATE invoices SET status = 'cancelled'")
        assert program.stdout.readline() == "2 cancelled\n"
        program.terminate()
        program.wait(PATIENCE_SECONDS)


def test_they_have_ten_lines_or_so() -> None:
    for text in programs(README).values():
        assert len(list(filter(None, text.splitlines()))) <= TEN_LINES
