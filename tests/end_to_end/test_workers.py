"""Several processes on one port, as clients and operators see them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.end_to_end.serving import (
    INVOICE,
    PATIENCE_SECONDS,
    Server,
    call,
    execute,
    receive,
    serving,
    workers_of,
)
from trio_ws.client import Event, Following, Gap
from trio_ws.client import connect as trio_client
from trio_ws.database import embedded

CLIENTS = 16  # so many all on one of two workers: once in 2^15 runs


def wait_until(description: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, description
        time.sleep(0.02)


def is_alive(client: ClientConnection) -> bool:
    try:
        return "timestamp" in call(client, action="ping")
    except ConnectionClosed:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of two workers."""
    with serving(tmp_path, "--workers", "2") as server:
        yield server


@pytest.fixture
def clients(server: Server) -> Iterator[list[ClientConnection]]:
    """Clients on both of its workers."""
    with contextlib.ExitStack() as lines:
        yield [lines.enter_context(server.connect()) for _ in range(CLIENTS)]


def test_one_worker_that_is_asked_speaks_for_all(server: Server, clients: list[ClientConnection]) -> None:
    for client in clients[1:]:
        call(client, action="subscribe", type="account", id=1)
    asker = clients[0]
    figures = call(asker, action="fetch_figures")["data"]
    assert (len(figures["processes"]), figures["missing"]) == (2, 0)
    assert figures["values"]["trio_ws_connections"] == CLIENTS
    assert figures["values"]["trio_ws_subscriptions"] == CLIENTS - 1
    found: list[dict[str, Any]] = []
    cursor = None
    while not found or cursor:
        page = call(asker, action="list_connections", limit=3, cursor=cursor)
        found += page["data"]
        cursor = page.get("next")
    assert len({one["id"] for one in found}) == len(found) == CLIENTS
    assert {one["id"].partition("-")[0] for one in found} == {str(pid) for pid in figures["processes"]}
    opened = [one["openedAt"] for one in found]
    assert opened == sorted(opened, reverse=True)
    for one in [one for one in found if one["topics"]]:
        reply = call(asker, action="end_connection", id=one["id"])
        assert reply["message"] == f"Closing connection {one['id']}"
    for client in clients[1:]:
        with pytest.raises(ConnectionClosed) as closed:
            receive(client)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


def test_a_worker_that_hangs_is_missed_and_one_that_was_killed_is_not(server: Server, tmp_path: Path) -> None:
    with server.connect() as asker:
        (own,) = call(asker, action="list_connections")["data"]
        processes = call(asker, action="fetch_figures")["data"]["processes"]
        (other,) = {*processes} - {int(own["id"].partition("-")[0])}
        os.kill(other, signal.SIGSTOP)
        try:
            reply = call(asker, action="list_connections")
            assert [one["id"] for one in reply["data"]] == [own["id"]]
            assert reply["message"] == "1 of the server's processes did not answer"
            assert call(asker, action="fetch_figures")["data"]["missing"] == 1
        finally:
            os.kill(other, signal.SIGKILL)
        wait_until("the worker is replaced", lambda: len(workers_of(server)) == 2)

        def all_answer() -> bool:
            time.sleep(0.5)  # it is ten requests' worth, and there is a limit
            figures = call(asker, action="fetch_figures")["data"]
            return len(figures["processes"]) == 2 and not figures["missing"]

        wait_until("the one that was killed is forgotten", all_answer)
    assert server.stop() == 0


def test_an_event_reaches_the_followers_on_every_worker(
    server: Server, clients: list[ClientConnection]
) -> None:
    for client in clients:
        assert call(client, action="subscribe", type="account", id=1)["status"] == "success"
    with server.connect() as creator:
        created = [call(creator, **INVOICE)["data"]["uid"] for _ in range(10)]
    execute(server.data_dir, "UPDATE prices SET value = 44000 WHERE currency = 'BTC'")
    for client in clients:
        events = [receive(client) for _ in range(11)]
        assert [event["data"]["uid"] for event in events[:10]] == created
        assert events[10]["data"]["value"] == 44000
        assert len({event["position"] for event in events}) == 11
    assert server.stop() == 0
    assert sum("draining" in line for line in server.log()) == 2


def test_a_worker_that_is_killed_takes_only_its_own_clients_and_is_replaced(
    server: Server, clients: list[ClientConnection]
) -> None:
    before = workers_of(server)
    assert len(before) == 2
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    wait_until("it is replaced", lambda: len(workers_of(server) - {victim}) == 2)
    assert 0 < sum(is_alive(client) for client in clients) < CLIENTS
    with server.connect() as client:
        assert is_alive(client)
    assert server.stop() == 0


async def test_a_follower_of_ours_goes_on_at_another_worker(server: Server) -> None:
    got: list[str] = []
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio_client(server.url) as client:
            invoice = await client.create_invoice(amount=1, currency="USD", account_id=1)
            events = client.follow(("invoice", invoice["uid"]))
            await client.call("ping")
            for number in range(30):
                if number in (10, 20):  # whichever of them serves it: all that live now
                    for pid in workers_of(server):
                        os.kill(pid, signal.SIGKILL)
                memo = f"UPDATE invoices SET memo = '{number}'"  # noqa: S608
                await trio.to_thread.run_sync(execute, server.data_dir, memo)
                if number == 5:
                    got.append((await take(events))["memo"])
            while got[-1] != "29":
                got.append((await take(events))["memo"])
    first = int(got[0])
    assert first <= 5, "it follows from its first event on"
    assert got == [str(number) for number in range(first, 30)]


async def take(events: Following[Event | Gap]) -> dict[str, str]:
    """The next event's invoice, once somebody has changed it."""
    while True:
        event = await anext(events)
        assert isinstance(event, Event)
        if event.type == "invoice.updated":
            return event.data


def test_sigterm_to_the_parent_drains_all_workers(server: Server, clients: list[ClientConnection]) -> None:
    workers = workers_of(server)
    assert server.stop() == 0
    for client in clients:
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE_SECONDS)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1001
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_sigterm_to_a_worker_drains_and_replaces_it(server: Server, clients: list[ClientConnection]) -> None:
    victim = min(workers_of(server))
    os.kill(victim, signal.SIGTERM)
    wait_until("it is replaced", lambda: len(workers_of(server) - {victim}) == 2)
    codes = [None if is_alive(client) else client.close_code for client in clients]
    assert set(codes) == {None, 1001}
    assert server.stop() == 0


def test_kill_9_of_the_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as server:
        workers = workers_of(server)
        port = server.url.rpartition(":")[2]
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until("they end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    with serving(tmp_path, "--workers", "2", port=port) as server, server.connect() as client:
        assert is_alive(client)


def test_a_second_signal_ends_all_workers_at_once(server: Server) -> None:
    workers = workers_of(server)
    with server.connect() as client:
        lock = psycopg.connect(embedded.conninfo(server.data_dir))
        lock.execute("LOCK TABLE invoices")
        client.send(json.dumps(INVOICE))  # it waits for the lock, and so does its worker when it stops
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("draining")
        assert server.stop(signal.SIGTERM) == -signal.SIGTERM
        wait_until("they end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        lock.close()


def test_the_port_of_several_processes_is_taken_for_others(server: Server, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    for count in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "trio_ws", "serve", "--port", port, "--workers", count],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert f"port {port} is taken" in done.stderr


def test_workers_that_can_never_serve_end_the_server(conninfo: str) -> None:
    with psycopg.connect(conninfo) as other:
        other.execute("LOCK TABLE event_log")
        done = subprocess.run(
            [sys.executable, "-m", "trio_ws", "serve", "--port", "0", "--workers", "2"],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            env={**os.environ, "TRIO_WS_DATABASE_URL": conninfo},
        )
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert "trio-ws: can't read the event log: The database took too long" in lines
    assert any(line.endswith("no worker starts: what they said stands above") for line in lines)
