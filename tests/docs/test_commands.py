"""Each command that the README and our pages show, typed as it stands, one after the other, by a server."""

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, Server, call, free_port, running

CHECKOUT = DOCS.parents[1]
PAGES = [CHECKOUT / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^(?P<indent> {4,})\$ (?P<typed>.*)\n(?P<said>(?:(?P=indent)[^$ ].*\n)*)", re.MULTILINE)
VARIES = re.compile(r"…|[0-9a-f]{8}\.[0-9]+|trio_ws_[\w-]{43}")

HERE = "localhost:8080"
COMMAND_SECONDS = 120  # the longest, a simulation, takes 5 s on a machine that does nothing else
# What goes on until somebody ends it.
ENDLESS = ("trio-ws listen ", "trio-ws webhooks forward ", "trio-ws events tail")
# What is run elsewhere, and where.
ELSEWHERE = {
    "trio-ws simulate": ".ci/run",
    "trio-ws webhooks retry 0b0a9f0e-8f0e-4a53-9f68-0c1e7a1f6a10": (
        "tests/end_to_end/test_webhooks.py: here none has failed"
    ),
    "trio-ws webhooks show 0b0a9f0e-8f0e-4a53-9f68-0c1e7a1f6a10": (
        "tests/end_to_end/test_webhooks.py: here there is none"
    ),
}


def shown() -> list[tuple[str, str]]:
    """Each command, and what is shown of its output."""
    return [
        (found["typed"].partition(" # ")[0].strip(), found["said"])
        for page in PAGES
        for found in BLOCK.finditer(page.read_text())
    ]


def assert_says(output: str, expected: str) -> None:
    """Each line that is shown is there, but for what is another one each time."""
    for line in filter(None, map(str.strip, expected.splitlines())):
        pattern = ".+".join(map(re.escape, VARIES.split(line)))
        assert re.search(pattern, output), (line, output)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server as the README starts it, but on a port and a folder of its own."""
    where = {"TRIO_WS_PORT": str(free_port()), "TRIO_WS_DATA_DIR": str(tmp_path / "data")}
    with running([str(CHECKOUT / "scripts/serve")], tmp_path / "data", where) as server:
        yield server


def followed(server: Server) -> float:
    """How many topics clients follow."""
    with urllib.request.urlopen(server.url.replace("ws://", "http://") + "/metrics") as answer:  # noqa: S310
        found = re.search(r"^trio_ws_subscriptions (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found
    return float(found[1])


def test_each_command_does_what_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(CHECKOUT / ".venv")  # as if it were typed in the checkout
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "TOKEN": "a-token",
        "TRIO_WS_DATA_DIR": str(server.data_dir),
        "TRIO_WS_PORT": server.url.rpartition(":")[2],
        "TRIO_WS_URL": server.url,
    }
    with server.connect() as client:  # as `Send` in the console does; tests/web/test_console.py presses it
        call(client, **INVOICE)
    (path, _), *typed = [(command, said) for command, said in shown() if command not in ELSEWHERE]
    assert path.startswith("PATH=")
    endless: list[subprocess.Popen[str]] = []
    address = server.url.removeprefix("ws://")
    with contextlib.ExitStack() as running_ones:
        for command, said in typed:
            goes_on = command.startswith(ENDLESS)
            begun = subprocess.Popen(
                ["bash", "-c", f"{path}\n{'exec ' if goes_on else ''}{command.replace(HERE, address)}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
                env=environment,
            )
            running_ones.enter_context(begun)
            running_ones.callback(begun.kill)  # where this test fails
            if goes_on:
                endless.append(begun)
                deadline = time.monotonic() + PATIENCE_SECONDS
                while followed(server) < sum("events tail" not in str(one.args) for one in endless):
                    assert time.monotonic() < deadline, command
                    time.sleep(0.05)
                continue
            output = begun.communicate(timeout=COMMAND_SECONDS)[0]
            assert begun.returncode == 0, (command, output)
            assert "Traceback" not in output
            assert_says(output, said)
        outputs = []
        for begun in endless:
            begun.send_signal(signal.SIGINT)
            outputs.append(begun.communicate(timeout=PATIENCE_SECONDS)[0])
            assert begun.returncode == 128 + signal.SIGINT, outputs
    printed = re.findall(r"^ +(f5ff98b6.*)$", PAGES[0].read_text(), re.MULTILINE)
    assert_says(outputs[0], "\n".join(printed))


def test_the_commands_that_are_run_elsewhere_are_still_shown() -> None:
    assert set(ELSEWHERE) <= {command for command, _ in shown()}
    assert len(shown()) > 20


def test_another_output_would_be_seen() -> None:
    assert_says("token 7 of account 2", "token … of account 2")
    with pytest.raises(AssertionError):
        assert_says("token 7 of account 2", "token … of account 3")
