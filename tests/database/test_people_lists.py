"""Lists that people ask for, on PostgreSQL: a page costs what it holds, however much there is beside it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.programs import prepare
from trio_ws.database import event_log, queries, tokens, webhook_lists
from trio_ws.database.queries import InvoiceFilter
from trio_ws.database.sessions import Connection
from trio_ws.database.webhook_lists import SCAN, Listed, Wanted

QUEUED = 3 * SCAN


@pytest.fixture
def connection(conninfo: str) -> Iterator[Connection]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        prepare(connection)
        yield connection


def rows_read(connection: Connection, act: Callable[[], object], *tables: str) -> int:
    """How many rows of the tables PostgreSQL has read for it."""
    count = (
        "SELECT coalesce(sum(coalesce(idx_tup_fetch, 0) + seq_tup_read), 0) FROM pg_stat_xact_user_tables"
        " WHERE relname = ANY (%s)"
    )
    with connection.transaction():
        ((before,),) = connection.execute(count, ([*tables],))
        act()
        ((after,),) = connection.execute(count, ([*tables],))
    return int(after - before)


def queue(connection: Connection, state: str, count: int, account: int = 1, first: int = 1) -> None:
    """Put deliveries into the queue, or into the history."""
    columns = "seq, event_name, invoice, account_id, endpoint, url, type, data, origin"
    values = (
        "n, 'x', 'invoice-' || n, %(account)s, 'https://a', 'https://a/b', 'invoice.created', '{}',"
        " this_database()"
    )
    numbers = "FROM generate_series(%(first)s::bigint, %(first)s::bigint + %(count)s - 1) n"
    when = "now() - make_interval(secs => 1000000 - n)"
    statement = {
        "waiting": f"INSERT INTO webhook_deliveries ({columns}, due_at) SELECT {values}, now() {numbers}",
        "failed": (
            f"INSERT INTO webhook_deliveries ({columns}, due_at, failed_at) SELECT {values}, NULL, {when}"
            f" {numbers}"
        ),
        "delivered": (
            f"INSERT INTO webhook_history (id, {columns}, since, attempts, delivered_at)"
            f" SELECT 'd' || n, {values}, now(), 1, {when} {numbers}"
        ),
    }[state]
    connection.execute(statement.encode(), {"account": account, "first": first, "count": count})


def everything(connection: Connection, wanted: Wanted) -> list[Listed]:
    """All pages of a list, each of which is bounded."""
    found: list[Listed] = []
    while True:
        page = webhook_lists.list_page(connection, wanted)
        assert len(page.deliveries) <= wanted.most
        found += page.deliveries
        if page.next is None:
            return found
        wanted = wanted._replace(before=page.next)


@pytest.mark.parametrize("account", [None, 1])
@pytest.mark.parametrize("state", ["waiting", "failed", "delivered"])
def test_a_page_of_webhooks_reads_as_many_rows_as_it_has(
    connection: Connection, state: str, account: int | None
) -> None:
    for _ in range(6):  # so that the plan is made before there is anything
        webhook_lists.list_page(connection, Wanted(account, state))
    queue(connection, state, 3000)
    queue(connection, state, 3000, account=2, first=5001)
    wanted = Wanted(account, state, most=50)
    tables = "webhook_deliveries", "webhook_history"
    for _ in range(3):
        page = webhook_lists.list_page(connection, wanted)
        assert len(page.deliveries) == 50
        assert rows_read(connection, partial(webhook_lists.list_page, connection, wanted), *tables) < 250
        wanted = wanted._replace(before=page.next)


@pytest.mark.parametrize("account", [None, 1])
@pytest.mark.parametrize("state", ["waiting", "failed", "delivered"])
def test_all_pages_together_are_the_list_the_newest_first(
    connection: Connection, state: str, account: int | None
) -> None:
    queue(connection, state, 130)
    queue(connection, "failed" if state == "waiting" else "waiting", 40, first=131)
    queue(connection, state, 30, account=2, first=1001)
    found = everything(connection, Wanted(account, state, most=25))
    numbers = [int(one.invoice.partition("-")[2]) for one in found]
    expected = [*range(130, 0, -1)]
    assert numbers == (expected if account else [*range(1030, 1000, -1), *expected])
    assert {one.state for one in found} == {state}


def test_what_is_far_behind_others_is_found_page_by_page(connection: Connection) -> None:
    queue(connection, "waiting", 3)
    queue(connection, "failed", QUEUED, first=4)
    wanted = Wanted(1, "waiting")
    page = webhook_lists.list_page(connection, wanted)
    assert (page.deliveries, page.next is None) == ([], False), "a page looks through so many, and no more"
    reads = rows_read(connection, partial(webhook_lists.list_page, connection, wanted), "webhook_deliveries")
    assert reads < 3 * SCAN
    assert len(everything(connection, wanted)) == 3


class Counting:
    """A connection that counts statements: what others change comes between these, and never into one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.statements = 0

    def execute(self, *arguments: Any) -> Any:
        self.statements += 1
        return self._connection.execute(*arguments)


@pytest.mark.parametrize(
    "read",
    [
        lambda connection: webhook_lists.list_page(connection, Wanted(1, "waiting")),
        lambda connection: queries.list_invoices(connection, InvoiceFilter(memo="tea")),
    ],
    ids=["webhooks", "search"],
)
def test_a_page_and_where_the_next_begins_are_of_one_snapshot(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, read: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(queries, "SEARCHED", 1000)
    queue(connection, "failed", QUEUED)
    make_invoices(connection, 1500)
    counting = Counting(connection)
    assert read(counting).next is not None
    assert counting.statements == 1


def test_failed_ones_of_one_moment_come_once_each(connection: Connection) -> None:
    queue(connection, "failed", 60)
    connection.execute("UPDATE webhook_deliveries SET failed_at = '2026-01-01T00:00:00.123456Z'")
    found = everything(connection, Wanted(None, "failed", most=7))
    assert [int(one.invoice.partition("-")[2]) for one in found] == [*range(60, 0, -1)]


def test_an_invoice_s_webhooks_are_found_whatever_has_become_of_them(connection: Connection) -> None:
    for number, state in enumerate(("waiting", "failed", "delivered"), start=1):
        queue(connection, state, 500, first=1000 * number)
    connection.execute("UPDATE webhook_deliveries SET invoice = 'this' WHERE seq IN (1007, 2007)")
    connection.execute("UPDATE webhook_history SET invoice = 'this' WHERE seq = 3007")
    wanted = Wanted(invoice="this", most=2)
    found = everything(connection, wanted)
    assert [one.state for one in found] == ["delivered", "failed", "waiting"]
    tables = "webhook_deliveries", "webhook_history"
    assert rows_read(connection, partial(webhook_lists.list_page, connection, wanted), *tables) < 50
    assert everything(connection, Wanted(2, invoice="this")) == []


def make_invoices(connection: Connection, count: int) -> None:
    connection.execute(
        "INSERT INTO invoices (amount, currency, account_id, memo)"
        " SELECT 1, 'USD', 1, 'order ' || n FROM generate_series(1, %s) n",
        (count,),
    )


def test_a_page_of_a_search_looks_through_so_many_invoices_and_no_more(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "SEARCHED", 1000)
    make_invoices(connection, 3500)
    found: list[bytes] = []
    wanted = InvoiceFilter(account_id=1, memo="ORDER 17")
    pages = 0
    while True:
        page = queries.list_invoices(connection, wanted)
        reads = rows_read(connection, partial(queries.list_invoices, connection, wanted), "invoices")
        assert reads <= 2200, "those that it looks through, and where they end"
        found.append(bytes(page.items))
        pages += 1
        if page.next is None:
            break
        wanted = wanted._replace(before=page.next)
    whole = b"".join(found).decode()
    # 17, 170 to 179, 1700 to 1799
    assert whole.count('"memo"') == 111
    assert pages >= 4


def test_a_history_costs_what_it_holds_however_long_the_log_is(connection: Connection) -> None:
    ((uid,),) = connection.execute(
        "INSERT INTO invoices (amount, currency, account_id) VALUES (1, 'USD', 1) RETURNING uid"
    )
    assert isinstance(uid, UUID)
    make_invoices(connection, 3000)
    connection.execute("UPDATE invoices SET memo = 'tea' WHERE uid = %s", (uid,))
    while event_log.read_position(connection).seq < 3002:
        event_log.number_events(connection, 1000)
    history = event_log.read_history(connection, uid, 0, 50, 1)
    assert [event.type for event in history.events] == ["invoice.created", "invoice.updated"]
    reads = rows_read(connection, partial(event_log.read_history, connection, uid, 0, 50, 1), "event")
    assert reads <= 4


def test_tokens_of_one_account_are_found_among_those_of_many(connection: Connection) -> None:
    connection.execute("INSERT INTO accounts (id, name) SELECT n, 'a' FROM generate_series(2, 2000) n")
    connection.execute(
        "INSERT INTO tokens (account_id, hash, scopes)"
        " SELECT n, sha256(n::text::bytea), '{read}' FROM generate_series(2, 2000) n"
    )
    reads = rows_read(connection, partial(tokens.list_tokens, connection, 0, 50, 1500), "tokens")
    assert reads <= 2
