"""Every action has its function, and `Request` turns whatever happens into one frame."""

import json
from typing import Any, get_args

import pytest
import trio

from tests import raw
from trio_ws import errors
from trio_ws.actions import table
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.actions.table import ACTIONS, Request, answer
from trio_ws.errors import ActionError
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.follower import Follower
from trio_ws.events.log import Log
from trio_ws.events.outbox import Outbox
from trio_ws.events.prices import Prices
from trio_ws.events.tail import Tail
from trio_ws.identity import Identity
from trio_ws.messages import Action, Ping
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase

ERRORS = [
    type_ for type_ in vars(errors).values() if isinstance(type_, type) and issubclass(type_, ActionError)
]


def open_session(database: SimulatedDatabase) -> tuple[Services, Session]:
    log = Log(database, memory_bytes=1000)
    dispatcher = Dispatcher(log)
    tail = Tail(database, dispatcher, poll_seconds=1)
    services = Services(
        Settings(), database, dispatcher, tail, Prices(database, dispatcher), now=lambda: 1735571686.9
    )
    follower = Follower(log, Outbox(1000), lambda *_: None)
    return services, Session(services, follower, lambda *_, seconds: None, lambda _: None)


async def ask(frame: str) -> dict[str, Any]:
    request = Request(frame, *open_session(SimulatedDatabase()))
    (reply,) = raw.payloads(request.answer_now() or b"".join(await answer([request])))
    found: dict[str, Any] = json.loads(reply)
    return found


def test_every_action_has_its_function() -> None:
    assert set(ACTIONS) == set(get_args(Action))


@pytest.mark.parametrize("error", [type_ for type_ in ERRORS if type_ is not ActionError])
async def test_an_error_is_answered_with_its_code(
    error: type[ActionError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise error("said")

    monkeypatch.setitem(table.ACTIONS, Ping, (fail, None))
    reply = await ask('{"action":"ping","request_id":"r"}')
    assert (reply["status"], reply["code"], reply["request_id"]) == ("error", error.code, "r")
    assert reply.get("retry_after_seconds") == error.retry_after_seconds


async def test_the_clock_is_the_services_own() -> None:
    reply = await ask('{"action":"ping"}')
    assert reply == {"type": "pong", "status": "success", "timestamp": 1735571686}


async def test_a_token_that_is_lost_before_the_answer_begins_is_good_for_nothing() -> None:
    services, session = open_session(database := SimulatedDatabase())
    uid = database.create_invoice(account_id=database.create_account(), amount=1, currency="USD")
    session.identity = Identity(token_id=1, account_id=1, scopes=("read",))
    request = Request(json.dumps({"action": "fetch_invoice", "id": str(uid)}), services, session)
    assert request.answer_now() is None, "it takes a query"
    session.lose("the token was revoked")
    (reply,) = raw.payloads(b"".join(await answer([request])))
    assert json.loads(reply)["code"] == "unauthorized"
