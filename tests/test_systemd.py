"""What systemd hears, on a socket of the test's own."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_ws.systemd import Notifier


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(0)
        yield ear


def heard(ear: socket.socket) -> list[list[str]]:
    """The messages that have come, a list of lines each."""
    messages = []
    while True:
        try:
            messages.append(ear.recv(1000).decode().splitlines())
        except BlockingIOError:
            return messages


def test_it_hears_that_we_serve_reload_and_stop(ear: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": ear.getsockname()})
    before = time.monotonic_ns() // 1000
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    ready, reloading, stopping = heard(ear)
    own = f"MAINPID={os.getpid()}"
    assert (ready, stopping) == (["READY=1", own], ["STOPPING=1", own])
    assert (reloading[0], reloading[2]) == ("RELOADING=1", own)
    assert before <= int(reloading[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_it_hears_that_we_live_as_often_as_it_asked_for_and_no_more(
    ear: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    notifier = Notifier({"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "30000000"})
    for _ in range(100):
        notifier.alive()
        now += 0.5  # 50 s in all
    assert [lines[0] for lines in heard(ear)] == ["WATCHDOG=1"] * 5


def test_it_need_not_hear_that_we_live(ear: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": ear.getsockname()})
    notifier.alive()
    assert heard(ear) == []


def test_what_we_start_does_not_speak_for_us(ear: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "1", "HOME": "/"}
    Notifier(environment)
    assert environment == {"HOME": "/"}


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1"}):
        notifier = Notifier(environment)
        notifier.ready()
        notifier.alive()


def test_an_abstract_socket_is_found(ear: socket.socket) -> None:
    name = f"trio-ws-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert abstract.recv(1000).startswith(b"READY=1")
