"""The JavaScript client in Node, on a network that obeys and on a real server; its types by TypeScript."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import trio_ws_command
from tests.end_to_end.serving import INVOICE, Server, call, execute, free_port, serving
from tests.requirements import need

HERE = Path(__file__).parent
SOURCES = HERE.parent.parent / "trio_ws" / "web"
COMPILER = "typescript@5.9.3"  # as in scripts/types
Json = dict[str, Any]


def node() -> list[str]:
    """Node, with a WebSocket, which it has by itself from 22 on."""
    path = need("node")
    version = subprocess.check_output([path, "--version"], text=True)
    return [path, *(["--experimental-websocket"] if int(version[1:].partition(".")[0]) < 22 else [])]


def run(*command: object) -> str:
    done = subprocess.run(
        [*node(), *map(str, command)], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests_pass() -> None:
    assert "# fail 0" in run("--test", "--test-reporter=tap", HERE / "trio-ws.test.mjs")


def test_its_types_and_the_console_s_are_right() -> None:
    config = HERE / "tsconfig.json"
    done = subprocess.run(
        [need("npx"), "--yes", "-p", COMPILER, "tsc", "-p", config],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Followed:
    """Node, following; what it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[Json] = []

    def wait_for(self, **fields: object) -> Json:
        """Return the next line that holds these fields; keep the events that come before it."""
        assert self.process.stdout
        for line in self.process.stdout:
            found: Json = json.loads(line)
            if "state" not in found and "position" in found:
                self.events.append(found)
            if fields.items() <= found.items():
                return found
        raise AssertionError(f"it ended without {fields}")

    @property
    def positions(self) -> list[int]:
        return [int(event["position"].rpartition(".")[2]) for event in self.events]


@contextmanager
def following(url: str, topics: list[tuple[str, object]], **options: object) -> Iterator[Followed]:
    command = [*node(), str(HERE / "follow.mjs"), url, json.dumps(topics), json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Followed(process)
        finally:
            process.kill()


def test_many_requests_at_once_are_answered_each_by_its_own(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        requests = [{**INVOICE, "amount": amount} for amount in range(1, 101)]
        requests += [{"action": "fetch_invoice", "id": "x"}, {"action": "ping"}]
        *created, missing, pong = json.loads(run(HERE / "ask.mjs", server.url, json.dumps(requests)))
        assert [reply["data"]["amount"] for reply in created] == list(range(1, 101))
        assert missing["code"] == "not_found"
        assert pong["type"] == "pong"
        assert "request_id" not in pong


def change(server: Server, first: int, last: int) -> None:
    """What another program does, while a client may be away."""
    for amount in range(first, last + 1):
        values = f"({amount}, 'USD', 1)"
        execute(server.data_dir, f"INSERT INTO invoices (amount, currency, account_id) VALUES {values}")  # noqa: S608


def test_events_come_once_and_in_order_across_kills_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_WS_RETRY_SPREAD_SECONDS", "0.5")
    port = str(free_port())
    with following(f"ws://127.0.0.1:{port}", [("account", 1), ("price", "*")]) as followed:
        followed.wait_for(state="lost")  # there is no server yet
        with serving(tmp_path, port=port) as server:
            followed.wait_for(state="open", isResumed=False)
            change(server, 1, 20)
            followed.wait_for(type="invoice.created")
            server.stop(signal.SIGKILL)
            followed.wait_for(state="lost")
        with serving(tmp_path, "--no-migrate", port=port) as server:
            change(server, 21, 40)
            followed.wait_for(state="open", isResumed=True, isGap=False)
            change(server, 41, 60)
            server.stop(signal.SIGTERM)
            lost = followed.wait_for(state="lost")
            assert (lost["code"], lost["reason"].startswith("retry_after=")) == (1001, True)
        with serving(tmp_path, port=port) as server:
            change(server, 61, 80)
            while len(followed.events) < 80:
                followed.wait_for(type="invoice.created")
        assert [event["data"]["amount"] for event in followed.events] == list(range(1, 81))
        assert followed.positions == sorted(set(followed.positions))


def test_a_position_of_another_log_is_a_gap(tmp_path: Path) -> None:
    with serving(tmp_path) as server, following(server.url, [("account", 1)], after="another.5") as followed:
        followed.wait_for(isGap=True, state="open")
        change(server, 1, 1)
        followed.wait_for(type="invoice.created")
        assert [event["isGap"] for event in followed.events] == [True, False]


def test_break_ends_the_line(tmp_path: Path) -> None:
    with serving(tmp_path) as server, following(server.url, [("account", 1)], most=1) as followed:
        followed.wait_for(state="open")
        change(server, 1, 1)
        followed.wait_for(state="closed")
        assert followed.process.wait(30) == 0, "nothing keeps Node from ending"


def test_a_token_lets_in_until_it_is_revoked(tmp_path: Path) -> None:
    with serving(tmp_path, "--auth", "token") as server:
        command = ["token", "create", "--account", "1", "--scope", "read", "--data-dir", str(tmp_path)]
        token = trio_ws_command(*command).stdout.split()[-1]
        with following(server.url, [("account", 1)], token="trio_ws_wrong") as followed:
            assert followed.wait_for(error="unauthorized")
        with following(server.url, [("account", 1)]) as followed:
            assert followed.wait_for(error="unauthorized")
        with following(server.url, [("account", 1)], token=token) as followed:
            followed.wait_for(state="open")
            change(server, 1, 1)
            followed.wait_for(type="invoice.created")
            trio_ws_command("token", "revoke", "1", "--data-dir", str(tmp_path))
            assert followed.wait_for(state="refused")["code"] == 4401
            assert followed.wait_for(error="unauthorized")


def test_a_name_that_is_forbidden_is_the_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with following(server.url, [("dance", 1)]) as followed:
            assert followed.wait_for(error="invalid_topic")
        with server.connect() as client:
            assert call(client, action="ping")["type"] == "pong"
