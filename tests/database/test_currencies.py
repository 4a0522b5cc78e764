"""Amounts that are stored in another unit keep their worth to the last digit when a database is migrated.

Databases here are made at the version before, filled by its own tables and triggers, and migrated.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest

from tests.programs import prepare
from trio_ws.currencies import exponent
from trio_ws.database import migrations, queries
from trio_ws.database.migrations import known_migrations, migrate
from trio_ws.errors import IdempotencyMismatch, StartupError
from trio_ws.messages import CreateInvoice

BEFORE = 16  # the last version that counted ETH in 10^-18
MOST = 2**53 - 1

Execute = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def execute(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Run a statement as psql does, in a database of the version before."""
    with monkeypatch.context() as older:
        older.setattr(migrations, "known_migrations", lambda: known_migrations()[:BEFORE])
        migrate(empty_database)

    def run(statement: str, *args: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(empty_database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), args or None)
            return cursor.fetchall() if cursor.description else []

    return run


def add(execute: Execute, currency: str, *amounts: int) -> None:
    for amount in amounts:
        execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, %s, %s)", amount, currency)


def stored(execute: Execute) -> list[tuple[Any, ...]]:
    return execute("SELECT amount, currency, version FROM invoices ORDER BY id")


def upgrade(conninfo: str, says: str = "") -> None:
    migrate(f"{conninfo} options='-c trio_ws.stored_digits={says}'" if says else conninfo)


def events(execute: Execute, kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return execute("SELECT data, previous FROM event WHERE type = %s ORDER BY id", kind)


@pytest.mark.parametrize(
    ("currency", "before", "after"),
    [
        ("ETH", 10**9, (1, "ETH", 2)),
        ("ETH", 5 * 10**15, (5_000_000, "ETH", 2)),
        ("BNB", 9 * 10**15, (9_000_000, "BNB", 2)),
        ("DAI", 3 * 10**12, (3, "DAI", 2)),
        # What is no whole number of the new unit stays, under the name of the old one.
        ("ETH", MOST, (MOST, "ETH18", 2)),
        ("ETH", 1, (1, "ETH18", 2)),
        ("BNB", 10**9 + 1, (10**9 + 1, "BNB18", 2)),
        ("DAI", 10**9, (10**9, "DAI18", 2)),
        # What was right is left alone.
        ("USD", 1000, (1000, "USD", 1)),
        ("BTC", 1000, (1000, "BTC", 1)),
        ("SHIB", 1000, (1000, "SHIB", 1)),
        ("NOBODYS", 1000, (1000, "NOBODYS", 1)),
    ],
)
def test_an_invoice_keeps_its_worth(
    execute: Execute, empty_database: str, currency: str, before: int, after: tuple[int, str, int]
) -> None:
    add(execute, currency, before)
    ((digits,),) = execute("SELECT currency_exponent(%s)", currency)
    upgrade(empty_database)
    assert stored(execute) == [after]
    assert Decimal(before).scaleb(-digits) == Decimal(after[0]).scaleb(-exponent(after[1]))


def test_who_follows_an_invoice_is_told_of_its_new_unit(execute: Execute, empty_database: str) -> None:
    add(execute, "ETH", 5 * 10**15, 1)
    upgrade(empty_database)
    (exact, was), (odd, odd_was) = sorted(events(execute, "invoice.updated"), key=lambda one: one[0]["id"])
    assert (exact["amount"], exact["currency"], exact["version"]) == (5_000_000, "ETH", 2)
    assert was == {"amount": 5 * 10**15}
    assert (odd["amount"], odd["currency"], odd_was) == (1, "ETH18", {"currency": "ETH"})


def test_an_invoice_is_guarded_afterwards_as_it_was_before(execute: Execute, empty_database: str) -> None:
    enabled = "SELECT oid, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY oid"
    before = execute(enabled)
    add(execute, "ETH", 10**9)
    upgrade(empty_database)
    assert execute(enabled) == before
    with pytest.raises(psycopg.errors.CheckViolation, match="can change"):
        execute("UPDATE invoices SET amount = 2")
    assert execute("SELECT to_regclass('recounted'), to_regclass('new_units')") == [(None, None)]


@pytest.mark.parametrize(
    ("amount", "payments", "after"),
    [
        (5 * 10**9, [2 * 10**9, 3 * 10**9, -(10**9)], ("ETH", 5, 1, 3, [2, 3, -1])),
        # One payment that would be rounded, and the invoice with all that was paid keeps the old unit.
        (5 * 10**9, [10**9, 10**9, 1], ("ETH18", 5 * 10**9, 10**9 + 1, 10**9, [10**9, 10**9, 1])),
        (5 * 10**9 + 1, [10**9, 10**9, -5], ("ETH18", 5 * 10**9 + 1, 10**9 - 5, 10**9, [10**9, 10**9, -5])),
    ],
)
def test_what_was_paid_goes_with_the_invoice(
    execute: Execute, empty_database: str, amount: int, payments: list[int], after: tuple[Any, ...]
) -> None:
    add(execute, "ETH", amount)
    for number, (paid, status) in enumerate(zip(payments, ["settled", "pending", "settled"], strict=True)):
        execute(
            "INSERT INTO payments (invoice_id, reference, amount, status) VALUES (1, %s, %s, %s)",
            *(str(number), paid, status),
        )
    ((status,),) = execute("SELECT status FROM invoices")
    upgrade(empty_database)
    currency, amount, paid, pending, each = after
    rows = execute("SELECT currency, amount, amount_paid, amount_pending, status FROM invoices")
    assert rows == [(currency, amount, paid, pending, status)]
    assert execute("SELECT amount FROM payments ORDER BY id") == [(one,) for one in each]
    assert execute("SELECT DISTINCT currency, version FROM payments") == [(currency, 2)]
    kinds = [kind for (kind,) in execute("SELECT type FROM event ORDER BY id DESC LIMIT 4")]
    assert kinds == ["invoice.updated", *["payment.updated"] * 3], "those of payments come first"
    last = events(execute, "payment.updated")[-3:]
    assert [data["amount"] for data, _ in last] == each
    assert all(set(was) == ({"amount"} if currency == "ETH" else {"currency"}) for _, was in last)


def test_a_payment_after_it_is_counted_in_the_new_unit(execute: Execute, empty_database: str) -> None:
    add(execute, "ETH", 4 * 10**9)
    execute("INSERT INTO payments (invoice_id, reference, amount) VALUES (1, 'early', 1000000000)")
    upgrade(empty_database)
    execute("INSERT INTO payments (invoice_id, reference, amount) VALUES (1, 'late', 3)")
    assert execute("SELECT status, amount_paid FROM invoices") == [("paid", 4)]


# A request that is repeated


def test_a_request_repeated_after_it_finds_its_invoice_and_never_makes_a_second(
    execute: Execute, empty_database: str
) -> None:
    def ask(amount: int, key: str) -> dict[str, Any]:
        action = CreateInvoice(amount=amount, currency="ETH", account_id=1, idempotency_key=key)
        with psycopg.connect(empty_database) as connection:
            prepare(connection, 10.0)
            reply: dict[str, Any] = msgspec.json.decode(queries.create_invoice(connection, action))
            return reply

    asked = {"exact": 5 * 10**15, "odd": 1}
    made = {key: ask(amount, key) for key, amount in asked.items()}
    upgrade(empty_database)
    for key, amount in asked.items():
        again = ask(amount, key)
        assert (again["uid"], again["version"]) == (made[key]["uid"], 2)
    assert ask(asked["exact"], "exact")["amount"] == 5_000_000
    with pytest.raises(IdempotencyMismatch):
        ask(5_000_000, "exact")
    assert execute("SELECT count(*) FROM invoices") == [(2,)]


# Coins whose digits the version before did not know


def test_what_invoices_in_a_coin_were_counted_in_is_asked_and_nothing_is_changed(
    execute: Execute, empty_database: str
) -> None:
    add(execute, "ETH", 10**9)
    add(execute, "SOL", 150, 25)
    add(execute, "XRP", 7)
    before = stored(execute)
    with pytest.raises(StartupError) as refused:
        upgrade(empty_database)
    assert "amounts of invoices in SOL (2, as number 2), XRP (1, as number 4)" in str(refused.value)
    assert "PGOPTIONS='-c trio_ws.stored_digits=SOL=9,XRP=6'" in str(refused.value)
    assert stored(execute) == before
    assert execute("SELECT currency_exponent('ETH'), max(version) FROM schema_migrations") == [(18, BEFORE)]
    with pytest.raises(StartupError, match="invoices in XRP"):
        upgrade(empty_database, "SOL=2")


def test_what_the_message_says_to_type_can_be_typed(
    execute: Execute, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(execute, "SOL", 10**9)
    monkeypatch.setenv("PGOPTIONS", "-c trio_ws.stored_digits=SOL=9")
    upgrade(empty_database)
    assert stored(execute) == [(10**9, "SOL", 1)], "it was in that unit"


@pytest.mark.parametrize(
    ("says", "before", "after"),
    [
        ("SOL=2", ("SOL", 150), (1_500_000_000, "SOL", 2)),
        ("XRP=6,SOL=2", ("SOL", MOST // 10**7), (MOST // 10**7 * 10**7, "SOL", 2)),
        ("SOL=2", ("SOL", MOST // 10**7 + 1), (MOST // 10**7 + 1, "SOL2", 2)),
        ("DOT=2", ("DOT", 1), (10**8, "DOT", 2)),
        ("DOT=10", ("DOT", 1), (1, "DOT", 1)),
        ("ETH=9", ("ETH", 7), (7, "ETH", 1)),
        ("ETH18=18", ("ETH18", 7), (7, "ETH18", 1)),
    ],
)
def test_who_says_what_amounts_were_counted_in_has_them_converted_by_that(
    execute: Execute, empty_database: str, says: str, before: tuple[str, int], after: tuple[int, str, int]
) -> None:
    add(execute, *before)
    upgrade(empty_database, says)
    assert stored(execute) == [after]


def test_an_answer_that_cannot_be_is_refused(execute: Execute, empty_database: str) -> None:
    with pytest.raises(StartupError, match=r"stored_digits says ETH=6 \(but 18 or 9\), SOL=8 \(but 2 or 9\)"):
        upgrade(empty_database, "SOL=8,ETH=6")
    assert execute("SELECT currency_exponent('ETH')") == [(18,)]


@pytest.mark.parametrize("slip", ["eth=9", "ETH:9", "ETH", "ETH=gwei", "ETH=900", "BTC=8", "ETH=9;SOL=2"])
def test_an_answer_that_cannot_be_read_is_refused_and_not_passed_over(
    execute: Execute, empty_database: str, slip: str
) -> None:
    add(execute, "ETH", 7)  # in 10^-9, as its shop means to say
    with pytest.raises(StartupError) as refused:
        upgrade(empty_database, f"XRP=6,{slip}")
    assert f"trio_ws.stored_digits has {slip}, and is read as" in str(refused.value)
    assert stored(execute) == [(7, "ETH", 1)]


def test_sums_that_were_copied_without_their_payments_are_not_rounded(
    execute: Execute, empty_database: str
) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "INSERT INTO invoices (account_id, amount, currency, amount_paid, amount_pending)"
            " VALUES (1, 1000000000, 'ETH', 1, 0), (1, 1000000000, 'ETH', 0, 1), (1, 1000000000, 'ETH', 0, 0)"
        )
    upgrade(empty_database)
    assert execute("SELECT amount, currency, amount_paid, amount_pending FROM invoices ORDER BY id") == [
        (10**9, "ETH18", 1, 0),
        (10**9, "ETH18", 0, 1),
        (1, "ETH", 0, 0),
    ]


# Prices


def test_prices_keep_their_value_and_get_the_amount_that_it_has_now(
    execute: Execute, empty_database: str
) -> None:
    set_price = "INSERT INTO prices (account_id, currency, base_currency, value) VALUES (1, %s, %s, %s)"
    execute(set_price, "LTC", "ETH", Decimal("0.004"))
    execute(set_price, "LTC", "SOL", Decimal("0.506667"))
    execute(set_price, "LTC", "EUR", Decimal("80.5"))
    execute(set_price, "HUGE", "SOL", Decimal(10**9))
    upgrade(empty_database)
    rows = execute("SELECT base_currency, amount, value, version FROM prices WHERE id > 3 ORDER BY id")
    assert rows == [
        ("ETH", 4_000_000, Decimal("0.004"), 2),
        ("SOL", 506_667_000, Decimal("0.506667"), 2),
        ("EUR", 8050, Decimal("80.5"), 1),
        ("SOL2", 10**11, Decimal(10**9), 2),  # more than 2^53 - 1 lamports
    ]
    assert [was for _, was in events(execute, "price.updated")[-3:]].count({"amount": 51}) == 1


# Copies


def test_what_a_subscription_brings_is_left_to_its_publisher(execute: Execute, empty_database: str) -> None:
    add(execute, "ETH", 10**9)
    add(execute, "SOL", 150)
    execute(
        "INSERT INTO prices (account_id, currency, base_currency, value) VALUES (1, 'LTC', 'SOL', 0.506667)"
    )
    everything = "SELECT amount, version FROM invoices UNION ALL SELECT amount, version FROM prices"
    before = execute(everything), execute("SELECT count(*) FROM event")
    for table in ("invoices", "prices", "event"):
        execute("INSERT INTO pg_subscription_rel VALUES (0, %s::regclass, 'r', NULL)", table)
    upgrade(empty_database)
    # An event of ours would have a number that one of the publisher's has: its own are not counted here.
    assert (execute(everything), execute("SELECT count(*) FROM event")) == before
    assert execute("SELECT currency_exponent('ETH')") == [(9,)]
