"""The kit itself: what a test asks of the simulated network and database is what happens."""

from decimal import Decimal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from trio_ws.client import Event
from trio_ws.database import event_log, queries
from trio_ws.database.gateway import Database
from trio_ws.errors import Unavailable
from trio_ws.testing import SimulatedDatabase, simulated_server


async def test_the_simulated_database_knows_every_query_that_actions_and_tail_make() -> None:
    for query in (
        *(queries.create_invoice, queries.fetch_invoice, queries.set_price),
        *(event_log.read_position, event_log.number_events, event_log.read_events, event_log.advance),
        *(queries.read_snapshot, queries.read_prices, queries.list_invoices, event_log.trim_events),
    ):
        assert query in SimulatedDatabase.answers


async def test_it_is_a_database_to_the_server(database: SimulatedDatabase) -> None:
    as_the_server_sees_it: Database = database
    assert await as_the_server_sees_it.run(event_log.read_position) == ("origin", 0)


async def test_a_gate_holds_queries_back_even_from_who_was_cancelled(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    database.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.run, event_log.read_position)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        assert nursery.child_tasks
        database.gate.set()


async def test_a_database_that_is_away_fails(database: SimulatedDatabase) -> None:
    database.away = True
    with pytest.raises(Unavailable):
        await database.run(event_log.read_position)


async def test_two_runs_of_a_seed_are_the_same(autojump_clock: MockClock) -> None:
    first, second = SimulatedDatabase(seed=7), SimulatedDatabase(seed=7)
    fields = {"amount": 1, "currency": "EUR", "account_id": 1}
    assert first.create_invoice(**fields) == second.create_invoice(**fields)
    assert first.create_invoice(**fields) != SimulatedDatabase(seed=8).create_invoice(**fields)


async def test_a_client_that_vanishes_is_gone(autojump_clock: MockClock) -> None:
    async with simulated_server() as world:
        client = await world.connect()
        await client.vanish()
        with pytest.raises(trio.ClosedResourceError):
            await client.stream.send_all(b"x")


async def test_leaving_the_block_stops_the_server(autojump_clock: MockClock) -> None:
    async with simulated_server() as world:
        pass
    with pytest.raises(ConnectionRefusedError):
        await world.connect()


async def test_a_client_may_come_as_an_account(autojump_clock: MockClock) -> None:
    async with simulated_server(auth="token") as world:
        other = world.database.create_account()
        till = await world.connect(account=1)
        uid = (await till.request(action="create_invoice", amount=5, currency="USD"))["data"]["uid"]
        for account, code in ((1, "not_there"), (other, "not_found")):
            client = await world.connect(account=account, scopes=["read"])
            reply = await client.request(action="fetch_invoice", id=uid)
            assert reply.get("code", "not_there") == code


async def test_the_real_client_goes_on_after_cut_and_held_lines_and_a_killed_server(
    autojump_clock: MockClock,
) -> None:
    async with simulated_server() as world, world.client() as till:
        uid = world.database.create_invoice(amount=1, currency="USD", account_id=1)
        memos: list[str] = []

        async def stay(*, task_status: trio.TaskStatus[None]) -> None:
            events = till.follow(("account", 1), after=str(world.database.position(0)))
            task_status.started()
            async for event in events:
                assert isinstance(event, Event)
                if event.type.startswith("invoice"):
                    memos.append(event.data.get("memo", ""))

        async with trio.open_nursery() as nursery:
            await nursery.start(stay)
            for memo, trouble in (("a", world.cut), ("b", world.hold), ("c", world.heal), ("d", world.kill)):
                await trio.sleep(10)
                done = trouble()
                if done is not None:
                    await done
                world.database.update_invoice(uid, memo=memo)
            await world.start()
            await trio.sleep(30)
            await world.stop()
            world.database.update_invoice(uid, memo="e")
            await world.start()
            await trio.sleep(30)
            nursery.cancel_scope.cancel()
        assert memos == ["", "a", "b", "c", "d", "e"]


async def test_a_killed_server_refuses_and_says_goodbye_to_nobody(autojump_clock: MockClock) -> None:
    async with simulated_server() as world:
        client = await world.connect()
        await world.kill()
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.reason is None or closed.value.reason.code == 1006
        with pytest.raises(ConnectionRefusedError):
            await world.connect()
        assert trio.current_time() == 0


async def test_who_calls_a_server_that_can_not_start_is_refused(autojump_clock: MockClock) -> None:
    async with simulated_server() as world:
        await world.kill()
        world.database.away = True

        async def expect_refusal() -> None:
            with pytest.raises(ConnectionRefusedError):
                await world.connect()

        async with trio.open_nursery() as nursery:
            world.network.listen()
            nursery.start_soon(expect_refusal)
            await wait_all_tasks_blocked()
            with pytest.RaisesGroup(Unavailable, flatten_subgroups=True):
                await world.start()
        world.database.away = False
        await world.start()
        assert (await (await world.connect()).request(action="ping"))["type"] == "pong"


async def test_a_restored_backup_has_the_prices_that_it_had(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    def prices() -> bytes:
        return b",".join(map(bytes, database.prices))

    database.set_price("BTC", Decimal(50_000))
    database.delete_price("EUR")
    before, kept = prices(), len(database.written)
    await trio.sleep(1)
    database.set_price("BTC", Decimal(60_000))
    database.set_price("EUR", Decimal("1.10"))
    database.delete_price("ETH")
    database.restore(kept)
    assert prices() == before
    database.set_price("EUR", Decimal("1.10"))
    assert b'"id":4,' in prices(), "a number is given once"
