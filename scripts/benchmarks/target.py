"""A server to measure, and the lightest of clients: a socket, and frames made by hand.

It answers no pings: where it stays for longer than a pong may take, the server is not to send any.
"""

import base64
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

from trio_ws.database import embedded

PATIENCE_SECONDS = 120.0


class Target:
    """A running server, which says where it listens: `trio-ws serve`, with its database, or another."""

    def __init__(self, process, data_dir=None):
        self.process = process
        self.conninfo = data_dir and embedded.conninfo(data_dir)
        self.port = int(process.stdout.readline().rpartition(":")[2])

    def cpu_seconds(self):
        """Return how long the server's own process, all of its threads, has kept a core busy."""
        return time.clock_gettime(~self.process.pid << 3 | 2)  # clock_getcpuclockid(3), as Linux counts them

    def resident_bytes(self):
        """Return how much memory the server's own process has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def connect(self, *, receive_buffer=None, first=None):
        """Return a socket on which WebSocket frames may pass; with a first one, do not wait for the door."""
        line = socket.socket()
        if receive_buffer is not None:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        line.connect(("127.0.0.1", self.port))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        line.sendall(
            f"GET / HTTP/1.1\r\nHost: localhost:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            + (first or b"")
        )
        head = b""
        while first is None and not head.endswith(b"\r\n\r\n"):
            head += line.recv(4096)
        return line


@contextmanager
def serving(data_dir=None, **settings):
    """Run a server on a database of its own, which takes all clients from one address, and at once.

    The database is in a folder that goes away, unless another is given.
    """
    settings = {"connections_per_address": "none", "connections_per_second": "none", **settings}
    environment = {f"TRIO_WS_{name.upper()}": str(value) for name, value in settings.items()}
    with (
        nullcontext(data_dir) if data_dir else tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", "trio_ws", "serve", "--port", "0", "--data-dir", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TRIO_WS_LOG_LEVEL": "warning", **environment},
        ) as process,
    ):
        try:
            yield Target(process, Path(folder))
        finally:
            process.terminate()


def text_frame(payload):
    """Return a client's text frame of less than 64 KB, masked with zeros."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + payload


def read_until(lines, mark, times):
    """Read from sockets until each has brought the mark so often; return how many have not in time."""
    poll = select.epoll()
    waiting = {line.fileno(): line for line in lines}
    received = dict.fromkeys(waiting, b"")
    for number in waiting:
        poll.register(number, select.EPOLLIN)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while waiting and time.monotonic() < deadline:
        for number, _ in poll.poll(1):
            data = waiting[number].recv(65536)
            received[number] += data
            if not data or received[number].count(mark) == times:
                poll.unregister(number)
                line = waiting.pop(number)
                assert data, f"the server has closed {line}"
    return len(waiting)
