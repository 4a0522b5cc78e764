"""Every action has its function, and `Request` turns whatever happens into one frame."""

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest
import trio
from trio.testing import MockClock

from tests import hostile, raw
from trio_ws import errors
from trio_ws.actions import table
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.actions.table import ACTIONS, Request
from trio_ws.database.tickets import Ticket
from trio_ws.errors import ActionError, CloseCode
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.follower import Follower
from trio_ws.events.log import Log
from trio_ws.events.outbox import Outbox
from trio_ws.events.prices import Prices
from trio_ws.events.tail import Tail
from trio_ws.identity import Identity
from trio_ws.messages import Action, Ping, Reply
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase
from trio_ws.topics import Position

ERRORS = [
    type_ for type_ in vars(errors).values() if isinstance(type_, type) and issubclass(type_, ActionError)
]


def open_session(
    database: SimulatedDatabase, end: Callable[[CloseCode], None] = lambda _: None, **settings: Any
) -> tuple[Services, Session]:
    log = Log(database, memory_bytes=1000)
    log.restart(Position("x", 0), Position("x", 0))
    dispatcher = Dispatcher(log)
    tail = Tail(database, dispatcher, poll_seconds=1)
    prices = Prices(database, dispatcher)
    services = Services(
        Settings(auth="open", **settings), database, dispatcher, tail, prices, now=lambda: 1735571686.9
    )
    follower = Follower(log, Outbox(1000), lambda *_: None)
    return services, Session(services, follower, lambda code, _, *, seconds: end(code), lambda _: None, {})


async def ask(frame: str) -> dict[str, Any]:
    request = Request(frame, *open_session(SimulatedDatabase()))
    begun = request.begin()
    assert not isinstance(begun, Ticket)
    (reply,) = raw.payloads(begun or await request.wait())
    found: dict[str, Any] = json.loads(reply)
    return found


def test_every_action_has_its_function() -> None:
    assert set(ACTIONS) == set(get_args(Action))


@pytest.mark.parametrize("error", [type_ for type_ in ERRORS if type_ is not ActionError])
async def test_an_error_is_answered_with_its_code(
    error: type[ActionError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> Reply:
        await trio.lowlevel.checkpoint()
        raise error("said")

    monkeypatch.setitem(table.ACTIONS, Ping, table.Row(Ping, fail, None))
    reply = await ask('{"action":"ping","request_id":"r"}')
    assert (reply["status"], reply["code"], reply["request_id"]) == ("error", error.code, "r")
    assert reply.get("retry_after_seconds") == error.retry_after_seconds


async def test_the_clock_is_the_services_own() -> None:
    reply = await ask('{"action":"ping"}')
    assert reply == {"type": "pong", "status": "success", "timestamp": 1735571686}


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_token_that_is_lost_before_the_answer_is_good_for_nothing(*, has_begun: bool) -> None:
    services, session = open_session(database := SimulatedDatabase())
    session.identity = Identity(token_id=1, account_id=1, scopes=("read",))
    request = Request('{"action":"list_invoices"}', services, session)
    begun = request.begin() if has_begun else None
    session.lose("the token was revoked")
    database.create_invoice(account_id=1, amount=1, currency="USD")
    begun = begun or (None if has_begun else request.begin())
    assert not isinstance(begun, Ticket)
    (reply,) = raw.payloads(begun or await request.wait())
    assert json.loads(reply)["code"] == "unauthorized"


# What a request costs


def reply_of(request: Request) -> bytes:
    begun = request.begin()
    return begun if isinstance(begun, bytes) else request.finish(errors.NotFound("it would take a query"))


def pass_at_once(frame: str | bytes, burst: int) -> int:
    """How often a client may say the same at once."""
    services, session = open_session(SimulatedDatabase(), requests_burst=burst)
    for count in range(10 * burst):
        request = Request(frame, services, session)
        if b"rate_limited" in reply_of(request):
            return count
    raise AssertionError("it is never refused")


def resume(count: int) -> str:
    topics = [{"type": "account", "id": number} for number in range(1, count + 1)]
    return json.dumps({"action": "resume", "after": "x.0", "topics": topics})


@pytest.mark.parametrize(
    ("frame", "cost"),
    [
        ('{"action":"ping"}', 1),
        ('{"action":"fetch_invoice","id":"inv_123"}', 1),
        ('{"action":"ping"}'.ljust(4095), 1),
        ('{"action":"ping"}'.ljust(4096), 2),
        ('{"action":"ping"}'.ljust(65536), 17),
        (hostile.MESSAGES["["], 17),
        (bytes(65536), 17),
        ("no JSON", 1),
        ('{"action":"subscribe","type":"account","id":1}', 1 / 8),
        ('{"action":"subscribe","type":"account","id":1,"after":"x.0"}', 1 / 8),
        ('{"action":"subscribe","type":"account","id":1,"snapshot":true}', 1),
        ('{"action":"unsubscribe","type":"account","id":1}', 1 / 8),
        (resume(1), 1),
        (resume(80), 10),
    ],
)
async def test_a_request_is_charged_by_what_it_costs(
    autojump_clock: MockClock, frame: str | bytes, cost: float
) -> None:
    burst, needed = 170, 1 + len(frame) // 4096  # which is known before it is decoded
    assert pass_at_once(frame, burst) == 1 + int((burst - needed) / cost)


async def test_by_default_a_thousand_topics_may_be_followed_at_once(autojump_clock: MockClock) -> None:
    burst = Settings().requests_burst
    assert burst is not None
    assert pass_at_once('{"action":"subscribe","type":"account","id":1}', burst) >= 1000


async def test_of_what_is_one_too_many_only_the_request_id_is_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, session = open_session(SimulatedDatabase(), requests_burst=17)
    Request("[" * 65536, services, session)
    monkeypatch.setattr(table, "decode", lambda _: 1 / 0)
    asked: list[tuple[str | bytes, str | None]] = [
        ('{"request_id":"r"}', "r"),
        (b"binary", None),
        ("[" * 65536, None),
    ]
    for frame, request_id in asked:
        (reply,) = raw.payloads(reply_of(Request(frame, services, session)))
        found = json.loads(reply)
        assert (found["code"], found.get("request_id")) == ("rate_limited", request_id)


async def test_large_messages_wear_out_patience_as_they_cost(autojump_clock: MockClock) -> None:
    endings: list[CloseCode] = []
    services, session = open_session(SimulatedDatabase(), endings.append, requests_burst=34)
    for _ in range(4):  # two that are taken, two that are refused
        Request("[" * 65536, services, session)
    assert not endings
    Request("[" * 65536, services, session)
    assert endings == [CloseCode.RATE_LIMITED]


@pytest.mark.parametrize("name", hostile.MESSAGES)
async def test_the_largest_messages_are_little_work_and_have_short_answers(
    autojump_clock: MockClock, name: str
) -> None:
    services, session = open_session(SimulatedDatabase(), requests_per_second=None)
    replies: list[bytes] = []

    def reply() -> None:
        replies.append(reply_of(Request(hostile.MESSAGES[name], services, session)))

    steps = hostile.count_steps(reply)
    topics = services.settings.subscriptions if name.startswith("topics") else 0
    assert topics is not None
    assert steps <= 700 + 40 * topics
    assert len(replies[0]) <= 1500
