"""The echo that conformance suites talk to gives back what it gets, as it got it."""

import signal
import subprocess
import sys

from websockets.sync.client import connect


def test_it_echoes_text_and_binary_of_any_length() -> None:
    command = [sys.executable, "-m", "trio_ws.testing.echo", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            with connect(url, max_size=None, compression=None) as client:
                for message in ("", "é", b"\xff", "x" * 200_000, b"x" * 200_000):
                    client.send(message)
                    assert client.recv(timeout=30) == message
                client.send(["in ", "fragments"] * 300)
                assert client.recv(timeout=30) == "in fragments" * 300
        finally:
            process.send_signal(signal.SIGINT)
