"""A log line is text for people or JSON for machines, and there is one for each message."""

import contextvars
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from tests import raw
from trio_ws import logs
from trio_ws.logs import configure_logs
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase, simulated_server

Written = Callable[[], str]
"""Ends the log, and returns what it wrote."""


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def end() -> str:
        logging.basicConfig(handlers=[logging.NullHandler()], force=True)
        return capfd.readouterr().err

    monkeypatch.setattr(logs, "SUM_UP_SECONDS", 60.0)  # or when the log ends
    yield end
    end()
    root.handlers[:], root.level = before


def test_a_json_line_holds_everything_in_one_line(written: Written) -> None:
    configure_logs(Settings(log_format="json"))
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("trio_ws.x").warning("it %s", "failed\nbadly", exc_info=True)
    (line,) = written().splitlines()
    entry = json.loads(line)
    assert entry["process"] == os.getpid()
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "trio_ws.x", "it failed\nbadly")
    assert "ValueError: two" in entry["exception"]


def test_a_text_line_has_a_time_a_level_a_process_and_a_message(written: Written) -> None:
    configure_logs(Settings())
    logging.getLogger("trio_ws").info("hello")
    assert written().rstrip().endswith(f"INFO    [{os.getpid()}] hello")


def test_what_is_below_the_level_is_not_logged(written: Written) -> None:
    configure_logs(Settings(log_level="warning"))
    logging.getLogger("any").info("hello")
    assert written() == ""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_says_whose_connection_it_is_about_and_what_it_adds(
    written: Written, form: Literal["text", "json"]
) -> None:
    def log() -> None:
        logs.fields.set({"connection": 7, "account": 2})
        logging.getLogger("trio_ws").info("ended", extra={"figures": {"seconds": 1.5}})

    configure_logs(Settings(log_format=form))
    contextvars.copy_context().run(log)
    line = written()
    if form == "text":
        assert line.endswith("ended connection=7 account=2 seconds=1.5\n")
    else:
        entry = json.loads(line)
        assert [entry[name] for name in ("message", "connection", "account", "seconds")] == [
            "ended",
            7,
            2,
            1.5,
        ]


def fail(error: type[Exception]) -> None:
    try:
        raise error
    except Exception:
        logging.getLogger("trio_ws").exception("it failed")


def test_a_failure_that_repeats_is_summed_up(written: Written) -> None:
    configure_logs(Settings(log_format="json"))
    for _ in range(1000):
        logging.getLogger("trio_ws").warning("no room")
        fail(ValueError)
        logging.getLogger("trio_ws").info("ended")
        logging.getLogger("trio_ws").info("refused", extra={"repeats": True})
    fail(KeyError)
    lines = [json.loads(line) for line in written().splitlines()]
    said = [(line["level"], line["message"], line.get("repeated")) for line in lines]
    assert said.count(("info", "ended", None)) == 1000, "which is no failure"
    assert [line for line in said if line[1] != "ended"] == [
        ("warning", "no room", None),
        ("error", "it failed", None),
        ("info", "refused", None),
        ("error", "it failed", None),
        ("warning", "no room", 999),
        ("error", "it failed", 999),
        ("info", "refused", 999),
    ]
    assert ["ValueError" in line["exception"] for line in lines if "exception" in line] == [True, False]


def read_line(pipe: BinaryIO) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(pipe.readline())
    return line


def test_a_failure_that_goes_on_is_summed_up_again_and_again_and_then_said_anew(
    piped: tuple[logging.Logger, BinaryIO],
) -> None:
    logger, pipe = piped
    line: dict[str, Any]
    logger.warning("no room")
    assert "repeated" not in read_line(pipe)
    for times in (1, 2):
        for _ in range(times):
            logger.warning("no room")
        repeated = 0
        while repeated < times:
            repeated += read_line(pipe)["repeated"]
    line = {"repeated": 1}
    while "repeated" in line:
        time.sleep(3 * logs.SUM_UP_SECONDS)  # in which nothing happens
        logger.warning("no room")
        line = read_line(pipe)
    assert line["message"] == "no room"


def test_who_does_not_read_the_log_holds_nobody_up_and_is_told_what_was_lost(
    piped: tuple[logging.Logger, BinaryIO],
) -> None:
    logger, pipe = piped
    sent = 10 * logs.LINES
    for number in range(sent):
        logger.info("%d %s", number, "x" * 100)
    received: list[int] = []
    lost = 0
    while len(received) + lost < sent:
        line = read_line(pipe)
        if line["message"] == "lines were lost, for nobody read them":
            lost += line["lost"]
        else:
            received.append(int(line["message"].partition(" ")[0]))
    assert lost
    assert received == sorted(received)
    logger.info("again")
    assert read_line(pipe)["message"] == "again"


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[logging.Logger, BinaryIO]]:
    """A logger of its own, and the end of a pipe that its lines come out of."""
    monkeypatch.setattr(logs, "SUM_UP_SECONDS", 0.05)
    monkeypatch.setattr(logs, "LINES", 1000)
    reading, writing = os.pipe()
    scribe = logs.Scribe(writing, "json")
    logger = logging.getLogger("piped")
    logger.addHandler(scribe)
    logger.setLevel("INFO")
    logger.propagate = False
    with os.fdopen(reading, "rb") as pipe:
        yield logger, pipe
    logger.removeHandler(scribe)
    scribe.close()
    os.close(writing)


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


@pytest.mark.parametrize(
    ("head", "message", "given"),
    [
        (raw.head("/elsewhere?token=secret"), "404: Nothing is here; try ", "/elsewhere"),
        (raw.head(method="PUT"), "405: Only GET is known here", "PUT"),
        (raw.head(Origin="https://a.example"), "403: Pages of this origin may not call", "https://a.example"),
        (raw.head(Authorization="Bearer secret"), "401: ", None),
        (raw.head("/events?topic=price:*&token=secret"), "404: Nothing is here", "/events"),
        (
            b"GET /events?topic=price:*&token=secret HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "400: Events are not to be had",
            "invalid_message",
        ),
        (raw.head(X="x" * 40_000), "431: The request head is too long", "over 32768 bytes"),
        (
            raw.head(Connection="x" * 300),
            "400: Expected `Upgrade",
            "upgrade: websocket, connection: " + "x" * 168,
        ),
        (raw.head(Sec_WebSocket_Version="8"), "426: Only version 13 is spoken here", "8"),
        (b"\0", "400: This is no request head that can be read", None),
    ],
)
async def test_a_refusal_is_in_the_log_with_what_did_not_fit(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, head: bytes, message: str, given: str | None
) -> None:
    async with simulated_server(auth="token") as world:
        stream = await world.network.call()
        with suppress(trio.BrokenResourceError):
            await stream.send_all(head)
        await raw.RawClient(stream).see_the_end()
    (record,) = [record for record in caplog.records if record.getMessage().startswith("refused with")]
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith(f"refused with {message}")
    assert vars(record)["figures"] == ({} if given is None else {"given": given})
    assert vars(record)["repeats"], "it is summed up"
    assert "secret" not in caplog.text


FORGED = "x\n2026-11-28 00:00:00,000 INFO    [1] forged\r\x1b[2K\x85\u2028\u202e a=1"


@pytest.mark.parametrize("form", ["text", "json"])
def test_nobody_can_write_a_line_of_his_own_into_the_log(
    written: Written, form: Literal["text", "json"]
) -> None:
    configure_logs(Settings(log_format=form))
    try:
        raise ValueError(FORGED)
    except ValueError:
        figures = {"request_id": FORGED}
        logging.getLogger("trio_ws.x").warning(
            "it says %s", FORGED, exc_info=True, extra={"figures": figures}
        )
    said = written()
    assert not set(said) & set("\r\x1b\x85\u2028\u202e")
    first, *more = said.splitlines()
    assert all(line.startswith(logs.MARGIN) for line in more), "what an exception says has a margin"
    assert "forged" in first
    if form == "text":
        assert first.endswith('a=1"'), "a value with blanks is in quotes"
    else:
        assert json.loads(first)["request_id"] == FORGED
        assert more == []
