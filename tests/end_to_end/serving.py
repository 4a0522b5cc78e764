"""A real `trio-ws serve`, its log and its end, for tests that want the whole."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from websockets.sync.client import ClientConnection, connect

from tests import clusters
from tests.database.test_embedded import wait_until_gone
from trio_ws.database import embedded
from trio_ws.identity import TOKEN_PREFIX

MEMO = "what a client wrote, and no log may hold"
INVOICE = {"action": "create_invoice", "amount": 1000, "currency": "USD", "account_id": 1, "memo": MEMO}
PATIENCE_SECONDS = 30
SERVE = [sys.executable, "-m", "trio_ws", "serve"]


class Server:
    """A `trio-ws serve` and where it listens."""

    def __init__(self, process: subprocess.Popen[str], data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self._lines: list[str] = []
        self._looked_at = 0
        self._news = threading.Condition()
        # Read as it comes: what nobody takes is lost.
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        assert process.stdout
        if isinstance(process.args, list) and "json" in process.args:
            line = str(json.loads(self.wait_for_line("Listening on"))["message"])
        else:
            line = process.stdout.readline()
        assert re.match(r"Listening on wss?://[0-9.]+:", line), line
        self.url = line.removeprefix("Listening on ").strip()

    def connect(self, path: str = "/") -> ClientConnection:
        return connect(self.url + path, open_timeout=PATIENCE_SECONDS)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def log(self) -> list[str]:
        """The log lines of a server that has ended."""
        self._reader.join(PATIENCE_SECONDS)
        assert_keeps_secrets(self._lines)
        return self._lines

    def wait_for_line(self, text: str) -> str:
        """Return the log's next line with that in it, after the one that was waited for before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._news:
            while True:
                while self._looked_at < len(self._lines):
                    self._looked_at += 1
                    if text in self._lines[self._looked_at - 1]:
                        return self._lines[self._looked_at - 1]
                assert self._news.wait(deadline - time.monotonic()), (text, self._lines)

    def _read_log(self) -> None:
        assert self.process.stderr
        with contextlib.suppress(ValueError):  # a test that failed has closed it
            for line in self.process.stderr:
                with self._news:
                    self._lines.append(line.rstrip("\n"))
                    self._news.notify_all()


def assert_keeps_secrets(lines: Iterable[str]) -> None:
    """No token, body or memo stands in the log."""
    assert [line for line in lines if MEMO in line or TOKEN_PREFIX in line or '"action"' in line] == []


@contextmanager
def serving(data_dir: Path, *arguments: str, port: str = "0") -> Iterator[Server]:
    """Run a server, on any free port unless told; kill it in the end, if it still runs."""
    command = [*SERVE, "--port", port, "--data-dir", str(clusters.copy_to(data_dir)), *arguments]
    with running(command, data_dir) as server:
        yield server
    wait_until_gone(data_dir)


@contextmanager
def running(
    command: list[str], data_dir: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server by some command, with more in its environment; kill it in the end, if it still runs."""
    with subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            server = Server(process, data_dir)
            yield server
        finally:
            process.kill()
        server.log()


def call(client: ClientConnection, **fields: object) -> dict[str, Any]:
    client.send(json.dumps(fields))
    return receive(client)


def receive(client: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(client.recv(timeout=PATIENCE_SECONDS))
    return message


def workers_of(server: Server) -> set[int]:
    """The process ids of a server's workers."""
    threads = Path(f"/proc/{server.process.pid}/task")
    found = set()
    for child in [int(child) for path in threads.glob("*/children") for child in path.read_text().split()]:
        with contextlib.suppress(OSError):
            if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                found.add(child)
    return found


def execute(data_dir: Path, statement: str) -> None:
    with psycopg.connect(embedded.conninfo(data_dir), autocommit=True) as connection:
        connection.execute(statement.encode())


def free_port() -> int:
    """Return a port that nobody has, as is the one after it."""
    while True:
        with contextlib.suppress(OSError, OverflowError), socket.create_server(("127.0.0.1", 0)) as opened:
            port = int(opened.getsockname()[1])
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port


def start_process(command: list[str], **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout
    assert process.stdout.readline().startswith("Listening")
    process.stdout.close()
    return process
