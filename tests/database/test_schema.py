"""The schema on real PostgreSQL: what triggers do for any writer, and how events are numbered."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.programs import prepare
from trio_ws.database import event_log, migrations, queries
from trio_ws.database.migrations import known_migrations
from trio_ws.database.queries import Connection
from trio_ws.messages import CreateInvoice, Invoice, Payment, Price
from trio_ws.topics import Event, Position


@pytest.fixture
def connection(conninfo: str) -> Iterator[Connection]:
    """A connection as the server's are."""
    with psycopg.connect(conninfo) as connection:
        prepare(connection, statement_seconds=10)
        advance(connection, 0, 100)
        yield connection


@contextmanager
def psql(conninfo: str) -> Iterator[Connection]:
    """A connection as any other program's."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


def data(event: Event) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(event.data)
    return decoded


def advance(connection: Connection, after: int, most: int) -> list[Event]:
    """Number and read, as the tail does."""
    event_log.number_events(connection, most)
    return event_log.read_events(connection, after, most).events


def new_events(connection: Connection) -> list[Event]:
    """The events after those of the first prices."""
    return advance(connection, 3, 1000)


def test_a_read_is_bounded_by_what_its_events_take_in_memory(conninfo: str, connection: Connection) -> None:
    # As events of rows that are older than the limits. PostgreSQL stores each in some 12 KB.
    megabyte = "(1, json_build_object('id', 1, 'memo', repeat('x', 1000000)))"
    with psql(conninfo) as other:
        other.execute(
            "INSERT INTO event (type, topics, subject, data, previous) SELECT 'invoice.updated',"  # noqa: S608
            f" '{{invoice:x}}', made.*, json_build_object('memo', repeat('y', 1000000))"
            f" FROM generate_series(1, 20), (VALUES {megabyte}) made (subject, data)".encode()
        )
    read: list[Event] = []
    while len(read) < 20:
        events = advance(connection, 3 + len(read), 500)
        size = sum(len(event.data) + len(event.previous) for event in events)
        assert 0 < size < event_log.READ_BYTES + 2_100_000
        read += events


def test_a_plain_insert_is_enough(conninfo: str, connection: Connection) -> None:
    with psql(conninfo) as other:
        other.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1000, 'USD')")
        other.execute("INSERT INTO prices (account_id, amount, currency) VALUES (1, 150, 'GBP')")
        other.execute("INSERT INTO accounts DEFAULT VALUES")
    invoice, price = new_events(connection)
    assert (invoice.type, price.type) == ("invoice.created", "price.updated")
    assert data(invoice)["status"] == "unpaid"
    assert (data(price)["base_currency"], data(price)["value"]) == ("USD", 1.5)


def test_rows_are_the_structs_of_the_protocol(conninfo: str, connection: Connection) -> None:
    with psql(conninfo) as other:
        other.execute(
            "INSERT INTO invoices"
            " (account_id, amount, currency, memo, address, webhook_url, redirect_url, expires_at) VALUES"
            " (1, 1, 'BTC', 'm', 'a', 'https://w', 'https://r', '2030-01-01T12:00:00+02:00')"
        )
        other.execute(
            "INSERT INTO payments (invoice_id, reference, amount, status)"
            " VALUES (1, 'a', 1, 'pending'), (1, 'b', 5, 'settled')"
        )
    _, payment, _, event = new_events(connection)
    assert list(data(payment)) == [field.encode_name for field in msgspec.structs.fields(Payment)]
    struct = msgspec.json.decode(event.data, type=Invoice)
    assert list(data(event)) == [field.encode_name for field in msgspec.structs.fields(Invoice)]
    assert data(event)["expiresAt"] == "2030-01-01T10:00:00.000000+00:00"
    assert struct.currency == "BTC"
    (price,) = queries.read_prices(connection, 0, 1).prices
    names = [field.encode_name for field in msgspec.structs.fields(Price)]
    assert list(msgspec.json.decode(price)) == names
    assert msgspec.json.decode(price, type=Price).value == Decimal("43000.00")


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_what_text_an_invoice_holds_is_the_text_that_is_told(connection: Connection, text: str) -> None:
    word = re.sub(r"[\x00-\x20\x7f]", "_", text) or "x"
    texts = {"memo": text, "address": word, "redirect_url": f"https://x/{word}"}
    (row,) = connection.execute(
        "INSERT INTO invoices (account_id, amount, currency, memo, address, redirect_url)"
        " VALUES (1, 1, 'USD', %s, %s, %s) RETURNING invoice_json(invoices)",
        [*texts.values()],
    ).fetchall()
    told = msgspec.json.decode(row[0])
    assert {name: told[name] for name in texts} == texts


def test_rows_of_one_statement_have_their_events_in_the_order_of_their_ids(
    conninfo: str, connection: Connection
) -> None:
    with psql(conninfo) as other:
        other.execute(
            "INSERT INTO invoices (account_id, amount, currency)"
            " SELECT 1, amount, 'USD' FROM generate_series(1, 100) amount"
        )
    assert [data(event)["amount"] for event in new_events(connection)] == list(range(1, 101))


@pytest.mark.parametrize(
    ("currency", "value", "amount"), [("JPY", "155.4", 155), ("KWD", "0.3075", 308), ("BTC", "0.00001", 1000)]
)
def test_an_amount_is_in_the_smallest_unit_of_its_currency(
    connection: Connection, currency: str, value: str, amount: int
) -> None:
    connection.execute(
        "INSERT INTO prices (account_id, currency, base_currency, value) VALUES (1, 'XAU', %s, %s)",
        (currency, value),
    )
    (event,) = new_events(connection)
    assert (data(event)["amount"], str(data(event)["value"])) == (amount, str(float(value)))


def test_amount_and_value_of_a_price_follow_each_other(connection: Connection) -> None:
    connection.execute("UPDATE prices SET amount = 4400000 WHERE currency = 'BTC'")
    connection.execute("UPDATE prices SET value = 45000 WHERE currency = 'BTC'")
    first, second = (data(event) for event in new_events(connection))
    assert (first["amount"], first["value"]) == (4400000, 44000)
    assert (second["amount"], second["value"]) == (4500000, 45000)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 0, 'USD')",
        "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 9007199254740992, 'USD')",
        "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'usd')",
        "INSERT INTO invoices (account_id, amount, currency) VALUES (404, 1, 'USD')",
        "INSERT INTO invoices (account_id, amount, currency, status) VALUES (1, 1, 'USD', 'lost')",
        "INSERT INTO prices (account_id, value, currency) VALUES (1, 0, 'GBP')",
        "INSERT INTO prices (account_id, value, currency) VALUES (1, 'NaN', 'GBP')",
        "INSERT INTO prices (account_id, value, currency) VALUES (1, 'Infinity', 'GBP')",
        "INSERT INTO prices (account_id, currency) VALUES (1, 'GBP')",
        "INSERT INTO prices (account_id, amount, currency) VALUES (1, 1, 'BTC')",
    ],
)
def test_the_database_refuses_what_cannot_be_whoever_writes(connection: Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error):
        connection.execute(statement.encode())
    assert new_events(connection) == []


def test_a_version_is_the_databases_to_give(connection: Connection) -> None:
    connection.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
    connection.execute("UPDATE invoices SET version = 77, updated_at = 'infinity'")
    connection.execute("UPDATE invoices SET memo = 'a', version = 77")
    connection.execute("UPDATE invoices SET memo = 'b'")
    created, first, second = (data(event) for event in new_events(connection))
    assert [row["version"] for row in (created, first, second)] == [1, 2, 3]
    assert created["updatedAt"] < first["updatedAt"] < second["updatedAt"]


def test_a_rollback_leaves_no_event(conninfo: str, connection: Connection) -> None:
    with psql(conninfo) as other, other.transaction(force_rollback=True):
        other.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
    assert new_events(connection) == []


def test_a_writer_needs_rights_on_its_own_table_only(conninfo: str, connection: Connection) -> None:
    with psql(conninfo) as other:
        other.execute("DROP ROLE IF EXISTS processor")
        other.execute("CREATE ROLE processor")
        try:
            other.execute("GRANT INSERT, SELECT, UPDATE ON invoices TO processor")
            other.execute("SET ROLE processor")
            other.execute("SET search_path = ''")
            other.execute("INSERT INTO public.invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
            other.execute("UPDATE public.invoices SET status = 'confirming'")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute("SELECT * FROM public.event")
        finally:
            other.execute("RESET ROLE")
            other.execute("DROP OWNED BY processor")
            other.execute("DROP ROLE processor")
    assert [event.type for event in new_events(connection)] == ["invoice.created", "invoice.updated"]


def test_a_statement_that_inserts_nothing_notifies_nobody(conninfo: str) -> None:
    with psql(conninfo) as listener, psql(conninfo) as other:
        listener.execute("LISTEN trio_ws")
        other.execute("INSERT INTO invoices (account_id, amount, currency) SELECT 1, 1, 'USD' WHERE false")
        other.execute("NOTIFY trio_ws, 'what comes next'")
        (note,) = listener.notifies(timeout=10, stop_after=1)
    assert note.payload == "what comes next"


def test_others_notify_and_our_own_writes_do_not(conninfo: str, connection: Connection) -> None:
    with psql(conninfo) as listener, psql(conninfo) as other:
        listener.execute("LISTEN trio_ws")
        other.execute("UPDATE event_step SET notified_at = '-infinity'")  # it tells at most each 10 ms
        queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
        other.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
        advance(connection, 0, 100)
        payloads = [note.payload for note in listener.notifies(timeout=10, stop_after=2)]
    assert payloads == ["", "5"], "one of the other program's, and one of the numbering with its position"


def test_an_idle_look_at_the_log_writes_nothing(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("SELECT number_events(100)")
        (xid,) = connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() or ("no row",)
    assert xid is None


def test_a_numbering_that_is_rolled_back_leaves_no_gap(conninfo: str, connection: Connection) -> None:
    queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
    with psql(conninfo) as other, other.transaction(force_rollback=True):
        assert other.execute("SELECT number_events(10)").fetchone() == (1,)
    queries.create_invoice(connection, CreateInvoice(amount=2, currency="USD", account_id=1))
    assert [(event.seq, data(event)["amount"]) for event in new_events(connection)] == [(4, 1), (5, 2)]


def test_the_logs_end_comes_with_its_events(connection: Connection) -> None:
    queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
    read = event_log.read_events(connection, 3, 10)
    assert (read.end, read.begin.seq, read.events) == (event_log.read_position(connection), 0, [])
    (event,) = new_events(connection)
    read = event_log.read_events(connection, 3, 10)
    assert read.end == event_log.read_position(connection)
    assert 0 < read.now - read.events[0].at < 60, "how old it was when it was read"
    assert event_log.read_position(connection).seq == event.seq == 4


def test_a_row_that_moves_concerns_both_topics(connection: Connection) -> None:
    queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1, address="a"))
    connection.execute("UPDATE invoices SET address = 'b'")
    connection.execute("UPDATE prices SET currency = 'XBT' WHERE currency = 'BTC'")
    _, moved, renamed = new_events(connection)
    assert set(moved.topics[1:]) == {"account:1", "address:a", "address:b"}
    assert set(renamed.topics) == {"price:XBT", "price:BTC", "price:*", "account:1"}


def test_a_batch_bounds_what_is_numbered_and_read(connection: Connection) -> None:
    for amount in range(1, 6):
        queries.create_invoice(connection, CreateInvoice(amount=amount, currency="USD", account_id=1))
    assert [event.seq for event in advance(connection, 3, 2)] == [4, 5]
    assert event_log.read_position(connection).seq == 5
    assert [event.seq for event in advance(connection, 5, 2)] == [6, 7]
    assert [event.seq for event in advance(connection, 7, 2)] == [8]


def test_a_transaction_that_commits_late_loses_nothing(conninfo: str, connection: Connection) -> None:
    """Its events have lower ids than what was read before it committed: `id > last` would pass them by."""
    with psql(conninfo) as late:
        with late.transaction():
            late.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
            queries.create_invoice(connection, CreateInvoice(amount=2, currency="USD", account_id=1))
            assert [(event.seq, data(event)["amount"]) for event in new_events(connection)] == [(4, 2)]
        assert [(event.seq, data(event)["amount"]) for event in new_events(connection)][1:] == [(5, 1)]


WRITERS, ROUNDS, ROWS = 6, 40, 5


def test_many_writers_lose_nothing_and_keep_each_rows_order(conninfo: str, connection: Connection) -> None:
    """Two numberers compete while writers hold transactions open, roll back and touch the same rows."""
    for amount in range(1, ROWS + 1):
        queries.create_invoice(connection, CreateInvoice(amount=amount, currency="USD", account_id=1))
    committed = 0
    lock = threading.Lock()

    def write(seed: int) -> None:
        nonlocal committed
        random = Random(seed)
        with psycopg.connect(conninfo, autocommit=True) as writer:
            for _ in range(ROUNDS):
                rows = sorted(random.sample(range(1, ROWS + 1), 2))
                rolls_back = random.random() < 0.2
                with writer.transaction(force_rollback=rolls_back):
                    for row in rows:
                        writer.execute("UPDATE invoices SET memo = gen_random_uuid() WHERE id = %s", (row,))
                    writer.execute("SELECT pg_sleep(%s)", (random.random() / 200,))
                with lock:
                    committed += 0 if rolls_back else len(rows)

    seen: list[Event] = []
    done = threading.Event()

    def follow() -> None:
        with psycopg.connect(conninfo) as follower:
            prepare(follower, statement_seconds=10)
            while not done.is_set():
                advance(follower, 10**9, 7)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(WRITERS)]
    numberer = threading.Thread(target=follow)
    for thread in (*threads, numberer):
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen += advance(connection, seen[-1].seq if seen else 3, 7)
    done.set()
    numberer.join()
    while more := advance(connection, seen[-1].seq, 100):
        seen += more

    assert [event.seq for event in seen] == list(range(4, 4 + ROWS + committed))
    versions: dict[int, list[int]] = {}
    for row in map(data, seen):
        versions.setdefault(row["id"], []).append(row["version"])
    assert versions == {id_: list(range(1, len(known) + 1)) for id_, known in versions.items()}


def test_old_events_are_trimmed_in_batches_and_the_log_says_where_it_begins(connection: Connection) -> None:
    for amount in range(1, 8):
        queries.create_invoice(connection, CreateInvoice(amount=amount, currency="USD", account_id=1))
    seventh = new_events(connection)[3].position
    connection.execute("UPDATE event SET at = at - interval '8 days' WHERE seq <= 7")
    week = 7 * 86400
    assert [event_log.trim_events(connection, week, 3) for _ in range(4)] == [3, 3, 1, 0]
    read = event_log.read_events(connection, 0, 100)
    assert (read.begin, [event.seq for event in read.events]) == (seventh, [8, 9, 10])


def test_what_has_no_number_yet_is_not_trimmed(connection: Connection) -> None:
    queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
    connection.execute("UPDATE event SET at = at - interval '8 days'")
    assert event_log.trim_events(connection, 86400, 100) == 3
    assert [event.seq for event in new_events(connection)] == [4]


def test_what_a_step_numbers_has_one_name_and_each_step_another(connection: Connection) -> None:
    names: list[set[str]] = []
    for _ in range(3):
        for _ in range(2):
            queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
        before = event_log.read_position(connection).seq
        events = event_log.advance(connection, before, 10).events
        assert event_log.read_position(connection) == events[-1].position
        names.append({event.name for event in events})
    assert [len(found) for found in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3


def test_two_copies_of_a_log_are_the_same_up_to_where_they_went_on(
    connection: Connection, conninfo: str, postgres: str
) -> None:
    queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
    (event,) = new_events(connection)
    connection.close()
    name = f"{psycopg.conninfo.conninfo_to_dict(conninfo)['dbname']}_twin"
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {name.removesuffix('_twin')}".encode())
    reads = []
    for twin in (conninfo, psycopg.conninfo.make_conninfo(conninfo, dbname=name)):
        with psycopg.connect(twin) as one:
            prepare(one, 10.0)
            queries.create_invoice(one, CreateInvoice(amount=2, currency="USD", account_id=1))
            reads.append(event_log.advance(one, event.seq, 10))
    assert [read.known_as for read in reads] == [event.name, event.name]
    assert {read.end.seq for read in reads} == {event.seq + 1}
    assert len({read.end.name for read in reads}) == 2


def test_positions_of_an_older_release_stay_good(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "known_migrations", lambda: known_migrations()[:11])
        migrations.migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as older:
        for _ in range(2):
            older.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
            older.execute("SELECT number_events(2)")
        ((epoch, last),) = older.execute("SELECT event_epoch(), last FROM event_log")
    migrations.migrate(empty_database)
    with psycopg.connect(empty_database) as connection:
        prepare(connection, 10.0)
        read = event_log.advance(connection, last, 10)
        assert (last, read.known_as, read.begin) == (4, epoch, Position(epoch, 0))
        assert [event.seq for event in read.events] == [5], "what had no number has one now"
        assert read.events[0].name not in {epoch, None}
        assert event_log.read_events(connection, 2, 1).known_as == epoch


def test_a_database_that_lets_nobody_ask_what_it_is_can_be_migrated(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "known_migrations", lambda: known_migrations()[:11])
        migrations.migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as older:
        older.execute("ALTER FUNCTION event_epoch() RENAME TO refused")
        older.execute(
            "CREATE FUNCTION event_epoch() RETURNS text LANGUAGE plpgsql STABLE"
            " AS 'BEGIN RAISE feature_not_supported; END'"
        )
    migrations.migrate(empty_database)


def test_notifications_come_at_most_each_10_ms(conninfo: str, connection: Connection) -> None:
    with psql(conninfo) as listener:
        listener.execute("LISTEN trio_ws")
        for _ in range(20):
            queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
            connection.execute("UPDATE event_step SET notified_at = clock_timestamp() + interval '900 ms'")
            event_log.number_events(connection, 100)
        connection.execute("UPDATE event_step SET notified_at = '-infinity'")
        queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
        event_log.number_events(connection, 100)
        payloads = [note.payload for note in listener.notifies(timeout=1)]
    assert payloads == ["24"]


def test_what_nobody_was_notified_of_is_told_by_the_next_look(conninfo: str, connection: Connection) -> None:
    with psql(conninfo) as listener:
        listener.execute("LISTEN trio_ws")
        connection.execute("UPDATE event_step SET notified_at = clock_timestamp() + interval '900 ms'")
        queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
        event_log.number_events(connection, 100)
        assert not event_log.read_events(connection, 3, 100).is_told
        event_log.number_events(connection, 100)  # too soon
        connection.execute("UPDATE event_step SET notified_at = '-infinity'")
        for _ in range(3):
            event_log.number_events(connection, 100)
        assert event_log.read_events(connection, 3, 100).is_told
        payloads = [note.payload for note in listener.notifies(timeout=1)]
    assert payloads == ["4"]


@pytest.mark.parametrize("after", [0, 1000, 4900])
def test_a_read_of_the_log_costs_what_it_returns_however_long_the_log_is(
    connection: Connection, after: int
) -> None:
    connection.execute(
        "INSERT INTO invoices (account_id, amount, currency) SELECT 1, 1, 'USD' FROM generate_series(1, 5000)"
    )
    event_log.number_events(connection, 6000)
    connection.execute("ANALYZE")
    with connection.transaction():
        before = _rows_of_events_read(connection)
        read = event_log.read_events(connection, after, 50)
        fetched = _rows_of_events_read(connection) - before
    assert [event.seq for event in read.events] == list(range(after + 1, after + 51))
    assert 50 <= fetched <= 2 * 50


def _rows_of_events_read(connection: Connection) -> int:
    ((count,),) = connection.execute(
        "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'event'"
    )
    return int(count)


def test_a_clock_that_was_set_back_silences_nobody(conninfo: str, connection: Connection) -> None:
    connection.execute("UPDATE event_step SET notified_at = now() + interval '1 hour'")
    with psycopg.connect(conninfo, autocommit=True) as listener:
        listener.execute("LISTEN trio_ws")
        queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
        event_log.number_events(connection, 100)
        assert [notice.payload for notice in listener.notifies(timeout=10, stop_after=1)] == ["4"]


# What nobody may do, whoever it is


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invoices SET account_id = 2",
        "UPDATE invoices SET id = 777",
        "UPDATE invoices SET created_at = '1999-01-01'",
        "UPDATE invoices SET idempotency_key = 'another'",
        "UPDATE invoices SET expires_at = 'infinity'",
        "DELETE FROM invoices",
        "TRUNCATE invoices",
        "INSERT INTO invoices (account_id, amount, currency, updated_at) VALUES (1, 1, 'USD', '-infinity')",
        "INSERT INTO accounts (id) VALUES (0)",
        "UPDATE prices SET id = 500",
        "UPDATE prices SET value = 1e-40",
        "INSERT INTO prices (account_id, currency, value) VALUES (1, 'INF', 'infinity')",
        "TRUNCATE tokens",
    ],
)
def test_what_would_make_records_wrong_is_refused_to_anybody(
    conninfo: str, connection: Connection, statement: str
) -> None:
    with psql(conninfo) as other:
        other.execute("INSERT INTO accounts DEFAULT VALUES")
        queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
        new_events(connection)
        with pytest.raises((psycopg.IntegrityError, psycopg.NotSupportedError)):
            other.execute(statement.encode())
    assert advance(connection, 4, 100) == []


def test_what_is_ours_to_say_is_said_by_us(conninfo: str, connection: Connection) -> None:
    with psql(conninfo) as other:
        other.execute("INSERT INTO invoices (account_id, amount, currency, version) VALUES (1, 1, 'USD', 99)")
        other.execute(
            "INSERT INTO prices (account_id, currency, value, version, updated_at, created_at, set_at)"
            " VALUES (1, 'XMR', 150, 99, '2999-01-01', '2999-01-01', '2999-01-01')"
        )
        ((version, is_past),) = other.execute(
            "SELECT version, greatest(updated_at, created_at, set_at) <= clock_timestamp()"
            " FROM prices WHERE currency = 'XMR'"
        )
    invoice, _ = new_events(connection)
    assert (data(invoice)["version"], version, is_past) == (1, 1, True)


def test_a_role_with_little_cannot_make_triggers_of_ours_its_own(
    conninfo: str, connection: Connection
) -> None:
    with psql(conninfo) as owner:
        owner.execute("DROP ROLE IF EXISTS little")
        owner.execute("CREATE ROLE little")
        owner.execute("GRANT SELECT, UPDATE ON invoices TO little")
        queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1))
        owner.execute("SET ROLE little")
        owner.execute("UPDATE invoices SET memo = 'x'")
        owner.execute("CREATE TEMP TABLE mine (id bigint)")
        for function in (
            *("log_price_deleted", "log_price", "log_invoice", "log_new_invoices"),
            "add_webhook_secret",
        ):
            forge = f"CREATE TRIGGER forge AFTER DELETE ON mine FOR EACH ROW EXECUTE FUNCTION {function}()"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute(forge.encode())
        owner.execute("RESET ROLE")
        owner.execute("DROP OWNED BY little")
        owner.execute("DROP ROLE little")


@pytest.mark.parametrize("length", [200, 1992])  # the longest that there is
def test_a_webhook_of_any_length_does_not_stop_the_log(connection: Connection, length: int) -> None:
    random = Random(1)
    host = "".join(chr(random.randrange(0x1D400, 0x1D6A4)) for _ in range(length))  # four bytes each
    connection.execute(
        "INSERT INTO invoices (account_id, amount, currency, webhook_url) VALUES (1, 1, 'USD', %s)",
        (f"http://{host}/",),
    )
    (event,) = new_events(connection)
    assert event.seq == 4
    assert connection.execute("SELECT length(endpoint) <= 270 FROM webhook_deliveries").fetchone() == (True,)
