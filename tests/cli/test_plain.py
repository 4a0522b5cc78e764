"""`listen --sse`: what it takes from a stream that breaks off."""

import socket
import threading

import pytest

from trio_ws.cli.plain import Server, listen
from trio_ws.cli.target import Place
from trio_ws.errors import StartupError

PATIENCE_SECONDS = 20  # far more than anything takes
FIRST = b"retry: 1\nid: a.7\nevent: invoice.created\ndata: {}\n\n"
STREAM = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"id: a.1",  # of a.10
        b"id: a.8\n",
        b"id: a.8\nevent: invoice.created\ndata: {",
        b"id: a.8\nevent: invoice.created\ndata: {}\n",
        "data: é".encode()[:-1],
        b"retry: ",
    ],
)
def test_half_a_block_is_asked_for_again(half: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[bytes] = []

    def serve() -> None:
        for response in (STREAM + FIRST + half, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"):
            line, _ = listener.accept()
            with line:
                asked.append(line.recv(65536))
                line.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(StartupError, match="400 Bad Request"):
            listen(Server(Place(f"http://127.0.0.1:{listener.getsockname()[1]}")), "account:1", "a.6")
        server.join(PATIENCE_SECONDS)
    assert b"Last-Event-ID: a.6\r\n" in asked[0]
    assert b"Last-Event-ID: a.7\r\n" in asked[1]
    assert capfd.readouterr().out == FIRST.decode()
