"""What queries return, and what a change leaves, on the simulated database and on PostgreSQL."""

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest

from tests.programs import OtherProgram, prepare
from trio_ws.actions.tokens import as_stored
from trio_ws.database import event_log, queries, tokens
from trio_ws.database.gateway import Database
from trio_ws.identity import Scope, hash_token
from trio_ws.messages import SetPrice
from trio_ws.topics import Event

Serverless = tuple[Database, OtherProgram]

INVOICE = {"amount": 5, "currency": "EUR", "account_id": 1}
ALL, AGE_SECONDS = 100, 3600.0


async def new_events(database: Database) -> list[Event]:
    """All events that are there, numbered."""
    await database.run(event_log.number_events, ALL)
    return (await database.run(event_log.read_events, 0, ALL)).events


async def test_events_that_are_too_old_are_deleted_the_oldest_first(serverless: Serverless) -> None:
    database, program = serverless
    for _ in range(5):
        await program.create_invoice(**INVOICE)
    last = (await new_events(database))[-1].seq
    assert await database.run(event_log.trim_events, AGE_SECONDS, ALL) == 0, "none is an hour old"
    assert await database.run(event_log.trim_events, 0.0, last - 2) == last - 2
    read = await database.run(event_log.read_events, 0, 1)
    assert (read.begin.seq, read.end.seq) == (last - 2, last)
    assert [event.seq for event in read.events] == [last - 1], "so many that are there, not so many numbers"
    assert await database.run(event_log.trim_events, 0.0, ALL) == 2
    read = await database.run(event_log.read_events, 0, ALL)
    assert (read.begin, read.end.seq, read.events) == (read.end, last, [])


async def test_every_event_says_when_it_was(serverless: Serverless) -> None:
    database, program = serverless
    await program.create_invoice(**INVOICE)
    await program.revoke_token(await program.create_token())
    await program.delete_price("ETH")
    events = await new_events(database)
    now = (await database.run(event_log.read_events, 0, 1)).now
    late = {event.type: now - event.at for event in events if not 0 <= now - event.at < AGE_SECONDS}
    assert late == {}


@pytest.mark.parametrize("name", ["memo", "address", "webhook_url", "redirect_url"])
async def test_what_another_program_takes_away_leaves_nothing_behind(
    serverless: Serverless, name: str
) -> None:
    database, program = serverless
    uid = await program.create_invoice(**INVOICE, **{name: "https://shop.example/"})
    await program.update_invoice(uid, **{name: None})
    invoice = await database.run(queries.fetch_invoice, uid, None)
    event = (await new_events(database))[-1]
    assert name not in msgspec.json.decode(invoice)
    assert (event.type, bytes(event.data)) == ("invoice.updated", bytes(invoice))
    assert msgspec.json.decode(event.previous) == {name: "https://shop.example/"}
    assert "address:None" not in event.topics


async def test_times_are_told_in_utc_wherever_they_were_given(serverless: Serverless) -> None:
    database, program = serverless
    uid = await program.create_invoice(**INVOICE)
    until = datetime(2100, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    await program.update_invoice(uid, expires_at=until)
    invoice: dict[str, Any] = msgspec.json.decode(await database.run(queries.fetch_invoice, uid, None))
    assert invoice["expiresAt"] == "2100-01-01T10:00:00.000000+00:00"


@pytest.mark.parametrize("value", ["1E-7", "0.00000010", "4.3E+4", "12E3", "1e-18"])
async def test_a_price_is_told_in_digits_however_it_was_given(serverless: Serverless, value: str) -> None:
    database, _ = serverless
    action = msgspec.convert({"currency": "XYZ", "base_currency": "ETH", "value": value}, SetPrice)
    price = await database.run(queries.set_price, 1, "XYZ", "KRW", action.value)
    digits = f"{Decimal(value):f}"
    assert f'"value":{digits}}}'.encode() in bytes(price)
    assert bytes(price) == bytes((await new_events(database))[-1].data)
    assert bytes((await database.run(queries.read_prices, 0, 10)).prices[-1]) == bytes(price)


async def test_prices_are_read_in_parts_by_id(serverless: Serverless) -> None:
    database, program = serverless
    await program.delete_price("ETH")
    await program.set_price("XYZ", Decimal(5))
    position = await database.run(event_log.read_position)

    async def part(after: int, most: int) -> tuple[list[int], int | None]:
        read = await database.run(queries.read_prices, after, most)
        assert read.position == position
        return [msgspec.json.decode(price)["id"] for price in read.prices], read.next

    assert await part(0, 2) == ([1, 3], 3)
    assert await part(3, 2) == ([4], None)
    assert await part(1, 2) == ([3, 4], 4), "there may be more"
    assert await part(4, 2) == ([], None)


def test_a_part_of_the_prices_costs_what_it_holds_whatever_the_statistics_say(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        prepare(connection, 5.0)
        for _ in range(6):  # so that the plan is made before there is anything
            queries.read_prices(connection, 0, 100)
        connection.execute("ALTER TABLE prices SET (autovacuum_enabled = off)")
        connection.execute(
            "INSERT INTO prices (account_id, currency, value)"
            " SELECT 1, 'C' || n, 1 FROM generate_series(1000, 6000) n"
        )
        count = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'prices'"
        with connection.transaction():
            ((before,),) = connection.execute(count)
            assert len(queries.read_prices(connection, 2500, 100).prices) == 100
            ((after,),) = connection.execute(count)
            assert after - before <= 101


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tokens SET revoked_at = now() WHERE id = %s",
        "DELETE FROM tokens WHERE id = %s",
        "UPDATE tokens SET scopes = '{read}' WHERE id = %s",
        "UPDATE tokens SET expires_at = now() + interval '1 hour' WHERE id = %s",
        (
            "WITH other AS (INSERT INTO accounts (id, name) VALUES (2, 'other'))"
            " UPDATE tokens SET account_id = 2 WHERE id = %s"
        ),
    ],
)
async def test_a_token_has_ended_once_it_is_not_what_it_was(conninfo: str, change: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        prepare(connection, 5.0)
        sets: list[list[Scope]] = [["read", "write"], ["write", "read"], ["process"]]
        for number, scopes in enumerate(sets, start=1):
            tokens.create_token(connection, 1, hash_token(f"token {number}"), scopes, 86400 * number)
        held = [as_stored(tokens.identify(connection, hash_token(f"token {number}"))) for number in (1, 2, 3)]
        assert tokens.find_ended(connection, held) == []
        connection.execute(change.encode(), (2,))
        assert tokens.find_ended(connection, held) == [held[1]]
        assert tokens.find_ended(connection, []) == []
