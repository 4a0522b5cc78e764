"""The schema is brought up to date once, whoever asks, and what can't be is said in one line."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from trio_ws.database import migrations
from trio_ws.database.migrations import Migration, known_migrations, migrate, require_migrated
from trio_ws.errors import StartupError

NAMES = [migration.name for migration in known_migrations()]


def execute(conninfo: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_versions_count_up_from_1() -> None:
    assert [migration.version for migration in known_migrations()] == list(range(1, len(NAMES) + 1))


def test_an_empty_database_gets_everything_once(empty_database: str) -> None:
    assert migrate(empty_database) == NAMES
    assert migrate(empty_database) == []
    require_migrated(empty_database)


def test_the_protocols_examples_find_an_account_and_prices(empty_database: str) -> None:
    migrate(empty_database)
    assert execute(empty_database, "SELECT id FROM accounts") == [(1,)]
    assert execute(empty_database, "SELECT count(*) > 0 FROM prices") == [(True,)]
    assert execute(empty_database, "INSERT INTO accounts DEFAULT VALUES RETURNING id") == [(2,)]


def test_many_servers_that_start_at_once_migrate_once(empty_database: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        applied = list(pool.map(migrate, [empty_database] * 6))
    assert sorted(applied) == [*([[]] * 5), NAMES]


def test_a_database_that_lacks_something_can_be_refused(empty_database: str) -> None:
    with pytest.raises(StartupError, match="run `trio-ws migrate`"):
        require_migrated(empty_database)
    assert execute(empty_database, "SELECT to_regclass('schema_migrations')") == [(None,)]


def test_a_newer_database_is_refused(conninfo: str) -> None:
    execute(conninfo, "INSERT INTO schema_migrations VALUES (99, '0099_from_the_future', '')")
    for refuse in (migrate, require_migrated):
        with pytest.raises(StartupError, match=r"is at version 99, .* knows only \d+: upgrade trio-ws"):
            refuse(conninfo)


def test_a_migration_that_was_edited_is_refused(conninfo: str) -> None:
    execute(conninfo, "UPDATE schema_migrations SET checksum = 'other' WHERE version = 1")
    with pytest.raises(StartupError, match=f"{NAMES[0]} differs from the one that was applied"):
        migrate(conninfo)


def test_a_migration_that_fails_leaves_nothing_of_itself(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(len(NAMES) + 1, "broken", "CREATE TABLE half (); SELECT 1/0")
    monkeypatch.setattr(migrations, "known_migrations", lambda: [*known_migrations(), broken])
    with pytest.raises(StartupError, match=r"refused a migration \(division by zero\)"):
        migrate(conninfo)
    assert execute(conninfo, "SELECT to_regclass('half')") == [(None,)]
    monkeypatch.undo()
    require_migrated(conninfo)


def test_another_schema_on_the_search_path_will_do(empty_database: str) -> None:
    execute(empty_database, "CREATE SCHEMA shop")
    conninfo = f"{empty_database} options='-c search_path=shop'"
    migrate(conninfo)
    execute(empty_database, "INSERT INTO shop.invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
    assert execute(conninfo, "SELECT count(*) FROM event") == [(4,)]
    require_migrated(conninfo)


def add(monkeypatch: pytest.MonkeyPatch, statements: str) -> None:
    """Have a later release bring one more migration."""
    more = Migration(len(NAMES) + 1, "more", statements)
    monkeypatch.setattr(migrations, "known_migrations", lambda: [*known_migrations(), more])


def test_a_migration_names_our_schema_whatever_its_name_is(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(empty_database, """CREATE SCHEMA "a ""shop""'s 100%s" """)
    conninfo = make_conninfo(empty_database, options="""-csearch_path="a\\ ""shop""'s\\ 100%s" """)
    add(monkeypatch, "CREATE TABLE @schema@.more AS SELECT count(*) FROM @schema@.event")
    assert migrate(conninfo) == [*NAMES, "more"]
    assert execute(empty_database, """SELECT * FROM "a ""shop""'s 100%s".more""") == [(3,)]
    assert migrate(conninfo) == []
    require_migrated(conninfo)


def test_a_schema_whose_name_would_end_a_dollar_quoted_text_is_refused(empty_database: str) -> None:
    execute(empty_database, 'CREATE SCHEMA "a$$b"')
    conninfo = make_conninfo(empty_database, options='-csearch_path="a$$b"')
    with pytest.raises(StartupError, match=r"the schema a\$\$b has a \$ in its name: rename it"):
        migrate(conninfo)


def test_a_migration_that_names_our_schema_sees_nothing_of_it_by_chance(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, "SELECT FROM @schema@.event; SELECT FROM event")
    with pytest.raises(StartupError, match='relation "event" does not exist'):
        migrate(conninfo)


def test_a_migration_waits_for_a_busy_table_and_lets_others_pass(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, "ALTER TABLE @schema@.invoices ADD more text")
    monkeypatch.setattr(migrations, "TABLE_LOCK_TIMEOUT", "'10ms'")
    monkeypatch.setattr(migrations, "TABLE_LOCK_PAUSE_SECONDS", (0.01, 0.02))
    waits = Event()
    monkeypatch.setattr(migrations.logger, "warning", lambda *_: waits.set())
    with ThreadPoolExecutor(1) as pool, psycopg.connect(conninfo) as reader:
        reader.execute("SELECT FROM invoices")  # and its transaction stays open
        applied = pool.submit(migrate, conninfo)
        assert waits.wait(60)
        execute(conninfo, "UPDATE invoices SET memo = 'passed'")
        reader.commit()
        assert applied.result(60) == ["more"]


def test_a_migration_holds_no_table_that_a_writer_comes_to_after_the_one_that_it_waits_for(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two would wait for the other, whenever somebody writes: large databases are never idle."""
    with monkeypatch.context() as older:
        older.setattr(migrations, "known_migrations", lambda: known_migrations()[:11])
        migrate(empty_database)
    waits = (
        "SELECT 1 FROM pg_locks WHERE NOT granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with ThreadPoolExecutor() as executor, psycopg.connect(empty_database) as writer:
        writer.execute("SET lock_timeout = '500 ms'")
        writer.execute(
            "LOCK TABLE prices IN ROW EXCLUSIVE MODE"
        )  # as a statement has before its triggers run
        migrating = executor.submit(migrate, empty_database)
        while not execute(empty_database, waits):
            assert not migrating.done()
        writer.execute("UPDATE prices SET value = value + 1")  # which writes an event
        writer.commit()
        assert migrating.result() == NAMES[11:]


def test_a_migration_that_waits_in_vain_says_so(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "ALTER TABLE @schema@.invoices ADD more text")
    monkeypatch.setattr(migrations, "TABLE_LOCK_TIMEOUT", "'10ms'")
    with psycopg.connect(conninfo) as reader:
        reader.execute("SELECT FROM invoices")
        monkeypatch.setattr(migrations, "LOCK_SECONDS", 0.0)
        with pytest.raises(StartupError, match="migration more waits for locked tables"):
            migrate(conninfo)


def test_a_role_whose_settings_are_for_others_migrates_all_the_same(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = {
        "statement_timeout": "500ms",
        "default_transaction_isolation": "serializable",
        "client_encoding": "SQL_ASCII",
    }
    options = " ".join(f"-c {name}={value}" for name, value in hostile.items())
    conninfo = make_conninfo(empty_database, options=options)
    add(monkeypatch, "SELECT pg_sleep(0.6)")
    assert migrate(conninfo) == [*NAMES, "more"]
    require_migrated(conninfo)


def test_a_database_in_another_encoding_is_refused(postgres: str) -> None:
    execute(postgres, "DROP DATABASE IF EXISTS ascii")
    execute(postgres, "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    for refuse in (migrate, require_migrated):
        with pytest.raises(StartupError, match=r"encoding is SQL_ASCII: create one with ENCODING 'UTF8'"):
            refuse(make_conninfo(postgres, dbname="ascii"))


@pytest.mark.parametrize(
    "conninfo", ["host=/nowhere", "postgresql://127.0.0.1:1/x", "postgresql://[", "nonsense"]
)
def test_a_database_that_cannot_be_reached_is_said_in_one_line(conninfo: str) -> None:
    with pytest.raises(StartupError, match=r"can't reach the database \(.+\): check --database-url") as error:
        migrate(conninfo)
    assert "\n" not in str(error.value)


def test_a_wait_for_another_process_ends(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 0.2)
    with psycopg.connect(empty_database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (migrations.LOCK_KEY,))
        with pytest.raises(StartupError, match="has been migrating"):
            migrate(empty_database)
