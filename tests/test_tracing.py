"""Each action is a span, and each of its queries one below it. Where traces are off, none is loaded."""

import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.http.test_pages import Browser
from trio_ws.actions.table import ACTIONS
from trio_ws.connection import Parts
from trio_ws.database.batches import WORKERS
from trio_ws.database.timing import TimedBatches
from trio_ws.messages import ListInvoices, Reply
from trio_ws.testing import SimulatedDatabase, World, simulated_server
from trio_ws.tracing import FLUSH_SECONDS, Tracing

NOBODY = "6f1f3a52-5d23-45a5-9752-8fac97aec2d6"
INVOICE = {"amount": 1, "currency": "USD", "account_id": 1}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Database(SimulatedDatabase):
    """Joins requests as the real one does where traces are on."""

    batches = TimedBatches


class Spans:
    """The spans that have ended."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracing = Tracing(self.provider)

    @property
    def parts(self) -> Parts:
        return self.tracing.parts

    def all(self) -> list[ReadableSpan]:
        return list(self._kept.get_finished_spans())

    def server(self, action: str) -> ReadableSpan:
        """The only one of that action."""
        (found,) = [span for span in self.all() if span.name == action and not is_client(span)]
        return found

    def client(self, query: str) -> ReadableSpan:
        """The only one of that query."""
        (found,) = [span for span in self.all() if span.name == query and is_client(span)]
        return found


def is_client(span: ReadableSpan) -> bool:
    return span.kind is SpanKind.CLIENT


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def context_of(span: ReadableSpan) -> SpanContext:
    assert isinstance(span.context, SpanContext)
    return span.context


def identity(span: ReadableSpan) -> int:
    return context_of(span).span_id


def attributes(span: ReadableSpan, prefix: str = "trio_ws.") -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in (span.attributes or {}).items()
        if name.startswith(prefix)
    }


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
async def database() -> Database:
    return Database()


@pytest.fixture
async def world(spans: Spans, database: Database) -> AsyncIterator[World]:
    async with simulated_server(database, parts=spans.parts, auth="token") as world:
        yield world


async def post(world: World, text: str, **headers: str) -> tuple[int, str]:
    """Ask over plain HTTP, with a token of account 1."""
    token = world.database.create_token(1)
    stream = await world.network.call()
    lines = {"Content-Type": "application/json", "Authorization": f"Bearer {token}", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    browser = Browser(stream)
    request = f"POST /actions HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(text)}\r\n\r\n{text}"
    await stream.send_all(request.encode())
    answer = b""
    while b"\n" not in answer.partition(b"\r\n\r\n")[2]:
        answer += bytes(await browser.stream.receive_some())
    return int(answer.split()[1]), answer.decode()


async def test_an_action_is_a_span_and_its_query_one_below(
    autojump_clock: MockClock, world: World, spans: Spans, database: Database
) -> None:
    client = await world.connect(account=1)
    database.delay = 0.5
    await client.request(action="create_invoice", request_id="r7", **INVOICE)
    action, query = spans.server("create_invoice"), spans.client("create_invoice")
    assert (action.parent, action.status.status_code) == (None, StatusCode.UNSET)
    assert attributes(action) == {
        "transport": "websocket",
        "account_id": 1,
        "request_id": "r7",
        "code": "success",
    }
    assert parent_of(query) == identity(action)
    assert (query.attributes or {})["db.system.name"] == "postgresql"
    assert attributes(query, "trio_ws.database.") == {"batch_wait_seconds": 0.0, "run_seconds": 0.5}


async def test_a_query_says_how_long_it_waited_to_be_taken_into_a_batch(
    autojump_clock: MockClock, world: World, spans: Spans, database: Database
) -> None:
    clients = [await world.connect(account=1) for _ in range(WORKERS + 1)]
    database.delay = 0.5
    for client in clients:
        await client.send(action="create_invoice", **INVOICE)
        await trio.sleep(0.1)
    await trio.sleep(2)
    waits = [attributes(span)["database.batch_wait_seconds"] for span in spans.all() if is_client(span)]
    assert sorted(waits) == pytest.approx([*[0.0] * WORKERS, 0.5 - 0.1 * WORKERS])


async def test_what_is_asked_for_alone_says_how_long_it_ran(
    autojump_clock: MockClock, world: World, spans: Spans, database: Database
) -> None:
    client = await world.connect(account=1)
    database.delay = 0.25
    await client.request(action="list_invoices", account_id=1)
    query = spans.client("list_invoices")
    assert attributes(query, "trio_ws.database.") == {"run_seconds": 0.25}
    assert parent_of(query) == identity(spans.server("list_invoices"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"action": "fetch_invoice", "id": NOBODY}, "not_found"),
        ({"action": "dance"}, "invalid_message"),
        ({"action": "create_invoice", **INVOICE}, "forbidden"),
    ],
)
async def test_an_error_s_code_is_the_status(
    autojump_clock: MockClock, world: World, spans: Spans, fields: dict[str, Any], code: str
) -> None:
    client = await world.connect(account=1, scopes=["read"])
    reply = await client.request(**fields)
    span = spans.server("unknown" if fields["action"] == "dance" else fields["action"])
    assert (reply["code"], span.status.status_code, span.status.description) == (code, StatusCode.ERROR, code)
    assert (attributes(span)["code"], attributes(span, "error.")["type"]) == (code, code)


async def test_a_query_that_fails_says_so_and_so_does_its_action(
    autojump_clock: MockClock, world: World, spans: Spans, database: Database
) -> None:
    client = await world.connect(account=1)
    database.away = True
    for action in ("create_invoice", "list_invoices"):
        await client.request(action=action, **(INVOICE if action == "create_invoice" else {"account_id": 1}))
        for span in (spans.client(action), spans.server(action)):
            assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "unavailable")


async def test_what_is_cancelled_while_it_waits_is_a_span_too(
    autojump_clock: MockClock, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(ACTIONS[ListInvoices], "handler", never)
    async with simulated_server(Database(), parts=spans.parts, drain_seconds=1) as world:
        client = await world.connect()
        await client.send(action="list_invoices", account_id=1)
        await wait_all_tasks_blocked()
        await client.vanish()
        await trio.sleep(2)
        assert spans.server("list_invoices").status.description == "cancelled"


async def test_over_plain_http_a_span_is_part_of_the_trace_that_the_request_names(
    autojump_clock: MockClock, world: World, spans: Spans
) -> None:
    status, _ = await post(
        world, json.dumps({"action": "fetch_invoice", "id": NOBODY}), traceparent=TRACEPARENT
    )
    span = spans.server("fetch_invoice")
    assert (status, attributes(span)["transport"]) == (404, "http")
    assert (f"{context_of(span).trace_id:032x}", parent_of(span)) == (TRACE, int(PARENT, 16))
    assert parent_of(spans.client("fetch_invoice")) == identity(span)


@pytest.mark.parametrize("traceparent", ["", "00-x", f"00-{'0' * 32}-{PARENT}-01", "é"])
async def test_over_plain_http_what_names_no_trace_begins_one(
    autojump_clock: MockClock, world: World, spans: Spans, traceparent: str
) -> None:
    status, _ = await post(world, '{"action":"ping"}', traceparent=traceparent)
    assert (status, spans.server("ping").parent) == (200, None)


async def test_a_trace_that_is_not_sampled_is_not_kept(
    autojump_clock: MockClock, world: World, spans: Spans
) -> None:
    status, _ = await post(world, '{"action":"ping"}', traceparent=f"00-{TRACE}-{PARENT}-00")
    assert (status, spans.all()) == (200, [])


async def test_one_request_s_trace_does_not_go_on_to_the_next(
    autojump_clock: MockClock, world: World, spans: Spans
) -> None:
    client = await world.connect(account=1)
    for _ in range(2):
        await client.send(action="fetch_invoice", id=NOBODY)
    await client.request(action="list_invoices", account_id=1)
    await trio.sleep(1)
    servers = [span for span in spans.all() if span.kind is SpanKind.SERVER]
    assert [span.name for span in servers] == ["fetch_invoice", "fetch_invoice", "list_invoices"]
    assert [span.parent for span in servers] == [None] * 3
    parents = [parent_of(span) for span in spans.all() if is_client(span)]
    assert sorted(map(str, parents)) == sorted(str(identity(span)) for span in servers)


async def test_an_event_stream_s_topics_are_spans(
    autojump_clock: MockClock, spans: Spans, database: Database
) -> None:
    async with simulated_server(database, parts=spans.parts) as world:
        stream = await world.network.call()
        await stream.send_all(b"GET /events?topic=account:1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.sleep(1)
        assert attributes(spans.server("resume"))["transport"] == "http"


class Stuck(SpanExporter):
    """Never gets rid of what it has."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.over = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.began.set()
        self.over.wait(60)
        return SpanExportResult.FAILURE


async def test_a_collector_that_hangs_delays_neither_replies_nor_the_end() -> None:
    stuck = Stuck()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(stuck, schedule_delay_millis=1))
    tracing = Tracing(provider)
    try:
        with trio.fail_after(FLUSH_SECONDS + 20):
            async with simulated_server(Database(), parts=tracing.parts) as world:
                client = await world.connect()
                await client.request(action="ping")
                await trio.to_thread.run_sync(stuck.began.wait, 20)
                assert stuck.began.is_set()
                for _ in range(100):
                    assert (await client.request(action="ping"))["status"] == "success"
            began = trio.current_time()
            await tracing.close()
            assert trio.current_time() - began < FLUSH_SECONDS + 5
    finally:
        stuck.over.set()


def test_where_traces_are_off_nothing_of_opentelemetry_is_loaded() -> None:
    program = "import sys, trio_ws.cli.serving, trio_ws.server, trio_ws.testing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    names = loaded.stdout.split()
    assert "trio_ws.server" in names
    assert [name for name in names if name.startswith(("opentelemetry", "trio_ws.tracing", "requests"))] == []
