"""The client and a server that sends what none should: later it gets what it asked for, or its own error."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import ConnectionClosed, wrap_server_stream

from tests.hostile_servers import FINAL, SCRIPTS, Close, Raw, Script
from trio_ws import messages
from trio_ws.client import Client, Disconnected, Event, Refused, connect
from trio_ws.testing import SimulatedDatabase, World

INVOICE = {"amount": 1000, "currency": "USD", "account_id": 1}
HOSTILE_SECONDS = 60  # by the mock clock, and good from then on
MOST_LINES = 60  # backing off, some 20 in that time; for what is no pause at all, there is no end
PATIENCE_SECONDS = 3600


class Changing:
    """A server that answers by a script, and after a time as it should."""

    def __init__(self, world: World, script: Script, nursery: trio.Nursery) -> None:
        self._world = world
        self._script = script
        self._nursery = nursery
        self._good_at = trio.current_time() + HOSTILE_SECONDS
        self.lines = 0

    async def open(self) -> trio.abc.HalfCloseableStream:
        self.lines += 1
        assert self.lines < MOST_LINES, "it backs off"
        if trio.current_time() >= self._good_at:
            return await self._world.network.call()
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: Any) -> None:
        with trio.CancelScope(deadline=self._good_at), contextlib.suppress(ConnectionClosed):
            async with trio.open_nursery() as nursery:
                socket = await (await wrap_server_stream(nursery, stream)).accept()
                with contextlib.suppress(ConnectionClosed, trio.BrokenResourceError):
                    while True:
                        for sent in self._script(json.loads(await socket.get_message())):
                            if isinstance(sent, Close):
                                await socket.aclose(*sent)
                            elif isinstance(sent, Raw):
                                await stream.send_all(sent.data)
                            else:
                                await socket.send_message(sent)
                nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)


async def fetch(client: Client, uid: UUID) -> None:
    assert (await client.do(messages.FetchInvoice(id=str(uid)))).uid == uid


async def call(client: Client, uid: UUID) -> None:
    with contextlib.suppress(
        AttributeError, LookupError, TypeError
    ):  # the data is what the server says it is
        if (await client.call("fetch_invoice", id=str(uid)))["uid"] == str(uid):
            return
    raise Disconnected("not yet")


async def read_list(client: Client, uid: UUID) -> None:
    if uid not in {invoice.uid async for invoice in client.all(messages.ListInvoices(account_id=1))}:
        raise Disconnected("not yet")


async def follow(client: Client, uid: UUID) -> None:
    async for event in client.follow(("account", 1)):
        if isinstance(event, Event) and event.data.get("uid") == str(uid):
            return


async def watch(client: Client, uid: UUID) -> None:
    async for state in client.watch("account", 1):
        if state.get("uid") == str(uid):
            return


USES: list[Callable[[Client, UUID], Awaitable[None]]] = [fetch, call, read_list, follow, watch]


@pytest.fixture
async def uid(world: World, database: SimulatedDatabase, nursery: trio.Nursery) -> AsyncIterator[UUID]:
    """An invoice that changes now and then."""
    uid = database.create_invoice(**INVOICE)

    async def change() -> None:
        for number in range(PATIENCE_SECONDS):
            await trio.sleep(10)
            database.update_invoice(uid, memo=str(number))

    nursery.start_soon(change)
    yield uid
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", SCRIPTS)
async def test_whatever_a_server_sends_who_asks_has_it_later_or_an_error_of_the_client_s(
    autojump_clock: MockClock, world: World, uid: UUID, name: str
) -> None:
    async def use_until_it_is_had(use: Callable[[Client, UUID], Awaitable[None]]) -> None:
        server = Changing(world, SCRIPTS[name], servers)
        async with connect("ws://till.example", open_stream=server.open) as client:
            for _ in range(PATIENCE_SECONDS):
                try:
                    await use(client, uid)
                    return
                except Refused:
                    if use in (follow, watch):
                        assert name in FINAL
                        return
                except Disconnected:
                    assert use not in (follow, watch)
                await trio.sleep(1)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as servers:
            async with trio.open_nursery() as users:
                for use in USES:
                    users.start_soon(use_until_it_is_had, use)
            servers.cancel_scope.cancel()
