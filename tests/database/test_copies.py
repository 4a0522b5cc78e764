"""Webhooks in a copy of the data are held, and in what a fail-over leaves they keep their ids: PostgreSQL."""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.database.test_numbering import buffers
from tests.database.test_webhooks import (
    CLAIM,
    FEW_BUFFERS,
    HOOK,
    MANY,
    admit,
    claim,
    connection,
    cost_of_one,
    create,
    fill,
    settle,
    unkempt,
)
from tests.programs import prepare
from trio_ws.database import event_log, migrations, programs, webhook_lists, webhooks
from trio_ws.database.migrations import known_migrations, migrate
from trio_ws.database.queries import Connection
from trio_ws.database.webhook_lists import QUEUED
from trio_ws.database.webhooks import Delivery, Figures, Result
from trio_ws.errors import NotFound

__all__ = ["connection", "unkempt"]  # fixtures

_copies = itertools.count(1)


def open_session(conninfo: str) -> Connection:
    found = psycopg.connect(conninfo)
    prepare(found, statement_seconds=10)
    return found


def dump_and_restore(original: str, copy: str) -> None:
    bindir = Path(os.environ.get("TEST_POSTGRES_BINDIR") or programs.find())
    dump = [str(bindir / "pg_dump"), "--format=custom", "--dbname", original]
    dumped = subprocess.run(dump, check=True, capture_output=True)
    with psycopg.connect(make_conninfo(copy, dbname="postgres"), autocommit=True) as server:
        server.execute(f"CREATE DATABASE {conninfo_to_dict(copy)['dbname']} TEMPLATE template0".encode())
    restore = [str(bindir / "pg_restore"), "--exit-on-error", "--dbname", copy]
    subprocess.run(restore, check=True, input=dumped.stdout, capture_output=True)


def copy_as_template(original: str, copy: str) -> None:
    with psycopg.connect(make_conninfo(copy, dbname="postgres"), autocommit=True) as server:
        names = (conninfo_to_dict(one)["dbname"] for one in (copy, original))
        server.execute("CREATE DATABASE {} TEMPLATE {}".format(*names).encode())


@pytest.fixture(params=[dump_and_restore, copy_as_template])
def copy(
    conninfo: str, connection: Connection, request: pytest.FixtureRequest
) -> Iterator[Callable[[], Connection]]:
    """Makes a copy of the database, which nobody uses any more, and returns a session there."""
    sessions: list[Connection] = []

    def make() -> Connection:
        connection.close()
        name = make_conninfo(conninfo, dbname=f"copy_{next(_copies)}")
        request.param(conninfo, name)
        sessions.append(open_session(name))
        event_log.start_log(sessions[-1])  # as a server does first
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def number(connection: Connection) -> None:
    event_log.number_events(connection, 1000)


def hold(connection: Connection, most: int = 500) -> int:
    """Hold all that is to be held, and return how many."""
    held = 0
    while some := webhooks.hold(connection, most):
        held += some
    return held


def states(connection: Connection) -> list[str]:
    return [one.word for one in webhook_lists.list_deliveries(connection, None, QUEUED)]


# Copies


def test_a_copy_holds_what_was_queued_and_sends_it_once_it_is_released(
    connection: Connection, copy: Callable[[], Connection]
) -> None:
    for url in ("https://failed.example/", "https://leased.example/", *[HOOK] * 6):
        create(connection, url)
        number(connection)
    failed, *held = claim(connection)
    webhooks.settle(connection, [webhooks.Outcome(failed, Result.FAILED, "x")], 0)
    settle(connection, held[1:], Result.FAILED, 0.9)
    assert states(connection) == ["failed", *["due"] * 7]

    restored = copy()
    assert states(restored) == ["failed", *["held"] * 7], "before anything was done"
    assert claim(restored) == []
    assert hold(restored, most=3) == 7
    assert states(restored) == ["failed", *["held"] * 7]
    assert webhooks.figures(restored) == Figures(0, held=7, dead=1)
    assert len(webhook_lists.list_deliveries(restored, None, ["failed"])) == 1
    for one in held:
        with pytest.raises(NotFound):
            webhooks.retry(restored, one.id)
    assert webhooks.retry(restored, None) == 0, "also what had failed there is not sent"
    assert (claim(restored), hold(restored)) == ([], 0)

    assert webhooks.release(restored) == 8
    assert webhooks.retry(restored, None) == 1
    assert webhooks.release(restored) == 0
    restored.execute("UPDATE webhook_endpoints SET paused_until = now(), due_at = now()")
    restored.execute("UPDATE webhook_accounts SET due_at = now()")
    sent: list[str] = []
    while deliveries := claim(restored):
        sent += [delivery.id for delivery in deliveries]
        settle(restored, deliveries, Result.DELIVERED)
    assert len(sent) == 8
    assert {*sent} > {failed.id, *(one.id for one in held)}


INVOICE_ROW = "SELECT status, amount_paid, amount_pending, version FROM invoices"
PAY = "INSERT INTO payments (invoice_id, reference, amount, status) SELECT id, %s, %s, %s FROM invoices"


def test_a_copy_has_all_payments_and_goes_on_with_them(
    connection: Connection, copy: Callable[[], Connection]
) -> None:
    connection.execute("INSERT INTO invoices (amount, currency, account_id) VALUES (10, 'USD', 1)")
    connection.execute(PAY, ("first", 4, "settled"))
    connection.execute(PAY, ("second", 6, "pending"))
    connection.commit()
    kept = [
        connection.execute(query.encode()).fetchall() for query in (INVOICE_ROW, "SELECT * FROM payments")
    ]
    assert kept[0] == [("confirming", 4, 6, 3)]
    copied = copy()
    for query, rows in zip((INVOICE_ROW, "SELECT * FROM payments"), kept, strict=True):
        assert copied.execute(query.encode()).fetchall() == rows
    copied.execute("UPDATE payments SET status = 'settled' WHERE reference = 'second'")
    assert copied.execute(INVOICE_ROW.encode()).fetchall() == [("paid", 10, 0, 4)]
    with pytest.raises(psycopg.errors.CheckViolation):
        copied.execute("UPDATE payments SET amount = 5 WHERE reference = 'first'")


def test_what_is_released_unheld_is_sent_and_what_had_failed_stays_so(
    connection: Connection, copy: Callable[[], Connection]
) -> None:
    for _ in range(2):
        create(connection)
    number(connection)
    webhooks.settle(connection, [webhooks.Outcome(claim(connection)[0], Result.FAILED, "x")], 0)
    connection.execute("UPDATE webhook_deliveries SET leased_until = NULL")
    restored = copy()
    assert webhooks.release(restored) == 2
    assert (states(restored), hold(restored)) == (["failed", "due"], 0)
    assert [one.event.seq for one in claim(restored)] == [5]


def test_what_a_copy_queues_itself_is_sent_also_of_the_same_invoice(
    connection: Connection, copy: Callable[[], Connection]
) -> None:
    create(connection)
    number(connection)
    restored = copy()
    restored.execute("UPDATE invoices SET memo = 'x'")
    create(restored)
    number(restored)
    claimed = claim(restored)
    hold(restored)
    claimed += claim(restored)
    assert [(one.event.type, one.event.seq) for one in claimed] == [
        ("invoice.updated", 5),
        ("invoice.created", 6),
    ]


def test_what_the_original_had_not_numbered_is_held_by_the_copy(
    connection: Connection, copy: Callable[[], Connection]
) -> None:
    event_log.start_log(connection)  # a server was here
    create(connection)
    restored = copy()
    create(restored)
    number(restored)
    assert (states(restored), hold(restored)) == (["held", "due"], 1)
    assert [one.event.seq for one in claim(restored)] == [5]


def test_a_database_is_its_number_alone_where_the_clusters_is_a_secret(connection: Connection) -> None:
    ask = "SELECT this_database(), (SELECT oid::text FROM pg_database WHERE datname = current_database())"
    ((known, number),) = connection.execute(ask)
    ((cluster,),) = connection.execute("SELECT system_identifier::text FROM pg_control_system()")
    assert known == f"{cluster}.{number}"
    connection.execute("CREATE ROLE lodger")
    try:
        connection.execute("GRANT CREATE ON SCHEMA public TO lodger")
        connection.execute("ALTER FUNCTION this_database() OWNER TO lodger")
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        ((known, _),) = connection.execute(ask)
        assert known == number
    finally:
        connection.execute("ALTER FUNCTION this_database() OWNER TO current_user")
        connection.execute("DROP OWNED BY lodger")
        connection.execute("DROP ROLE lodger")


def test_what_waits_from_an_older_release_is_sent_with_the_id_that_it_had(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "known_migrations", lambda: known_migrations()[:11])
        migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as older:
        for _ in range(2):
            insert = (
                "INSERT INTO invoices (account_id, amount, currency, webhook_url) VALUES (1, 1, 'USD', %s)"
            )
            older.execute(insert, (HOOK,))
            older.execute("SELECT number_events(4)")
        ((epoch,),) = older.execute("SELECT event_epoch()")
    migrate(empty_database)
    with open_session(empty_database) as upgraded:
        number(upgraded)
        first, second = claim(upgraded)
        assert first.id == f"{epoch}.4"
        assert str(first.event.position) == first.id
        assert second.event.seq == 5
        assert hold(upgraded) == 0


def test_what_is_held_makes_no_claim_slow(unkempt: Connection) -> None:
    unkempt.execute("SET statement_timeout = 0")
    fill(unkempt, 100_000, account="n % 1000", endpoint="'https://' || n % 100")
    unkempt.execute(
        "UPDATE webhook_deliveries SET origin = '1.1', is_held = true, failed_at = now(), due_at = NULL"
    )
    fill(unkempt, MANY, account="3", endpoint="'https://same.example'", invoice="'same'")  # they wait
    assert len(admit(unkempt)) == 1
    unkempt.execute("VACUUM webhook_deliveries")
    assert cost_of_one(unkempt) < FEW_BUFFERS
    assert buffers(unkempt, CLAIM) < 100, "an idle poll"
    assert buffers(unkempt, "SELECT hold_webhooks(500, 4)") < 100, "there is nothing new"


# Fail-overs


def lose_numbering(connection: Connection, after: int) -> None:
    """Be as a standby that has the events' rows, and not the steps that numbered them."""
    connection.execute("DELETE FROM webhook_deliveries WHERE seq > %s", (after,))
    connection.execute("DELETE FROM event_step WHERE last > %s", (after,))
    connection.execute("UPDATE event SET seq = NULL, name = NULL WHERE seq > %s", (after,))


def ids(deliveries: list[Delivery]) -> dict[str, str]:
    return {delivery.url: delivery.id for delivery in deliveries}


def test_a_webhook_keeps_its_id_when_its_event_is_numbered_again(
    conninfo: str, connection: Connection
) -> None:
    number(connection)
    early, late = "https://early.example/", "https://late.example/"
    with psycopg.connect(conninfo) as slow:  # it writes first and commits last
        insert = "INSERT INTO invoices (account_id, amount, currency, webhook_url) VALUES (1, 1, 'USD', %s)"
        slow.execute(insert, (late,))
        create(connection, early)
        number(connection)
        (before,) = claim(connection)
    lose_numbering(connection, after=3)
    number(connection)
    other, again = claim(connection)
    assert [one.url for one in (before, other, again)] == [early, late, early]
    assert [one.event.seq for one in (before, other, again)] == [4, 4, 5]
    assert before.event.position != other.event.position
    assert (again.id, other.id == before.id) == (before.id, False)
    settle(connection, [before], Result.DELIVERED)  # by a server that sent it before
    assert [row[0] for row in webhook_lists.list_deliveries(connection, None, QUEUED)] == [other.id]


def test_each_event_that_is_to_be_posted_has_an_id_of_its_own_whoever_writes_it(
    connection: Connection,
) -> None:
    insert = "INSERT INTO invoices (account_id, amount, currency, webhook_url) SELECT 1, 1, 'USD', %s"
    connection.execute(f"{insert} FROM generate_series(1, 50)".encode(), (HOOK,))
    connection.execute(f"{insert} FROM generate_series(1, 50)".encode(), (None,))
    connection.execute("UPDATE invoices SET memo = 'x'")
    connection.execute("UPDATE invoices SET webhook_url = %s, status = 'confirming'", (HOOK,))
    connection.execute("SET session_replication_role = replica")
    connection.execute(f"{insert} FROM generate_series(1, 50)".encode(), (HOOK,))
    for _ in range(3):
        number(connection)
        queued = "SELECT count(DISTINCT id), count(*) FROM webhook_deliveries"
        assert connection.execute(queued).fetchone() == (250, 250)
        written = "SELECT count(DISTINCT webhook_id), count(*) FROM event WHERE webhook_id IS NOT NULL"
        assert connection.execute(written).fetchone() == (250, 250)
        lose_numbering(connection, after=0)
