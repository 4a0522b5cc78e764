"""Rows that come by replication have their events, keep their versions, and are held to the same rules."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from trio_ws.database import migrations
from trio_ws.database.embedded import embedded_postgres

Connection = psycopg.Connection[tuple[object, ...]]


@contextmanager
def open_to(conninfo: str) -> Iterator[Connection]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def replica(conninfo: str) -> Iterator[Connection]:
    """A session that passes by all triggers that are not made for it."""
    with open_to(conninfo) as connection:
        connection.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
        connection.execute("SET session_replication_role = replica")
        yield connection


def events(connection: Connection, after: int = 0) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT type, data ->> 'version', data ->> 'status' FROM event WHERE id > %s ORDER BY id", (after,)
    ).fetchall()


FIRST = 4  # the prices and the invoice that there are


def test_what_is_written_past_the_triggers_has_its_events(replica: Connection) -> None:
    replica.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 2, 'USD')")
    replica.execute("UPDATE invoices SET status = 'confirming' WHERE id = 1")
    replica.execute("UPDATE invoices SET status = status")
    replica.execute("INSERT INTO prices (account_id, currency, amount) VALUES (1, 'XMR', 15000)")
    replica.execute("UPDATE prices SET value = 160 WHERE currency = 'XMR'")
    replica.execute("DELETE FROM prices WHERE currency = 'XMR'")
    assert events(replica, FIRST) == [
        ("invoice.created", "1", "unpaid"),
        ("invoice.updated", "2", "confirming"),
        ("price.updated", None, None),
        ("price.updated", None, None),
        ("price.deleted", None, None),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invoices SET status = 'paid'",
        "UPDATE invoices SET amount = 2",
        "UPDATE invoices SET memo = repeat('x', 1001)",
        "INSERT INTO invoices (account_id, amount, currency, memo) VALUES (1, 1, 'USD', repeat('x', 1001))",
        "DELETE FROM invoices",
        "UPDATE accounts SET name = repeat('x', 1001)",
        "TRUNCATE tokens",
    ],
)
def test_what_is_written_past_the_triggers_is_held_to_the_rules(replica: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        replica.execute(statement.encode())
    assert events(replica, FIRST) == []


def test_a_copy_stays_as_another_server_has_made_it(replica: Connection) -> None:
    replica.execute(
        "INSERT INTO invoices (id, account_id, amount, currency, status, version, updated_at)"
        " VALUES (9, 1, 2, 'USD', 'confirming', 5, '2026-01-01Z')"
    )
    replica.execute(
        "UPDATE invoices SET status = 'paid', version = 6, updated_at = '2026-01-02Z' WHERE id = 9"
    )
    row = replica.execute("SELECT version, updated_at = '2026-01-02Z' FROM invoices WHERE id = 9").fetchone()
    assert row == (6, True)
    assert events(replica, FIRST) == [
        ("invoice.created", "5", "confirming"),
        ("invoice.updated", "6", "paid"),
    ]


def test_a_copied_price_keeps_its_value_where_the_other_server_counts_in_other_digits(
    replica: Connection,
) -> None:
    replica.execute(
        "INSERT INTO prices (account_id, currency, base_currency, value)"
        " VALUES (1, 'LTC', 'SOL', 0.12345678901)"
    )
    replica.execute("UPDATE prices SET amount = 12, version = 2 WHERE currency = 'LTC'")
    row = replica.execute("SELECT value::text, amount, version FROM prices WHERE currency = 'LTC'").fetchone()
    assert row == ("0.12345678901", 123456789, 2)


def test_triggers_that_were_all_enabled_alike_double_nothing(conninfo: str) -> None:
    with open_to(conninfo) as connection:  # as `pg_restore --disable-triggers` leaves them
        connection.execute("ALTER TABLE invoices DISABLE TRIGGER ALL")
        connection.execute("ALTER TABLE invoices ENABLE TRIGGER ALL")
        connection.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
        assert events(connection, 3) == [("invoice.created", "1", "unpaid")]


def test_a_publication_of_all_tables_brings_nothing_that_a_subscriber_has_no_table_for(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a migration makes and drops would stop each subscription for good: nobody has it any more."""
    with embedded_postgres(reachable_path, None, {"fsync": "off", "wal_level": "logical"}) as postgres:
        with monkeypatch.context() as older:
            before_the_currencies = migrations.known_migrations()[:16]
            older.setattr(migrations, "known_migrations", lambda: before_the_currencies)
            migrations.migrate(postgres.conninfo)
        with open_to(postgres.conninfo) as connection:
            connection.execute(
                "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 10 ^ 9, 'ETH')"
            )
            connection.execute("CREATE PUBLICATION every FOR ALL TABLES")
            connection.execute("SELECT pg_create_logical_replication_slot('every', 'pgoutput')")
            migrations.migrate(postgres.conninfo)
            sent = connection.execute(
                "SELECT string_agg(data, '') FROM pg_logical_slot_peek_binary_changes("
                "'every', NULL, NULL, 'proto_version', '1', 'publication_names', 'every')"
            ).fetchone()
            made = {name for (name,) in connection.execute("SELECT relname FROM pg_class")}
    assert sent is not None
    # A relation message: kind, number, schema, name: PostgreSQL, "Logical Replication Message Formats".
    names = set(re.findall(rb"R.{4}public\0([a-z_]+)\0", bytes(sent[0]), re.DOTALL))  # type: ignore[call-overload]
    assert b"invoices" in names
    assert {name.decode() for name in names} <= made


TABLES = {
    "rows alone": "accounts, invoices, payments, prices",
    "events too": "accounts, invoices, payments, prices, event, webhook_secrets",
}


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """A folder that PostgreSQL's own user can reach, who is another one where tests run as root."""
    with TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o711)
        yield path


@pytest.mark.parametrize("what", TABLES)
def test_a_subscription_brings_each_event_once(reachable_path: Path, what: str) -> None:
    """By PostgreSQL's own logical replication, from one database to another of the same cluster."""
    options = {"fsync": "off", "wal_level": "logical"}
    with embedded_postgres(reachable_path, None, options) as postgres:
        urls = [make_conninfo(postgres.conninfo, dbname=name) for name in ("old_shop", "new_shop")]
        with open_to(postgres.conninfo) as connection:
            for name in ("old_shop", "new_shop"):
                connection.execute(f"CREATE DATABASE {name}".encode())
        for url in urls:
            migrations.migrate(url)
        with open_to(urls[0]) as old, open_to(urls[1]) as new:
            insert = "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')"
            old.execute(insert)
            old.execute("UPDATE invoices SET status = 'confirming'")
            new.execute(
                "TRUNCATE prices; DELETE FROM webhook_secrets; DELETE FROM accounts; DELETE FROM event"
            )
            old.execute(f"CREATE PUBLICATION moving FOR TABLE {TABLES[what]}".encode())
            old.execute("SELECT pg_create_logical_replication_slot('moving', 'pgoutput')")
            new.execute(
                f"CREATE SUBSCRIPTION moving CONNECTION '{urls[0]}' PUBLICATION moving"
                " WITH (create_slot = false, slot_name = 'moving')".encode()
            )
            synced = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
            until(lambda: new.execute(synced).fetchone() == (True,))
            old.execute(insert)
            old.execute(
                "INSERT INTO payments (invoice_id, reference, amount, status) VALUES (2, 'x', 1, 'pending')"
            )
            old.execute("UPDATE payments SET status = 'failed'")
            old.execute("INSERT INTO payments (invoice_id, reference, amount) VALUES (1, 'y', 1)")
            rows = "SELECT id, status, version, updated_at, amount_paid FROM invoices ORDER BY id"
            until(lambda: new.execute(rows).fetchall() == old.execute(rows).fetchall())
            query = (
                "SELECT type, data ->> 'version', data ->> 'status' FROM event"
                " WHERE type LIKE 'invoice%' ORDER BY data ->> 'id', data ->> 'version'"
            )
            there = old.execute(query).fetchall()
            assert [status for *_, status in there if status != "unpaid"] == [
                "confirming",
                "paid",
                "confirming",
            ]
            if what == "events too":
                until(lambda: new.execute(query).fetchall() == there)
            else:  # those from before it as the state that they led to
                assert new.execute(query).fetchall() == [("invoice.created", "2", "confirming"), *there[2:]]
            paid = "SELECT type, data::text, previous::text FROM event WHERE type LIKE 'payment%' ORDER BY id"
            assert len(old.execute(paid).fetchall()) == 3
            assert new.execute(paid).fetchall() == old.execute(paid).fetchall()
            new.execute("ALTER SUBSCRIPTION moving DISABLE")
            new.execute("ALTER SUBSCRIPTION moving SET (slot_name = NONE)")
            new.execute("DROP SUBSCRIPTION moving")


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds, for a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
