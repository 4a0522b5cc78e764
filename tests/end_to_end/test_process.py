"""The whole: a real process, real sockets, real PostgreSQL, and a client from another library."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import psycopg
import pytest
import trio
from websockets.exceptions import ConnectionClosed

from tests import clusters, raw
from tests.database.test_embedded import processes_of, wait_until_gone
from tests.end_to_end.serving import (
    INVOICE,
    PATIENCE_SECONDS,
    SERVE,
    Server,
    call,
    execute,
    free_port,
    receive,
    running,
    serving,
    start_process,
)
from trio_ws.client import Event, Following, Gap
from trio_ws.client import connect as trio_client
from trio_ws.database import embedded


def test_a_client_creates_fetches_follows_and_sees_its_events(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with server.connect() as client, server.connect("/ws") as follower:
            assert call(follower, action="subscribe", type="account", id=1)["status"] == "success"
            created = call(client, **INVOICE)["data"]
            assert call(client, action="fetch_invoice", id=created["uid"])["data"] == created
            event = receive(follower)
            assert (event["type"], event["data"]) == ("invoice.created", created)
            execute(tmp_path, "UPDATE invoices SET status = 'confirming'")
            event = receive(follower)
            assert (event["data"]["status"], event["previous"]) == ("confirming", {"status": "unpaid"})
            execute(tmp_path, "UPDATE prices SET value = 44000 WHERE currency = 'BTC'")
            assert receive(follower)["data"]["value"] == 44000
        assert server.stop() == 0
        assert server.log()[-1].endswith("stopped")


def test_an_invoice_outlives_kill_9_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with server.connect() as client:
            created = call(client, **INVOICE)["data"]
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until_gone(tmp_path)
    with serving(tmp_path) as server, server.connect() as client:
        assert call(client, action="fetch_invoice", id=created["uid"])["data"] == created


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_says_goodbye_and_exits_0(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as server, server.connect() as client:
        assert server.stop(number) == 0
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1001
        assert closed.value.rcvd.reason.startswith("retry_after=")


def test_stopping_answers_what_was_asked(tmp_path: Path) -> None:
    with serving(tmp_path) as server, contextlib.ExitStack() as lines:
        clients = [lines.enter_context(server.connect()) for _ in range(5)]
        for client in clients:
            client.send(json.dumps(INVOICE))
        assert server.stop() == 0
        answered = 0
        for client in clients:
            with contextlib.suppress(ConnectionClosed):
                answered += receive(client)["status"] == "success"
    with serving(tmp_path), psycopg.connect(embedded.conninfo(tmp_path)) as connection:
        # Whichever of them the server read before the signal: what it did, it answered.
        assert connection.execute("SELECT count(*) FROM invoices").fetchone() == (answered,)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.connect() as client:
        lock = psycopg.connect(embedded.conninfo(tmp_path))
        lock.execute("LOCK TABLE invoices")
        client.send(json.dumps(INVOICE))  # it waits for the lock, and so does the server when it stops
        while not lock.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("stopping")
        assert server.stop(signal.SIGTERM) == -signal.SIGTERM
        lock.close()


@pytest.mark.parametrize("seconds", [0.3, 0.6, 0.9])
def test_stopping_a_server_that_still_starts_leaves_nothing_behind(tmp_path: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "trio_ws", "serve", "--port", "0", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)  # somewhere between import and listening; the test holds wherever
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) in (0, -signal.SIGTERM)  # the latter before it has read a line
    if (tmp_path / "postgres").exists():
        wait_until_gone(tmp_path)


def test_sighup_ends_no_server_that_starts_or_stops(tmp_path: Path) -> None:
    command = [*SERVE, "--port", "0", "--data-dir", str(clusters.copy_to(tmp_path))]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stderr.readline()  # of PostgreSQL, that it runs
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline().startswith("Listening")
        process.send_signal(signal.SIGTERM)
        for line in process.stderr:
            if "stopped" not in line:
                process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE_SECONDS) == 0


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_dead(pid: int) -> bool:
    """Tell whether it has ended, and nobody has taken note of that."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root makes namespaces of processes"
)
def test_as_process_1_it_buries_orphans_and_heeds_signals(tmp_path: Path) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *SERVE, "--port", "0"]
    with running([*command, "--data-dir", str(clusters.copy_to(tmp_path))], tmp_path) as server:
        (first,) = children_of(server.process.pid)
        for pid in processes_of(tmp_path):
            with contextlib.suppress(ProcessLookupError):  # it has ended with the one before it
                os.kill(pid, signal.SIGKILL)
        server.wait_for_line("starting it again")
        with server.connect() as client:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while call(client, action="list_prices")["status"] != "success":
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert not any(map(is_dead, children_of(first)))
        os.kill(first, signal.SIGTERM)
        assert server.process.wait(PATIENCE_SECONDS) == 0
    assert server.log()[-1].endswith("stopped")


def test_an_embedded_database_that_was_killed_is_started_anew(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.connect() as client:
        uid = call(client, **INVOICE)["data"]["uid"]
        note = (tmp_path / "postgres" / "postmaster.pid").read_text().splitlines()
        os.kill(int(note[0]), signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (reply := call(client, action="fetch_invoice", id=uid))["status"] != "success":
            assert reply["code"] == "unavailable"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert reply["data"]["uid"] == uid
        assert server.stop() == 0


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        done = subprocess.run(
            [sys.executable, "-m", "trio_ws", "serve", "--port", "0", "--data-dir", str(tmp_path)],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 1
        assert done.stderr == (
            f"trio-ws: another trio-ws uses {tmp_path}: stop it, or choose another --data-dir\n"
        )
        with server.connect() as client:
            assert call(client, action="ping")["type"] == "pong"


def test_garbage_on_one_connection_is_no_concern_of_another(tmp_path: Path) -> None:
    port_scan = [
        b"",
        b"\0" * 50,
        b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"x" * 100_000,
    ]
    with serving(tmp_path, "--log-format", "json") as server:
        with server.connect() as client:
            address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
            for data in port_scan * 5:
                with socket.create_connection(address) as line, contextlib.suppress(OSError):
                    line.sendall(data)
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            for message in ("{", "[" * 1000, b"\0\xff"):
                client.send(message)
                assert receive(client)["status"] == "error"
            with server.connect() as other:
                other.send("x" * 70_000)
                with pytest.raises(ConnectionClosed, match="1009"):
                    other.recv(timeout=PATIENCE_SECONDS)
            assert call(client, action="ping")["type"] == "pong"
        assert server.stop() == 0
        levels = {json.loads(line)["level"] for line in server.log()}
        assert levels == {"info"}


def test_settings_come_from_the_environment_too(tmp_path: Path) -> None:
    environment = {**os.environ, "TRIO_WS_PORT": "0", "TRIO_WS_DATA_DIR": str(clusters.copy_to(tmp_path))}
    command = [sys.executable, "-m", "trio_ws", "serve"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            with Server(process, tmp_path).connect() as client:
                assert call(client, action="list_prices")["status"] == "success"
        finally:
            process.kill()
    wait_until_gone(tmp_path)


def test_a_database_of_ones_own_is_used(tmp_path: Path, empty_database: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "trio_ws", "serve", "--port", "0", "--database-url", empty_database],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        server = Server(process, tmp_path)
        with server.connect() as client:
            uid = call(client, **INVOICE)["data"]["uid"]
        assert server.stop() == 0
    with psycopg.connect(empty_database) as connection:
        assert [str(row[0]) for row in connection.execute("SELECT uid FROM invoices")] == [uid]


async def test_our_own_client_follows_through_kill_9_of_the_server(tmp_path: Path) -> None:
    """The server is killed twice while another program writes: nothing is lost, doubled or out of order."""
    port = str(free_port())
    command = [sys.executable, "-m", "trio_ws", "serve", "--port", port, "--database-url"]
    with embedded.embedded_postgres(clusters.copy_to(tmp_path)) as postgres:
        command.append(postgres.conninfo)
        memos: list[str] = []
        process = await trio.to_thread.run_sync(start_process, command)
        async with trio_client(f"ws://127.0.0.1:{port}") as client:
            uid = (await client.create_invoice(amount=1, currency="USD", account_id=1))["uid"]
            events = client.follow(("invoice", uid))
            with trio.fail_after(2 * PATIENCE_SECONDS):
                await trio.sleep(1)  # it follows; if it does not yet, it sees no less
                for number in range(150):
                    await trio.to_thread.run_sync(execute, tmp_path, f"UPDATE invoices SET memo = {number}")  # noqa: S608
                    if number in (50, 100):
                        process.kill()
                        process.wait()
                        process = await trio.to_thread.run_sync(start_process, command)
                    if number > 0 and number % 3 == 0:
                        memos += await read_some(events)
                while memos[-1:] != ["149"]:
                    memos += await read_some(events)
        process.terminate()
        assert process.wait() == 0
    assert memos == [str(number) for number in range(150)]


def test_the_shell_asks_and_listens(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        shell = [sys.executable, "-m", "trio_ws"]
        command = [*shell, "listen", "account", "1", "--json", "--url", server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout
            created: list[str] = []
            while not created or not select.select([listener.stdout], [], [], 0.5)[0]:
                ask = [*shell, "call", "create_invoice", "amount=1000", "currency=USD", "account_id=1"]
                done = subprocess.run([*ask, "--url", server.url], check=True, capture_output=True, text=True)
                created.append(json.loads(done.stdout)["uid"])
            event = json.loads(listener.stdout.readline())
            assert (event["type"], event["gap"]) == ("invoice.created", False)
            assert event["data"]["uid"] in created
            listener.send_signal(signal.SIGINT)
            assert listener.wait(PATIENCE_SECONDS) == 128 + signal.SIGINT
        for wrong, complaint in (
            (["call", "create_invoice", "amount=0"], "Invalid message format (Object missing required field"),
            (["listen", "account", "x" * 129], "Invalid account id"),
        ):
            done = subprocess.run(
                [*shell, *wrong, "--url", server.url], check=False, capture_output=True, text=True
            )
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f"trio-ws: {complaint}"), done.stderr


def test_the_shell_asks_and_listens_over_plain_http_too(tmp_path: Path) -> None:
    shell = [sys.executable, "-m", "trio_ws"]

    def ask(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*shell, *arguments, "--url", server.url]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)

    with serving(tmp_path) as server:
        command = [*shell, "listen", "account", "1", "--sse", "--url", server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as listener:
            assert listener.stdout
            assert read_block(listener.stdout)["event"] == "subscribed"
            done = ask("call", "create_invoice", "amount=1000", "currency=USD", "account_id=1", "--http")
            uid = json.loads(done.stdout)["uid"]
            block = read_block(listener.stdout)
            assert (block["event"], json.loads(block["data"])["data"]["uid"]) == ("invoice.created", uid)
            listener.send_signal(signal.SIGINT)
            assert listener.wait(PATIENCE_SECONDS) == 128 + signal.SIGINT
        for wrong, code, complaint in (
            (["call", "create_invoice", "amount=0", "--http"], 1, "Invalid message format (Object missing"),
            (["call", "ping", "action=x", "--http"], 2, "no field can be called 'action'"),
            (["listen", "account", "x" * 129, "--sse"], 1, "Invalid account id"),
            (["listen", "weather", "today"], 2, 'Invalid value "weather" for TYPE'),
            (["listen", "account", "1", "--sse", "--json"], 2, "--sse prints the stream as it is"),
        ):
            done = ask(*wrong)
            assert (done.returncode, done.stdout) == (code, "")
            assert done.stderr.startswith(f"trio-ws: {complaint}"), done.stderr


def test_the_shell_lists_connections_and_closes_one(tmp_path: Path) -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trio_ws", "connections", *arguments, "--url", server.url]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS)

    with serving(tmp_path) as server, server.connect() as till:
        assert call(till, action="subscribe", type="account", id=1)["status"] == "success"
        _, line = ask("list").stdout.splitlines()
        shown = r"websocket  127\.0\.0\.1  account –, no token  1 topics  1 requests"
        assert re.search(shown, line), line
        found = ask("list", "--json").stdout.splitlines()
        (one,) = (one for one in map(json.loads, found) if one["topics"] == ["account:1"])
        some = ask("list", "--limit", "1")
        assert len(some.stdout.splitlines()) == 1
        assert some.stderr == "trio-ws: there are more than 1; see --limit\n"
        assert ask("end", one["id"]).stdout == f"Closing connection {one['id']}\n"
        with pytest.raises(ConnectionClosed) as closed:
            till.recv(timeout=PATIENCE_SECONDS)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        unknown = ask("end", "1-1")
        assert unknown.returncode == 1
        assert "Connection not found" in unknown.stderr


def test_the_shell_lists_invoices_and_shows_one_with_its_payments(tmp_path: Path) -> None:
    shell = [sys.executable, "-m", "trio_ws", "invoices"]

    def ask(*arguments: str) -> str:
        command = [*shell, *arguments, "--url", server.url]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        return done.stdout

    with serving(tmp_path) as server, server.connect() as creator:
        uids = [
            call(creator, **{**INVOICE, "currency": currency, "amount": 1500, "memo": currency})["data"][
                "uid"
            ]
            for currency in ("JPY", "KWD", "USD")
        ]
        call(creator, action="record_payment", uid=uids[2], reference="tx", amount=500, status="settled")
        assert ask("list", "--account", "1").splitlines() == [
            f"{uids[2]}  unpaid  15.00 USD  paid 5.00 USD  account 1  USD",
            f"{uids[1]}  unpaid  1.500 KWD  account 1  KWD",
            f"{uids[0]}  unpaid  1500 JPY  account 1  JPY",
        ]
        assert len(ask("list", "--account", "1", "--limit", "2").splitlines()) == 2
        assert ask("list", "--account", "1", "--status", "paid") == ""
        assert json.loads(ask("list", "--account", "1", "--limit", "1", "--json"))["uid"] == uids[2]
        shown = ask("show", uids[2])
        assert re.search(r"^  \S+  settled  5\.00 USD  tx$", shown, re.MULTILINE), shown
        assert [one["reference"] for one in json.loads(ask("show", uids[2], "--json"))["payments"]] == ["tx"]


def read_block(stream: IO[bytes]) -> dict[str, str]:
    """The next block of a stream that is not buffered, by its lines' names."""
    block = b""
    while not block.endswith(b"\n\n"):
        assert select.select([stream], [], [], PATIENCE_SECONDS)[0], block
        block += stream.read(1)
    return dict(line.split(": ", 1) for line in block.decode().split("\n") if line)


def test_the_shell_says_at_once_why_it_can_t_ask(tmp_path: Path, checkout: Path) -> None:
    certificate = checkout / "tests/webhooks/keys/receiver.pem"
    with serving(tmp_path, "--tls-cert", str(certificate), "--auth", "token") as server:
        address = server.url.rpartition("/")[2]
        for url, complaint in (
            (f"ws://127.0.0.1:{free_port()}", "Connection refused"),
            ("ws://nowhere.invalid", "can't connect to nowhere.invalid: "),
            (f"wss://{address}", "its certificate is not trusted"),
        ):
            command = [sys.executable, "-m", "trio_ws", "call", "ping", "--url", url]
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS
            )
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
            assert complaint in done.stderr


async def read_some(events: Following[Event | Gap]) -> list[str]:
    """The memos of what comes within a moment."""
    found: list[str] = []
    with trio.move_on_after(0.05):
        async for event in events:
            assert isinstance(event, Event)
            if event.type == "invoice.updated":  # its creation may come too
                found.append(event.data["memo"])
    return found


def test_a_client_that_reads_slowly_and_steadily_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_WS_PING_SECONDS", "0.3")
    monkeypatch.setenv("TRIO_WS_PONG_SECONDS", "0.3")
    with serving(tmp_path) as server:
        with server.connect() as client:
            position = call(client, action="subscribe", type="account", id=1)["data"]["position"]
            execute(
                tmp_path,
                "INSERT INTO invoices (account_id, amount, currency, memo)"
                " SELECT 1, 1, 'USD', repeat('x', 1000) FROM generate_series(1, 800)",
            )
            for _ in range(800):
                receive(client)
        with socket.socket() as line:
            line.settimeout(PATIENCE_SECONDS)
            line.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            request = {"action": "subscribe", "type": "account", "id": 1, "after": position}
            line.sendall(raw.head() + raw.frame(raw.TEXT, json.dumps(request).encode()))
            received = b""
            while (
                seen := received.count(b'"invoice.created"')
            ) < 800:  # for seconds, and it answers no ping: it has not come to them yet
                data = line.recv(20_000)
                assert data, f"closed after {seen} events"
                received += data
                time.sleep(0.1)
