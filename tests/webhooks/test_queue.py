"""The queue's rules, on the simulated database and on PostgreSQL."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio

from tests.programs import OtherProgram
from trio_ws.database import event_log, webhooks
from trio_ws.database.gateway import Database
from trio_ws.database.queries import Connection
from trio_ws.database.webhooks import EACH, Change, Delivery, Figures, Outcome, Result
from trio_ws.errors import NotFound
from trio_ws.testing import SimulatedDatabase
from trio_ws.topics import NOTHING

Serverless = tuple[Database, OtherProgram]

SLOW, QUICK = "https://slow.example/hook", "https://quick.example:8443/hook?key=1"
ENDPOINT = "https://quick.example:8443"
LEASE = 60.0
DAY = 86400.0
FAILURES = 4  # in a row, after which an endpoint is dead


async def create(program: OtherProgram, url: str | None = QUICK, account: int = 1, **fields: Any) -> UUID:
    hook = {} if url is None else {"webhook_url": url}
    return await program.create_invoice(amount=5, currency="EUR", account_id=account, **hook, **fields)


async def claim(
    database: Database, most: int = 64, lease: float = LEASE, held: Sequence[Delivery] = ()
) -> list[Delivery]:
    await database.run(event_log.number_events, 1000)
    return (await database.run(webhooks.claim, most, lease, held)).deliveries


async def figures(database: Database) -> Figures:
    """The counts: how long the oldest one waits is another number each time."""
    return (await database.run(webhooks.figures))._replace(oldest_seconds=0.0)


async def settle(
    database: Database,
    deliveries: Sequence[Delivery],
    result: Result = Result.DELIVERED,
    chance: float = 0.0,
    keep: float = DAY,
) -> list[Change]:
    error = "answered 500" if result is Result.FAILED else None
    outcomes = [Outcome(delivery, result, error, chance) for delivery in deliveries]
    return await database.run(webhooks.settle, outcomes, keep) if outcomes else []


async def fail(
    database: Database, deliveries: Sequence[Delivery], chance: float = 0.0, keep: float = DAY
) -> list[str]:
    """Have attempts fail, and return what has changed with it."""
    return [change.change for change in await settle(database, deliveries, Result.FAILED, chance, keep)]


async def prove(database: Database, program: OtherProgram, *urls: str, account: int = 1) -> None:
    """Have a delivery succeed at each of these."""
    for url in urls:
        await create(program, url, account)
    while deliveries := await claim(database):
        await settle(database, deliveries)


async def fail_each_endpoint(database: Database) -> None:
    """Have an attempt fail at each endpoint that has something due."""
    while deliveries := await claim(database):
        sound = [one for one in deliveries if not one.is_failing]
        await fail(database, sound)
        await settle(database, [one for one in deliveries if one.is_failing], Result.RELEASED)
        if not sound:
            return


async def kill(database: Database, program: OtherProgram, chance: float = 0.999) -> Delivery:
    """Have deliveries fail until an endpoint is dead, and return the last; `chance` is for the pause then."""
    for number in range(FAILURES):
        await create(program)
        is_last = number == FAILURES - 1
        deliveries = await claim(database)
        changes = await fail(database, deliveries, chance if is_last else 0.999)
        assert changes == (["dead"] if is_last else [])
    return deliveries[-1]


async def claim_later(database: Database) -> list[Delivery]:
    """Claim what is due in some milliseconds."""
    with trio.fail_after(60):
        while not (deliveries := await claim(database)):
            pass
    return deliveries


def sent(deliveries: list[Delivery]) -> list[tuple[str, str]]:
    """The invoices and statuses that are sent."""
    found: list[tuple[str, str]] = []
    for delivery in deliveries:
        data = msgspec.json.decode(delivery.event.data)
        found.append((data["uid"], data["status"]))
    return found


def accounts(deliveries: list[Delivery]) -> Counter[int]:
    return Counter(delivery.account_id for delivery in deliveries)


async def test_what_has_a_webhook_is_queued_and_nothing_else(serverless: Serverless) -> None:
    database, program = serverless
    await create(program, url=None)
    await create(program, url=None, memo="webhook_url")
    await program.set_price("BTC", Decimal(44000))
    uid = await create(program)
    (delivery,) = await claim(database)
    assert sent([delivery]) == [(str(uid), "unpaid")]
    assert (delivery.url, delivery.account_id, delivery.attempts) == (QUICK, 1, 1)
    assert (delivery.event.type, delivery.event.previous) == ("invoice.created", NOTHING)
    assert delivery.event.position == await database.run(event_log.read_position)
    assert len(delivery.secrets) in (1, 2)


async def test_what_is_claimed_is_nobody_elses_until_its_lease_ends(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    assert len(await claim(database, lease=0.01)) == 1
    (again,) = await claim_later(database)
    assert again.attempts == 2
    assert await claim(database) == []


async def test_an_invoices_deliveries_are_claimed_one_after_the_other(serverless: Serverless) -> None:
    database, program = serverless
    await prove(database, program, QUICK)
    first, second = await create(program), await create(program)
    for uid in (first, second):
        await program.update_invoice(uid, status="confirming")
    await program.update_invoice(first, status="paid")
    claimed = await claim(database)
    assert sent(claimed) == [(str(first), "unpaid"), (str(second), "unpaid")]
    assert await claim(database) == []
    await settle(database, claimed[:1])
    claimed = await claim(database)
    assert sent(claimed) == [(str(first), "confirming")]
    await settle(database, claimed)
    assert sent(await claim(database)) == [(str(first), "paid")]


async def test_an_invoice_keeps_its_order_when_its_url_changes(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program, SLOW)
    other = await create(program, QUICK)
    claimed = await claim(database)
    await program.update_invoice(uid, status="confirming", webhook_url=QUICK)
    await program.update_invoice(uid, status="paid", webhook_url=SLOW)
    await settle(database, claimed[1:])
    assert await claim(database) == []
    await settle(database, claimed[:1])
    assert sent(claimed) == [(str(uid), "unpaid"), (str(other), "unpaid")]
    for url, status in ((QUICK, "confirming"), (SLOW, "paid")):
        (delivery,) = await claim(database)
        assert (delivery.url, sent([delivery])) == (url, [(str(uid), status)])
        await settle(database, [delivery])


# How many at a time


async def test_an_endpoint_has_so_many_at_a_time_whoever_claims_and_whatever_its_urls(
    serverless: Serverless,
) -> None:
    database, program = serverless
    await prove(database, program, SLOW)
    for number in range(2 * EACH):
        await create(program, url=f"https://SLOW.example/{number}?q" if number % 2 else SLOW)
    first = await claim(database)
    assert len(first) == EACH
    assert await claim(database) == []
    await settle(database, first[:1])
    assert len(await claim(database)) == 1


async def test_an_endpoint_that_fails_has_one_at_a_time_until_one_succeeds(serverless: Serverless) -> None:
    database, program = serverless
    for _ in range(EACH + 2):
        await create(program)
    first = await claim(database)
    assert [delivery.is_failing for delivery in first] == [False] * EACH
    await fail(database, first[:1])
    assert await claim(database) == [], "more than one are under way"
    await settle(database, first[1:], Result.RELEASED)
    (second,) = await claim(database)
    assert second.is_failing
    assert await claim(database) == []
    await settle(database, [second])
    assert [delivery.is_failing for delivery in await claim(database)] == [False] * EACH


@pytest.mark.parametrize("is_failing", [False, True])
async def test_an_account_leaves_as_many_places_free_as_it_has(
    serverless: Serverless, *, is_failing: bool
) -> None:
    """Of the 7/8 that there are for endpoints that don't fail, and of the half for others."""
    database, program = serverless
    other = await program.create_account()
    for number in range(40):
        await create(program, f"https://{number}.example/")
    if is_failing:
        await fail_each_endpoint(database)
    held = await claim(database)
    assert {delivery.is_failing for delivery in held} == {is_failing}
    assert len(held) == (16 if is_failing else 28)
    assert await claim(database, held=held) == []
    for number in range(EACH):
        await create(program, f"https://other-{number}.example/", other)
    assert accounts(await claim(database, held=held)) == {other: EACH}


async def test_accounts_have_their_turn_and_so_do_their_endpoints(serverless: Serverless) -> None:
    database, program = serverless
    other = await program.create_account()
    urls = [f"https://{number}.example/" for number in range(3)]
    await prove(database, program, *urls)
    await prove(database, program, QUICK, account=other)
    for url in urls:
        for _ in range(1 + 9 * (url == urls[0])):
            await create(program, url)
    for _ in range(4):
        await create(program, QUICK, other)
    order: list[tuple[int, str]] = []
    while deliveries := await claim(database, most=1):
        order += [(delivery.account_id, delivery.url) for delivery in deliveries]
        await settle(database, deliveries)
    for begin in range(0, 8, 2):
        assert {account for account, _ in order[begin : begin + 2]} == {1, other}
    assert {url for account, url in order[:6] if account == 1} == set(urls)
    assert Counter(order) == {(1, urls[0]): 10, (1, urls[1]): 1, (1, urls[2]): 1, (other, QUICK): 4}


async def test_endpoints_that_fail_and_others_leave_each_other_places(serverless: Serverless) -> None:
    database, program = serverless
    crowd = [await program.create_account() for _ in range(70)]
    for account in crowd:
        await create(program, SLOW, account)
    await fail_each_endpoint(database)
    held = await claim(database)
    assert [delivery.is_failing for delivery in held] == [True] * 32
    for account in crowd:
        await create(program, QUICK, account)
    others = await claim(database, held=held)
    assert Counter(one.is_failing for one in others) == {False: 32}
    await settle(database, held, Result.RELEASED)
    await settle(database, others, Result.RELEASED)
    assert Counter(one.is_failing for one in await claim(database)) == {False: 56, True: 8}


# Failures


async def test_what_failed_waits_and_the_rest_of_its_invoice_with_it(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    (delivery,) = await claim(database)
    await program.update_invoice(uid, memo="x")
    assert await fail(database, [delivery], chance=0.999) == []
    assert await claim(database) == []
    assert await database.run(webhooks.retry, delivery.id) == 1
    (again,) = await claim(database)
    assert (again.event, again.attempts) == (delivery.event, 2)
    await settle(database, [again])
    (following,) = await claim(database)
    assert following.event.type == "invoice.updated"


async def test_one_that_fails_delays_no_other_invoice(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    for _ in range(8):
        assert await fail(database, await claim(database)) == [], "one delivery says nothing of the others"
    await fail(database, await claim(database), chance=0.999)
    uid = await create(program)
    (delivery,) = await claim(database)
    assert sent([delivery]) == [(str(uid), "unpaid")]


async def test_a_dead_endpoint_has_one_attempt_at_a_time_after_a_pause(serverless: Serverless) -> None:
    database, program = serverless
    await prove(database, program, QUICK)
    for _ in range(EACH + 2):
        await create(program)
    claimed = await claim(database)
    assert (len(claimed), await figures(database)) == (EACH, Figures(EACH + 2, held=0, dead=0))
    changes = await settle(database, claimed, Result.FAILED)
    assert [(change.endpoint, change.change) for change in changes] == [(ENDPOINT, "dead")]
    claimed = await claim(database)
    assert (len(claimed), await figures(database)) == (1, Figures(EACH + 2, held=0, dead=1))
    assert await claim(database) == []
    await fail(database, claimed, chance=0.999)
    await create(program)
    await create(program, SLOW)
    assert [delivery.url for delivery in await claim(database)] == [SLOW], "it is not woken by what is new"


async def test_a_dead_endpoint_is_alive_at_its_first_success_and_has_all_in_order(
    serverless: Serverless,
) -> None:
    database, program = serverless
    await kill(database, program, chance=0.0)
    uids = [str(await create(program)) for _ in range(3)]
    for uid in uids:
        await program.update_invoice(UUID(uid), status="confirming")
    for _ in range(2):  # the one of the last failure, and the first of these
        probe = await claim(database)
        await fail(database, probe)
    assert sent(probe) == [(uids[0], "unpaid")]
    probe = await claim(database)
    assert sent(probe) == [(uids[1], "unpaid")]
    (change,) = await settle(database, probe)
    assert (change.endpoint, change.change) == (ENDPOINT, "alive")
    order = sent(probe)
    while len(order) < FAILURES + 6:
        deliveries = await claim_later(database)
        order += sent(deliveries)
        await settle(database, deliveries)
    assert (await claim(database), await figures(database)) == ([], Figures(0, held=0, dead=0))
    for uid in uids:
        assert [status for one, status in order if one == uid] == ["unpaid", "confirming"]


async def test_a_dead_endpoint_is_tried_with_another_delivery_each_time(serverless: Serverless) -> None:
    """It may be one delivery that it does not like."""
    database, program = serverless
    await kill(database, program, chance=0.0)
    others = [str(await create(program)) for _ in range(3)]
    seen: list[str] = []
    for _ in range(1 + len(others)):
        (probe,) = await claim(database)
        seen.append(sent([probe])[0][0])
        await fail(database, [probe])
    assert seen[1:] == others


async def test_endpoints_of_two_accounts_have_nothing_to_do_with_each_other(serverless: Serverless) -> None:
    """Or whoever gives another's URL could have its webhooks held back."""
    database, program = serverless
    other = await program.create_account()
    await prove(database, program, QUICK, account=other)
    await kill(database, program)
    for _ in range(EACH):
        await create(program, QUICK, other)
    assert accounts(await claim(database)) == {other: EACH}


async def test_what_waits_for_a_dead_endpoint_for_too_long_fails_without_an_attempt(
    serverless: Serverless,
) -> None:
    database, program = serverless
    await kill(database, program, chance=0.0)
    for _ in range(5):
        uid = await create(program)
        await program.update_invoice(uid, memo="x")
    for left in (5, 0):  # of an invoice one each time, and the attempt's
        assert "failed" in await fail(database, await claim(database), keep=0.0)
        assert (await figures(database)).waiting == left
    assert await database.run(webhooks.retry, None) == FAILURES + 10
    assert (await figures(database)).waiting == FAILURES + 10


async def test_what_has_failed_for_good_lets_the_next_go_and_can_be_retried(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    (delivery,) = await claim(database)
    await program.update_invoice(uid, memo="x")
    assert await fail(database, [delivery], chance=0.999, keep=0) == ["failed"]
    (following,) = await claim(database)
    assert following.event.type == "invoice.updated"
    await settle(database, [following])
    assert await claim(database) == []
    assert await database.run(webhooks.retry, None) == 1
    (again,) = await claim(database)
    assert again.event == delivery.event
    assert await fail(database, [again]) == [], "it has all its time again"
    await settle(database, await claim(database))
    for nothing in (delivery.id, "12345"):
        with pytest.raises(NotFound):
            await database.run(webhooks.retry, nothing)
    assert await database.run(webhooks.retry, None) == 0


async def test_what_is_retried_goes_before_later_ones_of_its_invoice(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    first = await claim(database)
    for status in ("confirming", "paid"):
        await program.update_invoice(uid, status=status)
    await fail(database, first, keep=0)
    await settle(database, await claim(database), Result.RELEASED)
    assert await database.run(webhooks.retry, first[0].id) == 1
    for status in ("unpaid", "confirming", "paid"):
        deliveries = await claim(database)
        assert sent(deliveries) == [(str(uid), status)]
        await settle(database, deliveries)


async def test_a_retry_has_an_endpoint_not_be_dead(serverless: Serverless) -> None:
    database, program = serverless
    last = await kill(database, program)
    assert await claim(database) == []
    assert await database.run(webhooks.retry, last.id) == 1
    assert await claim(database)
    assert (await figures(database)).dead == 0


async def test_what_failed_and_is_retried_counts_its_attempts_anew_and_what_is_under_way_does_not(
    serverless: Serverless,
) -> None:
    database, program = serverless
    for url in (QUICK, SLOW):
        await create(program, url)
    lost, held = await claim(database)
    await fail(database, [lost], keep=0)
    for id_ in (lost.id, held.id):
        assert await database.run(webhooks.retry, id_) == 1
    (again,) = await claim(database)
    assert (again.event, again.attempts) == (lost.event, 1)
    await settle(database, [held], Result.RELEASED)
    (held,) = await claim(database)
    assert held.attempts == 2


async def test_what_is_released_is_due_at_once(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    (delivery,) = await claim(database)
    await settle(database, [delivery], Result.RELEASED)
    assert [one.event for one in await claim(database)] == [delivery.event]


# What another database has queued


async def become_copy(database: Database) -> None:
    """Have all that is queued be another database's."""
    if isinstance(database, SimulatedDatabase):
        database.webhooks.origin = "copy"
    else:
        await database.run(_have_all_be_anothers)


def _have_all_be_anothers(connection: Connection) -> None:
    connection.execute("UPDATE @schema@.webhook_deliveries SET origin = 'original'")


async def test_what_another_database_has_queued_is_held_and_not_claimed(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    await settle(database, await claim(database), Result.RELEASED)
    await create(program, SLOW)
    await database.run(event_log.number_events, 1000)
    await become_copy(database)
    await program.update_invoice(uid, memo="x")
    claimed = await claim(database)
    while await database.run(webhooks.hold, 1):
        pass
    assert await figures(database) == Figures(1, held=2, dead=0)
    (own,) = claimed + await claim(database)
    assert own.event.type == "invoice.updated"


async def test_what_is_held_is_not_retried_but_released_with_all_its_time(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    (delivery,) = await claim(database)
    await become_copy(database)
    await database.run(webhooks.hold, 500)
    with pytest.raises(NotFound):
        await database.run(webhooks.retry, delivery.id)
    assert await database.run(webhooks.retry, None) == 0
    assert await database.run(webhooks.release) == 1
    assert await database.run(webhooks.release) == 0
    assert await figures(database) == Figures(1, held=0, dead=0)
    (again,) = await claim(database)
    assert (again.id, again.event) == (delivery.id, delivery.event)
    assert await fail(database, [again], keep=3600.0) == []


async def test_what_is_held_is_forgotten_as_what_failed_is(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    await database.run(event_log.number_events, 1000)
    await become_copy(database)
    await database.run(webhooks.hold, 500)
    assert await database.run(webhooks.trim, 3600.0, 10) == 0
    assert await database.run(webhooks.trim, -3600.0, 10) == 1
    assert await database.run(webhooks.release) == 0


async def test_who_comes_late_does_not_disturb_who_took_over(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    late = await claim(database, lease=0.01)
    successor = await claim_later(database)
    assert await fail(database, late, keep=0) == []
    await settle(database, late, Result.RELEASED)
    assert await claim(database) == []
    await settle(database, successor)
    await settle(database, late)


async def test_what_is_said_twice_counts_once(serverless: Serverless) -> None:
    """A process that lost its connection does not know whether it was heard."""
    database, program = serverless
    await create(program)
    for _ in range(FAILURES):
        deliveries = await claim(database)
        for _ in range(2):
            assert await fail(database, deliveries, chance=0.0) == []
    (delivery,) = await claim(database)
    assert delivery.attempts == FAILURES + 1
    for _ in range(2):
        await settle(database, [delivery])
    assert (await figures(database)).waiting == 0


async def test_what_has_failed_is_forgotten_in_time_and_what_waits_is_not(serverless: Serverless) -> None:
    database, program = serverless
    for url in (SLOW, QUICK):
        await create(program, url)
    lost, kept = await claim(database)
    await fail(database, [lost], keep=0)
    assert await database.run(webhooks.trim, 3600.0, 10) == 0
    assert await database.run(webhooks.retry, None) == 1
    (lost,) = await claim(database)
    await fail(database, [lost], keep=0)
    assert await database.run(webhooks.trim, -3600.0, 10) == 1
    assert await database.run(webhooks.retry, None) == 0
    await settle(database, [kept], Result.RELEASED)
    assert [one.event for one in await claim(database)] == [kept.event]


async def test_a_dead_endpoint_is_forgotten_with_its_last_delivery_and_no_sooner(
    serverless: Serverless,
) -> None:
    database, program = serverless
    await kill(database, program, chance=0)
    await database.run(webhooks.trim, -3600.0, 10)
    assert await figures(database) == Figures(FAILURES, held=0, dead=1), "there is more to be sent"
    while (await figures(database)).waiting:
        await fail(database, await claim(database), chance=0, keep=0)
    assert (await figures(database)).dead == 1
    assert await database.run(webhooks.trim, -3600.0, 10) == FAILURES
    assert await figures(database) == Figures(0, held=0, dead=0)
