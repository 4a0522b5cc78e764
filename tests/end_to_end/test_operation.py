"""A server that runs, as whoever operates it sees it: systemd's messages, and settings read anew."""

import re
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, Server, call, free_port, serving


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


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - http, ours
        return str(answer.read().decode())


def test_pages_are_beside_the_websockets(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.connect() as client:
        url = server.url.replace("ws://", "http://")
        call(client, **INVOICE)
        assert (fetch(f"{url}/healthz"), fetch(f"{url}/readyz")) == ("ok\n", "ok\n")
        measured = fetch(f"{url}/metrics")
        assert "process_resident_memory_bytes " in measured
        assert 'trio_ws_requests_total{action="create_invoice",code="success"} 1.0' in measured
        assert 'trio_ws_database_seconds_count{query="create_invoice"} 1.0' in measured


def test_each_worker_has_an_address_for_its_measurements(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, "--workers", "2", "--metrics-listen", f"127.0.0.1:{port}") as server:
        found = {
            re.search(
                r'trio_ws_info\{version="[^"]+"\} 1.0', fetch(f"http://127.0.0.1:{port + number}/metrics")
            )
            for number in range(2)
        }
        assert None not in found
        assert server.stop() == 0
