"""Lines that go dead without a word: a client's, and that of PostgreSQL's notifications."""

import re
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
from websockets.sync.client import ClientConnection, connect

from tests.database.test_gateway import watching, write
from tests.end_to_end.proxy import HOST, Proxy
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, Server, call, receive
from tests.end_to_end.test_hostile import port_of, serving_with
from tests.programs import postgres_program
from trio_ws.database import gateway as gateway_module
from trio_ws.database import queries
from trio_ws.database.gateway import Gateway
from trio_ws.errors import Unavailable
from trio_ws.settings import Settings
from trio_ws.testing import simulated_server

IMPATIENT = "ping_seconds = 0.3\npong_seconds = 0.3\nclose_seconds = 0.3"
TOPIC = {"type": "account", "id": 1}


def measure(server: Server, metric: str) -> float:
    """Return what `/metrics` says of one; its labels are part of its name."""
    url = server.url.replace("ws://", "http://") + "/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - http, ours
        found = re.search(rf"^{re.escape(metric)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def create(client: ClientConnection) -> str:
    return str(call(client, **INVOICE)["data"]["uid"])


def test_a_client_that_vanishes_is_given_up_and_resumes_exactly(tmp_path: Path) -> None:
    with (
        serving_with(tmp_path, IMPATIENT) as server,
        server.connect() as creator,
        Proxy.to_port(port_of(server)) as line,
    ):
        with connect(f"ws://{HOST}:{line.port}") as client:
            call(client, action="subscribe", **TOPIC)
            created = [create(creator)]
            last = receive(client)
            line.black_hole()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while measure(server, "trio_ws_connections") > 1:  # the creator
                created.append(create(creator))
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert measure(server, 'trio_ws_connections_closed_total{code="4000"}') == 1
            client.socket.close()  # which nobody would answer in good order
        line.heal()
        with connect(f"ws://{HOST}:{line.port}") as client:
            reply = call(client, action="resume", after=last["position"], topics=[TOPIC])
            assert reply["data"]["recovered"]
            created.append(create(creator))
            events = [last, *(receive(client) for _ in created[1:])]
            assert [event["data"]["uid"] for event in events] == created
        assert server.stop() == 0


def listening_through(line: Proxy, conninfo: str, statement_seconds: float = 2.0) -> Gateway:
    settings = Settings(listen_url=line.conninfo(conninfo), statement_seconds=statement_seconds)
    return Gateway(conninfo, settings)


async def test_events_come_by_polling_while_the_line_of_notifications_is_dead(conninfo: str) -> None:
    with (
        Proxy.to_postgres(conninfo) as line,
        closing(listening_through(line, conninfo)) as gateway,
    ):
        async with simulated_server(gateway) as world:
            client, program = await world.connect(), postgres_program(conninfo)
            await client.send(action="subscribe", **TOPIC)
            await client.receive()
            line.black_hole()
            with trio.fail_after(PATIENCE_SECONDS):
                for _ in range(5):
                    uid = await program.create_invoice(account_id=1, amount=1, currency="USD")
                    assert (await client.receive())["data"]["uid"] == str(uid)
        assert line.swallowed > 0


async def test_a_pooler_that_falls_silent_while_a_session_begins_keeps_no_connection(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(connection: queries.Connection) -> None:
        line.black_hole()
        right(connection)

    right = queries.prepare_pooled_connection
    with (
        Proxy.to_postgres(conninfo) as line,
        closing(
            Gateway(line.conninfo(conninfo), Settings(listen_url=conninfo, statement_seconds=0.5))
        ) as gateway,
    ):
        async with watching(gateway):
            with monkeypatch.context() as patch, trio.fail_after(PATIENCE_SECONDS):
                patch.setattr(queries, "prepare_pooled_connection", prepare)
                with pytest.raises(Unavailable):
                    await gateway.run(queries.check)
            line.heal()
            await gateway.run(queries.check)


async def test_a_dead_line_of_notifications_is_noticed_and_replaced(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "HEARTBEAT_SECONDS", 0.2)
    with (
        Proxy.to_postgres(conninfo) as line,
        closing(listening_through(line, conninfo, statement_seconds=0.5)) as gateway,
    ):
        async with watching(gateway) as wakes:
            with trio.fail_after(PATIENCE_SECONDS):
                line.black_hole()
                while not line.swallowed:  # noqa: ASYNC110 - of a heartbeat
                    await trio.sleep(0.01)
                monkeypatch.setattr(gateway_module, "HEARTBEAT_SECONDS", 3600)  # what wakes us now is news
                line.heal()
                with suppress(trio.WouldBlock):
                    while True:
                        wakes.receive_nowait()
                await wakes.receive()  # it listens again
                await trio.to_thread.run_sync(write, conninfo)
                await wakes.receive()
        assert line.opened == 2


async def test_who_is_told_to_end_ends_though_a_line_is_dead(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "HEARTBEAT_SECONDS", 0.05)
    with (
        Proxy.to_postgres(conninfo) as line,
        closing(listening_through(line, conninfo, statement_seconds=0.5)) as gateway,
    ):
        async with watching(gateway):
            line.black_hole()
            while not line.swallowed:  # noqa: ASYNC110 - of a heartbeat, in a thread that can't be cancelled
                await trio.sleep(0.01)
