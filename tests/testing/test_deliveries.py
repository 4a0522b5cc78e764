"""Webhooks in a simulated run, and what is left behind: what is broken on purpose is found out."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import pytest
import trio

from tests.requirements import one_in_some
from trio_ws import server
from trio_ws.codec import encode_event
from trio_ws.connection import Connection
from trio_ws.database import webhooks
from trio_ws.database.webhooks import Claim, Delivery, Outcome
from trio_ws.errors import Timeout
from trio_ws.identity import Identity
from trio_ws.testing import SimulatedDatabase
from trio_ws.testing.lines import SimulatedStream
from trio_ws.testing.simulation import Scenario, imagine, play
from trio_ws.testing.simulation.scenario import GOOD_URLS, Step
from trio_ws.testing.webhooks import SimulatedQueue
from trio_ws.topics import Event
from trio_ws.webhooks import delivery, signature
from trio_ws.webhooks.answer import Answer
from trio_ws.webhooks.delivery import Deliverer

SEEDS = 20  # within which a planted bug must be found
FAULTS = ("receivers", "pause", "hang_up")
SQUEEZED = 10  # as much happens in a minute as else in so many


def busy(seed: int, faults: Sequence[str] = FAULTS) -> Scenario:
    """Six minutes with the steps of an hour."""
    scenario = imagine(seed, hours=1.0, faults=faults, clients=20)
    steps = tuple(msgspec.structs.replace(step, at=step.at / SQUEEZED) for step in scenario.steps)
    return msgspec.structs.replace(scenario, seconds=scenario.seconds / SQUEEZED, steps=steps)


def scene(*steps: Step, seconds: float = 100.0, servers: int = 1) -> Scenario:
    settings = {"poll_seconds": 5.0, "expiry_seconds": 10.0}
    return Scenario(1, seconds, 4, servers, settings, 1000, splits=False, steps=steps)


def answers(scenario: Scenario) -> list[str]:
    """Play one in which all is well, and return what was answered to webhooks, in order."""
    said: list[str] = []

    def note(_: float, who: str, what: str) -> None:
        if who == "receiver":
            said.append(what.rpartition(" ")[2])

    assert play(scenario, note).violation is None
    return said


@pytest.mark.parametrize("seed", range(2))
def test_whatever_receivers_do_each_gets_all_that_it_must(seed: int) -> None:
    assert play(busy(seed)).violation is None


def test_who_refuses_or_breaks_the_line_or_takes_too_long_gets_it_again() -> None:
    for fault, answer in (("refuse", "500"), ("break_posts", "none")):
        said = answers(scene(Step(10.0, fault, seconds=20.0, value=GOOD_URLS[0])))
        assert said.count(answer) > 3
        assert said.count("200") == 6
    dawdled = [answers(scene(Step(at, "dawdle", seconds=20.0, value=GOOD_URLS[0]))) for at in range(10, 20)]
    assert any("none" in said for said in dawdled), "longer than it has"
    assert any("none" not in said for said in dawdled)


def test_who_takes_none_before_the_end_gets_all_of_them_then() -> None:
    said = answers(scene(*(Step(at, "insert", value="webhook") for at in range(1, 50))))
    assert said.count("500") > 4
    assert said.count("200") == 49


# What a database has queued


async def test_a_copy_of_a_database_has_its_webhooks_and_holds_those_of_another(
    database: SimulatedDatabase,
) -> None:
    database.create_invoice(amount=1, currency="EUR", account_id=1, webhook_url=GOOD_URLS[0])
    database.number_events()
    same, other = (database.copy(database.numbered) for _ in range(2))
    other.webhooks.origin = "copy"
    for one in (database, same, other):
        await one.run(webhooks.hold, 100)
    assert database.webhooks.waiting == same.webhooks.waiting == other.webhooks.held == [4]
    await same.run(
        webhooks.settle, [Outcome(one, webhooks.Result.DELIVERED) for one in await claim(same)], 1.0
    )
    assert same.webhooks.waiting == []
    assert database.webhooks.waiting == [4]


async def claim(database: SimulatedDatabase) -> list[Delivery]:
    return (await database.run(webhooks.claim, 10, 30.0, [])).deliveries


async def test_events_that_are_lost_are_not_sent_and_those_without_their_numbers_keep_their_names(
    database: SimulatedDatabase,
) -> None:
    for _ in range(2):
        database.create_invoice(amount=1, currency="EUR", account_id=1, webhook_url=GOOD_URLS[0])
    database.number_events()
    before = {one.id for one in await claim(database)}
    database.unnumber(4)
    assert database.webhooks.waiting == [4]
    database.number_events()
    assert {one.id for one in await claim(database)} < before
    database.restore(4)
    assert database.webhooks.waiting == [4]


# Broken on purpose


def change_body(patch: pytest.MonkeyPatch) -> None:
    def encode(event: Event) -> bytes:
        return encode_event(msgspec.structs.replace(event, previous=msgspec.Raw(b'{"memo":""}')))

    patch.setattr(delivery, "encode_event", encode)


def name_each_attempt(patch: pytest.MonkeyPatch) -> None:
    async def attempt(self: Deliverer, one: Delivery) -> Answer | str:
        return await right(self, one._replace(id=f"{one.id}.{one.attempts}"))

    right = Deliverer._attempt  # noqa: SLF001
    patch.setattr(Deliverer, "_attempt", attempt)


def name_all_alike(patch: pytest.MonkeyPatch) -> None:
    async def attempt(self: Deliverer, one: Delivery) -> Answer | str:
        return await right(self, one._replace(id="webhook"))

    right = Deliverer._attempt  # noqa: SLF001
    patch.setattr(Deliverer, "_attempt", attempt)


def sign_at_another_time(patch: pytest.MonkeyPatch) -> None:
    right = signature.sign
    patch.setattr(signature, "sign", lambda body, at, secrets: right(body, at + 60, secrets))


def sign_with_one_secret(patch: pytest.MonkeyPatch) -> None:
    right = signature.sign
    patch.setattr(signature, "sign", lambda body, at, secrets: right(body, at, secrets[:1]))


def go_elsewhere(patch: pytest.MonkeyPatch) -> None:
    async def attempt(self: Deliverer, one: Delivery) -> Answer | str:
        return await right(self, one._replace(url=GOOD_URLS[0]))

    right = Deliverer._attempt  # noqa: SLF001
    patch.setattr(Deliverer, "_attempt", attempt)


def take_each_answer_for_a_good_one(patch: pytest.MonkeyPatch) -> None:
    async def attempt(self: Deliverer, one: Delivery) -> Answer | str:
        await right(self, one)
        return Answer(200)

    right = Deliverer._attempt  # noqa: SLF001
    patch.setattr(Deliverer, "_attempt", attempt)


def send_each_twice(patch: pytest.MonkeyPatch) -> None:
    async def attempt(self: Deliverer, one: Delivery) -> Answer | str:
        await right(self, one)
        return await right(self, one)

    right = Deliverer._attempt  # noqa: SLF001
    patch.setattr(Deliverer, "_attempt", attempt)


def send_all_of_an_invoice_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedQueue, "_oldest", SimulatedQueue._open)  # noqa: SLF001


def take_more_than_there_is_room_for(patch: pytest.MonkeyPatch) -> None:
    def take(self: SimulatedQueue, most: int, lease_seconds: float, held: Sequence[Delivery]) -> Claim:
        return right(self, most, lease_seconds, held[:0])

    right: Callable[..., Claim] = SimulatedQueue.answers[webhooks.claim]
    patch.setitem(SimulatedQueue.answers, webhooks.claim, take)


def give_an_account_all_places(patch: pytest.MonkeyPatch) -> None:
    def due(self: SimulatedQueue, now: datetime) -> Any:
        found = right(self, now)
        first = next((account for (account, _), waiting in found.items() if waiting), None)
        return {key: waiting for key, waiting in found.items() if key[0] == first}

    right = SimulatedQueue._due  # noqa: SLF001
    patch.setattr(SimulatedQueue, "_due", due)


def give_no_place_back(patch: pytest.MonkeyPatch) -> None:
    right = Deliverer.__init__

    class Kept(dict[str, Delivery]):
        def __delitem__(self, _: str) -> None:
            pass

    def init(self: Deliverer, *args: Any, **more: Any) -> None:
        right(self, *args, **more)
        self._claimed = Kept()

    patch.setattr(Deliverer, "__init__", init)


def look_seldom(patch: pytest.MonkeyPatch) -> None:
    async def sleep(_: Deliverer) -> None:
        await trio.sleep_forever()

    patch.setattr(delivery, "POLL_SECONDS", 30.0)
    patch.setattr(Deliverer, "_wake_when_the_log_has_one", sleep)


def take_a_timeout_for_a_bug(patch: pytest.MonkeyPatch) -> None:
    async def settle(self: Deliverer) -> Timeout | None:
        if (late := await right(self)) is not None:
            raise RuntimeError("it took too long") from late
        return late

    right = Deliverer._settle  # noqa: SLF001
    patch.setattr(Deliverer, "_settle", settle)


WEBHOOKS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    change_body: "and the event is",
    name_each_attempt: "was called otherwise",
    name_all_alike: "is called as another one",
    sign_at_another_time: "is signed by",
    sign_with_one_secret: "is signed by",
    go_elsewhere: "went to",
    take_each_answer_for_a_good_one: "was never answered",
    send_each_twice: "and came again",
    send_all_of_an_invoice_at_once: "came after that of",
    take_more_than_there_is_room_for: "are under way",
    give_an_account_all_places: "was late",
    give_no_place_back: "was never answered",
    look_seldom: "was late",
    take_a_timeout_for_a_bug: "it took too long",
}


def hold_a_token(patch: pytest.MonkeyPatch) -> None:
    async def serve(self: Any, stream: SimulatedStream) -> None:
        self._services.tokens.hold(Identity(token_id=1, account_id=1), lambda: None)
        await right(self, stream)

    right: Any = server._Server.serve_connection  # noqa: SLF001
    patch.setattr(server._Server, "serve_connection", serve)  # noqa: SLF001


def leave_a_task(patch: pytest.MonkeyPatch) -> None:
    async def run(self: Connection) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await right(self)

    right = Connection.run
    patch.setattr(Connection, "run", run)


def leave_a_line_open(patch: pytest.MonkeyPatch) -> None:
    async def serve(self: Any, stream: SimulatedStream) -> None:
        patch.setattr(stream, "aclose", trio.lowlevel.checkpoint)
        await right(self, stream)

    right: Any = server._Server.serve_connection  # noqa: SLF001
    patch.setattr(server._Server, "serve_connection", serve)  # noqa: SLF001


LEFT: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    hold_a_token: "tokens are left",
    leave_a_task: "tasks are left",
    leave_a_line_open: "lines are left",
}


def named(plant: Callable[[pytest.MonkeyPatch], None]) -> str:
    return plant.__name__


@pytest.mark.logs_errors
@pytest.mark.parametrize("plant", one_in_some([*WEBHOOKS, *LEFT], named))
def test_a_server_that_is_broken_on_purpose_is_found_out(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {**WEBHOOKS, **LEFT}[plant]
    plant(monkeypatch)
    scenarios = [scene(Step(60.0, "crowd")), *map(busy, range(SEEDS))]
    assert any(said in (play(scenario).violation or "") for scenario in scenarios)
