"""The page of plain HTTP, played: each command typed, with real curl, and its output compared."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import DOCS
from tests.docs.test_protocol_page import Reader, parse
from tests.end_to_end.serving import PATIENCE_SECONDS, serving
from tests.requirements import need
from trio_ws.http.actions import STATUSES

PAGE = (DOCS / "http.md").read_text()
SESSIONS = re.findall(r"^```shell\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CUT_OFF = 28  # curl's exit code when `-m` ends it
POSITION = re.compile(r"id: [0-9a-f]{8}\.[0-9]+")


def play(session: str, address: str, reader: Reader) -> None:
    for step in session.removeprefix("$ ").split("\n$ "):
        command, *expected = step.strip().splitlines()
        typed = reader.here(command).replace("localhost:8080", address)
        done = subprocess.run(
            ["bash", "-c", typed], check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert done.returncode in (0, CUT_OFF), done
        said = done.stdout.strip().splitlines()
        assert len(said) == len(expected), (typed, said)
        for line, other in zip(expected, said, strict=True):
            compare(line, other, reader)


def compare(expected: str, said: str, reader: Reader) -> None:
    """An event's data and a reply are JSON, a position is another one here, and the rest is as it stands."""
    before, brace, json_text = expected.partition("{")
    if brace:
        assert said.startswith(before + brace)
        reader.compare(parse(brace + json_text), json.loads(said.removeprefix(before)))
    elif POSITION.fullmatch(expected):
        reader.compare({"position": expected[4:]}, {"position": said.removeprefix("id: ")})
    else:
        assert said == expected


def test_all_that_stands_there_is_so(tmp_path: Path) -> None:
    need("curl")
    assert len(SESSIONS) == 5
    with serving(tmp_path) as server:
        reader = Reader()
        for session in SESSIONS:
            play(session, server.url.removeprefix("ws://"), reader)


def test_what_is_not_so_would_be_seen() -> None:
    compare("404", "404", Reader())
    for expected, said in [("404", "400"), ("event: gap", "event: end"), ('data: {"a":1}', 'data: {"a":2}')]:
        with pytest.raises(AssertionError):
            compare(expected, said, Reader())


def test_each_status_is_in_its_table() -> None:
    table = {
        code: int(status)
        for status, codes in re.findall(r"^\| (\d+) \| (`.*)\|$", PAGE, re.MULTILINE)
        for code in re.findall(r"`([a-z_]+)`", codes)
    }
    assert table == dict(STATUSES)
