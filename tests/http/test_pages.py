"""Plain HTTP on the clients' port: health, readiness, measurements, and whatever else somebody may ask."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any

import h11
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionRejected

from tests import raw
from tests.programs import OtherProgram
from trio_ws import metrics
from trio_ws.database.writes import FORGET_SECONDS
from trio_ws.http.pages import Maker, Page, Pages
from trio_ws.http.requests import Requests
from trio_ws.server import serve
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase, SimulatedNetwork, World, simulated_server
from trio_ws.wire.head import Head
from trio_ws.wire.stream import Wire

INVOICE = {"amount": 1, "currency": "USD", "account_id": 1}


class Browser:
    """Asks for pages on one connection, and reads answers as h11 does."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def ask(self, target: str, method: str = "GET", *headers: tuple[str, str]) -> tuple[int, str]:
        """Return status and body; the next answer comes on the same connection, if it is kept."""
        request = h11.Request(method=method, target=target, headers=[("Host", "localhost"), *headers])
        await self.stream.send_all(self._http.send(request) or b"")
        self._http.send(h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self._http.receive_data(bytes(await self.stream.receive_some()))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return status, body.decode()


@pytest.fixture
async def browser(world: World) -> AsyncIterator[Browser]:
    """One connection to a server."""
    stream = await world.network.call()
    yield Browser(stream)
    await trio.aclose_forcefully(stream)


async def ask(world: World, target: str, method: str = "GET", *headers: tuple[str, str]) -> tuple[int, str]:
    """Ask once, on a connection of its own."""
    stream = await world.network.call()
    answer = await Browser(stream).ask(target, method, *headers)
    await trio.aclose_forcefully(stream)
    await wait_all_tasks_blocked()  # and the server has seen it go
    return answer


async def test_it_says_that_it_lives_and_that_it_serves(browser: Browser) -> None:
    for _ in range(3):  # on one connection
        assert await browser.ask("/healthz") == (200, "ok\n")
        assert await browser.ask("/readyz?verbose") == (200, "ok\n")


async def test_head_is_answered_without_the_body(browser: Browser) -> None:
    assert await browser.ask("/healthz", "HEAD") == (200, "")
    assert await browser.ask("/healthz") == (200, "ok\n")


@pytest.mark.parametrize("target", ["/nowhere", "/"])
async def test_head_is_refused_without_a_body_too(world: World, target: str) -> None:
    stream = await world.network.call()
    await stream.send_all(f"HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await raw.RawClient(stream).see_the_end()
    assert answer.startswith(b"HTTP/1.1 40")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("target", ["/", "/ws", "/healthz", "/readyz"])
async def test_a_health_check_may_ask_with_options(world: World, target: str) -> None:
    stream = await world.network.call()
    await stream.send_all(f"OPTIONS {target} HTTP/1.0\r\n\r\n".encode())  # as HAProxy does
    answer = await raw.RawClient(stream).see_the_end()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nAllow: GET, HEAD, OPTIONS\r\n" in answer
    assert answer.endswith(b"\r\n\r\n"), "no body"


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/nowhere", "GET", 404),
        ("/nowhere", "OPTIONS", 404),
        ("/healthz/", "GET", 404),
        ("/healthz", "POST", 405),
        ("/metrics", "DELETE", 405),
        ("/", "GET", 426),
        ("/ws", "GET", 426),
        ("/ws", "PUT", 405),
    ],
)
async def test_what_is_not_there_is_said(browser: Browser, target: str, method: str, status: int) -> None:
    assert (await browser.ask(target, method))[0] == status


async def test_a_browser_finds_a_page_where_clients_connect(browser: Browser) -> None:
    accepts = ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
    status, text = await browser.ask("/", "GET", accepts)
    assert (status, "<h1>trio_ws</h1>" in text) == (200, True)
    for path in re.findall('href="(/[^"]+)"', text):
        assert (await browser.ask(path))[0] == 200
    assert (await browser.ask("/ws", "GET", accepts))[0] == 426


async def test_a_body_is_not_wanted(world: World) -> None:
    assert (await ask(world, "/healthz", "GET", ("Transfer-Encoding", "chunked")))[0] == 400


async def test_requests_may_come_one_behind_the_other(world: World) -> None:
    stream = await world.network.call()
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, one * 3 + one.replace(b"Host", b"Connection: close\r\nHost"))
        answers = b""
        while data := await stream.receive_some():
            answers += data
    assert answers.count(b"HTTP/1.1 200 OK") == 4


async def test_a_websocket_may_follow_on_the_same_connection(world: World) -> None:
    stream = await world.network.call()
    assert (await Browser(stream).ask("/healthz"))[0] == 200
    client = raw.RawClient(stream)
    assert (await client.shake_hands()).startswith("HTTP/1.1 101 ")


async def test_nothing_is_made_for_who_asked_for_much_and_has_gone() -> None:
    made = 0

    def make() -> Page:
        nonlocal made
        made += 1
        return Page(b"")

    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    await theirs.aclose()
    assert await Requests(Wire(ours, Settings()), Settings(), Pages({"/page": make})).until_line() is None
    assert made == 1


@pytest.mark.parametrize("takes_asking", [False, True])
async def test_pages_for_many_take_turns_with_all_else(*, takes_asking: bool) -> None:
    made = 0

    def make() -> Page:
        nonlocal made
        made += 1
        return Page(b"")

    answered = trio.Event()  # to all at once, as by one batch of queries

    async def ask(_: Head) -> Maker:
        await answered.wait()
        return make

    pages = Pages({}, asked={"/page": ask}) if takes_asking else Pages({"/page": make})
    streams = [memory_stream_pair() for _ in range(20)]
    for _, theirs in streams:
        await theirs.send_all(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    async with trio.open_nursery() as nursery:
        for ours, _ in streams:
            nursery.start_soon(Requests(Wire(ours, Settings()), Settings(), pages).until_line)
        if takes_asking:
            await wait_all_tasks_blocked()
            answered.set()
        while made < 10:
            before = made
            await trio.lowlevel.checkpoint()
            assert made <= before + 2, "one in this turn, and one in the one before it"
        nursery.cancel_scope.cancel()


async def test_who_asks_no_more_is_hung_up_on(autojump_clock: MockClock, world: World) -> None:
    browser = Browser(await world.network.call())
    await trio.sleep(world.settings.head_seconds - 1)
    assert (await browser.ask("/healthz"))[0] == 200
    begin = trio.current_time()
    assert await browser.stream.receive_some() == b""
    assert trio.current_time() - begin == world.settings.head_seconds


async def test_it_is_not_ready_while_the_log_can_t_be_read(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    database.away = True
    await trio.sleep(4)
    assert await ask(world, "/readyz") == (200, "ok\n"), "it may be back at once"
    await trio.sleep(4)
    status, reason = await ask(world, "/readyz")
    assert (status, reason) == (503, "the event log was read last 8 s ago: is the database away?\n")
    assert (await ask(world, "/healthz"))[0] == 200
    database.away = False
    await trio.sleep(1)
    assert await ask(world, "/readyz") == (200, "ok\n")


async def test_it_is_not_ready_while_writes_fail_and_reads_do_not(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    async def create() -> str:
        return str(
            (await client.request(action="create_invoice", amount=1, currency="USD", account_id=1))["status"]
        )

    client = await world.connect()
    database.only_reads = True
    for _ in range(3):
        assert await create() == "error"
        assert await ask(world, "/readyz") == (200, "ok\n"), "the next one may come through"
        await trio.sleep(2)
    assert await create() == "error"
    status, reason = await ask(world, "/readyz")
    assert (status, reason.partition(":")[0]) == (503, "all writes failed for 6 s")
    database.only_reads = False
    assert await create() == "success"
    assert await ask(world, "/readyz") == (200, "ok\n")


async def test_it_is_ready_again_when_nobody_asks_for_writes_any_more(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    database.only_reads = True
    for _ in range(7):
        await client.request(action="create_invoice", amount=1, currency="USD", account_id=1)
        await trio.sleep(1)
    assert (await ask(world, "/readyz"))[0] == 503
    await trio.sleep(FORGET_SECONDS)
    assert await ask(world, "/readyz") == (200, "ok\n"), (
        "else no client would be sent here, and none would ask"
    )


async def test_who_holds_a_file_is_not_sent_it_again(world: World) -> None:
    stream = await world.network.call()
    client = raw.RawClient(stream)
    await stream.send_all(b"HEAD /trio-ws.js HTTP/1.1\r\nHost: x\r\n\r\n")
    head = bytes(await stream.receive_some()).decode()
    assert "Cache-Control: no-cache\r\n" in head
    (etag,) = re.findall("ETag: (.*)\r", head)
    browser = Browser(client.stream)
    assert await browser.ask("/trio-ws.js", "GET", ("If-None-Match", etag)) == (304, "")
    assert await browser.ask("/trio-ws.js", "GET", ("If-None-Match", f'"x", {etag}')) == (304, "")
    status, text = await browser.ask("/trio-ws.js", "GET", ("If-None-Match", '"x"'))
    assert (status, "export function connect" in text) == (200, True)


async def test_the_console_s_pages_are_all_there_and_one_stands_for_each_invoice(browser: Browser) -> None:
    status, html = await browser.ask("/console")
    assert status == 200
    assert await browser.ask("/console/invoice/5735e250-b53e-4ace-a025-afac1bc77ee2?x=1") == (200, html)
    for path in re.findall('(?:href|src)="(/[^"]+)"', html):
        assert (await browser.ask(path))[0] == 200


async def test_the_interface_describes_itself(browser: Browser) -> None:
    status, text = await browser.ask("/asyncapi.json")
    assert (status, json.loads(text)["asyncapi"]) == (200, "3.0.0")


@pytest.mark.parametrize("path", ["/console/", "/console/x.js", "/console/invoice", "/console/invoice/1/2"])
async def test_what_the_console_has_not_is_not_there(browser: Browser, path: str) -> None:
    assert (await browser.ask(path))[0] == 404


async def test_figures_are_for_who_has_a_token_where_one_is_asked_for(
    guarded: tuple[World, OtherProgram],
) -> None:
    world, program = guarded
    token = await program.create_token()

    async def status(*headers: tuple[str, str]) -> int:
        return (await ask(world, "/metrics", "GET", *headers))[0]

    assert await status() == 401
    assert await status(("Authorization", "Bearer trio_ws_wrong")) == 401
    assert await status(("Authorization", f"Bearer {token}")) == 200
    assert (await ask(world, "/console"))[0] == 200, "which holds nothing that is anybody's"
    await program.revoke_token(token)
    assert await status(("Authorization", f"Bearer {token}")) == 401


async def test_a_database_that_is_away_leaves_the_other_pages_alone(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, auth="token") as world:
        database.delay = 1.5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world, "/metrics", "GET", ("Authorization", "Bearer x"))
            await wait_all_tasks_blocked()
            begin = trio.current_time()
            assert (await ask(world, "/healthz"))[0] == 200
            assert trio.current_time() == begin
        database.delay, database.away = 0, True
        assert (await ask(world, "/metrics", "GET", ("Authorization", "Bearer x")))[0] == 503


async def test_a_page_that_the_database_is_slow_with_has_its_time_whenever_it_is_asked_for(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, auth="token", checkout=True) as world:
        browser = Browser(await world.network.call())
        assert (await browser.ask("/healthz"))[0] == 200
        await trio.sleep(world.settings.head_seconds - 1)
        database.delay = 1.5
        assert (await browser.ask("/pay/5735e250-b53e-4ace-a025-afac1bc77ee2"))[0] == 404


async def test_a_server_that_is_full_says_that_it_lives_all_the_same(autojump_clock: MockClock) -> None:
    async with simulated_server(connections=1) as world:
        await world.connect()
        for _ in range(3):
            assert await ask(world, "/healthz") == (200, "ok\n")
            assert await ask(world, "/readyz") == (200, "ok\n")
            assert (await ask(world, "/metrics"))[0] == 200
            assert (await ask(world, "/nowhere"))[0] == 404
            with pytest.raises(ConnectionRejected) as refused:
                await world.connect()
            assert refused.value.status_code == 503


def bugs() -> float:
    return metrics.REGISTRY.get_sample_value("trio_ws_unhandled_exceptions_total") or 0.0


async def test_a_page_that_fails_costs_nobody_else(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    network, pages, shutdown = SimulatedNetwork(), SimulatedNetwork(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_serving(database, network, pages, shutdown))
        before = bugs()
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "generate_latest", lambda _: 1 / 0)
            stream = await pages.call()
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await stream.receive_some() == b""
        assert bugs() == before + 1
        assert "a page failed" in caplog.text
        caplog.clear()  # it was expected
        assert (await Browser(await pages.call()).ask("/metrics"))[0] == 200
        assert (await Browser(await network.call()).ask("/healthz"))[0] == 200
        shutdown.set()


async def test_it_is_not_ready_when_it_drains(autojump_clock: MockClock, database: SimulatedDatabase) -> None:
    network, pages, shutdown = SimulatedNetwork(), SimulatedNetwork(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_serving(database, network, pages, shutdown))
        stream = await network.call()
        client = raw.RawClient(stream)
        await client.shake_hands()
        database.gate = trio.Event()
        await client.send(action="list_prices")
        await wait_all_tasks_blocked()
        shutdown.set()
        await wait_all_tasks_blocked()
        assert await Browser(await pages.call()).ask("/readyz") == (503, "draining\n")
        database.gate.set()
        assert (await client.receive())["status"] == "success"
        await trio.aclose_forcefully(stream)


def _serving(
    database: SimulatedDatabase,
    network: SimulatedNetwork,
    pages: SimulatedNetwork,
    shutdown: trio.Event,
    **settings: Any,
) -> Callable[..., Awaitable[None]]:
    return partial(
        serve, Settings(**{"auth": "open", **settings}), database, [network], shutdown, page_listeners=[pages]
    )


@pytest.mark.parametrize("auth", ["open", "token"])
async def test_measurements_may_have_an_address_of_their_own_that_asks_for_no_token(
    autojump_clock: MockClock, database: SimulatedDatabase, auth: str
) -> None:
    network, pages, shutdown = SimulatedNetwork(), SimulatedNetwork(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_serving(database, network, pages, shutdown, auth=auth))
        assert (await Browser(await network.call()).ask("/metrics"))[0] == 404
        assert (await Browser(await network.call()).ask("/healthz"))[0] == 200
        assert (await Browser(await pages.call()).ask("/metrics"))[0] == 200
        there = raw.RawClient(await pages.call())
        assert (await there.shake_hands("/metrics")).startswith("HTTP/1.1 404 ")
        shutdown.set()


# What is measured


class Measured:
    """What Prometheus would read, now and before."""

    def __init__(self, world: World, token: str | None = None) -> None:
        self._world = world
        self._headers = [] if token is None else [("Authorization", f"Bearer {token}")]
        self._before: dict[str, float] = {}

    async def read(self) -> dict[str, float]:
        _, text = await ask(self._world, "/metrics", "GET", *self._headers)
        return {
            name: float(value)
            for line in text.splitlines()
            if (match := re.fullmatch(r"(trio_ws_[^ ]+) ([^ ]+)", line))
            for name, value in [match.groups()]
        }

    async def changes(self) -> dict[str, float]:
        """What has grown since this was asked last."""
        now = await self.read()
        before, self._before = self._before, now
        return {
            name: value - before.get(name, 0) for name, value in now.items() if value != before.get(name, 0)
        }


@pytest.fixture
async def measured(world: World) -> Measured:
    found = Measured(world)
    await found.changes()
    return found


async def test_requests_are_counted_by_action_and_code(
    autojump_clock: MockClock, world: World, measured: Measured
) -> None:
    client = await world.connect()
    await client.request(action="ping")
    await client.request(action="fetch_invoice", id="x")
    await client.request(action="dance")
    changes = await measured.changes()
    assert changes['trio_ws_requests_total{action="ping",code="success"}'] == 1
    assert changes['trio_ws_requests_total{action="fetch_invoice",code="not_found"}'] == 1
    assert changes['trio_ws_requests_total{action="unknown",code="invalid_message"}'] == 1


async def test_invoices_are_counted_by_the_status_that_they_get(
    autojump_clock: MockClock, world: World, measured: Measured, database: SimulatedDatabase
) -> None:
    for _ in range(3):
        uid = database.create_invoice(**INVOICE)
    database.update_invoice(uid, status="confirming")
    database.update_invoice(uid, memo='no "status": "paid"')
    database.update_invoice(uid, status="paid")
    database.set_price("EUR", Decimal("1.1"))
    await trio.sleep(1)  # of the clock: it is polled
    changes = await measured.changes()
    assert changes['trio_ws_invoices_total{status="unpaid"}'] == 3
    assert changes['trio_ws_invoices_total{status="confirming"}'] == 1
    assert changes['trio_ws_invoices_total{status="paid"}'] == 1


async def test_tokens_in_use_and_what_comes_of_those_that_clients_bring_are_measured(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, auth="token") as world:
        measured = Measured(world, database.create_token(1, ["read"]))
        await measured.changes()
        token = database.create_token(1, ["read"])
        for _ in range(2):
            await world.connect(authorization=f"Bearer {token}")
        with pytest.raises(ConnectionRejected):
            await world.connect(authorization="Bearer nobody's")
        database.away = True
        with pytest.raises(ConnectionRejected):
            await world.connect(authorization=f"Bearer {token}")
        database.away = False
        changes = await measured.changes()
        assert changes['trio_ws_authentications_total{code="success"}'] == 3, "who asks, too"
        assert changes['trio_ws_authentications_total{code="unauthorized"}'] == 1
        assert changes['trio_ws_authentications_total{code="unavailable"}'] == 1
        assert (await measured.read())["trio_ws_tokens"] == 1, "of two connections"


async def test_clients_topics_events_and_their_lag_are_measured(
    autojump_clock: MockClock, world: World, measured: Measured, database: SimulatedDatabase
) -> None:
    clients = [await world.connect() for _ in range(3)]
    for client in clients:
        await client.request(action="subscribe", type="account", id=1)
    database.create_invoice(**INVOICE)
    for client in clients:
        await client.receive()
    changes = await measured.changes()
    assert changes["trio_ws_connections_opened_total"] == 3
    assert changes["trio_ws_events_sent_total"] == 3
    assert changes["trio_ws_event_lag_seconds_count"] == 1
    now = await measured.read()
    assert (now["trio_ws_connections"], now["trio_ws_subscriptions"]) == (3, 3)
    assert now["trio_ws_http_connections"] == 1, "who asks"
    assert now["trio_ws_log_position"] == 4
    await clients[0].aclose()
    await clients[1].vanish()
    await wait_all_tasks_blocked()
    changes = await measured.changes()
    assert changes['trio_ws_connections_closed_total{code="client"}'] == 1
    assert changes['trio_ws_connections_closed_total{code="gone"}'] == 1
    assert changes["trio_ws_connections"] < 0


async def test_what_is_refused_and_what_we_end_is_counted(
    autojump_clock: MockClock, world: World, measured: Measured
) -> None:
    await ask(world, "/nowhere")
    client = raw.RawClient(await world.network.call())
    await client.shake_hands()
    await client.stream.send_all(b"\xff\xff")
    assert (await client.receive_close())[0] == 1002
    changes = await measured.changes()
    assert changes['trio_ws_http_requests_rejected_total{status="404"}'] == 1
    assert changes['trio_ws_connections_closed_total{code="1002"}'] == 1


async def test_who_falls_behind_and_who_asks_for_a_replay_is_counted(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, outbox_bytes=100) as world:
        measured = Measured(world)
        await measured.changes()
        client = await world.connect()
        position = (await client.request(action="subscribe", type="account", id=1))["data"]["position"]
        for _ in range(5):
            database.create_invoice(**INVOICE)
        for _ in range(5):
            await client.receive()
        await client.request(action="resume", after=position, topics=[{"type": "account", "id": 1}])
        for _ in range(5):
            await client.receive()
        changes = await measured.changes()
        assert changes["trio_ws_catch_ups_total"] == 1
        assert changes["trio_ws_replays_total"] == 1
        assert changes["trio_ws_events_sent_total"] >= 10
