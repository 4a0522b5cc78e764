"""Each fault of the simulator bites: what it does to a server, and a planted bug that it alone finds."""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, ConnectionRejected

from tests.requirements import SLOW, one_in_some
from trio_ws import server
from trio_ws.connection import Connection
from trio_ws.database import event_log, queries
from trio_ws.database.event_log import LogRead
from trio_ws.database.lanes import Lane
from trio_ws.errors import ActionError, CloseCode, Outage, Timeout
from trio_ws.events.dispatcher import Dispatcher, Published
from trio_ws.events.outbox import Outbox
from trio_ws.events.tail import BATCH, Tail
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase, simulated_server
from trio_ws.testing.ear import SimulatedEar
from trio_ws.testing.gateway import SimulatedGateway
from trio_ws.testing.lines import SimulatedLine
from trio_ws.testing.network import SimulatedClient, SimulatedNetwork
from trio_ws.testing.simulation import Scenario, imagine, play
from trio_ws.testing.simulation.actors import BULK
from trio_ws.testing.simulation.scenario import FAULT_STEPS, FAULTS, Step
from trio_ws.testing.simulation.timeline import Entry, draw
from trio_ws.testing.work import AFTER_SECONDS, Locks, Work
from trio_ws.topics import Event
from trio_ws.wire.ear import Deaf, Ear
from trio_ws.wire.stream import Wire

SEEDS = 20  # within which a planted bug must be found
OTHER_SEEDS = 3  # with all other faults, within which it must not
COMPANY = ("hang_up", "cut", "pause")  # so that clients come back, and read from the log
SQUEEZED = 10  # as much happens in a minute as else in so many
OTHERS = [
    what for steps in FAULT_STEPS.values() for what in steps if what != "vanish"
]  # that takes long to be found out


def squeeze(scenario: Scenario) -> Scenario:
    """Have all of it happen in a fraction of the time."""
    steps = tuple(msgspec.structs.replace(step, at=step.at / SQUEEZED) for step in scenario.steps)
    return msgspec.structs.replace(scenario, seconds=scenario.seconds / SQUEEZED, steps=steps)


def busy(seed: int, faults: Sequence[str]) -> Scenario:
    """Twelve minutes with the steps of two hours."""
    return squeeze(imagine(seed, hours=2.0, faults=faults, clients=15))


def scene(*steps: Step, seconds: float = 100.0, servers: int = 1) -> Scenario:
    settings = {"poll_seconds": 5.0, "expiry_seconds": 10.0}
    return Scenario(1, seconds, 4, servers, settings, 1000, splits=False, steps=steps)


def trace(scenario: Scenario) -> list[Entry]:
    """Play one in which all is well, and return what happened."""
    entries: list[Entry] = []
    assert play(scenario, lambda *entry: entries.append(Entry(*entry))).violation is None
    return entries


def ends(entries: list[Entry], code: CloseCode) -> int:
    return sum(entry.what.startswith(f"is told the end: {int(code)}") for entry in entries)


# The kernel takes a part


async def test_a_kernel_takes_all_that_it_has_room_for_or_a_part_where_it_trickles() -> None:
    ours, theirs = (line := SimulatedLine(room_bytes=10)).ends
    assert ours.send_some(b"12345678") == 8
    assert ours.send_some(b"123") == 0
    assert await theirs.receive_some() == b"12345678"
    line.trickle = Random(2)
    sent = [ours.send_some(b"12345") for _ in range(5)]
    assert 0 < sum(sent) <= 10
    assert any(0 < size < 5 for size in sent)
    line.cut()
    assert ours.send_some(b"1") == 0


async def test_who_is_cancelled_while_it_trickles_has_sent_a_part(autojump_clock: MockClock) -> None:
    ours, theirs = (line := SimulatedLine()).ends
    line.trickle = Random(1)
    with trio.move_on_after(1):
        await ours.send_all(b"frame" * 10)
    await ours.aclose()
    assert 0 < len(await theirs.receive_some()) < 50


@pytest.mark.parametrize("ear", [SimulatedEar, Deaf])
async def test_what_trickles_comes_whole_and_in_order_by_the_ear_and_without_it(
    ear: type[Ear], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, int]] = []

    def send_now(self: Wire, frames: bytes) -> int:
        sent = right(self, frames)
        taken.append((sent, len(frames)))
        return sent

    right = Wire.send_now
    monkeypatch.setattr(Wire, "send_now", send_now)
    async with simulated_server(ear=ear) as world:
        world.network.room_bytes = 2000
        world.network.trickle(Random(3))
        client = await world.connect()
        await client.request(action="subscribe", type="account", id="1")
        for _ in range(20):
            world.database.create_invoice(amount=1, currency="EUR", account_id=1)
            await client.send(action="ping")
        said = [await client.receive() for _ in range(40)]
    positions = [one["position"] for one in said if "position" in one]
    assert len(positions) == len({*positions}) == 20
    assert any(0 < sent < size for sent, size in taken), "by the direct way, in part"


# A server and its database


async def is_answered(client: SimulatedClient) -> str:
    """Ask for an invoice to be made, and return the status or the code of the reply."""
    reply = await client.request(action="create_invoice", amount=1, currency="EUR", account_id=1)
    return str(reply.get("code") or reply["status"])


async def test_a_server_that_is_cut_off_alone_ends_its_clients_where_others_trim_meanwhile(
    autojump_clock: MockClock,
) -> None:
    database = SimulatedDatabase()
    here, there = SimulatedGateway(database), SimulatedGateway(database)
    async with simulated_server(here) as cut_off, simulated_server(there) as world:
        client, other = await cut_off.connect(), await world.connect()
        for one in (client, other):
            await one.request(action="subscribe", type="account", id="2")
        here.is_cut = True
        assert await is_answered(client) == "unavailable"
        database.create_account()
        database.create_invoice(amount=1, currency="EUR", account_id=2)
        event = await other.receive()
        assert event["type"] == "invoice.created"
        await trio.sleep(1)
        database.trim(database.numbered)
        here.is_cut = False
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.reason is not None
        assert closed.value.reason.code == CloseCode.LOG_LOST
        assert await is_answered(other) == "success"


async def test_what_is_under_way_when_a_server_is_cut_off_is_done_and_not_known(
    autojump_clock: MockClock,
) -> None:
    gateway = SimulatedGateway(database := SimulatedDatabase())
    database.delay = 1.0
    async with simulated_server(gateway) as world:
        client = await world.connect()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                assert await is_answered(client) == "unavailable"

            await trio.sleep(0.5)
            gateway.is_cut = True
        assert len(database.uids) == 1


async def test_one_lane_without_a_session_leaves_the_others_alone() -> None:
    gateway = SimulatedGateway(SimulatedDatabase())
    gateway.refused = frozenset({Lane.CATCH_UP})
    assert await gateway.run(event_log.read_position, lane=Lane.AHEAD)
    with pytest.raises(Outage):
        await gateway.run(event_log.read_position, lane=Lane.CATCH_UP)


async def test_without_descriptors_sessions_go_on_and_one_that_is_lost_is_not_opened_again() -> None:
    gateway = SimulatedGateway(SimulatedDatabase())
    await gateway.run(event_log.read_position)
    gateway.lacks_descriptors = True
    await gateway.run(event_log.read_position)
    gateway.end_sessions()
    with pytest.raises(Outage):
        await gateway.run(event_log.read_position)
    gateway.lacks_descriptors = False
    await gateway.run(event_log.read_position)


async def test_without_descriptors_nobody_gets_in_until_there_are_some(autojump_clock: MockClock) -> None:
    async with simulated_server() as world:
        inside = await world.connect()
        world.network.lacks_descriptors = True
        with trio.move_on_after(5) as waiting:
            await world.connect()
        assert waiting.cancelled_caught
        assert await is_answered(inside) == "success"
        world.network.lacks_descriptors = False
        assert await is_answered(await world.connect()) == "success"


async def test_who_waits_for_a_descriptor_is_hung_up_on_where_the_server_ends(
    autojump_clock: MockClock,
) -> None:
    async with simulated_server() as world:
        world.network.lacks_descriptors = True
        stream = await world.network.call()
        await trio.sleep(1)
        await world.stop()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_settings_that_are_read_again_are_for_connections_that_come(autojump_clock: MockClock) -> None:
    async with simulated_server() as world:
        before = await world.connect()
        world.reload(connections=1)
        await trio.sleep(1)
        assert await is_answered(before) == "success"
        with pytest.raises(ConnectionRejected):
            await world.connect()


# PostgreSQL takes its time


async def test_a_statement_takes_as_long_as_its_rows_and_fails_where_they_are_many(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    for _ in range(100):
        database.create_invoice(amount=1, currency="EUR", account_id=1)
    database.costs.append(Work(database, row_seconds=0.02))
    with pytest.raises(Timeout):
        await database.run(event_log.advance, 0, 100)
    assert database.numbered == 0, "it is undone"
    began = trio.current_time()
    await database.run(event_log.advance, 0, 20)
    assert 20 * 0.02 < trio.current_time() - began < 2
    while database.numbered < len(database.written):
        await database.run(event_log.advance, database.numbered, 20)
    with pytest.raises(Timeout):
        await database.run(event_log.find_events, 0, ["account:1"], 100, 1, database.position(20))


async def test_who_wants_a_row_or_the_log_that_is_held_waits_and_others_do_not(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    held, free = (database.create_invoice(amount=1, currency="EUR", account_id=1) for _ in range(2))
    database.costs.append(Locks(database, 3.5, [held]))
    await database.run(queries.change_status, free, "cancelled", None)
    assert trio.current_time() == 0
    with pytest.raises(Timeout):
        await database.run(queries.change_status, held, "cancelled", None)
    await database.run(queries.change_status, held, "cancelled", None)
    assert trio.current_time() == 3.5 + AFTER_SECONDS, "it is answered once the other has committed"
    database.costs[:] = [Locks(database, 10.0, log=True)]
    with pytest.raises(Timeout):
        await database.run(event_log.advance, 0, 100)
    await database.run(event_log.read_position)


async def test_what_has_lost_its_numbers_gets_others_under_another_name(
    database: SimulatedDatabase,
) -> None:
    for account in (1, 1):
        database.create_invoice(amount=1, currency="EUR", account_id=account)
    await database.run(event_log.advance, 0, 100)
    before = list(database.written)
    database.unnumber(3)
    assert database.numbered == 3
    await database.run(event_log.advance, 0, 100)
    after = list(database.written)
    assert [event.seq for event in after] == [event.seq for event in before]
    assert after[:3] == before[:3]
    assert sorted(bytes(event.data) for event in after) == sorted(bytes(event.data) for event in before)
    assert {event.name for event in after[3:]}.isdisjoint({event.name for event in before})


async def test_two_copies_of_a_database_call_their_events_by_names_of_their_own(
    database: SimulatedDatabase,
) -> None:
    copies = [database.copy(database.numbered) for _ in range(2)]
    for one in (database, *copies):
        one.create_invoice(amount=1, currency="EUR", account_id=1)
        await one.run(event_log.advance, 0, 100)
    assert len({one.position(one.numbered) for one in (database, *copies)}) == 3


# In a run


FOLLOWED = [Step(1.0, "follow", number, value="account:1") for number in range(4)]
TOLD = [Step(at, "bulk", value="versions") for at in (10.0, 80.0)]


def test_thousands_of_changes_that_commit_at_once_are_read_in_batches_and_told_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[int] = []

    def publish(self: Dispatcher, events: Sequence[Event]) -> Published:
        batches.append(len(events))
        return right(self, events)

    right = Dispatcher.publish
    monkeypatch.setattr(Dispatcher, "publish", publish)
    entries = trace(scene(*FOLLOWED, Step(10.0, "bulk", value="invoices")))
    assert max(batches) == BATCH
    told = [entry.at for entry in entries if entry.what.startswith("is told invoice.created")]
    assert len(told) > 4 * BULK // 20
    assert max(told) < 11


def test_what_was_written_before_and_commits_later_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[float] = []

    def publish(self: Dispatcher, events: Sequence[Event]) -> Published:
        published.extend(event.at for event in events)
        return right(self, events)

    right = Dispatcher.publish
    monkeypatch.setattr(Dispatcher, "publish", publish)
    trace(scene(*FOLLOWED, Step(10.0, "hold_open", seconds=20.0), Step(20.0, "insert")))
    assert published != sorted(published)


@pytest.mark.parametrize(
    ("kind", "is_another"), [("whole", False), ("without events", True), ("without numbers", True)]
)
def test_a_standby_that_lacks_events_or_their_numbers_has_another_log(*, kind: str, is_another: bool) -> None:
    bulk = Step(5.0, "bulk", value="invoices")
    entries = trace(scene(*FOLLOWED, bulk, Step(20.0, "fail_over", seconds=5.0, value=kind)))
    assert ends(entries, CloseCode.LOG_LOST) == 4 * is_another


def test_a_copy_that_takes_over_whole_is_the_same_log_and_the_first_one_again_is_another() -> None:
    entries = trace(scene(*FOLLOWED, Step(20.0, "clone", seconds=50.0)))
    ended = [entry.at for entry in entries if entry.what.startswith("is told the end: 4008")]
    assert len(ended) == 4
    assert min(ended) >= 70


def test_a_restored_log_that_has_grown_past_its_end_is_another_one() -> None:
    bulk = Step(5.0, "bulk", value="invoices")
    entries = trace(scene(*FOLLOWED, bulk, Step(20.0, "restore", value="and more")))
    assert ends(entries, CloseCode.LOG_LOST) == 4


# In a scenario


def test_two_faults_at_once_are_two_steps_about_the_same_server() -> None:
    steps = imagine(2, hours=20, faults=["descriptors+sessions"], clients=1).steps
    pairs = [step for step in steps if step.what in {"descriptors", "sessions"}]
    assert pairs
    assert {step.what for step in pairs} == {"descriptors", "sessions"}
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        assert first.at <= second.at <= first.at + 0.2
        assert first.number == second.number


def test_whatever_else_is_chosen_a_fault_comes_at_the_same_moments() -> None:
    alone = imagine(5, hours=2, faults=["trickle"], clients=5)
    among = imagine(5, hours=2, faults=FAULTS, clients=5)
    assert {step for step in alone.steps if step.what == "trickle"} == {
        step for step in among.steps if step.what == "trickle"
    }
    assert alone.settings == among.settings


def test_a_fault_of_a_server_stands_in_its_lane_of_the_picture() -> None:
    scenario = scene(Step(1.0, "cut_off", 1, seconds=20.0), servers=2)
    picture = draw(scenario, [])
    assert ">server 0</text>" in picture
    assert "cut_off 1" in picture


# Broken on purpose: each is found by the fault that it stands beside, and by no other


def read_the_first_batch_of_a_backlog(patch: pytest.MonkeyPatch) -> None:
    async def step(self: Tail) -> float:
        return await right(self) or 2.0

    right = Tail._step  # noqa: SLF001
    patch.setattr(Tail, "_step", step)


def leave_out_what_is_older_than_what_was_told(patch: pytest.MonkeyPatch) -> None:
    def publish(self: Dispatcher, events: Sequence[Event]) -> Published:
        latest = getattr(self, "latest", 0.0)
        for number, event in enumerate(events):
            if event.at < latest - 1.0:
                events = [*events[:number], msgspec.structs.replace(event, topics=()), *events[number + 1 :]]
        vars(self)["latest"] = max(latest, *(event.at for event in events))
        return right(self, events)

    right = Dispatcher.publish
    patch.setattr(Dispatcher, "publish", publish)


def ask_for_as_much_again_after_a_timeout(patch: pytest.MonkeyPatch) -> None:
    async def ask(self: Tail, query: Callable[..., LogRead], after: int) -> LogRead:
        return await self._database.run(query, after, BATCH, lane=Lane.AHEAD)

    patch.setattr(Tail, "_ask", ask)


def know_a_log_that_was_left(patch: pytest.MonkeyPatch) -> None:
    def life(name: str) -> str:  # of which copy of a database it is
        return name.rpartition("-")[0]

    async def ask(self: Tail, query: Any, after: int) -> LogRead:
        read: LogRead = await right(self, query, after)
        left.add(life(self._dispatcher.log.end.name))
        is_back = life(read.end.name) != life(self._dispatcher.log.end.name) and life(read.end.name) in left
        return read._replace(known_as=self._dispatcher.log.end.name) if is_back else read

    left: set[str] = set()
    right = Tail._ask  # noqa: SLF001
    patch.setattr(Tail, "_ask", ask)


def go_on_past_what_was_trimmed(patch: pytest.MonkeyPatch) -> None:
    async def ask(self: Tail, query: Any, after: int) -> LogRead:
        read: LogRead = await right(self, query, after)
        end = self._dispatcher.log.end
        return read._replace(known_as=end.name) if read.begin.seq > end.seq else read

    right = Tail._ask  # noqa: SLF001
    patch.setattr(Tail, "_ask", ask)


def accept_nobody_after_an_error(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server, "ACCEPT_RETRY_SECONDS", math.inf)


def take_a_lane_that_fails_alone_for_a_bug(patch: pytest.MonkeyPatch) -> None:
    async def run_together(self: SimulatedGateway, query: Any, lane: Lane, many: Any) -> Any:
        outcomes: Any = None
        try:
            outcomes = await right(self, query, lane, many)
            return outcomes
        finally:
            if lane is Lane.CLIENTS:
                vars(self)["has_failed"] = outcomes is None
            elif lane is Lane.AHEAD:
                alone = outcomes is not None and vars(self).get("has_failed", False)
                vars(self)["streak"] = vars(self).get("streak", 0) + 1 if alone else 0
                vars(self)["has_failed"] = False
                assert vars(self)["streak"] < 2, "a lane fails alone"

    right = SimulatedGateway._run_together  # noqa: SLF001
    patch.setattr(SimulatedGateway, "_run_together", run_together)


def send_a_frame_again_after_a_part_of_it(patch: pytest.MonkeyPatch) -> None:
    right = Outbox._queue  # noqa: SLF001
    patch.setattr(Outbox, "_queue", lambda self, frames, sent: right(self, frames, 0))


def take_nobody_once_settings_were_read_again(patch: pytest.MonkeyPatch) -> None:
    def reload(self: Any, settings: Settings) -> None:
        right(self, settings)
        if vars(self).get("_turned_away"):  # which is there once the server is
            self._census.limit(0, 0, 0)

    right: Any = server._Server.reload  # noqa: SLF001
    patch.setattr(server._Server, "reload", reload)  # noqa: SLF001


def fail_where_settings_come_into_force_while_it_drains(patch: pytest.MonkeyPatch) -> None:
    def reload(self: Any, settings: Settings) -> None:
        if vars(self).get("_drains"):
            raise RuntimeError("it drains")
        right(self, settings)

    right: Any = server._Server.reload  # noqa: SLF001
    patch.setattr(server._Server, "reload", reload)  # noqa: SLF001


def wait_for_clients_where_it_is_killed_while_it_drains(patch: pytest.MonkeyPatch) -> None:
    async def run(self: Connection) -> None:
        try:
            await right(self)
        finally:
            if vars(self)["_requests"].is_stopping and trio.current_effective_deadline() == -math.inf:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1000)

    right = Connection.run
    patch.setattr(Connection, "run", run)


def accept_nobody_after_an_error_while_the_database_is_away(patch: pytest.MonkeyPatch) -> None:
    async def step(self: Tail) -> float:
        try:
            return await right_step(self)
        except ActionError:
            away.append(trio.current_time())
            raise

    async def accept(self: Any) -> Any:
        try:
            return await right_accept(self)
        except OSError:
            if away and trio.current_time() - away[-1] < 2:
                await trio.sleep_forever()
            raise

    away: list[float] = []
    right_step, right_accept = Tail._step, SimulatedNetwork.accept  # noqa: SLF001
    patch.setattr(Tail, "_step", step)
    patch.setattr(SimulatedNetwork, "accept", accept)


PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "bulk": (read_the_first_batch_of_a_backlog, "event came after"),
    "hold_open": (leave_out_what_is_older_than_what_was_told, "was left out"),
    "crawl": (ask_for_as_much_again_after_a_timeout, "has no number"),
    "clone": (know_a_log_that_was_left, "of another log"),
    "cut_off": (go_on_past_what_was_trimmed, "was left out"),
    "descriptors": (accept_nobody_after_an_error, "has no line at the end"),
    "sessions": (take_a_lane_that_fails_alone_for_a_bug, "a lane fails alone"),
    "reload": (take_nobody_once_settings_were_read_again, "has no line at the end"),
    "trickle": (send_a_frame_again_after_a_part_of_it, "is told b"),
    "descriptors+sessions": (
        accept_nobody_after_an_error_while_the_database_is_away,
        "has no line at the end",
    ),
    "stop+reload": (fail_where_settings_come_into_force_while_it_drains, "it drains"),
    "stop+kill": (wait_for_clients_where_it_is_killed_while_it_drains, "to end, or more"),
}


# What has the same effect: the first one of two copies brings what was written before it was left.
ALSO = {"hold_open": {"clone"}}


def finds(scenario: Scenario, said: str) -> bool:
    return said in (play(scenario).violation or "")


@pytest.mark.logs_errors
@pytest.mark.parametrize("fault", one_in_some(PLANTED))
def test_a_bug_that_only_one_fault_shows_is_found_by_it(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, said = PLANTED[fault]
    plant(monkeypatch)
    assert any(finds(busy(seed, [fault, *COMPANY]), said) for seed in range(SEEDS))


@SLOW
@pytest.mark.logs_errors
@pytest.mark.parametrize("fault", PLANTED)
def test_a_bug_that_only_one_fault_shows_is_found_by_no_other(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, said = PLANTED[fault]
    plant(monkeypatch)
    others = [other for other in OTHERS if fault not in other and other not in ALSO.get(fault, ())]
    assert not any(finds(busy(seed, others), said) for seed in range(OTHER_SEEDS))
