"""Whatever one client sends to a real process, only its own connection ends, and a bystander does not notice.

Most of the table is what ends the whole process of who trusts plain trio-websocket with a client's bytes.
"""

import contextlib
import errno
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests import hostile, raw
from tests.end_to_end.serving import PATIENCE_SECONDS, Server, call, serving
from trio_ws.errors import CloseCode

RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: on, for 0 seconds
REQUEST = raw.frame(raw.TEXT, b'{"action":"ping"}')
PLAIN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

Act = Callable[[socket.socket], bytes]  # does it, and returns what came back


def serving_with(folder: Path, settings: str) -> contextlib.AbstractContextManager[Server]:
    config = folder / "trio-ws.toml"
    config.write_text(settings)
    return serving(folder / "data", "--config", str(config))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_with(tmp_path_factory.mktemp("hostile"), "head_seconds = 1\nclose_seconds = 1") as server:
        yield server
        assert server.stop() == 0
        assert not [line for line in server.log() if "ERROR" in line or "Traceback" in line]


@pytest.fixture(scope="module")
def bystander(server: Server) -> Iterator[ClientConnection]:
    with server.connect() as client:
        yield client


def dial(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=PATIENCE_SECONDS)


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def read_all(line: socket.socket) -> bytes:
    """Read until the server hangs up."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := line.recv(65536):
            received += data
    return received


def send(*parts: bytes) -> Act:
    def act(line: socket.socket) -> bytes:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                line.sendall(part)
        return read_all(line)

    return act


def send_and_reset(*parts: bytes) -> Act:
    def act(line: socket.socket) -> bytes:
        for part in parts:
            line.sendall(part)
            time.sleep(0.02)  # likely on its own, so that the reset comes after it was looked at
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return b""

    return act


def dribble(data: bytes) -> Act:
    def act(line: socket.socket) -> bytes:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            line.sendall(bytes([byte]))
        return read_all(line)

    return act


def never_read(flood: bytes) -> Act:
    def act(line: socket.socket) -> bytes:
        line.settimeout(PATIENCE_SECONDS)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                line.sendall(flood)
        return b""

    return act


def closing(code: int) -> Callable[[bytes], bool]:
    """Tell whether the last frame is a close with that code."""

    def check(received: bytes) -> bool:
        at = received.rfind(b"\x88")
        return received.startswith(b"HTTP/1.1 101 ") and received[at + 2 : at + 4] == code.to_bytes(2, "big")

    return check


def status(number: int) -> Callable[[bytes], bool]:
    return lambda received: received.startswith(b"HTTP/1.1 %d " % number)


def nothing(received: bytes) -> bool:
    return received == b""


CLOSE = raw.frame(raw.CLOSE, b"\x03\xe8")
OVERSIZE = raw.frame(raw.TEXT, b"x" * 65537)
PING = raw.frame(raw.PING, b"x")
ACTS: dict[str, tuple[Act, Callable[[bytes], bool]]] = {
    # The head
    "non-ASCII Host": (send(raw.head(Host="\xe9")), status(400)),
    "non-ASCII Connection": (send(raw.head(Connection="\xe9")), status(400)),
    "non-ASCII Sec-WebSocket-Protocol": (send(raw.head(Sec_WebSocket_Protocol="\xe9")), status(400)),
    "non-ASCII Sec-WebSocket-Extensions": (send(raw.head(Sec_WebSocket_Extensions="\xe9")), status(400)),
    "a Host that is no IDNA": (send(raw.head(Host="xn--" + "x" * 100) + CLOSE), closing(1000)),
    "no HTTP": (send(b"\0\0\0\0\r\n\r\n"), status(400)),
    "no HTTP, then a reset": (send_and_reset(b"\0\0\0\0\r\n\r\n"), nothing),
    "no Upgrade": (send(PLAIN), status(426)),
    "no Upgrade, then a reset": (send_and_reset(PLAIN), nothing),
    "a reset at once": (send_and_reset(), nothing),
    "half a head, then a reset": (send_and_reset(b"GET / HT"), nothing),
    "half a head, then silence": (send(b"GET / HT"), status(408)),
    "a head that never ends": (send(b"GET / HTTP/1.1\r\nX: ", b"x" * 100_000), status(431)),
    "a head in bytes": (dribble(raw.head() + REQUEST + CLOSE), closing(1000)),
    "another path": (send(raw.head("/elsewhere")), status(404)),
    "another method": (send(raw.head(method="DELETE")), status(405)),
    # Before and after it is accepted
    "a bad chunk with the head": (send(raw.head() + b"\xff" * 1000), closing(1002)),
    "another head behind it": (send(raw.head() + raw.head()), closing(1002)),
    "a reset behind the head": (send_and_reset(raw.head()), nothing),
    "a reset in a frame": (send_and_reset(raw.head(), REQUEST[:-3]), nothing),
    "a reset that leaves replies unread": (send_and_reset(raw.head(), REQUEST * 50), nothing),
    # Frames
    "bad UTF-8": (send(raw.head(), raw.frame(raw.TEXT, b"\xff")), closing(1007)),
    "bad UTF-8 in fragments": (
        send(raw.head(), raw.frame(raw.TEXT, b"\xc3", fin=False), raw.frame(0, b"x")),
        closing(1007),
    ),
    "no mask": (send(raw.head(), raw.frame(raw.TEXT, b"{}", masked=False)), closing(1002)),
    "a reserved bit": (send(raw.head(), b"\xc1\x80" + bytes(4)), closing(1002)),
    "an unknown opcode": (send(raw.head(), raw.frame(0x7, b"")), closing(1002)),
    "a close code that may not be": (send(raw.head(), raw.frame(raw.CLOSE, b"\x03\xed")), closing(1002)),
    "a length that never comes": (
        send(raw.head(), b"\x82\xff" + (1 << 62).to_bytes(8, "big")),
        closing(1009),
    ),
    "oversize": (send(raw.head(), OVERSIZE), closing(1009)),
    "oversize, then a ping": (send(raw.head(), OVERSIZE + PING), closing(1009)),
    "oversize, then a ping in its own packet": (send(raw.head(), OVERSIZE, PING, PING), closing(1009)),
    "oversize in fragments": (
        send(raw.head(), raw.frame(raw.TEXT, b"x" * 65536, fin=False), raw.frame(0, b"x")),
        closing(1009),
    ),
    "oversize, and gone": (send_and_reset(raw.head(), OVERSIZE), nothing),
    "a request and a close": (send(raw.head(), REQUEST + CLOSE + REQUEST + PING), closing(1000)),
    "two closes": (send(raw.head(), CLOSE + CLOSE), closing(1000)),
    # Floods
    "pings": (send(raw.head(), PING * 10_000), closing(CloseCode.RATE_LIMITED)),
    "pongs": (send(raw.head(), raw.frame(raw.PONG, b"") * 10_000), closing(CloseCode.RATE_LIMITED)),
    "requests": (send(raw.head(), REQUEST * 10_000), closing(CloseCode.RATE_LIMITED)),
    "long requests": (
        send(raw.head(), raw.frame(raw.TEXT, b"[" * 65536) * 30),
        closing(CloseCode.RATE_LIMITED),
    ),
    "a head of lines": (send(b"GET / HTTP/1.1\r\n" + b"X:\r\n" * 5000), status(431)),
    "empty messages": (send(raw.head(), raw.frame(raw.TEXT, b"") * 10_000), closing(CloseCode.RATE_LIMITED)),
    "empty fragments": (
        send(raw.head(), raw.frame(raw.TEXT, b"", fin=False) + raw.frame(0, b"", fin=False) * 10_000),
        closing(1009),
    ),
    "pings, replies unread": (never_read(raw.head() + PING * 10_000), nothing),
    "requests, replies unread": (never_read(raw.head() + REQUEST * 10_000), nothing),
}


@pytest.mark.parametrize("name", ACTS)
def test_only_its_own_connection_ends(server: Server, bystander: ClientConnection, name: str) -> None:
    act, expected = ACTS[name]
    begin = time.monotonic()
    with dial(server) as line:
        received = act(line)
    assert expected(received), received
    assert call(bystander, action="ping")["type"] == "pong"
    assert time.monotonic() - begin < PATIENCE_SECONDS / 2


FLOODS = {
    "pings": PING * 10_000,
    "requests": REQUEST * 10_000,
    "empty messages": raw.frame(raw.TEXT, b"") * 10_000,
    "empty fragments": (raw.frame(raw.TEXT, b"", fin=False) + raw.frame(0, b"", fin=False) * 120) * 100,
    "brackets": raw.frame(raw.TEXT, b"[" * 65536) * 30,
    "brackets in JSON": raw.frame(raw.TEXT, hostile.MESSAGES["[] in JSON"].encode()) * 30,
    "strings in JSON": raw.frame(raw.TEXT, hostile.MESSAGES["101 levels and strings"].encode()) * 30,
}


ANSWERS_IN_A_FLOOD = 8  # the least: where a connection is heard to its end before others there are one or two


@pytest.mark.parametrize("name", FLOODS)
def test_a_bystander_does_not_notice_a_flood(server: Server, bystander: ClientConnection, name: str) -> None:
    stop = time.monotonic() + 1.5

    def flood() -> None:
        while time.monotonic() < stop:
            with dial(server) as line, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                line.sendall(raw.head() + FLOODS[name])
                while line.recv(65536)[-50:].rfind(b"\x88") < 0:
                    pass  # until it closes

    threads = [threading.Thread(target=flood) for _ in range(3)]
    for thread in threads:
        thread.start()
    answers = 0
    while time.monotonic() < stop:
        assert call(bystander, action="ping")["type"] == "pong"
        answers += 1
        time.sleep(0.02)  # under its own rate
    for thread in threads:
        thread.join()
    # 25 to 40 on two cores that the flood, its clients and other tests share.
    assert answers >= ANSWERS_IN_A_FLOOD


def test_pings_that_cross_our_close_break_nothing(tmp_path: Path) -> None:
    """What ends a drain of plain trio-websocket: https://github.com/python-trio/trio-websocket/issues/184."""
    settings = "control_frames_per_second = 'none'"
    with serving_with(tmp_path, settings) as server, contextlib.ExitStack() as opened:
        lines = [opened.enter_context(dial(server)) for _ in range(20)]
        for line in lines:
            line.sendall(raw.head() + PING)
            assert line.recv(65536).startswith(b"HTTP/1.1 101 ")
        server.process.send_signal(signal.SIGTERM)
        for _ in range(50):
            for line in lines:
                with contextlib.suppress(OSError):
                    line.sendall(PING)
        assert all(b"\x03\xe9retry_after=" in read_all(line) for line in lines)
        assert server.process.wait(PATIENCE_SECONDS) == 0
        assert not [line for line in server.log() if "ERROR" in line]


def test_one_address_gets_as_many_connections_as_it_may(tmp_path: Path) -> None:
    with serving_with(tmp_path, "connections_per_address = 3") as server:
        with server.connect(), server.connect() as second, server.connect():
            for _ in range(3):
                with pytest.raises(InvalidStatus) as refused:
                    server.connect()
                assert refused.value.response.status_code == 503
                assert int(refused.value.response.headers["Retry-After"]) >= 1
            second.close()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while True:
                with contextlib.suppress(InvalidStatus), server.connect() as again:
                    assert call(again, action="ping")["type"] == "pong"
                    break
                assert time.monotonic() < deadline
        assert server.stop() == 0


def test_running_out_of_file_descriptors_is_borne_and_passes(tmp_path: Path) -> None:
    with serving_with(tmp_path, "") as server:
        pid = server.process.pid
        with server.connect() as client:
            assert call(client, action="list_prices")["status"] == "success"
            in_use = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names are enough
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + 5, 4096))
            begin = time.monotonic()
            lines = [dial(server) for _ in range(20)]
            for line in lines:
                line.sendall(raw.head())
            time.sleep(2.5)  # on the server's own clock
            assert call(client, action="list_prices")["status"] == "success", "old clients are served"
            for line in lines[:15]:
                line.close()
            for line in lines[15:]:
                assert line.recv(65536).startswith(b"HTTP/1.1 101 "), "and it heals itself"
                line.close()
            seconds = time.monotonic() - begin
        assert server.stop() == 0
        told = [line for line in server.log() if os.strerror(errno.EMFILE) in line]
        assert 1 <= len(told) <= seconds + 3, "the first, and then a sum each second"
        assert "WARNING" in told[0]


def test_a_client_that_keeps_sending_too_much_is_told_why(server: Server) -> None:
    def ask_on(client: ClientConnection) -> None:
        for _ in range(2000):
            call(client, action="ping")

    with server.connect() as client, pytest.raises(ConnectionClosed) as closed:
        ask_on(client)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == CloseCode.RATE_LIMITED
