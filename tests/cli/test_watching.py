"""`top` and `bench` on a server that runs, in a pipe and on a terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.test_main import assert_one_line, trio_ws_command
from tests.end_to_end.serving import PATIENCE_SECONDS, Server, free_port, serving
from trio_ws.cli.target import Place
from trio_ws.cli.top import Reader, look


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("watched") / "data") as server:
        yield server


def test_in_a_pipe_top_is_one_table(server: Server) -> None:
    done = trio_ws_command("top", server.url, "--interval", "0.5")
    assert done.returncode == 0
    assert re.search(r"^connections +0$", done.stdout, re.MULTILINE)
    assert re.search(r"^advance +[0-9.]+/s +[0-9.]+ ms", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout


def test_several_servers_are_summed(server: Server) -> None:
    once = trio_ws_command("top", "--once", "--interval", "0.5", server.url, server.url)
    (position,) = re.findall(r"^position in the log +(\d+)$", once.stdout, re.MULTILINE)
    assert int(position) % 2 == 0
    assert int(position) > 0


def test_a_server_that_is_not_there_is_said_in_a_line() -> None:
    url = f"localhost:{free_port()}"
    assert_one_line(
        trio_ws_command("top", "--once", url, "--interval", "0.1"), 1, r".* can't be reached .*URL right\?"
    )
    assert_one_line(trio_ws_command("top", "ftp://x"), 2, r".*is no http.*")
    assert_one_line(
        trio_ws_command("bench", "ping", "--url", f"ws://{url}"), 1, "can't connect to .*running\\?"
    )


def test_a_poll_that_takes_longer_than_the_interval_is_followed_by_the_next_at_once() -> None:
    with ThreadPoolExecutor(1) as pool:
        polls = look([f"http://127.0.0.1:{free_port()}/metrics"], 1e-9, Reader(Place("")), pool)
        for _ in range(5):
            assert "can't be reached" in next(polls)[2]


class Terminal:
    """A command on a terminal, and what it wrote there."""

    def __init__(self, *arguments: str) -> None:
        pid, self._screen = pty.fork()
        if pid == 0:
            os.environ.update(TERM="xterm", COLUMNS="100", LINES="50")
            os.execv(sys.executable, [sys.executable, "-m", "trio_ws", *arguments])  # noqa: S606
        self.pid = pid
        self.text = ""

    def wait_for(self, pattern: str) -> None:
        begin, deadline = len(self.text), time.monotonic() + PATIENCE_SECONDS
        while not re.search(pattern, self.text[begin:]):
            assert time.monotonic() < deadline, self.text
            try:
                self.text += os.read(self._screen, 65536).decode(errors="replace")
            except OSError:  # Linux says so when the other end has gone
                return

    def end(self) -> int:
        os.kill(self.pid, signal.SIGINT)
        self.wait_for("(?!)")  # to the end
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_on_a_terminal_it_goes_on_until_ctrl_c_also_without_the_server(tmp_path: Path) -> None:
    port = str(free_port())
    with serving(tmp_path, port=port) as server:
        terminal = Terminal("top", server.url, "--interval", "0.2")
        terminal.wait_for(r"events sent.*0\.0/s")
        server.stop()
        terminal.wait_for("can't be reached")
    with serving(tmp_path, port=port):
        terminal.wait_for(r"▁ +▁")  # a gap in the lines
        assert terminal.end() == 0, terminal.text[-3000:]
    assert terminal.text.rstrip().endswith(("\x1b[?1049l\x1b[?25h", "\x1b[?25h\x1b[?1049l")), (
        "the screen as it was"
    )


@pytest.mark.parametrize("what", ["ping", "fetch", "create", "events"])
def test_bench_measures(server: Server, what: str) -> None:
    done = trio_ws_command("bench", what, "--clients", "3", "--seconds", "0.5", "--url", server.url, "--json")
    result = json.loads(done.stdout)
    assert result["what"] == what
    assert result["count"] > 0
    assert 0 < result["p50"] <= result["p99"] <= result["max"]
    words = trio_ws_command("bench", what, "--clients", "2", "--seconds", "0.2", "--url", server.url).stdout
    assert re.match(rf"{what}: [0-9,]+/s; p50 [0-9.]+ ms, p99 ", words)


def test_bench_slows_down_when_it_is_told_to_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_WS_REQUESTS_PER_SECOND", "10")
    monkeypatch.setenv("TRIO_WS_REQUESTS_BURST", "10")
    with serving(tmp_path) as server:
        done = trio_ws_command(
            "bench",
            "ping",
            "--clients",
            "1",
            "--in-flight",
            "2",
            "--seconds",
            "0.5",
            "--url",
            server.url,
            "--json",
        )
        result = json.loads(done.stdout)
        assert result["errors"]["rate_limited"] >= 1
        assert result["count"] >= 10


def test_bench_leaves_alone_what_is_not_on_this_machine() -> None:
    assert_one_line(trio_ws_command("bench", "ping", "--url", "ws://ws.example"), 2, ".* add --yes, .*")
    assert_one_line(trio_ws_command("bench", "ping", "--clients", "1001"), 2, ".*1000.*")


def test_no_color_is_respected(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "trio_ws",
        "doctor",
        "--port",
        str(free_port()),
        "--data-dir",
        str(tmp_path),
    ]
    texts = {}
    for name, more in (("coloured", {}), ("plain", {"NO_COLOR": "1"})):
        ours, theirs = pty.openpty()
        subprocess.run(
            command, check=False, stdout=theirs, env={**os.environ, "TERM": "xterm", **more}, timeout=60
        )
        texts[name] = os.read(ours, 65536).decode()
        os.close(ours)
        os.close(theirs)
    assert "\x1b[32m" in texts["coloured"]
    assert "\x1b[3" not in texts["plain"]
