"""Connections of all processes, with fakes for the processes and for the clients."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from trio_ws.actions import connections
from trio_ws.actions.connections import Find, Found
from trio_ws.actions.services import Described, Outlined
from trio_ws.errors import ActionError, CloseCode, NotFound, Unavailable
from trio_ws.identity import Identity
from trio_ws.messages import EndConnection

MANY = 10_000


class FakeClient:
    """One that counts how often it is described, which takes far longer than its outline."""

    described = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def outline(self) -> Outlined | None:
        return None if self.number % 2 else Outlined(1e9 + self.number, Identity(account_id=1), None, 0)

    def describe(self) -> Described:
        FakeClient.described += 1
        return Described("websocket", [], 0, is_catching_up=False, requests=0, messages=0)

    def send_away(self, code: CloseCode, seconds: float) -> None:
        raise AssertionError


def services_with(**given: Any) -> Any:
    return SimpleNamespace(**given)


def find(services: Any, asked: Find) -> list[Found]:
    return msgspec.json.decode(connections.answer(services, msgspec.json.encode(asked)), type=list[Found])


def test_of_ten_thousand_connections_those_of_the_page_alone_are_described() -> None:
    clients = [FakeClient(number) for number in range(MANY)]
    services = services_with(clients=lambda: clients)
    FakeClient.described = 0
    found = find(services, Find(None, None, waiting=False, before=None, most=51))
    assert [one.key[-1] for one in found] == list(range(MANY - 2, MANY - 104, -2))
    assert FakeClient.described == 51
    rest = find(services, Find(None, None, waiting=False, before=found[-1].key, most=MANY))
    assert len(found) + len(rest) == MANY / 2
    FakeClient.described = 0
    assert find(services, Find(2, None, waiting=False, before=None, most=51)) == []
    assert find(services, Find(None, None, waiting=True, before=None, most=51)) == []
    assert FakeClient.described == 0


@pytest.mark.parametrize(("missing", "error"), [(0, NotFound), (1, Unavailable)])
async def test_a_connection_is_not_there_only_if_all_processes_say_so(
    missing: int, error: type[ActionError]
) -> None:
    class FakeSiblings:
        async def ask(self, _: bytes) -> tuple[Sequence[bytes], int]:
            return [b"false"], missing

    services = services_with(siblings=FakeSiblings())
    with pytest.raises(error):
        await connections.end_connection(EndConnection(id="7-1"), services, services_with())
