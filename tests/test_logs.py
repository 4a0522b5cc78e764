"""A log line is text for people or JSON for machines, and there is one for each message."""

import contextvars
import json
import logging
import os
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from trio_ws import logs
from trio_ws.logs import configure_logs
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase, simulated_server


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


def test_a_line_says_whose_connection_it_is_about_and_what_it_adds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def log() -> None:
        logs.fields.set({"connection": 7, "account": 2})
        logging.getLogger("trio_ws").info("ended", extra={"figures": {"seconds": 1.5}})

    configure_logs(Settings())
    contextvars.copy_context().run(log)
    assert capsys.readouterr().err.endswith("ended connection=7 account=2 seconds=1.5\n")
    configure_logs(Settings(log_format="json"))
    contextvars.copy_context().run(log)
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["connection"], line["account"], line["seconds"]) == ("ended", 7, 2, 1.5)


async def test_each_connection_ends_with_one_line(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    token = database.create_token(account_id=1)
    async with simulated_server(database, auth="token") as world:
        client = await world.connect(authorization=f"Bearer {token}")
        await client.request(action="ping")
        await client.request(action="subscribe", type="account", id=1)
        await trio.sleep(5)
        database.revoke_token(token)
        with pytest.raises(ConnectionClosed):
            await client.receive()
        await wait_all_tasks_blocked()
    (record,) = [record for record in caplog.records if record.getMessage().startswith("ended")]
    assert record.getMessage() == "ended: 4401 the token was revoked"
    figures = vars(record)["figures"]
    assert (figures["requests"], figures["messages"]) == (2, 2)
    assert 5 <= figures["seconds"] < 6
    assert figures["bytes"] > 100
