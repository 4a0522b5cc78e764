"""Processes that answer each other: here several of them in one process, on real Unix sockets."""

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from trio_ws import siblings
from trio_ws.siblings import Siblings, meeting_place

PATIENCE_SECONDS = 20


def process(folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> Siblings:
    """What another process has."""
    monkeypatch.setattr(os, "getpid", lambda: number)
    made = Siblings(folder)
    monkeypatch.undo()
    return made


def echo(number: int) -> Callable[[bytes], bytes]:
    return lambda question: question + str(number).encode()


async def test_all_answer_and_the_one_that_is_asked_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = [process(tmp_path, number, monkeypatch) for number in (1, 2, 3)]
    async with trio.open_nursery() as nursery:
        for number, one in enumerate(crew, start=1):
            await nursery.start(one.serve, echo(number))
        with trio.fail_after(PATIENCE_SECONDS):
            answers, missing = await crew[1].ask(b"who ")
        assert answers[0] == b"who 2"
        assert sorted(answers) == [b"who 1", b"who 2", b"who 3"]
        assert missing == 0
        nursery.cancel_scope.cancel()
    assert os.listdir(tmp_path) == [], "nothing is left behind"  # noqa: PTH208


async def test_who_has_been_killed_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(tmp_path / "7.sock"))
    one = process(tmp_path, 1, monkeypatch)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.serve, echo(1))
        with trio.fail_after(PATIENCE_SECONDS):
            assert await one.ask(b"") == ([b"1"], 0)
        nursery.cancel_scope.cancel()
    assert os.listdir(tmp_path) == [], "it is forgotten"  # noqa: PTH208


@pytest.mark.parametrize("how", ["silent", "empty", "endless"])
async def test_who_does_not_answer_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(siblings, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(siblings, "ANSWER_BYTES", 1000)
    one = process(tmp_path, 1, monkeypatch)
    monkeypatch.setattr(siblings, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(siblings, "ANSWER_BYTES", 1000)

    async def hang(stream: trio.SocketStream) -> None:
        async with stream:
            if how == "silent":
                await trio.sleep_forever()
            if how == "endless":
                with suppress(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(b"x" * 100)

    async with trio.open_nursery() as nursery:
        await nursery.start(one.serve, echo(1))
        listening = trio.socket.socket(trio.socket.AF_UNIX)
        await listening.bind(str(tmp_path / "7.sock"))
        listening.listen()
        await nursery.start(trio.serve_listeners, hang, [trio.SocketListener(listening)])
        with trio.fail_after(PATIENCE_SECONDS):
            assert await one.ask(b"") == ([b"1"], 1)
        nursery.cancel_scope.cancel()


async def test_who_asks_and_goes_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (process(tmp_path, number, monkeypatch) for number in (1, 2))
    async with trio.open_nursery() as nursery:
        await nursery.start(one.serve, echo(1))
        for question in (b"", b"x"):
            async with await trio.open_unix_socket(tmp_path / "1.sock") as stream:
                await stream.send_all(question)
        with trio.fail_after(PATIENCE_SECONDS):
            answers, missing = await other.ask(b"y")
        assert (answers[1:], missing) == ([b"y1"], 0)
        nursery.cancel_scope.cancel()


async def test_a_process_that_has_the_number_of_one_that_was_killed_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.sock").touch()
    one = process(tmp_path, 1, monkeypatch)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.serve, echo(1))
        nursery.cancel_scope.cancel()


async def test_a_process_is_found_only_once_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked it before would be refused, and would take its socket for a dead one's."""
    one, other = (process(tmp_path, number, monkeypatch) for number in (1, 2))
    with trio.socket.socket(trio.socket.AF_UNIX) as some:
        kind = type(some)
    bind = kind.bind

    async def bind_while_somebody_asks(listening: trio.socket.SocketType, address: str) -> None:
        await bind(listening, address)
        await other.ask(b"x")

    async with trio.open_nursery() as nursery:
        await nursery.start(other.serve, echo(2))
        monkeypatch.setattr(kind, "bind", bind_while_somebody_asks)
        await nursery.start(one.serve, echo(1))
        with trio.fail_after(PATIENCE_SECONDS):
            answers, missing = await other.ask(b"x")
        assert (sorted(answers), missing) == ([b"x1", b"x2"], 0)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("place", ["deleted", "x" * 200])
async def test_where_no_socket_can_be_a_process_serves_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    folder = tmp_path / place
    if place != "deleted":
        folder.mkdir()
    one = process(folder, 1, monkeypatch)
    with trio.fail_after(PATIENCE_SECONDS):
        await one.serve(echo(1))
        assert await one.ask(b"") == ([b"1"], 0)
    assert "the console shows this worker alone" in caplog.text


async def test_a_question_that_fails_ends_nobody_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (process(tmp_path, number, monkeypatch) for number in (1, 2))

    def fail(_: bytes) -> bytes:
        raise ZeroDivisionError

    async with trio.open_nursery() as nursery:
        await nursery.start(one.serve, fail)
        await nursery.start(other.serve, echo(2))
        with trio.fail_after(PATIENCE_SECONDS):
            for _ in range(2):
                assert await other.ask(b"x") == ([b"x2"], 1)
        nursery.cancel_scope.cancel()
    assert "a question of another process failed" in caplog.text
    caplog.clear()


async def test_who_ends_as_it_is_asked_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = process(tmp_path, 1, monkeypatch)
    (tmp_path / "7.sock").symlink_to(tmp_path / "gone")
    async with trio.open_nursery() as nursery:
        await nursery.start(one.serve, echo(1))
        with trio.fail_after(PATIENCE_SECONDS):
            assert await one.ask(b"") == ([b"1"], 0)
        nursery.cancel_scope.cancel()


async def test_who_is_alone_answers_itself() -> None:
    one = Siblings()
    await one.serve(echo(1))
    assert await one.ask(b"") == ([b"1"], 0)


def test_nobody_else_may_enter_where_they_meet() -> None:
    with meeting_place() as folder:
        assert folder is not None
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_where_nothing_may_be_written_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with meeting_place() as folder:
        assert folder is None
