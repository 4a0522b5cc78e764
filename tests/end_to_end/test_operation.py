"""A server that runs, as whoever operates it sees it: systemd's messages, and settings read anew."""

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.end_to_end.serving import PATIENCE_SECONDS, Server, call, serving


def wait_for_line(server: Server, text: str) -> None:
    """Wait until the log has a line with that in it."""
    assert server.process.stderr
    while text not in server.process.stderr.readline():
        pass


@pytest.mark.parametrize("workers", ["1", "2"])
def test_settings_are_read_anew_on_sighup_and_systemd_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    config = tmp_path / "trio-ws.toml"
    config.write_text("subscriptions = 1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")

        def told(word: str) -> None:
            while not systemd.recv(1000).startswith(word.encode()):
                pass

        with serving(tmp_path / "data", "--workers", workers, "--config", str(config)) as server:
            told("READY=1")
            told("WATCHDOG=1")
            told("WATCHDOG=1")
            assert how_many_topics(server) == 1
            config.write_text("subscriptions = 3\npoll_seconds = 1")
            server.process.send_signal(signal.SIGHUP)
            told("RELOADING=1")
            told("READY=1")
            wait_for_line(server, "a new start is needed for poll_seconds")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while {how_many_topics(server) for _ in range(8)} != {3}:  # every worker has heard of it
                assert time.monotonic() < deadline
            config.write_text("subscriptions = 'many'")
            server.process.send_signal(signal.SIGHUP)
            told("READY=1")
            wait_for_line(server, "SIGHUP changes nothing: subscriptions in ")
            assert how_many_topics(server) == 3
            assert server.stop() == 0
            told("STOPPING=1")


def how_many_topics(server: Server) -> int:
    """How many topics a new connection may follow."""
    with server.connect() as client:
        count = 0
        while call(client, action="subscribe", type="invoice", id=f"i{count}")["status"] == "success":
            count += 1
        return count
