"""Invoices expire at the cost of those that do, and one that can't keeps no other."""

import logging
from collections.abc import Iterator

import psycopg
import pytest

from tests.programs import prepare
from trio_ws.database import expiry
from trio_ws.database.queries import Connection
from trio_ws.testing import SimulatedDatabase

INVOICE = {"amount": 1, "currency": "USD", "account_id": 1}
Other = psycopg.Connection[tuple[object, ...]]

REFUSE = (
    "CREATE FUNCTION refuse_it() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN {} RETURN NEW; END $$;"
    " CREATE TRIGGER refuse_it BEFORE UPDATE ON invoices FOR EACH ROW WHEN (NEW.amount = 2)"
    " EXECUTE FUNCTION refuse_it()"
)


@pytest.fixture
def connection(conninfo: str) -> Iterator[Connection]:
    """A connection as the server's are."""
    with psycopg.connect(conninfo) as connection:
        prepare(connection, statement_seconds=10)
        yield connection


@pytest.fixture
def other(conninfo: str) -> Iterator[Other]:
    """A connection as any other program's."""
    with psycopg.connect(conninfo, autocommit=True) as other:
        yield other


def insert(other: Other, count: int, expires: str) -> None:
    statement = "INSERT INTO invoices (account_id, amount, currency, expires_at) SELECT 1, n, 'USD', {} FROM"
    other.execute(f"{statement.format(expires)} generate_series(1, {count}) n".encode())


def rows_read(connection: Connection) -> int:
    """How many rows of invoices this transaction has read so far."""
    ((count,),) = connection.execute(
        "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'invoices'"
    ).fetchall()
    return int(count)


@pytest.mark.parametrize("analyzed_at", ["never", "empty", "all overdue", "all paid"])
def test_expiring_reads_what_is_overdue_whatever_the_statistics_say(
    connection: Connection, other: Other, analyzed_at: str
) -> None:
    other.execute("ALTER TABLE invoices SET (autovacuum_enabled = off)")
    if analyzed_at == "all paid":
        insert(other, 100, "NULL")
        other.execute("UPDATE invoices SET status = 'confirming'")
        other.execute("UPDATE invoices SET status = 'paid'")
    if analyzed_at == "all overdue":
        insert(other, 100, "now() - interval '1 hour'")
    if analyzed_at != "never":
        other.execute("ANALYZE invoices")
    for _ in range(10):  # so that whatever is planned once has been
        expiry.expire_invoices(connection, 500)
    insert(other, 20_000, "now() + n * interval '1 hour'")
    insert(other, 5, "now() - n * interval '1 hour'")
    with connection.transaction():
        before = rows_read(connection)
        assert expiry.expire_invoices(connection, 500) == 5
        # Once to find it, once to lock it, once to change it, and once for each index.
        assert rows_read(connection) - before <= 5 * 10
    with connection.transaction():
        before = rows_read(connection)
        assert expiry.expire_invoices(connection, 500) == 0
        assert rows_read(connection) - before <= 5


@pytest.mark.parametrize(
    "refusal",
    [
        "RAISE 'not this one: %', NEW.memo;",
        *(
            f"RAISE SQLSTATE '{state}' USING MESSAGE = NEW.memo;"
            for state in ("08006", "40001", "53100", "HV000")
        ),
        "PERFORM pg_sleep(60);",
        "RETURN NULL;",
        "NEW.status := OLD.status;",
    ],
)
def test_one_that_another_program_lets_nobody_change_keeps_no_other(
    connection: Connection,
    other: Other,
    refusal: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(expiry, "EXPIRE_TOGETHER_TIMEOUT", "200ms")
    monkeypatch.setattr(expiry, "EXPIRE_ALONE_SECONDS", 60.0)
    insert(other, 20, "now() - interval '1 hour'")
    other.execute("UPDATE invoices SET memo = 'a secret'")
    other.execute(REFUSE.format(refusal).encode())
    assert expiry.expire_invoices(connection, 500) == 20
    assert expired(other) == 19
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("invoice 2 can't expire (")
    assert line.endswith("; see expiry_failures): again in 5 s")
    assert "a secret" not in line
    # It costs no more until then, and no other waits for it.
    insert(other, 1, "now()")
    assert expiry.expire_invoices(connection, 500) == 1
    assert expired(other) == 20
    assert other.execute("SELECT invoice_id, attempts FROM expiry_failures").fetchall() == [(2, 1)]


def expired(other: Other) -> int:
    ((count,),) = other.execute("SELECT count(*) FROM invoices WHERE status = 'expired'")
    return int(str(count))


def test_hundreds_that_a_trigger_keeps_as_they_are_cost_one_try_and_one_line(
    connection: Connection, other: Other, caplog: pytest.LogCaptureFixture
) -> None:
    insert(other, 500, "now() - interval '1 hour'")
    other.execute(
        "CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        " CREATE TRIGGER veto BEFORE UPDATE ON invoices FOR EACH ROW WHEN (OLD.id <= 500)"
        " EXECUTE FUNCTION veto()"
    )
    insert(other, 3, "now() - interval '1 minute'")
    assert expiry.expire_invoices(connection, 500) == 500
    assert expiry.expire_invoices(connection, 500) == 3
    assert expired(other) == 3
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "and 499 others can't expire (a trigger keeps it as it was; " in line


def test_where_nothing_can_be_written_none_is_put_off(connection: Connection, other: Other) -> None:
    insert(other, 3, "now() - interval '1 hour'")
    connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        expiry.expire_invoices(connection, 500)
    connection.execute("SET default_transaction_read_only = off")
    assert expiry.expire_invoices(connection, 500) == 3
    assert expired(other) == 3


def test_it_is_tried_again_with_growing_pauses_until_it_does(connection: Connection, other: Other) -> None:
    insert(other, 2, "now() - interval '1 hour'")
    other.execute(REFUSE.format("RAISE 'not this one';").encode())
    pauses = []
    for _ in range(12):
        expiry.expire_invoices(connection, 500)
        ((pause,),) = other.execute("SELECT round(extract(epoch FROM retry_at - now())) FROM expiry_failures")
        pauses.append(int(str(pause)))
        other.execute("UPDATE expiry_failures SET retry_at = now()")
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    other.execute("DROP TRIGGER refuse_it ON invoices")
    assert expiry.expire_invoices(connection, 500) == 1
    assert other.execute("SELECT status FROM invoices WHERE id = 2").fetchall() == [("expired",)]
    assert other.execute("SELECT FROM expiry_failures").fetchall() == []


def test_one_that_is_locked_is_left_to_who_has_it(connection: Connection, other: Other) -> None:
    insert(other, 3, "now() - interval '1 hour'")
    with other.transaction():
        other.execute("UPDATE invoices SET memo = 'x' WHERE id = 2")
        assert expiry.expire_invoices(connection, 500) == 2
    assert expiry.expire_invoices(connection, 500) == 1
    assert other.execute("SELECT FROM expiry_failures").fetchall() == []


async def test_a_stuck_invoice_keeps_no_other_in_the_simulated_database_either() -> None:
    database = SimulatedDatabase()
    uids = [database.create_invoice(**INVOICE, expires_in_seconds=1e-9) for _ in range(3)]
    database.stuck.add(uids[0])
    assert await database.run(expiry.expire_invoices, 10) == 2
    assert await database.run(expiry.expire_invoices, 10) == 0
    database.stuck.clear()
    assert await database.run(expiry.expire_invoices, 10) == 1
