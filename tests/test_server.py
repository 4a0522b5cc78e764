"""The server under the mock clock: many clients, one of them bad, and the way it stops."""

import errno
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import TypeVar, TypeVarTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, ConnectionRejected

from tests import raw
from tests.late import LateDatabase
from trio_ws.database import event_log, queries
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.errors import CloseCode, Unavailable
from trio_ws.metrics import figures
from trio_ws.server import serve
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedClient, SimulatedDatabase, SimulatedNetwork, World, simulated_server

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

INVOICE = {"amount": 1000, "currency": "USD", "account_id": 1}


async def test_a_slow_client_delays_no_other(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    slow, quick = await world.connect(), await world.connect()
    for client in (slow, quick):
        await client.request(action="subscribe", type="account", id=1)
    for number in range(1000):
        database.create_invoice(**INVOICE, memo=str(number))
        assert (await quick.receive())["data"]["memo"] == str(number)
    assert trio.current_time() == 0


async def test_a_client_that_sends_garbage_disturbs_no_other(autojump_clock: MockClock, world: World) -> None:
    good = await world.connect()
    for garbage in (
        raw.head(Host="\xe9"),
        b"\0" * 100,
        raw.head() + b"\xff" * 1000,
        raw.head() + raw.frame(raw.TEXT, b"\xff"),
    ):
        stream = await world.network.call()
        await _send_and_vanish(stream, garbage)
    assert (await good.request(action="ping"))["type"] == "pong"


async def _send_and_vanish(stream: trio.abc.HalfCloseableStream, data: bytes) -> None:
    with trio.move_on_after(1):
        try:
            await stream.send_all(data)
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
    await trio.aclose_forcefully(stream)


async def test_stopping_tells_every_client_when_to_come_back(autojump_clock: MockClock) -> None:
    async with simulated_server(retry_spread_seconds=10) as world:
        clients = [await world.connect() for _ in range(50)]
        world.shutdown.set()
        seconds = []
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
            seconds.append(told_to_wait(closed.value, CloseCode.GOING_AWAY))
        assert all(0 <= value <= 10 for value in seconds)
        assert len(set(seconds)) > 10, "spread over the clients"
        assert trio.current_time() == 0


def told_to_wait(closed: ConnectionClosed, code: CloseCode) -> float:
    """Return after how many seconds the client is to reconnect."""
    assert closed.reason is not None
    assert closed.reason.code == code
    name, _, value = str(closed.reason.reason).partition("=")
    assert name == "retry_after"
    return float(value)


async def test_stopping_answers_what_is_in_flight(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database) as world:
        clients = [await world.connect() for _ in range(5)]
        database.gate = trio.Event()
        for number, client in enumerate(clients):
            await client.send(action="create_invoice", **INVOICE, request_id=number)
        await wait_all_tasks_blocked()
        world.shutdown.set()
        await trio.sleep(10)
        database.gate.set()
        for number, client in enumerate(clients):
            reply = await client.receive()
            assert (reply["status"], reply["request_id"]) == ("success", number), reply
            with pytest.raises(ConnectionClosed):
                await client.receive()


async def test_stopping_takes_no_new_clients(autojump_clock: MockClock, database: SimulatedDatabase) -> None:
    async with simulated_server(database) as world:
        busy = await world.connect()
        database.gate = trio.Event()
        await busy.send(action="list_prices")
        await wait_all_tasks_blocked()
        world.shutdown.set()
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionRefusedError):
            await world.connect()
        database.gate.set()


async def test_stopping_is_not_held_up_by_clients_that_do_not_read(autojump_clock: MockClock) -> None:
    async with simulated_server(drain_seconds=25, write_seconds=60) as world:
        for _ in range(5):
            stream = await world.network.call()
            await stream.send_all(raw.head())
            client = raw.RawClient(stream)
            await client.receive_head()
            await client.send(action="ping")
        world.shutdown.set()
        await trio.sleep_until(25)
        with pytest.raises(trio.BrokenResourceError):
            await client.send(action="ping")
    assert trio.current_time() == 25


async def test_stopping_ends_in_time_also_where_a_goodbye_is_not_answered(autojump_clock: MockClock) -> None:
    with trio.fail_after(60):
        await _stop_without_an_answer()
    assert trio.current_time() == 2


async def _stop_without_an_answer() -> None:
    async with simulated_server(drain_seconds=2, close_seconds=60) as world:
        client = raw.RawClient(await world.network.call())
        await client.stream.send_all(raw.head())
        await client.receive_head()
        world.shutdown.set()
        assert (await client.receive_frame())[0] == raw.CLOSE


async def test_a_database_that_is_away_at_the_start_is_said(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    database.away = True
    with pytest.RaisesGroup(Unavailable):
        await serve(Settings(), database, [SimulatedNetwork()], trio.Event())


async def test_an_outage_is_answered_and_survived(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    await client.request(action="subscribe", type="account", id=1)
    database.away = True
    reply = await client.request(action="list_prices", request_id=1)
    assert reply == {
        "status": "error",
        "message": "The database can't be reached",
        "code": "unavailable",
        "retry_after_seconds": 1.0,
        "request_id": 1,
    }
    database.create_invoice(**INVOICE)
    await trio.sleep(3)
    database.away = False
    assert (await client.receive())["type"] == "invoice.created"


async def test_a_reply_is_followed_by_its_event_without_a_look_at_the_log(
    autojump_clock: MockClock,
) -> None:
    async with simulated_server(poll_seconds=3600) as world:
        client, follower = await world.connect(), await world.connect()
        await follower.request(action="subscribe", type="account", id=1)
        await client.request(action="create_invoice", **INVOICE)
        assert (await follower.receive())["type"] == "invoice.created"
        assert trio.current_time() == 0


async def test_a_position_from_before_what_is_kept_is_not_recovered(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    for _ in range(10):
        database.create_invoice(**INVOICE)
    database.trim(8)
    await trio.sleep(1)
    for seq, recovered in ((6, False), (7, False), (8, True), (13, True)):
        reply = await client.request(
            action="resume", after=str(database.position(seq)), topics=[{"type": "invoice", "id": "x"}]
        )
        assert reply["data"]["recovered"] is recovered, seq


async def test_a_position_that_another_server_told_of_first_is_waited_for(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, poll_seconds=3600) as world:
        client = await world.connect()
        database.lose_wakes = True
        database.create_invoice(**INVOICE)
        await database.run(event_log.number_events, 100)  # by another process
        reply = await client.request(
            action="subscribe", type="account", id=1, after=str(database.position(4))
        )
        assert reply["data"] == {"position": str(database.position(4)), "recovered": True}


class FarAway(SimulatedDatabase):
    """A database whose answers to clients take a second to arrive."""

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        answer = await super().run(query, *args, lane=lane)
        if lane is not Lane.AHEAD:
            await trio.sleep(1)
        return answer


async def test_what_comes_between_a_snapshot_and_following_it_is_told(autojump_clock: MockClock) -> None:
    database = FarAway()
    async with simulated_server(database) as world:
        client = await world.connect()
        await client.send(action="subscribe", type="account", id=1, snapshot=True)
        await trio.sleep(0.5)  # the snapshot has been taken, and is on its way
        for _ in range(5):
            database.create_invoice(**INVOICE)
        reply = await client.receive()
        assert (reply["data"]["position"], reply["data"]["snapshot"]) == (str(database.position(3)), [])
        with trio.fail_after(5):
            told = [(await client.receive())["position"].rpartition(".")[2] for _ in range(5)]
        assert told == ["4", "5", "6", "7", "8"]


async def test_followers_of_a_log_that_was_lost_are_told_to_start_anew(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    follower, other = await world.connect(), await world.connect()
    await follower.request(action="subscribe", type="account", id=1)
    database.restore(seq=2)
    with pytest.raises(ConnectionClosed) as closed:
        await follower.receive()
    assert told_to_wait(closed.value, CloseCode.LOG_LOST) <= world.settings.retry_spread_seconds
    assert (await other.request(action="subscribe", type="account", id=1))["data"]["position"].endswith(".2")


async def test_followers_of_a_log_that_was_lost_do_not_all_reconnect_at_once(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    restarts = figures()["trio_ws_log_restarts_total"]
    async with simulated_server(database, retry_spread_seconds=10) as world:
        clients = [await world.connect() for _ in range(50)]
        for client in clients:
            await client.request(action="subscribe", type="account", id=1)
        database.restore(seq=2)
        seconds = []
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
            seconds.append(told_to_wait(closed.value, CloseCode.LOG_LOST))
    assert all(0 <= value <= 10 for value in seconds)
    assert len(set(seconds)) > 10, "spread over the clients"
    assert figures()["trio_ws_log_restarts_total"] == restarts + 1


async def test_a_connection_follows_as_many_topics_as_it_may_and_no_more(
    autojump_clock: MockClock,
) -> None:
    async with simulated_server(subscriptions=2) as world:
        client = await world.connect()
        for id_ in ("a", "b", "a"):
            reply = await client.request(action="subscribe", type="invoice", id=id_)
            assert reply["status"] == "success"
        reply = await client.request(action="subscribe", type="invoice", id="c")
        assert (reply["status"], reply["code"]) == ("error", "too_many_subscriptions")
        await client.request(action="unsubscribe", type="invoice", id="a")
        assert (await client.request(action="subscribe", type="invoice", id="c"))["status"] == "success"


async def test_an_unlimited_connection_follows_many_topics(autojump_clock: MockClock) -> None:
    async with simulated_server(subscriptions=None, requests_per_second=None) as world:
        client = await world.connect()
        for number in range(1500):
            reply = await client.request(action="subscribe", type="account", id=number + 1)
            assert reply["status"] == "success"


async def test_a_snapshot_begins_where_a_position_that_is_not_to_be_had_does_not(
    autojump_clock: MockClock,
) -> None:
    database = FarAway()
    async with simulated_server(database) as world:
        client = await world.connect()
        await client.send(action="subscribe", type="account", id=1, snapshot=True, after="other-1.2")
        await trio.sleep(0.5)  # the snapshot has been taken, and is on its way
        for _ in range(5):
            database.create_invoice(**INVOICE)
        reply = await client.receive()
        assert reply["data"] == {"position": str(database.position(3)), "recovered": False, "snapshot": []}
        with trio.fail_after(5):
            told = [(await client.receive())["position"].rpartition(".")[2] for _ in range(5)]
        assert told == ["4", "5", "6", "7", "8"]


async def test_after_a_restore_who_has_seen_what_is_gone_is_told_and_nobody_else(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    for _ in range(6):
        database.create_invoice(**INVOICE)
        await trio.sleep(1)  # so that each has a name of its own
    kept, lost = database.position(7), database.position(9)
    database.restore(seq=8)
    for _ in range(3):
        database.create_invoice(**INVOICE)
    await trio.sleep(1)
    topics = [{"type": "account", "id": 1}]
    for after, recovered in ((kept, True), (lost, False), (database.position(9), True)):
        client = await world.connect()
        reply = await client.request(action="resume", after=str(after), topics=topics)
        assert reply["data"]["recovered"] is recovered, after


async def test_a_position_below_what_was_lost_is_looked_for(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    for _ in range(20):
        database.create_invoice(**INVOICE)
    await trio.sleep(1)
    client = await world.connect()
    lost = database.position(20)
    database.restore(10)
    await trio.sleep(1)
    database.lose_wakes = True
    database.create_invoice(**INVOICE)
    await database.run(event_log.number_events, 100)  # by another process, which has told of it
    for after, recovered in ((database.position(11), True), (lost, False)):
        begin = trio.current_time()
        reply = await client.request(action="resume", after=str(after), topics=[{"type": "price", "id": "*"}])
        assert reply["data"]["recovered"] is recovered
        assert trio.current_time() - begin < 0.1, "a look at the log decides"


class LosesWhatItShowed(SimulatedDatabase):
    """A primary that fails over once somebody has read a snapshot of what no standby has."""

    is_armed = False

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        if not self.is_armed or query is not queries.read_snapshot:  # type: ignore[comparison-overlap]
            return await super().run(query, *args, lane=lane)
        self.is_armed = False
        end = self.numbered
        self.create_invoice(**INVOICE)
        self.answers[event_log.number_events](self, 10)
        answer: T = self.answers[query](self, *args)
        self.restore(end)
        for _ in range(4):
            self.create_invoice(**INVOICE)
        self.answers[event_log.number_events](self, 10)
        return answer


async def test_a_snapshot_of_what_was_lost_is_not_followed(autojump_clock: MockClock) -> None:
    database = LosesWhatItShowed()
    for _ in range(4):
        database.create_invoice(**INVOICE)
    async with simulated_server(database) as world:
        client = await world.connect()
        await trio.sleep(1)
        database.is_armed = True
        reply = await client.request(action="subscribe", type="account", id=1, snapshot=True)
        assert reply["code"] == "unavailable"


async def test_a_position_ahead_of_us_in_an_outage_is_no_gap(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    database.lose_wakes = True
    database.create_invoice(**INVOICE)
    await database.run(event_log.number_events, 100)  # by another process, which has told of .4
    database.away = True
    await trio.sleep(0.3)
    fields = {"type": "account", "id": 1, "after": str(database.position(4))}
    reply = await client.request(action="subscribe", **fields)
    assert (reply["code"], reply["message"]) == ("unavailable", "The event log is behind")
    database.away = False
    reply = await client.request(action="subscribe", **fields)
    assert reply["data"]["recovered"] is True
    reply = await client.request(action="subscribe", **{**fields, "after": "another.9"})
    assert reply["data"]["recovered"] is False, "but one that never was is"


async def test_a_look_at_the_log_that_began_before_a_position_was_told_of_does_not_make_it_a_gap(
    autojump_clock: MockClock,
) -> None:
    database = LateDatabase()
    async with simulated_server(database, poll_seconds=1) as world:
        client = await world.connect()
        arrival = database.arrival = trio.Event()
        await trio.sleep(1.5)  # a look has begun, and found nothing
        database.lose_wakes = True
        database.create_invoice(**INVOICE)
        database.arrival = None
        await database.run(event_log.number_events, 100)  # by another process, which has told of .4
        database.arrival = arrival
        fields = {"type": "account", "id": 1, "after": str(database.position(4))}
        await client.send(action="subscribe", **fields)
        await trio.sleep(0.5)
        database.away = True
        arrival.set()
        assert (await client.receive())["code"] == "unavailable"


async def test_a_snapshot_waits_until_this_server_has_told_of_what_it_holds(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, poll_seconds=3600) as world:
        client = await world.connect()
        await client.request(action="subscribe", type="price", id="*")
        database.lose_wakes = True
        database.set_price("BTC", Decimal(5))
        await database.run(event_log.number_events, 100)  # by another process
        await client.send(action="subscribe", type="account", id=1, snapshot=True)
        assert (await client.receive())["type"] == "price.updated", "before the reply, not after"
        assert (await client.receive())["data"]["position"] == str(database.position(4))


# Too many


async def test_who_comes_when_it_is_full_is_told_to_come_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with simulated_server(connections=2, retry_spread_seconds=10) as world:
        first, second = await world.connect(), await world.connect()
        for _ in range(20):
            with pytest.raises(ConnectionRejected) as refused:
                await world.connect()
            assert refused.value.status_code == 503
            assert 1 <= int(dict(refused.value.headers)[b"retry-after"]) <= 10
        assert (await second.request(action="ping"))["type"] == "pong"
        await first.aclose()
        await wait_all_tasks_blocked()
        assert (await (await world.connect()).request(action="ping"))["type"] == "pong"
    told = [record for record in caplog.records if "turned away" in record.getMessage()]
    assert "connections is reached" in told[0].getMessage()


async def test_who_comes_too_fast_is_told_to_come_again(autojump_clock: MockClock) -> None:
    async with simulated_server(connections_per_second=5) as world:
        for _ in range(5):
            await world.connect()
        with pytest.raises(ConnectionRejected):
            await world.connect()
        await trio.sleep(0.2)
        await world.connect()


async def test_limits_that_are_reloaded_hold_for_who_comes_and_what_is_asked_from_then_on(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    network, shutdown = SimulatedNetwork(), trio.Event()
    to_reloads, reloads = trio.open_memory_channel[Settings](1)
    async with trio.open_nursery() as nursery:
        run = partial(
            serve, Settings(auth="open", connections=1), database, [network], shutdown, reloads=reloads
        )
        await nursery.start(run)
        async with trio.open_nursery() as clients:
            client = await SimulatedClient.open(network, clients)
            with pytest.raises(ConnectionRejected):
                await SimulatedClient.open(network, clients)
            await to_reloads.send(Settings(auth="open", connections=2, subscriptions=1))
            await wait_all_tasks_blocked()
            second = await SimulatedClient.open(network, clients)
            await client.request(action="subscribe", type="invoice", id="a")
            reply = await client.request(action="subscribe", type="invoice", id="b")
            assert reply["code"] == "too_many_subscriptions"
            with pytest.raises(ConnectionRejected):
                await SimulatedClient.open(network, clients)
            for one in (client, second):
                await one.vanish()
            clients.cancel_scope.cancel()
        shutdown.set()


async def test_those_turned_away_are_bounded_too(autojump_clock: MockClock) -> None:
    async with simulated_server(connections=1) as world:
        client = await world.connect()
        silent = [await world.network.call() for _ in range(150)]
        await wait_all_tasks_blocked()
        ended = 0
        for stream in silent:
            with trio.move_on_after(0.001):
                ended += await stream.receive_some() == b""
        assert ended == 50
        assert (await client.request(action="ping"))["type"] == "pong"
        await trio.sleep(world.settings.close_seconds)
        for stream in silent:
            assert await stream.receive_some() == b""
        with pytest.raises(ConnectionRejected) as refused:
            await world.connect()
        assert refused.value.status_code == 503, "those who come later are told again"


async def test_garbage_from_who_is_turned_away_is_garbage_all_the_same(autojump_clock: MockClock) -> None:
    async with simulated_server(connections=1) as world:
        await world.connect()
        stream = await world.network.call()
        await stream.send_all(b"\0")
        assert (await raw.RawClient(stream).receive_head()).startswith("HTTP/1.1 400 ")
        await _send_and_vanish(await world.network.call(), b"GET")


class Exhausted(SimulatedNetwork):
    """A network on a machine that has run out of file descriptors, for a while."""

    until = 0.0

    async def accept(self) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        if trio.current_time() < self.until:
            raise OSError(errno.EMFILE, "Too many open files")
        return await super().accept()


async def test_running_out_of_file_descriptors_is_said_and_passes(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    network, shutdown = Exhausted(), trio.Event()
    network.until = 10.0
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Settings(auth="open"), database, [network], shutdown)
        async with trio.open_nursery() as clients:
            client = await SimulatedClient.open(network, clients)
            assert trio.current_time() >= 10
            assert (await client.request(action="ping"))["type"] == "pong"
            await client.aclose()
            clients.cancel_scope.cancel()
        shutdown.set()
    told = [record for record in caplog.records if "Too many open files" in record.getMessage()]
    assert told
    assert all(record.levelname == "WARNING" and not record.exc_info for record in told)


async def test_any_other_trouble_of_a_listener_is_waited_out_and_said(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SimulatedNetwork):
        async def accept(self) -> trio.abc.HalfCloseableStream:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EINVAL, "Invalid argument")

    with trio.move_on_after(1) as patience:
        await serve(Settings(auth="open"), database, [Broken()], trio.Event())
    assert patience.cancelled_caught
    assert "can't accept connections: Invalid argument; trying again" in caplog.text
