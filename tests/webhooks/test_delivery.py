"""Deliveries under the mock clock: order, patience, and what others must not feel."""

import hashlib
import hmac
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from random import Random
from typing import Any, TypeVar, TypeVarTuple

import pytest
import trio
from trio.testing import MockClock

from trio_ws import metrics
from trio_ws.database import webhooks
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.database.webhooks import EACH, PAUSE_SECONDS, Outcome
from trio_ws.errors import Timeout
from trio_ws.events.log import Log
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase, SimulatedReceiver, World, simulated_server
from trio_ws.testing.receiver import Posted
from trio_ws.testing.webhooks import SECRETS, SimulatedQueue
from trio_ws.webhooks.answer import Answer
from trio_ws.webhooks.delivery import (
    AGAIN_SECONDS,
    FIGURES_SECONDS,
    LEASE_SECONDS,
    MOST,
    POLL_SECONDS,
    Deliverer,
)
from trio_ws.webhooks.post import PostError

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

HOOK, OTHER = "https://shop.example/hook", "https://other.example/hook"
SOON = 2 * (POLL_SECONDS + AGAIN_SECONDS)


def invoice(url: str = HOOK, **fields: Any) -> dict[str, Any]:
    return {"amount": 1, "currency": "USD", "account_id": 1, "webhook_url": url, **fields}


def posted_to(url: str, world: World) -> list[Posted]:
    return [post for post in world.receiver.posted if post.url == url]


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - whatever it is that is waited for
        await trio.sleep(0.1)


def statuses(posted: list[Posted]) -> list[str]:
    return [post.event["data"]["status"] for post in posted]


async def test_an_invoices_events_are_posted_as_followers_are_told_them(
    autojump_clock: MockClock, world: World
) -> None:
    follower = await world.connect()
    await follower.request(action="subscribe", type="account", id=1)
    created = await follower.request(action="create_invoice", **invoice())
    told = [await follower.receive()]
    for status in ("confirming", "paid"):
        await follower.request(action="update_invoice", uid=created["data"]["uid"], status=status)
        told.append(await follower.receive())
    posted = await world.receiver.receive(3)
    assert [post.event for post in posted] == told
    assert [list(post.event) for post in posted] == [list(event) for event in told]
    assert len({post.headers["trio-ws-delivery"] for post in posted}) == 3
    for post in posted:
        assert post.headers["content-type"] == "application/json"
    assert trio.current_time() < SOON


async def test_each_is_signed_with_both_secrets_over_time_and_body(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    database.create_invoice(**invoice(memo="Zwei Kaffee ☕"))
    (post,) = await world.receiver.receive(1)
    timestamp, *signatures = post.headers["trio-ws-signature"].split(",")
    assert int(timestamp.removeprefix("t=")) == int(database.now())
    assert signatures == [
        "v1="
        + hmac.new(
            secret.encode(), timestamp.removeprefix("t=").encode() + b"." + post.body, hashlib.sha256
        ).hexdigest()
        for secret in SECRETS
    ]


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        *((status, True) for status in (200, 201, 204, 299)),
        *((status, False) for status in (101, 199, 300, 301, 302, 307, 400, 404, 409, 429, 500, 503)),
        (PostError("can't connect"), False),
    ],
)
async def test_200_to_299_is_taken_and_all_else_comes_again(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    world: World,
    answer: int | Exception,
    taken: bool,  # noqa: FBT001
) -> None:
    world.receiver.answers[HOOK] = answer
    database.create_invoice(**invoice())
    await trio.sleep(60)
    assert (len(world.receiver.posted) == 1) is taken
    assert (database.webhooks.waiting == []) is taken
    assert len({post.headers["trio-ws-delivery"] for post in world.receiver.posted}) == 1


async def test_what_is_answered_410_is_not_sent_again_and_the_next_event_goes_on(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.receiver.answers[HOOK] = 410
    uid = database.create_invoice(**invoice())
    database.update_invoice(uid, status="confirming")
    await trio.sleep(SOON)
    assert statuses(world.receiver.posted) == ["unpaid", "confirming"]
    assert (database.webhooks.waiting, len(database.webhooks.failed)) == ([], 2)
    assert caplog.messages.count("a webhook has failed for good") == 2
    await trio.sleep(60)
    assert len(world.receiver.posted) == 2


@pytest.mark.parametrize("date", [False, True])
async def test_a_receiver_that_says_when_is_not_asked_before(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    world: World,
    date: bool,  # noqa: FBT001
) -> None:
    when = format_datetime(datetime.fromtimestamp(database.now() + 90, UTC), usegmt=True)
    world.receiver.answers[HOOK] = Answer(429, when if date else "90")
    database.create_invoice(**invoice())
    await world.receiver.receive(1)
    begin = trio.current_time()
    await trio.sleep(10)  # it has answered by then
    world.receiver.answers.clear()
    database.create_invoice(**invoice(f"{HOOK}/another"))
    database.create_invoice(**invoice(OTHER))
    with trio.fail_after(1000):
        await world.receiver.receive(4)
    _, elsewhere, *here = world.receiver.posted
    assert elsewhere.url == OTHER
    assert [post.at - begin for post in here] == pytest.approx([90, 90], abs=SOON)


async def test_what_was_delivered_is_remembered_for_so_long(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    assert Settings().webhook_history_seconds == 30 * 86400
    async with simulated_server(database, webhook_history_seconds=60) as world:
        database.create_invoice(**invoice())
        await world.receiver.receive(1)
        await trio.sleep(50)
        assert database.webhooks.delivered == [4]
        await trio.sleep(80)
        assert database.webhooks.delivered == []
    async with simulated_server(database, webhook_history_seconds=0) as world:
        database.create_invoice(**invoice())
        await world.receiver.receive(1)
        await until(lambda: not database.webhooks.waiting)
        assert database.webhooks.delivered == []


async def test_attempts_are_counted_by_their_answer_and_timed(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    before = metrics.figures()
    world.receiver.seconds[HOOK] = 3.0
    for answer in (200, 410, PostError("can't connect")):
        world.receiver.answers[HOOK] = answer
        count = len(world.receiver.posted)
        database.create_invoice(**invoice())
        await world.receiver.receive(count + 1)
        await trio.sleep(4)
    after = metrics.figures()

    def grown(name: str) -> float:
        return after[f"trio_ws_webhook_{name}"] - before.get(f"trio_ws_webhook_{name}", 0.0)

    attempts = grown("responses_total")
    assert attempts >= 3
    assert grown("attempt_seconds_count") == attempts
    assert grown("attempt_seconds_sum") == pytest.approx(3.0 * attempts)
    page = metrics.page().decode()
    for status in ("2xx", "4xx", "none"):
        assert f'trio_ws_webhook_responses_total{{status="{status}"}}' in page
    await trio.sleep(FIGURES_SECONDS)
    assert metrics.figures()["trio_ws_webhooks_oldest_age_seconds"] > 1.0


async def test_who_does_not_take_one_gets_no_later_one_of_that_invoice_before_it(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    world.receiver.answers[HOOK] = 500
    uid = database.create_invoice(**invoice())
    for status in ("confirming", "paid"):
        await trio.sleep(20)
        database.update_invoice(uid, status=status)
    await trio.sleep(60)
    assert set(statuses(world.receiver.posted)) == {"unpaid"}
    world.receiver.answers.clear()
    await until(lambda: not database.webhooks.waiting)
    assert statuses(world.receiver.posted)[-3:] == ["unpaid", "confirming", "paid"]


async def test_pauses_grow_with_jitter_until_it_is_given_up_and_the_next_event_goes_on(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    receiver = SimulatedReceiver()
    receiver.answers[HOOK] = 500
    settings = Settings(webhook_retry_seconds=8 * 3600)
    assert Settings().webhook_retry_seconds == 3 * 86400
    uid = database.create_invoice(**invoice())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver_from, database, receiver, settings, Random(3))
        await trio.sleep(1)
        database.update_invoice(uid, status="confirming")
        number(database)
        await trio.sleep(9 * 3600)
        nursery.cancel_scope.cancel()
    times = [
        post.at
        for post, status in zip(receiver.posted, statuses(receiver.posted), strict=True)
        if status == "unpaid"
    ]
    first, longest = PAUSE_SECONDS
    pauses = [after - before for before, after in itertools.pairwise(times)]
    for attempt, pause in enumerate(pauses):
        assert pause <= min(longest, first * 2**attempt) + SOON
    assert max(pauses) > 600
    assert len(pauses) > 14
    assert min(pauses[12:]) < longest / 2, "jitter"
    assert times[-1] - times[0] == pytest.approx(8 * 3600, abs=SOON), "the last one is when its time is over"
    assert set(statuses(receiver.posted)[len(times) :]) == {"confirming"}
    assert len(database.webhooks.failed) == 2


def number(database: SimulatedDatabase) -> None:
    """Number what has happened, as a tail does."""
    database.number_events()


async def deliver_from(
    database: SimulatedDatabase, receiver: SimulatedReceiver, settings: Settings, chance: Random
) -> None:
    number(database)
    await Deliverer(database, Log(database, 1000), settings, receiver.post, chance=chance).run()


async def prove(database: SimulatedDatabase, world: World, *urls: str) -> None:
    """Have a delivery succeed at each of these."""
    for url in urls:
        database.create_invoice(**invoice(url))
    await world.receiver.receive(len(urls))
    await until(lambda: not database.webhooks.waiting)
    world.receiver.most.clear()
    world.receiver.posted.clear()


async def test_one_slow_endpoint_delays_no_other(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    await prove(database, world, HOOK)
    world.receiver.seconds[HOOK] = 9
    for _ in range(200):
        database.create_invoice(**invoice())
    await trio.sleep(3)
    for number in range(1, 21):
        begin = trio.current_time()
        database.create_invoice(**invoice(OTHER))
        await until(lambda count=number: len(posted_to(OTHER, world)) == count)  # type: ignore[misc]
        assert trio.current_time() - begin < SOON
    assert world.receiver.most == {HOOK: EACH, OTHER: 1}


@pytest.mark.parametrize("proven", [True, False])
async def test_all_the_endpoints_of_one_account_may_hang_and_another_one_is_served_at_once(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    world: World,
    proven: bool,  # noqa: FBT001
) -> None:
    bystander = database.create_account()
    hanging = [f"https://hanging-{number}.example/" for number in range(640)]
    if proven:
        await prove(database, world, *hanging)
    world.receiver.seconds = dict.fromkeys(hanging, 3600.0)
    for url in hanging:
        database.create_invoice(**invoice(url))
    for number in range(20):
        await trio.sleep(3)
        begin = trio.current_time()
        database.create_invoice(**invoice(f"https://{number}.example/", account_id=bystander))
        await until(lambda url=f"https://{number}.example/": url in world.receiver.most)  # type: ignore[misc]
        assert trio.current_time() - begin < SOON
    assert sum(world.receiver.most[url] for url in hanging if url in world.receiver.most) > MOST


async def test_dead_endpoints_of_hundreds_of_accounts_delay_no_other(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    accounts = [database.create_account() for _ in range(300)]
    dead = {account: f"https://{account}.example/" for account in accounts}
    world.receiver.answers = dict.fromkeys(dead.values(), PostError("can't connect"))
    for account, url in dead.items():
        for _ in range(5):
            database.create_invoice(**invoice(url, account_id=account))
    await until(lambda: len(database.webhooks.dead) == len(accounts))
    world.receiver.answers.clear()
    world.receiver.seconds = dict.fromkeys(dead.values(), 3600.0)  # now their attempts take long, too
    bystander = database.create_account()
    for number in range(20):
        await trio.sleep(3)
        begin = trio.current_time()
        database.create_invoice(**invoice(account_id=bystander))
        await until(lambda count=number + 1: len(posted_to(HOOK, world)) == count)  # type: ignore[misc]
        assert trio.current_time() - begin < SOON


async def test_what_waits_for_a_dead_endpoint_is_sent_in_order_once_it_is_well(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    receiver = SimulatedReceiver()
    receiver.answers[HOOK] = PostError("can't connect")
    uids = [database.create_invoice(**invoice()) for _ in range(50)]
    for uid in uids:
        database.update_invoice(uid, status="confirming")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver_from, database, receiver, Settings(), Random(3))
        await trio.sleep(12 * 3600)
        attempts = len(receiver.posted)
        assert attempts < 50, "some each hour, however much waits"
        assert database.webhooks.dead == ["https://shop.example"]
        receiver.answers.clear()
        await until(lambda: not database.webhooks.waiting)
        nursery.cancel_scope.cancel()
    got = receiver.posted[attempts:]
    assert len(got) == 100
    for uid in uids:
        of_it = [post for post in got if post.event["data"]["uid"] == str(uid)]
        assert statuses(of_it) == ["unpaid", "confirming"]


async def test_the_figures_say_what_waits_and_which_endpoints_are_dead(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    world.receiver.answers[HOOK] = 500
    failed = metrics.WEBHOOKS.labels("failed")._value.get()  # noqa: SLF001 - there is no other way to read it
    for _ in range(6):
        database.create_invoice(**invoice())
    await until(lambda: database.webhooks.dead)
    await trio.sleep(FIGURES_SECONDS + 1)
    figures = metrics.figures()
    assert figures["trio_ws_webhooks_waiting"] == 6
    assert figures["trio_ws_webhook_endpoints_dead"] == 1
    assert metrics.WEBHOOKS.labels("failed")._value.get() >= failed + 4  # noqa: SLF001


async def test_outcomes_that_take_too_long_together_are_noted_in_smaller_parts(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle = SimulatedQueue.answers[webhooks.settle]
    sizes: list[int] = []

    def take_too_long(queue: SimulatedQueue, outcomes: list[Outcome], *rest: Any) -> object:
        sizes.append(len(outcomes))
        if len(outcomes) > 2:
            raise Timeout("The database took too long")
        return settle(queue, outcomes, *rest)

    monkeypatch.setitem(SimulatedQueue.answers, webhooks.settle, take_too_long)
    for number in range(8):
        database.create_invoice(**invoice(f"https://{number}.example/"))
    await world.receiver.receive(8)
    await until(lambda: not database.webhooks.waiting)
    assert (max(sizes), min(sizes)) == (8, 2)
    assert len(world.receiver.posted) == 8


def settle_none_of(url: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have no outcome of a URL be noted; return what ends that."""
    settle = SimulatedQueue.answers[webhooks.settle]

    def refuse(queue: SimulatedQueue, outcomes: list[Outcome], *rest: Any) -> object:
        if any(outcome.delivery.url == url for outcome in outcomes):
            raise error
        return settle(queue, outcomes, *rest)

    monkeypatch.setitem(SimulatedQueue.answers, webhooks.settle, refuse)
    return lambda: monkeypatch.setitem(SimulatedQueue.answers, webhooks.settle, settle)


@pytest.mark.logs_errors
async def test_an_outcome_that_cannot_be_noted_keeps_no_other_waiting(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    heal = settle_none_of(HOOK, ZeroDivisionError(), monkeypatch)
    for url in (HOOK, OTHER):
        database.create_invoice(**invoice(url))
    await trio.sleep(SOON)
    assert database.webhooks.waiting == [4]
    assert "settling a webhook failed; it comes again" in caplog.messages
    heal()
    await until(lambda: not database.webhooks.waiting)
    assert len(posted_to(OTHER, world)) == 1


async def test_an_outcome_that_takes_too_long_is_kept_and_noted_later_and_keeps_no_other_waiting(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    heal = settle_none_of(HOOK, Timeout("The database took too long"), monkeypatch)
    for url in (HOOK, OTHER):
        database.create_invoice(**invoice(url))
    await trio.sleep(SOON)
    assert database.webhooks.waiting == [4]
    database.create_invoice(**invoice(OTHER))
    await trio.sleep(SOON)
    assert database.webhooks.waiting == [4]
    assert any("webhooks: failed" in message for message in caplog.messages)
    heal()
    await trio.sleep(2 * LEASE_SECONDS)
    assert database.webhooks.waiting == []
    assert len(posted_to(HOOK, world)) == 1, "it is not sent again"


async def test_a_database_that_is_slow_for_a_while_has_nothing_sent_twice(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    for number in range(3):
        world.receiver.seconds[url := f"https://{number}.example/"] = 1.0
        database.create_invoice(**invoice(url))
    await world.receiver.receive(3)
    database.delay = 10.0
    await trio.sleep(15)
    database.delay = 0.0
    await trio.sleep(2 * LEASE_SECONDS)
    assert database.webhooks.waiting == []
    assert len(world.receiver.posted) == 3


async def test_an_answer_has_to_come_in_time(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    world.receiver.seconds[HOOK] = 3600
    database.create_invoice(**invoice())
    await trio.sleep(60)
    first, second = world.receiver.posted[:2]
    assert 10 <= second.at - first.at <= 10 + PAUSE_SECONDS[0] + SOON


async def test_two_servers_deliver_each_event_once_and_in_order(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    receivers = [SimulatedReceiver(), SimulatedReceiver()]
    merged: list[Posted] = []
    for receiver in receivers:
        receiver.posted = merged
        receiver.seconds = {f"https://{number}.example/": 0.3 for number in range(20)}
    async with simulated_server(database, receivers[0]), simulated_server(database, receivers[1]):
        uids = [
            database.create_invoice(**invoice(f"https://{number % 20}.example/")) for number in range(100)
        ]
        for status in ("confirming", "paid"):
            await trio.sleep(1)
            for uid in uids:
                database.update_invoice(uid, status=status)
        await until(lambda: len(merged) >= 300)
        await until(lambda: not database.webhooks.waiting)
    told: dict[str, list[str]] = {}
    for post in merged:
        told.setdefault(post.event["data"]["uid"], []).append(post.event["data"]["status"])
    assert told == {str(uid): ["unpaid", "confirming", "paid"] for uid in uids}
    assert all(receiver.most for receiver in receivers), "both have had some"


async def test_a_server_that_was_killed_is_followed_by_another_when_its_leases_end(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    receiver = SimulatedReceiver()
    receiver.seconds[HOOK] = 9
    uid = database.create_invoice(**invoice())
    database.update_invoice(uid, status="confirming")
    async with simulated_server(database, receiver):
        await receiver.receive(1)
        database.away = True  # what is killed gives nothing back
    database.away = False
    async with simulated_server(database, receiver):
        await receiver.receive(3)
    assert statuses(receiver.posted) == ["unpaid", "unpaid", "confirming"]
    first, second, _ = receiver.posted
    assert second.at - first.at == pytest.approx(10 + LEASE_SECONDS, abs=SOON)


async def test_a_server_that_stops_gives_back_what_it_has_not_delivered(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    receiver = SimulatedReceiver()
    receiver.seconds[HOOK] = 9
    database.create_invoice(**invoice())
    async with simulated_server(database, receiver):
        await receiver.receive(1)
    async with simulated_server(database, receiver):
        await receiver.receive(2)
    assert receiver.posted[1].at - receiver.posted[0].at < SOON


async def test_an_outage_loses_nothing_and_doubles_nothing(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    world.receiver.seconds[HOOK] = 5
    uid = database.create_invoice(**invoice())
    await world.receiver.receive(1)
    database.away = True
    await trio.sleep(20)
    database.update_invoice(uid, status="confirming")
    database.away = False
    await world.receiver.receive(2)
    await trio.sleep(60)
    assert statuses(world.receiver.posted) == ["unpaid", "confirming"]
    assert database.webhooks.waiting == []


@pytest.mark.logs_errors
async def test_a_bug_is_logged_and_the_webhook_comes_again(
    autojump_clock: MockClock,
    database: SimulatedDatabase,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.receiver.answers[HOOK] = ZeroDivisionError()
    database.create_invoice(**invoice(memo="a secret"))
    database.create_invoice(**invoice(OTHER))
    await trio.sleep(10)
    world.receiver.answers.clear()
    await until(lambda: not database.webhooks.waiting)
    assert len(posted_to(OTHER, world)) == 1
    assert "a webhook failed; it comes again" in caplog.messages
    assert "a secret" not in caplog.text


async def test_what_fails_is_logged_without_what_is_nobodys_business(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "trio_ws")
    url = "https://shop.example/hook?key=a-secret-key"
    receiver = SimulatedReceiver()
    receiver.answers[url] = 500
    async with simulated_server(database, receiver, webhook_retry_seconds=5) as world:
        database.create_invoice(**invoice(url, memo="a secret memo"))
        await trio.sleep(60)
        assert world.receiver.posted
    assert "a webhook has failed for good" in caplog.messages
    (id_,) = {post.headers["trio-ws-delivery"] for post in world.receiver.posted}
    assert f"webhook {id_}, attempt 1: answered 500" in caplog.messages
    for secret in ("a-secret-key", "a secret memo", *SECRETS):
        assert secret not in caplog.text


class CountingDatabase(SimulatedDatabase):
    """Counts the looks at the queue."""

    claims = 0

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        self.claims += query is webhooks.claim  # type: ignore[comparison-overlap] # one of many
        return await super().run(query, *args, lane=lane)


async def test_a_busy_log_without_webhooks_costs_some_looks_a_second(autojump_clock: MockClock) -> None:
    database = CountingDatabase()
    async with simulated_server(database):
        for _ in range(1000):
            database.create_invoice(amount=1, currency="USD", account_id=1)
            await trio.sleep(0.01)
        assert database.claims < 10 / AGAIN_SECONDS + 5
        database.claims = 0
        await trio.sleep(100)
        assert database.claims < 100 / POLL_SECONDS


async def test_the_queue_is_looked_through_at_the_start_and_now_and_then(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[float, str | None]] = []
    answers = iter(["a", "b", None, None])

    def look(queue: SimulatedQueue, after: str | None, most: int) -> str | None:
        looks.append((round(trio.current_time() - begin), after))
        return next(answers)

    monkeypatch.setitem(SimulatedQueue.answers, webhooks.repair, look)
    begin = trio.current_time()
    async with simulated_server(SimulatedDatabase()):
        await trio.sleep(100)
    assert looks == [(0, None), (1, "a"), (2, "b"), (62, None)]


async def test_the_first_of_them_is_looked_for_at_once(
    autojump_clock: MockClock, database: SimulatedDatabase, world: World
) -> None:
    await trio.sleep(10)
    for _ in range(20):
        begin = trio.current_time()
        database.create_invoice(**invoice())
        await world.receiver.receive(len(world.receiver.posted) + 1)
        assert trio.current_time() - begin <= AGAIN_SECONDS
        await trio.sleep(0.2)


async def test_what_was_given_up_is_forgotten_with_the_events_of_its_time(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    receiver = SimulatedReceiver()
    receiver.answers[HOOK] = 500
    async with simulated_server(database, receiver, retention_seconds=600, webhook_retry_seconds=5):
        database.create_invoice(**invoice())
        await trio.sleep(300)
        assert database.webhooks.failed == [4]
        await trio.sleep(600)
        assert database.webhooks.failed == []


HELD = "webhooks that another database has queued are held"


async def test_a_copy_of_production_sends_nothing_of_it_and_says_so_once(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    uids = [database.create_invoice(**invoice(url)) for url in (HOOK, OTHER)]
    number(database)
    database.webhooks.origin = "copy"
    async with simulated_server(database) as world:
        await trio.sleep(10 * FIGURES_SECONDS)
        assert world.receiver.posted == []
        (told,) = [record for record in caplog.records if record.getMessage().startswith(HELD)]
        assert (told.levelname, told.__dict__["figures"]) == ("WARNING", {"held": 2})
        assert metrics.figures()["trio_ws_webhooks_held"] == 2
        database.update_invoice(uids[0], status="confirming")
        assert statuses(await world.receiver.receive(1)) == ["confirming"]
        await database.run(webhooks.release)
        await world.receiver.receive(3)
        await trio.sleep(FIGURES_SECONDS)
        assert metrics.figures()["trio_ws_webhooks_held"] == 0
        database.create_invoice(**invoice())
        number(database)
        database.webhooks.origin = "another copy"
        await trio.sleep(FIGURES_SECONDS)
    assert [record.getMessage().startswith(HELD) for record in caplog.records].count(True) == 2


async def test_a_process_may_send_none_while_another_one_does(
    autojump_clock: MockClock, database: SimulatedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    silent, sending = SimulatedReceiver(), SimulatedReceiver()
    async with simulated_server(database, silent, webhooks=False):
        database.create_invoice(**invoice())
        await trio.sleep(100)
        assert (silent.posted, database.webhooks.waiting) == ([], [4])
        told = "webhooks are off: this process sends none; they are queued all the same"
        assert caplog.messages.count(told) == 1
        async with simulated_server(database, sending):
            await sending.receive(1)
        assert silent.posted == []
