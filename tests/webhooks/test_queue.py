"""The queue's rules, on the simulated database and on PostgreSQL."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.programs import OtherProgram
from trio_ws.database import queries, webhooks
from trio_ws.database.gateway import Database
from trio_ws.database.webhooks import Delivery
from trio_ws.errors import NotFound

Serverless = tuple[Database, OtherProgram]

SLOW, QUICK = "https://slow.example/hook", "https://quick.example:8443/hook?key=1"
LEASE = 60.0


async def create(program: OtherProgram, url: str | None = QUICK, **fields: Any) -> UUID:
    hook = {} if url is None else {"webhook_url": url}
    return await program.create_invoice(amount=5, currency="EUR", account_id=1, **hook, **fields)


async def claim(database: Database, most: int = 100, each: int = 100, lease: float = LEASE) -> list[Delivery]:
    await database.run(queries.number_events, 1000)
    return await database.run(webhooks.claim, most, each, lease)


def told(deliveries: list[Delivery]) -> list[tuple[str, str]]:
    """The invoices and statuses that are told."""
    found: list[tuple[str, str]] = []
    for delivery in deliveries:
        data = msgspec.json.decode(delivery.event.data)
        found.append((data["uid"], data["status"]))
    return found


async def finish(database: Database, delivery: Delivery) -> None:
    await database.run(webhooks.finish, delivery.event.seq)


async def test_what_has_a_webhook_is_queued_and_nothing_else(serverless: Serverless) -> None:
    database, program = serverless
    await create(program, url=None)
    await create(program, url=None, memo="webhook_url")
    await program.set_price("BTC", Decimal(44000))
    uid = await create(program)
    (delivery,) = await claim(database)
    assert told([delivery]) == [(str(uid), "unpaid")]
    assert (delivery.url, delivery.account_id, delivery.attempts) == (QUICK, 1, 1)
    assert (delivery.event.type, delivery.event.previous) == ("invoice.created", None)
    assert delivery.epoch == (await database.run(queries.read_position)).epoch
    assert len(delivery.secrets) in (1, 2)


async def test_what_is_claimed_is_nobody_elses_until_its_lease_ends(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    assert len(await claim(database, lease=0)) == 1
    (again,) = await claim(database)
    assert again.attempts == 2
    assert await claim(database) == []


async def test_an_invoices_deliveries_are_claimed_one_after_the_other(serverless: Serverless) -> None:
    database, program = serverless
    first, second = await create(program), await create(program)
    for uid in (first, second):
        await program.update_invoice(uid, status="confirming")
    await program.update_invoice(first, status="paid")
    claimed = await claim(database)
    assert told(claimed) == [(str(first), "unpaid"), (str(second), "unpaid")]
    assert await claim(database) == []
    await finish(database, claimed[0])
    claimed = await claim(database)
    assert told(claimed) == [(str(first), "confirming")]
    await finish(database, claimed[0])
    assert told(await claim(database)) == [(str(first), "paid")]


async def test_an_endpoint_has_so_many_at_a_time_whoever_claims_and_whatever_its_urls(
    serverless: Serverless,
) -> None:
    database, program = serverless
    for number in range(8):
        await create(program, url=f"https://user@SLOW.example/{number}?q" if number % 2 else SLOW)
    assert len(await claim(database, most=3, each=4)) == 3
    (fourth,) = await claim(database, each=4)
    assert await claim(database, each=4) == []
    await finish(database, fourth)
    assert len(await claim(database, each=4)) == 1


async def test_who_has_little_under_way_comes_first(serverless: Serverless) -> None:
    database, program = serverless
    for _ in range(6):
        await create(program, url=SLOW)
    assert len(await claim(database, most=2)) == 2
    await create(program, url=QUICK)
    (claimed,) = await claim(database, most=1)
    assert claimed.url == QUICK


async def test_what_is_put_off_waits_and_the_rest_of_its_invoice_with_it(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    (delivery,) = await claim(database)
    await program.update_invoice(uid, memo="x")
    await database.run(queries.number_events, 10)
    assert await database.run(webhooks.put_off, delivery, "answered 500", 3600, 86400) is False
    assert await claim(database) == []
    assert await database.run(webhooks.retry, delivery.event.seq) == 1
    (again,) = await claim(database)
    assert (again.event, again.attempts) == (delivery.event, 2)
    await finish(database, again)
    (following,) = await claim(database)
    assert following.event.type == "invoice.updated"


async def test_what_is_given_up_lets_the_next_go_and_can_be_retried(serverless: Serverless) -> None:
    database, program = serverless
    uid = await create(program)
    (delivery,) = await claim(database)
    await program.update_invoice(uid, memo="x")
    assert await database.run(webhooks.put_off, delivery, "answered 500", 3600, 0) is True
    (following,) = await claim(database)
    assert following.event.type == "invoice.updated"
    await finish(database, following)
    assert await claim(database) == []
    assert await database.run(webhooks.retry, None) == 1
    (again,) = await claim(database)
    assert again.event == delivery.event
    assert await database.run(webhooks.put_off, again, "answered 500", 0, 86400) is False, "its time is new"
    await finish(database, (await claim(database))[0])
    for nothing in (delivery.event.seq, 12345):
        with pytest.raises(NotFound):
            await database.run(webhooks.retry, nothing)
    assert await database.run(webhooks.retry, None) == 0


async def test_what_is_released_is_due_at_once(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    (delivery,) = await claim(database)
    await database.run(webhooks.release, [delivery.event.seq])
    assert [one.event for one in await claim(database)] == [delivery.event]


async def test_who_comes_late_does_not_disturb_who_took_over(serverless: Serverless) -> None:
    database, program = serverless
    await create(program)
    (late,) = await claim(database, lease=0)
    (successor,) = await claim(database)
    assert await database.run(webhooks.put_off, late, "no answer", 0, 0) is False
    assert await claim(database) == []
    await finish(database, successor)
    await finish(database, late)


async def test_what_was_given_up_is_forgotten_in_time_and_what_waits_is_not(serverless: Serverless) -> None:
    database, program = serverless
    for _ in range(2):
        await create(program)
    lost, kept = await claim(database, lease=0)
    await database.run(webhooks.put_off, lost, "answered 500", 0, 0)
    await database.run(webhooks.trim, 3600.0)
    assert await database.run(webhooks.retry, None) == 1
    (lost, _) = await claim(database, lease=0)
    await database.run(webhooks.put_off, lost, "answered 500", 0, 0)
    await database.run(webhooks.trim, -3600.0)
    assert await database.run(webhooks.retry, None) == 0
    assert [one.event for one in await claim(database)] == [kept.event]
