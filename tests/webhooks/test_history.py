"""What was delivered is remembered for a while; on the simulated database and on PostgreSQL."""

import msgspec
import pytest

from tests.programs import OtherProgram
from tests.webhooks.test_queue import ENDPOINT, QUICK, SLOW, claim, create, fail, figures, kill, sent
from trio_ws.database import webhooks
from trio_ws.database.gateway import Database
from trio_ws.database.webhooks import Change, Delivery, Outcome, Result
from trio_ws.errors import NotFound

Serverless = tuple[Database, OtherProgram]

DAY = 86400.0
KEPT, NOT_KEPT = True, False


async def deliver(database: Database, deliveries: list[Delivery], kept: bool = KEPT) -> None:  # noqa: FBT001
    outcomes = [Outcome(one, Result.DELIVERED, status=204) for one in deliveries]
    assert await database.run(webhooks.settle, outcomes, DAY, kept) == []


async def test_what_was_delivered_is_sent_again_with_its_id_and_all_its_time(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    (first,) = await claim(database)
    await deliver(database, [first])
    assert (await figures(database)).waiting == 0
    for _ in range(2):
        assert await database.run(webhooks.retry, first.id) == 1
        (again,) = await claim(database)
        assert (again.id, again.event, again.url, again.attempts) == (first.id, first.event, first.url, 1)
        await deliver(database, [again])


async def test_what_is_not_kept_cannot_be_sent_again(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    (delivery,) = await claim(database)
    await deliver(database, [delivery], NOT_KEPT)
    with pytest.raises(NotFound):
        await database.run(webhooks.retry, delivery.id)
    assert await database.run(webhooks.trim_history, -DAY, 10) == 0


async def test_what_is_sent_again_goes_before_what_waits_of_its_invoice(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    await program.update_invoice(uid, status="confirming")
    (first,) = await claim(database)
    await deliver(database, [first])
    assert await database.run(webhooks.retry, first.id) == 1
    deliveries = await claim(database)
    assert sent(deliveries) == [(str(uid), "unpaid")]
    await deliver(database, deliveries)
    assert sent(await claim(database)) == [(str(uid), "confirming")]


async def test_history_is_forgotten_in_time_and_little_at_once(serverless: Serverless) -> None:
    database, program = serverless
    for _ in range(3):
        await create(program)
    deliveries = await claim(database)
    await deliver(database, deliveries)
    assert await database.run(webhooks.trim_history, 3600.0, 10) == 0
    assert await database.run(webhooks.trim_history, -3600.0, 2) == 2
    assert await database.run(webhooks.trim_history, -3600.0, 2) == 1
    with pytest.raises(NotFound):
        await database.run(webhooks.retry, deliveries[0].id)


async def test_what_is_gone_fails_at_once_and_the_next_of_its_invoice_goes_on(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    await program.update_invoice(uid, status="confirming")
    (first,) = await claim(database)
    gone = Outcome(first, Result.GONE, "answered 410: gone, not tried again", 0.0, 410)
    for changes in ([Change(first.id, 1, ENDPOINT, "failed")], []):  # what is said twice counts once
        assert await database.run(webhooks.settle, [gone], DAY, KEPT) == changes
    (following,) = await claim(database)
    assert (sent([following]), following.is_failing) == ([(str(uid), "confirming")], False)
    await deliver(database, [following])
    assert await claim(database) == []
    assert await database.run(webhooks.retry, None) == 1
    assert sent(await claim(database)) == [(str(uid), "unpaid")]


async def test_a_dead_endpoint_that_says_gone_is_alive(serverless: Serverless) -> None:
    database, program = serverless
    await kill(database, program, chance=0.0)
    (delivery,) = await claim(database)
    changes = await database.run(webhooks.settle, [Outcome(delivery, Result.GONE, "x", 0.0, 410)], DAY)
    assert [change.change for change in changes] == ["failed", "alive"]


async def test_a_receiver_that_asks_for_a_pause_gets_nothing_of_its_account_before(
    serverless: Serverless,
) -> None:
    database, program = serverless
    await create(program)
    (delivery,) = await claim(database)
    asked = Outcome(delivery, Result.FAILED, "answered 429", 0.0, 429, 600.0)
    assert await database.run(webhooks.settle, [asked], DAY) == []
    await create(program)
    assert await claim(database) == []
    await create(program, SLOW)
    other = await program.create_account()
    await create(program, account=other)
    others = await claim(database)
    assert {(one.url, one.account_id) for one in others} == {(SLOW, 1), (QUICK, other)}
    assert await database.run(webhooks.retry, delivery.id) == 1
    (one,) = await claim(database)
    assert (one.url, one.account_id, one.is_failing) == (QUICK, 1, True)


async def test_a_pause_that_is_asked_for_outlasts_the_time_that_is_left_for_retries(
    serverless: Serverless,
) -> None:
    database, program = serverless
    await create(program)
    (delivery,) = await claim(database)
    asked = Outcome(delivery, Result.FAILED, "answered 503", 0.0, 503, 600.0)
    assert await database.run(webhooks.settle, [asked], 60.0) == []
    assert await claim(database) == []
    assert (await figures(database)).waiting == 1


async def test_all_that_waits_or_failed_can_be_retried_at_once(serverless: Serverless) -> None:
    database, program = serverless
    await kill(database, program)
    await create(program, SLOW)
    (slow,) = await claim(database)
    await fail(database, [slow], keep=0)
    assert await claim(database) == []
    assert await database.run(webhooks.retry_all) == 5
    assert len(await claim(database)) == 2, "one each of endpoints that fail"
    assert (await figures(database)).dead == 0


async def test_the_figures_say_how_long_the_oldest_waits(serverless: Serverless) -> None:
    database, program = serverless
    assert (await database.run(webhooks.figures)).oldest_seconds == 0.0
    await create(program)
    await claim(database)
    assert 0.0 <= (await database.run(webhooks.figures)).oldest_seconds < DAY


async def test_a_payments_events_are_queued_in_order_with_its_invoices(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    await program.run(lambda session: session.record_payment(uid, reference="a", amount=5))
    types: list[str] = []
    while deliveries := await claim(database):
        (one,) = deliveries
        types.append(one.event.type)
        data = msgspec.json.decode(one.event.data)
        assert str(uid) in (data.get("uid"), data.get("invoice"))
        await deliver(database, deliveries)
    assert types == ["invoice.created", "payment.created", "invoice.updated"]
