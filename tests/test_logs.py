"""A log line is text for people or JSON for machines, and there is one for each message."""

import json
import logging
import os
from collections.abc import Iterator

import pytest

from trio_ws.logs import configure_logs
from trio_ws.settings import Settings


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def test_a_json_line_holds_everything_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format="json"))
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("trio_ws.x").warning("it %s", "failed\nbadly", exc_info=True)
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert entry["process"] == os.getpid()
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "trio_ws.x", "it failed\nbadly")
    assert "ValueError: two" in entry["exception"]


def test_a_text_line_has_a_time_a_level_a_process_and_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings())
    logging.getLogger("trio_ws").info("hello")
    assert capsys.readouterr().err.rstrip().endswith(f"INFO    [{os.getpid()}] hello")


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_level="warning"))
    logging.getLogger("any").info("hello")
    assert capsys.readouterr().err == ""
