"""`POST /actions`: what a WebSocket is answered, and what HTTP says besides, under the mock clock."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, get_args
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.plain import JSON, STATUSES, Answer, Caller, bearer, call, held, post, request
from tests.test_authorization import SCOPE_OF, fields_of
from tests.test_checkout import ALLOWED, SECRET, seen
from tests.test_connection import Line
from tests.wire.test_body import chunked
from trio_ws import errors, logs, metrics
from trio_ws.actions import table
from trio_ws.actions.identities import ping
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.checkout import HIDDEN
from trio_ws.connection import Connection
from trio_ws.errors import ActionError
from trio_ws.http import actions as http_actions
from trio_ws.http.pages import Pages
from trio_ws.messages import Action, Ping, Pong, Reply
from trio_ws.places import Place
from trio_ws.testing import SimulatedDatabase, World, simulated_server
from trio_ws.wire.head import Head

PING = {"action": "ping"}
INVOICE = {"action": "create_invoice", "amount": 1000, "currency": "USD", "account_id": 1}
ERRORS = [
    type_ for type_ in vars(errors).values() if isinstance(type_, type) and issubclass(type_, ActionError)
]


@pytest.fixture
async def caller(world: World) -> Caller:
    """One connection to a server that is open to anybody."""
    return await call(world)


def invoices(database: SimulatedDatabase) -> int:
    """How many were made."""
    return sum(event.type == "invoice.created" for event in database.written)


class Somewhere(Place):
    """Where a client is, by its address."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    def find(self, head: Head) -> str | None:
        return self._address


@asynccontextmanager
async def addresses(**settings: Any) -> AsyncIterator[tuple[Line, Callable[[str | None], Awaitable[Caller]]]]:
    """Yield a server's parts, and what calls it from an address."""
    line = Line(**settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.pulse.run)
        nursery.start_soon(line.database.watch, lambda *_: None)

        async def call_from(address: str | None) -> Caller:
            await trio.lowlevel.checkpoint()
            ours, theirs = memory_stream_pair()
            place = Somewhere(address)
            nursery.start_soon(Connection(theirs, line.services, line.pulse, Pages({}), place).run)
            return Caller(ours)

        yield line, call_from
        nursery.cancel_scope.cancel()


# Replies and their statuses


async def test_the_reply_is_the_response(autojump_clock: MockClock, caller: Caller) -> None:
    answer = await caller.act(**INVOICE)
    assert (answer.status, answer.reply["status"]) == (200, "success")
    assert (
        answer.headers.items()
        >= {
            "content-type": JSON,
            "connection": "keep-alive",
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        }.items()
    )
    assert "retry-after" not in answer.headers
    fetched = await caller.act(action="fetch_invoice", id=answer.reply["data"]["uid"], request_id="r")
    assert fetched.reply == {**answer.reply, "request_id": "r"}


@pytest.mark.parametrize("error", [type_ for type_ in ERRORS if type_ is not ActionError])
async def test_each_error_has_its_status(
    autojump_clock: MockClock, caller: Caller, error: type[ActionError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> Reply:
        await trio.lowlevel.checkpoint()
        raise error("said")

    monkeypatch.setitem(table.ACTIONS, Ping, table.Row(Ping, fail, None))
    answer = await caller.act(action="ping", request_id="r")
    assert answer.status == STATUSES[error.code]
    assert (answer.reply["status"], answer.reply["code"]) == ("error", error.code)
    assert answer.reply["request_id"] == "r"
    assert answer.headers.get("retry-after") == (None if error.retry_after_seconds is None else "1")
    assert answer.headers.get("www-authenticate") == ("Bearer" if error.code == "unauthorized" else None)
    assert answer.headers["connection"] == "keep-alive", "an error ends no connection"


def test_every_code_has_its_status() -> None:
    assert dict(http_actions.STATUSES) == STATUSES
    assert {error.code for error in ERRORS if error is not ActionError} | {"internal"} == STATUSES.keys()


@pytest.mark.parametrize(("seconds", "told"), [(0.001, "1"), (1.0, "1"), (1.001, "2"), (59.5, "60")])
async def test_when_to_come_again_is_told_in_whole_seconds(
    autojump_clock: MockClock, caller: Caller, seconds: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> Reply:
        await trio.lowlevel.checkpoint()
        raise errors.RateLimited("Too many requests", seconds)

    monkeypatch.setitem(table.ACTIONS, Ping, table.Row(Ping, fail, None))
    answer = await caller.act(**PING)
    assert (answer.headers["retry-after"], answer.reply["retry_after_seconds"]) == (told, seconds)


@pytest.mark.logs_errors
async def test_a_bug_is_a_500_and_the_connection_lives(
    autojump_clock: MockClock,
    caller: Caller,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(table.ACTIONS, Ping, table.Row(Ping, lambda *_: 1 / 0, None))  # type: ignore[arg-type]
        before = metrics.REGISTRY.get_sample_value("trio_ws_unhandled_exceptions_total") or 0
        answer = await caller.act(action="ping", request_id="r-500")
        assert answer.status == 500
        assert answer.reply == {
            "status": "error",
            "message": "Internal server error",
            "code": "internal",
            "request_id": "r-500",
        }
        assert metrics.REGISTRY.get_sample_value("trio_ws_unhandled_exceptions_total") == before + 1
    assert "ZeroDivisionError" in caplog.text
    assert (await caller.act(**PING)).status == 200


@pytest.mark.parametrize("action", ["subscribe", "resume", "unsubscribe", "unsubscribe_all", "authenticate"])
async def test_what_needs_a_line_is_refused_and_says_where_events_are(
    autojump_clock: MockClock, caller: Caller, action: str
) -> None:
    fields = fields_of(action, UUID(int=1), token="secret-token")
    answer = await caller.act(**fields, request_id=7)
    assert (answer.status, answer.reply["code"], answer.reply["request_id"]) == (400, "invalid_message", 7)
    assert "GET /events" in answer.reply["detail"]


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{}", b"[]", b"\xff", b"\xef\xbb\xbf{}", b'{"action":"ping"}{}', b"action=ping", b"\0"],
)
async def test_a_body_that_is_no_request_is_said_to_be_none(
    autojump_clock: MockClock, caller: Caller, body: bytes
) -> None:
    answer = await caller.ask(post(body))
    assert (answer.status, answer.reply["code"]) == (400, "invalid_message")
    assert answer.reply["detail"]
    assert (await caller.act(**PING)).status == 200


@pytest.mark.parametrize("request_id", ["r-1", "x" * 64, 7, 0, -1, 2**53])
async def test_a_request_id_comes_back_also_with_errors(
    autojump_clock: MockClock, caller: Caller, request_id: str | int
) -> None:
    requests: list[dict[str, Any]] = [
        *({"action": "ping"}, {"action": "fetch_invoice", "id": "none"}, {"action": "create_invoice"}),
        *({"action": "dance"}, {}, {"action": "unsubscribe_all"}),
    ]
    for fields in requests:
        answer = await caller.act(**fields, request_id=request_id)
        assert answer.reply["request_id"] == request_id


# Idempotency


@pytest.mark.parametrize("header", ["key-1", '"key-1"'])
async def test_a_key_makes_an_invoice_once(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase, header: str
) -> None:
    first = await caller.act(f"Idempotency-Key: {header}", **INVOICE)
    assert (await caller.act("Idempotency-Key: key-1", **INVOICE)).reply == first.reply
    assert (await caller.act(**INVOICE, idempotency_key="key-1")).reply == first.reply
    both = await caller.act(f"Idempotency-Key: {header}", **INVOICE, idempotency_key="key-1")
    assert both.reply == first.reply
    other = await caller.act("Idempotency-Key: key-1", **{**INVOICE, "amount": 1})
    assert (other.status, other.reply["code"]) == (422, "idempotency_mismatch")
    assert invoices(database) == 1


async def test_a_key_in_quotes_may_have_quotes_in_it(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase
) -> None:
    await caller.act(r'Idempotency-Key: "a\"b\\c"', **INVOICE)
    await caller.act(**INVOICE, idempotency_key=r'a"b\c')
    assert invoices(database) == 1


@pytest.mark.parametrize(
    "fields",
    [
        *(
            ["Idempotency-Key: " + "k" * 129],
            ["Idempotency-Key:"],
            ['Idempotency-Key: ""'],
            ["Idempotency-Key: a b"],
        ),
        *(["Idempotency-Key: a", "Idempotency-Key: b"], ["Idempotency-Key: a\x7f"]),
    ],
)
async def test_a_key_that_is_none_is_refused_and_nothing_is_made(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase, fields: list[str]
) -> None:
    answer = await caller.act(*fields, **INVOICE, request_id="r")
    assert (answer.status, answer.reply["code"], answer.reply["request_id"]) == (400, "invalid_value", "r")
    assert "Idempotency-Key" in answer.reply["detail"]
    assert invoices(database) == 0


async def test_two_keys_that_differ_are_refused(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase
) -> None:
    answer = await caller.act("Idempotency-Key: a", **INVOICE, idempotency_key="b")
    assert (answer.status, answer.reply["code"]) == (400, "invalid_value")
    assert invoices(database) == 0


async def test_a_key_says_nothing_to_other_actions(autojump_clock: MockClock, caller: Caller) -> None:
    for action in (PING, {"action": "list_prices"}):
        assert (await caller.ask(post(action, f"Idempotency-Key: {'k' * 500}"))).status == 200


# Bodies and connections


async def test_a_body_may_come_in_chunks(autojump_clock: MockClock, caller: Caller) -> None:
    body = json.dumps(INVOICE).encode()
    sent = chunked([body[:10], body[10:11], body[11:]], extension=b";x", trailers=b"X: 1\r\n")
    for _ in range(3):
        assert (await caller.ask(post(sent, "Transfer-Encoding: chunked"))).reply["data"]["amount"] == 1000


async def test_a_request_may_come_byte_by_byte(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase
) -> None:
    plain = post(INVOICE)
    in_chunks = post(chunked([json.dumps(INVOICE).encode()]), "Transfer-Encoding: chunked")
    for sent in (plain, in_chunks):
        for byte in sent:
            await caller.send(bytes([byte]))
        assert (await caller.answer()).status == 200
    assert invoices(database) == 2


async def test_requests_that_come_together_are_answered_in_their_order(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase
) -> None:
    requests: list[Mapping[str, object]] = [
        INVOICE,
        PING,
        {"action": "nonsense"},
        {"action": "list_prices"},
        {"action": "fetch_invoice", "id": "x"},
    ] * 4
    sent = [post({**fields, "request_id": number}) for number, fields in enumerate(requests)]
    body = json.dumps({**PING, "request_id": len(sent)}).encode()
    sent.append(post(chunked([body]), "Transfer-Encoding: chunked"))
    with held(database) as gate:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.send, b"".join(sent))
            await wait_all_tasks_blocked()
            gate.set()
            numbers = [(await caller.answer()).reply.get("request_id") for _ in sent]
        assert numbers == [*range(2), 2, *range(3, len(sent))]


async def test_plain_requests_and_a_page_and_a_websocket_share_a_connection(
    autojump_clock: MockClock, caller: Caller
) -> None:
    assert (await caller.act(**PING)).status == 200
    assert (await caller.ask(request("GET", "/healthz"))).body == b"ok\n"
    assert (await caller.act(**PING)).status == 200
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    await caller.send(request("GET", "/", *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))
    assert (await caller.answer()).status == 101


@pytest.mark.parametrize(
    ("fields", "version"), [(["Connection: close"], "1.1"), ([], "1.0"), (["Connection: keep-alive"], "1.0")]
)
async def test_who_wants_no_more_is_answered_and_hung_up_on(
    autojump_clock: MockClock, caller: Caller, fields: list[str], version: str
) -> None:
    answer = await caller.ask(post(PING, *fields, version=version))
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await caller.rest() == b""


async def test_http_1_0_needs_no_host(autojump_clock: MockClock, caller: Caller) -> None:
    data = post(PING, version="1.0").replace(b"Host: localhost\r\n", b"")
    assert (await caller.ask(data)).status == 200


async def test_a_body_that_is_held_back_is_asked_for(autojump_clock: MockClock, caller: Caller) -> None:
    head, _, body = post(PING, "Expect: 100-continue").partition(b"\r\n\r\n")
    for _ in range(2):
        assert (await caller.ask(head + b"\r\n\r\n")).status == 100
        assert (await caller.ask(body)).status == 200


@pytest.mark.parametrize("held_back", [0, 5])
async def test_a_body_that_has_begun_to_come_is_not_asked_for(
    autojump_clock: MockClock, caller: Caller, held_back: int
) -> None:
    data = post(PING, "Expect: 100-continue")
    await caller.send(data[: len(data) - held_back])
    if held_back:
        await wait_all_tasks_blocked()
        await caller.send(data[-held_back:])
    assert (await caller.answer()).status == 200


@pytest.mark.parametrize("expected", ["100-continue", "something"])
async def test_http_1_0_knows_of_no_body_that_is_held_back(
    autojump_clock: MockClock, caller: Caller, expected: str
) -> None:
    head, _, body = post(PING, f"Expect: {expected}", version="1.0").partition(b"\r\n\r\n")
    await caller.send(head + b"\r\n\r\n")
    await wait_all_tasks_blocked()
    await caller.send(body)
    assert (await caller.answer()).status == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Expect: 100-continue", "Content-Length: 65537"], 413),
        (["Expect: 100-continue", "Content-Encoding: gzip", "Content-Length: 17"], 415),
        (["Expect: 200-ok", "Content-Length: 17"], 417),
    ],
)
async def test_what_will_be_refused_is_not_asked_for(
    autojump_clock: MockClock, caller: Caller, fields: list[str], status: int
) -> None:
    answer = await caller.ask(request("POST", "/actions", f"Content-Type: {JSON}", *fields))
    assert (answer.status, answer.headers["connection"]) == (status, "close")


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x"])
async def test_a_body_that_is_encoded_is_refused(
    autojump_clock: MockClock, caller: Caller, coding: str
) -> None:
    answer = await caller.ask(post(PING, f"Content-Encoding: {coding}"))
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity")
    assert await caller.rest() == b""


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonx",
        ),
        *("", "application/json; charset=latin-1", "application/json, text/plain"),
    ],
)
async def test_another_media_type_is_refused(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase, kind: str
) -> None:
    answer = await caller.ask(post(INVOICE, f"Content-Type: {kind}"))
    assert (answer.status, answer.headers["accept"]) == (415, JSON)
    assert invoices(database) == 0


@pytest.mark.parametrize(
    "kind", ["application/json;charset=utf-8", 'Application/JSON; Charset="UTF-8"', "application/json ;"]
)
async def test_json_is_known_however_it_is_spelled(
    autojump_clock: MockClock, caller: Caller, kind: str
) -> None:
    answer = await caller.ask(post(PING, f"Content-Type: {kind}", "Content-Encoding: identity"))
    assert answer.status == 200


async def test_a_request_may_be_as_long_as_a_message_and_no_longer(
    autojump_clock: MockClock, caller: Caller
) -> None:
    longest = b'{"action":"ping"}'.ljust(65536)
    assert (await caller.ask(post(longest))).status == 200
    answer = await caller.ask(post(longest + b" "))
    assert (answer.status, answer.headers["connection"]) == (413, "close")


async def test_a_body_in_chunks_may_not_be_longer_either(autojump_clock: MockClock, caller: Caller) -> None:
    async with trio.open_nursery() as nursery:
        sent = post(chunked([bytes(1000)] * 66), "Transfer-Encoding: chunked")
        nursery.start_soon(caller.send, sent)
        assert (await caller.answer()).status == 413
        assert await caller.rest() == b""


# Slow clients, and those that go


async def test_a_body_that_dribbles_in_has_its_deadline(
    autojump_clock: MockClock, caller: Caller, world: World
) -> None:
    data = post(PING)
    await caller.send(data[:-8])
    begin = trio.current_time()
    for byte in data[-8:-1]:
        await trio.sleep(1.2)
        await caller.send(bytes([byte]))
    answer = await caller.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert trio.current_time() - begin == world.settings.head_seconds
    assert await caller.rest() == b""


async def test_a_second_head_that_does_not_come_to_its_end_has_its_deadline(
    autojump_clock: MockClock, caller: Caller, world: World
) -> None:
    assert (await caller.act(**PING)).status == 200
    begin = trio.current_time()
    await caller.send(b"POST /actions HTTP/1.1\r\n")
    assert (await caller.answer()).status == 408
    assert trio.current_time() - begin == world.settings.head_seconds


async def test_who_asks_nothing_more_is_hung_up_on_without_a_word(
    autojump_clock: MockClock, caller: Caller, world: World
) -> None:
    assert (await caller.act(**PING)).status == 200
    begin = trio.current_time()
    assert await caller.rest() == b""
    assert trio.current_time() - begin == world.settings.head_seconds


@pytest.mark.parametrize("says_goodbye", [False, True])
async def test_of_who_goes_in_the_middle_of_a_body_nothing_is_done_and_nothing_left(
    autojump_clock: MockClock,
    caller: Caller,
    world: World,
    database: SimulatedDatabase,
    *,
    says_goodbye: bool,
) -> None:
    await caller.send(post(INVOICE)[:-1])
    await wait_all_tasks_blocked()
    if says_goodbye:
        await caller.stream.send_eof()
        assert (await caller.answer()).status == 400
        assert await caller.rest() == b""
    else:
        await trio.aclose_forcefully(caller.stream)
    await wait_all_tasks_blocked()
    assert invoices(database) == 0
    assert world.network.lines == []
    assert trio.current_time() == 0


async def test_who_goes_before_its_body_is_asked_for_is_no_bug(
    autojump_clock: MockClock, caller: Caller, world: World, database: SimulatedDatabase
) -> None:
    head, _, _ = post(INVOICE, "Expect: 100-continue").partition(b"\r\n\r\n")
    bugs = metrics.REGISTRY.get_sample_value("trio_ws_unhandled_exceptions_total")
    await caller.send(head + b"\r\n\r\n")
    world.network.lines[0].cut()
    await wait_all_tasks_blocked()
    assert world.network.lines == []
    assert metrics.REGISTRY.get_sample_value("trio_ws_unhandled_exceptions_total") == bugs


async def test_of_who_goes_while_it_is_answered_nothing_is_left(
    autojump_clock: MockClock, caller: Caller, world: World, database: SimulatedDatabase
) -> None:
    with held(database) as gate:
        await caller.send(post(INVOICE) * 3)
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(caller.stream)
        gate.set()
        await wait_all_tasks_blocked()
        assert invoices(database) == 1, "what was asked is done, and what comes behind it is for nobody"
        assert world.network.lines == []


async def test_who_does_not_read_its_answer_is_cut_off(
    autojump_clock: MockClock, caller: Caller, world: World
) -> None:
    await caller.send(post({"action": "list_prices"}))
    await trio.sleep(world.settings.write_seconds + world.settings.close_seconds + 1)
    assert world.network.lines[0].is_left


# Draining


async def test_a_drain_finishes_what_is_under_way_and_says_that_no_more_is_taken(
    autojump_clock: MockClock, caller: Caller, world: World, database: SimulatedDatabase
) -> None:
    idle, begun = await call(world), await call(world)
    assert (await idle.act(**PING)).status == 200
    data = post(PING)
    await begun.send(data[:-1])
    with held(database) as gate:
        await caller.send(post(INVOICE) + post(PING))
        await wait_all_tasks_blocked()
        world.shutdown.set()
        await wait_all_tasks_blocked()
        now = trio.current_time()
        assert await idle.rest() == b""
        assert trio.current_time() == now, "at once"
        await begun.send(data[-1:])
        assert (await begun.answer()).headers["connection"] == "close"
        gate.set()
        answer = await caller.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await caller.rest() == b"", "what came behind it is for another server"
        assert await begun.rest() == b""


async def test_a_drain_waits_for_no_body_longer_than_it_may(autojump_clock: MockClock) -> None:
    async with simulated_server(drain_seconds=5) as world:
        caller = await call(world)
        await caller.send(post(INVOICE)[:-1])
        await wait_all_tasks_blocked()
        begin = trio.current_time()
        world.shutdown.set()
        assert await caller.rest() == b""
        assert 0 < trio.current_time() - begin <= 5
        assert invoices(world.database) == 0


# Pages of other origins


PAGE = "https://shop.example"


@pytest.fixture
async def shop(database: SimulatedDatabase) -> AsyncIterator[World]:
    """A server that a shop's pages may call."""
    async with simulated_server(database, origins=(PAGE,)) as world:
        yield world


@pytest.mark.parametrize("path", ["/actions", "/events"])
async def test_a_browser_may_ask_before_a_page_s_request(
    autojump_clock: MockClock, shop: World, path: str
) -> None:
    caller = await call(shop)
    asks = [f"Origin: {PAGE}", "Access-Control-Request-Method: POST"]
    await caller.send(request("OPTIONS", path, *asks))
    answer = await caller.answer(has_body=False)
    methods = "POST, OPTIONS" if path == "/actions" else "GET, HEAD, OPTIONS"
    assert answer.status == 200
    assert (
        answer.headers.items()
        >= {
            "access-control-allow-origin": PAGE,
            "access-control-allow-methods": methods,
            "access-control-allow-headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
            "access-control-max-age": "7200",
            "allow": methods,
            "vary": "Origin",
            "connection": "keep-alive",
        }.items()
    )
    assert "access-control-allow-credentials" not in answer.headers, "we know no cookies"
    assert (await caller.act(f"Origin: {PAGE}", **PING)).status == 200


def assert_readable(answer: Answer) -> None:
    """A page of the shop may read the answer."""
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-expose-headers"] == "Retry-After"
    assert answer.headers["vary"] == "Origin"


async def test_a_page_can_read_what_it_is_answered_also_where_that_is_a_refusal(
    autojump_clock: MockClock, shop: World
) -> None:
    origin = f"Origin: {PAGE}"
    for sent, status in (
        (post(PING, origin), 200),
        (post({}, origin), 400),
        (post(PING, origin, "Content-Type: text/plain"), 415),
        (post(PING, origin, "Content-Length: 65537"), 413),
        (post(PING, origin, "Content-Length: +5"), 400),
        (request("PUT", "/actions", origin), 405),
        (request("GET", "/events?topic=weather:x", origin), 400),
        (request("GET", "/events", origin, "Content-Length: 5"), 400),
        (request("GET", "/events?topic=price:*", origin), 200),
    ):
        caller = await call(shop)
        answer = await caller.ask(sent)
        assert answer.status == status
        assert_readable(answer)


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET", "HEAD"])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://shop.example", "https://shop.example:81"]
)
async def test_pages_of_other_origins_may_not_call(
    autojump_clock: MockClock, shop: World, database: SimulatedDatabase, origin: str, method: str
) -> None:
    caller = await call(shop)
    path = "/actions" if method == "POST" else "/events?topic=price:*"
    sent = (
        post(INVOICE, f"Origin: {origin}") if method == "POST" else request(method, path, f"Origin: {origin}")
    )
    await caller.send(sent)
    answer = await caller.answer(has_body=method != "HEAD")
    assert (answer.status, answer.headers["connection"]) == (403, "close")
    assert "access-control-allow-origin" not in answer.headers
    assert invoices(database) == 0


async def test_pages_of_our_own_host_may_call(autojump_clock: MockClock, caller: Caller) -> None:
    answer = await caller.act("Origin: http://localhost", **PING)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "http://localhost")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(
            ("localhost:8080", 200),
            ("127.0.0.1", 200),
            ("[::1]:8080", 200),
            ("trio-ws", 200),
            ("till.localhost", 200),
        ),
        *(
            ("shop.example", 200),
            ("evil.example", 403),
            ("evil.example:8080", 403),
            ("127.0.0.1.evil.example", 403),
        ),
        *(("localhost.evil.example", 403), ("evil.example.", 403), ("127.0.0.1@evil.example", 403)),
    ],
)
async def test_where_nobody_needs_a_token_a_name_that_anybody_may_own_leads_nowhere(
    autojump_clock: MockClock, shop: World, host: str, status: int
) -> None:
    answer = await (await call(shop)).act(f"Host: {host}", **PING)
    assert answer.status == status
    answer = await (await call(shop)).follow("topic=price:*", f"Host: {host}")
    assert answer.status == status


async def test_where_tokens_are_needed_a_public_name_is_as_good_as_any(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    fields = ["Host: pay.example", bearer(database.create_token())]
    answer = await (await call(guarded_world)).act(*fields, action="list_prices")
    assert answer.status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "post"])
async def test_actions_are_posted(autojump_clock: MockClock, caller: Caller, method: str) -> None:
    await caller.send(request(method, "/actions"))
    answer = await caller.answer(has_body=method != "HEAD")
    assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS")
    assert await caller.rest() == b""


async def test_the_query_of_the_path_is_of_no_account(autojump_clock: MockClock, caller: Caller) -> None:
    for target in ("/actions?x=1", "http://localhost/actions", "/actions?"):
        body = json.dumps(PING).encode()
        fields = [f"Content-Type: {JSON}", f"Content-Length: {len(body)}"]
        assert (await caller.ask(request("POST", target, *fields, body=body))).status == 200
    assert (await caller.ask(request("POST", "/actions/"))).status in (404, 405)


# Hostile


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Content-Length: 0", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", "Content-Length: 0"], 400),
        (["Content-Length: 0", "Content-Length: 200"], 400),
        (["Content-Length: 0, 0"], 400),
        (["Content-Length: +0"], 400),
        (["Content-Length: -1"], 400),
        (["Content-Length: 0x0"], 400),
        (["Content-Length: " + "9" * 30], 400),
        (["Content-Length : 0"], 400),
        (["X: 1\r\n Content-Length: 0", "Content-Length: 0"], 400),
        (["X: 1\rContent-Length: 0", "Content-Length: 0"], 400),
        (["Transfer-Encoding: gzip"], 501),
        (["Transfer-Encoding: identity"], 501),
        (["Transfer-Encoding: chunked, chunked"], 501),
        (["Transfer-Encoding: \x1cchunked"], 501),
        (["Transfer-Encoding : chunked", "Content-Length: 0"], 400),
    ],
)
async def test_what_smuggles_a_request_is_refused_and_that_request_never_runs(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase, fields: list[str], status: int
) -> None:
    sent = request("POST", "/actions", f"Content-Type: {JSON}", *fields)
    answer = await caller.ask(sent + b"0\r\n\r\n" + post(INVOICE) + post(INVOICE))
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert await caller.rest() == b""
    assert invoices(database) == 0


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_request_that_is_a_body_never_runs(
    autojump_clock: MockClock, caller: Caller, database: SimulatedDatabase, *, in_chunks: bool
) -> None:
    hidden = post(INVOICE)
    sent = post(chunked([hidden]), "Transfer-Encoding: chunked") if in_chunks else post(hidden)
    assert (await caller.ask(sent)).reply["code"] == "invalid_message"
    assert (await caller.act(**PING)).status == 200
    assert invoices(database) == 0


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_what_is_one_byte_too_many_begins_the_next_request(
    autojump_clock: MockClock, caller: Caller, *, in_chunks: bool
) -> None:
    body = json.dumps(PING).encode()
    sent = post(chunked([body]), "Transfer-Encoding: chunked") if in_chunks else post(body)
    await caller.send(sent + b"}" + post(PING))
    assert (await caller.answer()).status == 200
    answer = await caller.answer()
    assert answer.status in (400, 404, 405), "its method is another one"
    assert await caller.rest() == b""


@pytest.mark.parametrize(
    ("chunks", "status"),
    [
        (b"f" * 20 + b"\r\n" + bytes(70000), 413),
        (b"1\r\nx\r\n" * 5000, 413),
        (b"-1\r\n", 400),
        (b"1\r\nxy", 400),
        (b"1;" + b"x" * 5000, 400),
        (b"0\r\n" + b"X: 1\r\n" * 2000, 400),
    ],
)
async def test_hostile_chunks_end_their_connection(
    autojump_clock: MockClock, caller: Caller, chunks: bytes, status: int
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.send, post(chunks, "Transfer-Encoding: chunked"))
        assert (await caller.answer()).status == status
        assert await caller.rest() == b""


# Tokens


async def test_a_token_is_kept_over_the_requests_of_a_connection(
    autojump_clock: MockClock,
    guarded_world: World,
    database: SimulatedDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    database.costs.append(lambda query, many: asked.append(query.__name__) or 0.0)  # type: ignore[func-returns-value]
    caller, token = await call(guarded_world), database.create_token()
    for _ in range(5):
        assert (await caller.act(bearer(token), action="list_invoices")).status == 200
    assert asked.count("identify") == 1


async def test_another_token_on_the_same_connection_is_another_client(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    caller = await call(guarded_world)
    tokens = {account: database.create_token(account) for account in (1, 2)}
    invoice = {"action": "create_invoice", "amount": 1, "currency": "USD"}
    for account in (1, 2, 1):
        reply = (await caller.act(bearer(tokens[account]), **invoice)).reply
        assert reply["data"]["account_id"] == account
    assert (await caller.act(**invoice)).status == 401, "who brings none has none"
    answer = await caller.act(bearer(tokens[2]), **invoice, account_id=1)
    assert answer.status == 403


@pytest.mark.parametrize("fields", [["Authorization: Bearer wrong"], ["Authorization: Bearer"], []])
async def test_without_a_good_token_nothing_is_done(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase, fields: list[str]
) -> None:
    caller = await call(guarded_world)
    answer = await caller.act(*fields, **INVOICE, request_id="r")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.reply["request_id"] == "r"
    assert invoices(database) == 0
    token = database.create_token()
    assert (await caller.act(bearer(token), **INVOICE)).status == 200, "it may do better"


async def test_a_token_in_the_url_is_none(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    body = json.dumps({"action": "list_prices"}).encode()
    target = f"/actions?token={database.create_token()}"
    fields = [f"Content-Type: {JSON}", f"Content-Length: {len(body)}"]
    assert (await (await call(guarded_world)).ask(request("POST", target, *fields, body=body))).status == 401


async def test_a_token_that_is_revoked_is_good_for_nothing_within_a_second(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    caller, token = await call(guarded_world), database.create_token()
    assert (await caller.act(bearer(token), **INVOICE)).status == 200
    database.lose_wakes = True
    database.revoke_token(token)
    await trio.sleep(1)
    assert (await caller.act(bearer(token), **INVOICE)).status == 401
    assert invoices(database) == 1
    other = database.create_token()
    assert (await caller.act(bearer(other), **INVOICE)).status == 200, "the connection lives"


async def test_a_token_that_expires_is_good_to_the_second(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    caller, token = await call(guarded_world), database.create_token(seconds=8)
    assert (await caller.act(bearer(token), **INVOICE)).status == 200
    await trio.sleep(7.9)
    assert (await caller.act(bearer(token), **INVOICE)).status == 200
    await trio.sleep(0.2)
    assert (await caller.act(bearer(token), **INVOICE)).status == 401


async def test_a_token_that_is_revoked_while_an_action_waits_is_not_good_for_the_next_one(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    caller, token = await call(guarded_world), database.create_token()
    assert (await caller.act(bearer(token), **PING)).status == 200
    database.delay = 1.5
    await caller.send(post({"action": "list_invoices"}, bearer(token)))
    await wait_all_tasks_blocked()
    database.revoke_token(token)
    await caller.answer()
    database.delay = 0
    await trio.sleep(2)  # the look for what was revoked took as long as all else
    assert (await caller.act(bearer(token), action="list_invoices")).status == 401


async def test_a_database_that_is_away_is_no_wrong_token(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    caller, token = await call(guarded_world), database.create_token()
    database.away = True
    answer = await caller.act(bearer(token), **PING)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    database.away = False
    assert (await caller.act(bearer(token), **PING)).status == 200


async def test_who_has_gone_holds_no_token(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    caller, token = await call(guarded_world), database.create_token()
    assert (await caller.act(bearer(token), **PING)).status == 200
    assert (await caller.act(bearer("wrong"), **PING)).status == 401
    await trio.aclose_forcefully(caller.stream)
    await wait_all_tasks_blocked()
    asked: list[str] = []
    database.costs.append(lambda query, many: asked.append(query.__name__) or 0.0)  # type: ignore[func-returns-value]
    await trio.sleep(5)
    assert not [name for name in asked if "token" in name or "identify" in name], asked


# Limits


async def count_taken(caller: Caller, *fields: str, most: int = 100) -> int:
    """How many requests are taken before one is refused."""
    for taken in range(most):
        answer = await caller.act(*fields, **PING)
        if answer.status == 429:
            assert float(answer.headers["retry-after"]) >= answer.reply["retry_after_seconds"]
            return taken
    return most


LIMITS: dict[str, Any] = {"requests_per_second": 1, "requests_burst": 5}


async def test_a_token_may_ask_so_much_over_however_many_connections(autojump_clock: MockClock) -> None:
    async with addresses(auth="token", **LIMITS) as (line, call_from):
        token, other = line.database.create_token(), line.database.create_token()
        callers = [await call_from(f"10.0.0.{number}") for number in range(5)]
        for caller in callers:
            assert (await caller.act(bearer(token), **PING)).status == 200
        for caller in callers:
            assert (await caller.act(bearer(token), **PING)).status == 429
        assert await count_taken(callers[0], bearer(other)) == 5, "another token is another client"
        await trio.sleep(3)
        assert await count_taken(callers[1], bearer(token)) == 3


async def test_who_has_no_token_may_ask_so_much_from_its_address(autojump_clock: MockClock) -> None:
    async with addresses(auth="open", **LIMITS) as (_, call_from):
        one, two, other = [await call_from(address) for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2")]
        assert await count_taken(one) == 5
        assert await count_taken(two) == 0
        assert await count_taken(other) == 5


async def test_where_no_address_is_known_each_connection_may_ask_so_much(autojump_clock: MockClock) -> None:
    async with addresses(auth="open", **LIMITS) as (_, call_from):
        for _ in range(2):
            assert await count_taken(await call_from(None)) == 5


async def test_tokens_are_guessed_no_faster_than_an_address_may_ask(autojump_clock: MockClock) -> None:
    async with addresses(auth="token", **LIMITS) as (line, call_from):
        asked: list[str] = []
        line.database.costs.append(lambda query, many: asked.append(query.__name__) or 0.0)  # type: ignore[func-returns-value]
        statuses = []
        for number in range(40):
            caller = await call_from("10.0.0.1")
            answer = await caller.act(bearer(f"guess-{number}"), **PING)
            statuses.append(answer.status)
            await caller.rest() if answer.headers["connection"] == "close" else None
        assert set(statuses) == {401, 429}
        assert asked.count("identify") == statuses.count(401) <= 5
        token = line.database.create_token()
        assert (await (await call_from("10.0.0.2")).act(bearer(token), **PING)).status == 200


async def test_good_tokens_use_up_nothing_of_their_address(autojump_clock: MockClock) -> None:
    async with addresses(auth="token", **LIMITS) as (line, call_from):
        for _ in range(20):
            caller = await call_from("10.0.0.1")
            assert (await caller.act(bearer(line.database.create_token()), **PING)).status == 200


async def test_who_keeps_asking_too_much_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with addresses(auth="open", **LIMITS) as (_, call_from):
        caller = await call_from("10.0.0.1")
        answers = [await caller.act(**PING) for _ in range(11)]
        assert [answer.status for answer in answers] == [200] * 5 + [429] * 6
        assert [answer.headers["connection"] for answer in answers] == ["keep-alive"] * 10 + ["close"]
        assert await caller.rest() == b""


async def test_a_large_request_counts_as_several(autojump_clock: MockClock) -> None:
    async with addresses(auth="open", requests_per_second=1, requests_burst=20) as (_, call_from):
        caller = await call_from("10.0.0.1")
        assert (await caller.ask(post(b'{"action":"ping"}'.ljust(65536)))).status == 200
        assert await count_taken(caller) == 3


async def test_limits_that_are_reloaded_hold_for_tokens_that_are_known(autojump_clock: MockClock) -> None:
    async with simulated_server(auth="token", **LIMITS) as world:
        token = world.database.create_token()
        caller = await call(world)
        assert await count_taken(caller, bearer(token)) == 5
        world.reload(requests_burst=10)
        await wait_all_tasks_blocked()
        assert await count_taken(await call(world), bearer(token)) == 10


async def test_many_others_that_come_and_go_give_nobody_more(autojump_clock: MockClock) -> None:
    async with addresses(auth="open", **LIMITS) as (line, call_from):
        waiting, other = await call_from("10.0.0.1"), await call_from("10.0.0.1")
        assert (await waiting.act(**PING)).status == 200
        await trio.sleep(5)
        for number in range(3000):
            line.services.allowances.of(f"address {number}", 1, 5, trio.current_time())
        assert await count_taken(other) == 5
        assert await count_taken(waiting) == 0


async def test_log_lines_say_who_asked_where_many_share_a_connection(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, object]] = []

    def note(action: Ping, services: Services, session: Session) -> Pong:
        found.append({**logs.fields.get(), "same": logs.fields.get() == session.log_fields})
        return ping(action, services, session)

    monkeypatch.setitem(table.ACTIONS, Ping, table.Row(Ping, note, None))
    places: list[str | None] = ["10.0.0.1", "10.0.0.2", "10.0.0.2", None]
    monkeypatch.setattr(Somewhere, "find", lambda *_: places.pop(0))
    async with addresses(auth="token") as (line, call_from):
        line.database.create_account()
        caller = await call_from(None)
        for account in (1, 2, None, None):
            fields = [] if account is None else [bearer(line.database.create_token(account))]
            assert (await caller.act(*fields, **PING)).status == 200
    for one in found:
        del one["connection"]
    assert found == [
        {"address": "10.0.0.1", "account": 1, "same": True},
        {"address": "10.0.0.2", "account": 2, "same": True},
        {"address": "10.0.0.2", "same": True},
        {"same": True},
    ]


async def test_origins_that_are_reloaded_hold_on_connections_that_are_kept(
    autojump_clock: MockClock, world: World
) -> None:
    caller, origin = await call(world), "https://shop.example"
    assert (await caller.act(**PING)).status == 200
    world.reload(origins=[origin])
    await wait_all_tasks_blocked()
    answer = await caller.act(f"Origin: {origin}", **PING)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
    answer = await caller.follow("topic=account:1", f"Origin: {origin}")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)


# Customers


async def test_of_all_actions_a_customer_may_do_these_over_plain_http(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, auth="token", checkout=True) as world:
        uid = database.create_invoice(account_id=1, amount=1, currency="USD", **SECRET)
        caller = await call(world)
        for action in sorted(SCOPE_OF):
            answer = await caller.act(**fields_of(action, uid, token="x"))
            if table_row(action).of_line:
                assert (answer.status, answer.reply["code"]) == (400, "invalid_message")
            elif action in ALLOWED:
                assert answer.status == 200
            else:
                assert (answer.status, answer.reply["message"]) == (401, "Authentication required")
            assert not seen(answer.reply) & HIDDEN
            assert b"secret" not in answer.body
        fetched = await caller.act(action="fetch_invoice", id=str(uid))
        assert fetched.reply["data"]["address"] == SECRET["address"]
        whole = await caller.act(bearer(database.create_token()), action="fetch_invoice", id=str(uid))
        assert whole.reply["data"]["memo"] == SECRET["memo"]
        assert not seen((await caller.act(action="fetch_invoice", id=str(uid))).reply) & HIDDEN


def table_row(action: str) -> table.Row:
    (row,) = (row for row in table.ACTIONS.values() if row.name == action)
    return row


def test_the_table_above_has_all_actions() -> None:
    assert {type_.__struct_config__.tag for type_ in get_args(Action)} == set(SCOPE_OF)


# Among others


async def test_plain_requests_and_websockets_see_each_other_s_work(
    autojump_clock: MockClock, caller: Caller, world: World
) -> None:
    client = await world.connect()
    await client.request(action="subscribe", type="account", id=1)
    made = (await caller.act(**INVOICE)).reply["data"]
    assert (await client.receive())["data"] == made


async def test_they_are_counted_as_requests_of_their_action(
    autojump_clock: MockClock, caller: Caller
) -> None:
    name = "trio_ws_requests_total"
    labels = {"action": "list_prices", "code": "success"}
    before = metrics.REGISTRY.get_sample_value(name, labels) or 0
    await caller.act(action="list_prices")
    assert metrics.REGISTRY.get_sample_value(name, labels) == before + 1


async def test_a_server_that_is_full_says_so(autojump_clock: MockClock) -> None:
    async with simulated_server(connections=1) as world:
        await world.connect()
        for sent in (post(INVOICE), request("GET", "/events?topic=price:*")):
            answer = await (await call(world)).ask(sent)
            assert (answer.status, int(answer.headers["retry-after"]) >= 0) == (503, True)
            assert answer.reply["code"] == "unavailable", "a program reads no other body"
        assert invoices(world.database) == 0
