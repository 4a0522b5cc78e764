"""The queue of webhooks on real PostgreSQL: how it fills, many claimers at once, and what a claim reads."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import msgspec
import psycopg
import pytest

from tests.database.test_numbering import buffers, is_waiting
from tests.programs import prepare
from trio_ws.database import event_log, migrations, queries, webhook_lists, webhooks
from trio_ws.database.migrations import known_migrations, migrate
from trio_ws.database.queries import Connection, Row
from trio_ws.database.webhook_lists import QUEUED
from trio_ws.database.webhooks import EACH, Delivery, Figures, Outcome, Result
from trio_ws.errors import NotFound
from trio_ws.messages import CreateInvoice

DAY = 86400.0
HOOK = "https://shop.example/hook"


@pytest.fixture
def connection(conninfo: str) -> Iterator[Connection]:
    """A connection as the server's are."""
    with psycopg.connect(conninfo) as connection:
        prepare(connection, statement_seconds=10)
        yield connection


def create(connection: Connection, url: str = HOOK, account: int = 1) -> None:
    action = CreateInvoice(amount=1, currency="USD", account_id=account, webhook_url=url)
    queries.create_invoice(connection, action)


def claim(connection: Connection, most: int = 64, held: Sequence[Delivery] = ()) -> list[Delivery]:
    return webhooks.claim(connection, most, 60, held).deliveries


def settle(connection: Connection, deliveries: Sequence[Delivery], result: Result, chance: float = 0) -> None:
    error = "answered 500" if result is Result.FAILED else None
    outcomes = [Outcome(delivery, result, error, chance) for delivery in deliveries]
    webhooks.settle(connection, outcomes, DAY)


# Filling it


def test_what_is_queued_outlives_the_trimming_of_its_event(connection: Connection) -> None:
    create(connection)
    event_log.number_events(connection, 100)
    connection.execute("UPDATE event SET at = at - interval '8 days'")
    assert event_log.trim_events(connection, 86400, 100) == 4
    (delivery,) = claim(connection)
    assert delivery.event.type == "invoice.created"


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "é://ü", "x" * 100_000, "https://a@b@c/", "\n", "https://h\n"]
)
def test_whatever_stands_where_a_url_should_the_log_goes_on(connection: Connection, url: str) -> None:
    connection.execute(  # as of an invoice that is older than the limits
        "INSERT INTO event (type, topics, webhook_id, data)"
        " SELECT 'invoice.created', '{}', gen_random_uuid(),"
        " json_build_object('uid', gen_random_uuid(), 'account_id', 1, 'webhook_url', %s::text)",
        (url,),
    )
    event_log.number_events(connection, 500)
    assert event_log.read_position(connection).seq == 4
    (delivery,) = claim(connection)
    assert delivery.url == url


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://shop.example/hook?key=secret", "https://shop.example"),
        ("HTTP://Shop.Example:8080", "http://shop.example:8080"),
        ("https://user:secret@shop.example/@x", "https://shop.example"),
        ("https://user@secret@shop.example?x", "https://shop.example"),
        ("https://[::1]:80#x", "https://[::1]:80"),
        ("secret", ""),
        ("", ""),
    ],
)
def test_an_endpoint_shows_no_secrets(connection: Connection, url: str, endpoint: str) -> None:
    assert connection.execute("SELECT url_endpoint(%s)", (url,)).fetchone() == (endpoint,)


def test_numbering_that_is_rolled_back_queues_nothing(conninfo: str, connection: Connection) -> None:
    create(connection)
    with psycopg.connect(conninfo, autocommit=True) as other, other.transaction(force_rollback=True):
        assert other.execute("SELECT number_events(10)").fetchone() == (4,)
    assert claim(connection) == []
    event_log.number_events(connection, 10)
    assert [delivery.event.seq for delivery in claim(connection)] == [4]


def test_an_idle_look_writes_nothing_and_takes_no_lock(connection: Connection) -> None:
    with connection.transaction():
        assert claim(connection) == []
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        (locks,) = connection.execute(held).fetchone() or ()
        (xid,) = connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() or ("no row",)
    assert (locks, xid) == (0, None)


# Claiming from it


CLAIMERS, INVOICES, CHANGES, ENDPOINTS = 5, 30, 4, 3


class Ledger:
    """What several claimers did.

    Attributes:
        delivered: Invoices and their versions, in order.
        most: How many were under way at a time, at most, by host.
    """

    def __init__(self) -> None:
        self.delivered: list[tuple[int, int]] = []
        self.most: Counter[str] = Counter()
        self._under_way: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begin(self, deliveries: list[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                self._under_way[delivery.url.split("/")[2]] += 1
            for host, count in self._under_way.items():
                self.most[host] = max(self.most[host], count)

    def end(self, delivery: Delivery, result: Result) -> None:
        with self._lock:
            self._under_way[delivery.url.split("/")[2]] -= 1
            if result is Result.DELIVERED:
                data = msgspec.json.decode(delivery.event.data)
                self.delivered.append((data["id"], data["version"]))


def test_many_claimers_deliver_each_event_in_order_and_keep_to_the_limit(
    conninfo: str, connection: Connection
) -> None:
    """They claim, dawdle, fail, give back and deliver, while other programs write and number."""
    for number in range(INVOICES):
        create(connection, f"https://{number % ENDPOINTS}.example/{number}")
    ledger = Ledger()
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(conninfo) as writer:
            prepare(writer)
            for change in range(CHANGES):
                for number in range(1, INVOICES + 1):
                    writer.execute("UPDATE invoices SET memo = %s WHERE id = %s", (str(change), number))
                    event_log.number_events(writer, 7)

    def work(seed: int) -> None:
        random = Random(seed)
        with psycopg.connect(conninfo) as claimer:
            prepare(claimer, statement_seconds=10)
            while not done.is_set():
                deliveries = claim(claimer)
                ledger.begin(deliveries)
                for delivery in deliveries:
                    (result,) = random.choices([Result.DELIVERED, Result.FAILED, Result.RELEASED], [7, 2, 1])
                    ledger.end(delivery, result)
                    settle(claimer, [delivery], result, random.random() / 100)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLAIMERS)]
    writer = threading.Thread(target=write)
    for thread in (writer, *threads):
        thread.start()
    writer.join()
    while connection.execute("SELECT number_events(1000)").fetchone() != (0,):
        pass
    left = "SELECT count(*) FROM webhook_deliveries"
    while connection.execute(left).fetchone() != (0,):
        pass
    done.set()
    for thread in threads:
        thread.join()

    versions: dict[int, list[int]] = {}
    for id_, version in ledger.delivered:
        versions.setdefault(id_, []).append(version)
    assert versions == {id_: list(range(1, CHANGES + 2)) for id_ in range(1, INVOICES + 1)}
    assert max(ledger.most.values()) <= EACH
    assert webhooks.figures(connection) == Figures(0, held=0, dead=0)


def test_claims_are_made_one_after_the_other(conninfo: str, connection: Connection) -> None:
    create(connection)
    event_log.number_events(connection, 10)
    with psycopg.connect(conninfo) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks'))")
        connection.execute("SET statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            claim(connection)
    assert len(claim(connection)) == 1


def test_what_is_retried_has_all_its_time_again(connection: Connection) -> None:
    create(connection)
    event_log.number_events(connection, 10)
    connection.execute("UPDATE webhook_deliveries SET since = since - interval '4 days'")
    settle(connection, claim(connection), Result.FAILED)
    assert [one.word for one in webhook_lists.list_deliveries(connection, None, ["failed"])] == ["failed"]
    assert webhooks.retry(connection, None) == 1
    settle(connection, claim(connection), Result.FAILED)
    assert webhook_lists.list_deliveries(connection, None, ["failed"]) == []


# Whatever happens


TIMES = {
    "deliveries": ("since", "due_at", "leased_until"),
    "endpoints": ("due_at", "failing_since", "paused_until"),
    "accounts": ("due_at",),
}


def later(connection: Connection, seconds: float) -> None:
    """Have all that is noted be older by so much, as if so much time had passed."""
    for table, columns in TIMES.items():
        changes = ", ".join(f"{column} = {column} - make_interval(secs => %(by)s)" for column in columns)
        connection.execute(f"UPDATE webhook_{table} SET {changes}".encode(), {"by": seconds})  # noqa: S608 - names


def kill_endpoint(connection: Connection) -> None:
    for _ in range(4):
        create(connection)
        event_log.number_events(connection, 10)
        settle(connection, claim(connection), Result.FAILED, 0.999)
    assert "https://shop.example" in [
        row[1] for row in webhook_lists.list_failing_endpoints(connection, 1) if row[2]
    ]


def test_what_a_killed_process_held_is_due_when_its_lease_ends(connection: Connection) -> None:
    for _ in range(3):
        create(connection)
    event_log.number_events(connection, 10)
    held = claim(connection)
    later(connection, 58)
    assert (len(held), claim(connection)) == (3, [])
    later(connection, 2)
    again = claim(connection)
    assert [one.event.seq for one in again] == [one.event.seq for one in held]
    assert {one.attempts for one in again} == {2}


def test_what_was_claimed_is_sent_where_the_session_ends_at_that_moment(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(connection)
    event_log.number_events(connection, 100)

    def execute_and_end(statement: bytes, arguments: Sequence[object] = ()) -> list[Row]:
        rows = psycopg.Connection.execute(connection, statement, arguments).fetchall()
        connection.close()
        return rows

    monkeypatch.setattr(connection, "execute", execute_and_end)
    deliveries, has_more = webhooks.claim(connection, 64, 60, ())
    assert (len(deliveries), has_more) == (1, True)


def test_an_endpoint_is_dead_for_all_processes_and_after_a_restart(
    conninfo: str, connection: Connection
) -> None:
    kill_endpoint(connection)
    with psycopg.connect(conninfo) as other:
        prepare(other, statement_seconds=10)
        for _ in range(EACH):
            create(other)
        event_log.number_events(other, 10)
        assert claim(other) == []
        later(other, 2)
        (probe,) = claim(other)
        assert claim(other) == claim(connection) == []
        settle(other, [probe], Result.FAILED, 0.999)
        later(other, 2)
        assert claim(other) == claim(connection) == [], "the pause is longer now"
        later(other, 2)
        (probe,) = claim(connection)
        settle(connection, [probe], Result.DELIVERED)
        assert len(claim(other)) == EACH


def test_endpoints_that_fail_together_drop_little_at_a_time_and_all_in_the_end(
    connection: Connection,
) -> None:
    endpoints, each = 32, 300
    fill(connection, endpoints * each, "n % 32", "'https://' || n % 32")
    connection.execute("UPDATE webhook_deliveries SET since = since - interval '4 days'")
    assert admit(connection)
    connection.execute("UPDATE webhook_deliveries SET leased_until = NULL")
    later(connection, 120)
    connection.execute(
        "UPDATE webhook_endpoints SET failures = 9, failing_since = now(), paused_until = now(),"
        " due_at = now()"
    )
    connection.execute("UPDATE webhook_accounts SET is_failing = true, due_at = now()")
    left = endpoints * each
    while left:
        held = claim(connection, most=2 * endpoints)
        assert held, "what is left comes without a pause"
        settle(connection, held, Result.FAILED, 0.999)
        before, left = left, webhooks.figures(connection).waiting
        assert 0 < before - left <= 500 + len(held)


def test_what_was_delivered_leaves_nothing_behind(connection: Connection) -> None:
    for number in range(20):
        create(connection, f"https://till-{number}.example/hook", account=1)
    event_log.number_events(connection, 100)
    while deliveries := claim(connection):
        settle(connection, deliveries, Result.DELIVERED)
    counts = "SELECT (SELECT count(*) FROM webhook_accounts), (SELECT count(*) FROM webhook_endpoints)"
    assert connection.execute(counts).fetchone() == (0, 0)


def test_what_is_trimmed_and_retried_at_once_is_not_waited_for_in_a_circle(
    conninfo: str, connection: Connection
) -> None:
    for _ in range(2):
        create(connection)
    retry = "SELECT retry_webhooks(NULL, clock_timestamp(), 100)"
    event_log.number_events(connection, 100)
    connection.execute("UPDATE webhook_deliveries SET due_at = NULL, failed_at = now() - interval '8 days'")
    connection.execute(
        "INSERT INTO webhook_endpoints (account_id, endpoint, failing_since)"
        " VALUES (1, 'https://gone.example', now() - interval '8 days')"
    )
    with psycopg.connect(conninfo) as other, ThreadPoolExecutor(1) as threads:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint)")
        trimmed = threads.submit(webhooks.trim, connection, 7 * DAY, 100)
        deadline = time.monotonic() + 60
        while not is_waiting(other, connection):
            assert time.monotonic() < deadline
        assert other.execute(retry).fetchone() == (2,)
        other.commit()
        assert trimmed.result(60) == 1, "the endpoint that has no delivery"


def test_a_clock_that_is_set_back_delays_nothing_new(connection: Connection) -> None:
    """What has a pause or is under way waits for the old time, as far as one can know."""
    create(connection)
    event_log.number_events(connection, 10)
    settle(connection, claim(connection), Result.RELEASED)
    later(connection, -3600)
    for url in (HOOK, "https://new.example/"):
        create(connection, url)
    event_log.number_events(connection, 10)
    assert [one.url for one in claim(connection)] == [HOOK, "https://new.example/"]


def test_a_list_says_which_endpoints_fail_since_when_and_when_they_are_tried(connection: Connection) -> None:
    assert webhook_lists.list_failing_endpoints(connection, None) == []
    create(connection, "https://sick.example/x?key=secret")
    event_log.number_events(connection, 10)
    settle(connection, claim(connection), Result.FAILED, 0.999)
    kill_endpoint(connection)
    sick, dead = webhook_lists.list_failing_endpoints(connection, 1)
    assert (*sick[:3], sick[5]) == (1, "https://sick.example", False, "answered 500")
    assert (*dead[:3], dead[5]) == (1, "https://shop.example", True, "answered 500")
    assert sick[3] < dead[3] < dead[4]
    assert webhook_lists.list_failing_endpoints(connection, 2) == []
    states = [one.word for one in webhook_lists.list_deliveries(connection, None, QUEUED)]
    assert states == ["due"] * 5
    create(connection)
    event_log.number_events(connection, 10)
    connection.execute("UPDATE invoices SET memo = 'x' WHERE id = 1")
    event_log.number_events(connection, 10)
    claim(connection)
    *_, last, update = webhook_lists.list_deliveries(connection, None, QUEUED)
    assert (last.word, update.word) == ("due", "waits")
    webhooks.retry(connection, last[0])
    assert [row[2] for row in webhook_lists.list_failing_endpoints(connection, None)] == [False, False]


@contextmanager
def queue_of_an_older_release(
    conninfo: str, monkeypatch: pytest.MonkeyPatch, invoices: int
) -> Iterator[Connection]:
    """Two deliveries of each invoice, each with an endpoint of its own, before webhooks had their turn."""
    with monkeypatch.context() as older:
        older.setattr(migrations, "known_migrations", lambda: known_migrations()[:14])
        migrate(conninfo)
    with psycopg.connect(conninfo) as connection:
        prepare(connection, statement_seconds=10)
        for number in range(invoices):
            create(connection, f"https://{number}.example/")
        connection.execute("UPDATE invoices SET memo = 'x'")
        event_log.number_events(connection, 1000)
        yield connection


def test_deliveries_that_wait_from_before_are_sent_after_an_upgrade(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with queue_of_an_older_release(empty_database, monkeypatch, 6) as connection:
        connection.execute("SELECT claim_webhooks(4, 4, interval '1 hour')")
        change = "UPDATE webhook_deliveries SET"
        connection.execute(f"{change} leased_until = now() - interval '1 s' WHERE seq = 5".encode())
        pause = "leased_until = NULL, due_at = now() + interval '1 hour', error = 'x'"
        connection.execute(f"{change} {pause} WHERE seq = 6".encode())
        connection.execute(f"{change} failed_at = now(), error = 'x' WHERE seq = 7".encode())
        migrate(empty_database)
        seen: list[int] = []

        def deliver() -> None:
            while deliveries := claim(connection):
                seen.extend(delivery.event.seq for delivery in deliveries)
                settle(connection, deliveries, Result.DELIVERED)

        deliver()
        assert sorted(seen) == [5, 6, 8, 9, 11, 12, 13, 14, 15], "not what is under way, or has failed"
        later(connection, 3660)
        deliver()
        assert sorted(seen) == [4, 5, 6, *range(8, 16)]
        assert seen.index(4) < seen.index(10)
        assert seen.index(6) < seen.index(12)
        assert webhooks.retry(connection, None) == 1
        assert [delivery.event.seq for delivery in claim(connection)] == [7]
        assert webhooks.figures(connection)[:3] == Figures(1, held=0, dead=0)[:3]


# Repairing it

OLD_FINISH = (
    "WITH done AS (DELETE FROM webhook_deliveries WHERE seq = %(seq)s RETURNING invoice)"
    " UPDATE webhook_deliveries d SET due_at = clock_timestamp() FROM done"
    " WHERE d.invoice = done.invoice AND d.failed_at IS NULL AND d.seq <> %(seq)s"
)
OLD_PUT_OFF = (
    "WITH tried AS (UPDATE webhook_deliveries SET leased_until = NULL, error = 'x',"
    " due_at = clock_timestamp() + interval '1 s' WHERE seq = %(seq)s RETURNING seq, invoice, due_at)"
    " UPDATE webhook_deliveries d SET due_at = tried.due_at FROM tried"
    " WHERE d.invoice = tried.invoice AND d.seq <> tried.seq"
)


def repair(connection: Connection, most: int = 500) -> int:
    """Look at all invoices, and return how many calls it took."""
    calls, after = 1, webhooks.repair(connection, None, most)
    while after is not None:
        calls, after = calls + 1, webhooks.repair(connection, after, most)
    return calls


def test_what_an_older_server_tried_while_another_one_migrated_is_sent_after_a_repair(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with queue_of_an_older_release(empty_database, monkeypatch, 3) as connection:
        connection.execute("SELECT claim_webhooks(64, 4, interval '30 s')")
        migrate(empty_database)
        connection.execute(OLD_FINISH, {"seq": 4})
        connection.execute(OLD_PUT_OFF, {"seq": 5})
        repair(connection)
        seen: list[int] = []
        for _ in range(2):
            while deliveries := claim(connection):
                seen.extend(delivery.event.seq for delivery in deliveries)
                settle(connection, deliveries, Result.DELIVERED)
            later(connection, 40)
        assert sorted(seen) == [5, 6, 7, 8, 9], "4 was delivered"


def test_an_invoice_goes_on_after_a_repair_when_its_oldest_delivery_was_deleted(
    connection: Connection,
) -> None:
    for _ in range(2):
        fill(connection, 3, invoice="'a'")
    fill(connection, 2, invoice="''")
    held = claim(connection)
    assert [delivery.event.seq for delivery in held] == [1, 7]
    connection.execute("DELETE FROM webhook_deliveries WHERE seq IN (1, 7)")
    settle(connection, held, Result.DELIVERED)
    assert claim(connection) == []
    repair(connection)
    assert [delivery.event.seq for delivery in claim(connection)] == [2, 8]
    repair(connection)
    assert claim(connection) == [], "what is under way stays so"


def test_an_endpoint_that_was_deleted_is_there_again_after_a_repair(connection: Connection) -> None:
    fill(connection, 5)
    for forget in ("DELETE FROM webhook_endpoints", "DELETE FROM webhook_accounts"):
        settle(connection, claim(connection), Result.RELEASED)
        connection.execute(forget.encode())
        assert claim(connection) == []
        repair(connection)
        assert len(claim(connection)) == EACH
        later(connection, 60)


def test_a_repair_changes_nothing_that_is_whole_and_waits_for_nobody(
    conninfo: str, connection: Connection
) -> None:
    kill_endpoint(connection)
    fill(connection, 30, invoice="n % 10", endpoint="'https://' || n % 4")
    assert claim(connection)
    fill(connection, 5)
    rows = "SELECT array_agg((seq, d.xmin)::text ORDER BY seq) FROM webhook_deliveries d"
    before = connection.execute(rows).fetchall()
    with psycopg.connect(conninfo) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks')::bigint)")
        connection.execute("SET statement_timeout = '2s'")
        assert repair(connection, most=4) == 5
    assert connection.execute(rows).fetchall() == before


def test_a_repair_reads_of_each_invoice_only_the_oldest(unkempt: Connection) -> None:
    fill(unkempt, MANY, invoice="n % 10")
    admit(unkempt)
    unkempt.execute("UPDATE webhook_deliveries SET due_at = NULL, leased_until = NULL")
    assert buffers(unkempt, "SELECT repair_webhooks(NULL, 500)") < 10 * FEW_BUFFERS
    assert len(claim(unkempt)) == EACH


def test_nobody_else_may_read_webhooks_or_their_secrets_or_change_the_queue(connection: Connection) -> None:
    tables = connection.execute(
        "SELECT relname FROM pg_class WHERE relname LIKE 'webhook%' AND relacl IS NOT NULL"
    ).fetchall()
    assert tables == []


# What a claim reads

FEW_BUFFERS = 400  # of 8 KB, to claim one delivery and to settle it, which takes some 150
MANY = 20_000
CLAIM = "SELECT * FROM claim_webhooks(64, 4, interval '60 s', '{}', '{}')"


def fill(
    connection: Connection,
    count: int,
    account: str = "1",
    endpoint: str = "'https://shop.example'",
    invoice: str = "gen_random_uuid()",
) -> None:
    """Queue deliveries as number_events() does.

    Args:
        connection: A session.
        count: How many.
        account: Whose they are, as an expression with n, which is from 1 to `count`.
        endpoint: Where they go, likewise.
        invoice: Which invoice they are about, likewise.
    """
    statement = (
        "INSERT INTO webhook_deliveries (seq, event_name, invoice, account_id, endpoint, url, type, data)"  # noqa: S608 - ours
        f" SELECT last + n, 'x-1', {invoice}, {account}, {endpoint}, {endpoint} || '/', 'invoice.created',"
        f" json_build_object('memo', repeat('x', 300)) FROM generate_series(1, {count}) n,"
        " (SELECT coalesce(max(seq), 0) FROM webhook_deliveries) d (last)"
    )
    connection.execute(statement.encode())


def cost_to_settle(connection: Connection, id_: str, attempts: int, result: Result) -> int:
    return buffers(
        connection,
        f"SELECT * FROM settle_webhooks('{{{id_}}}', '{{{attempts}}}', '{{{result}}}', '{{x}}', '{{0}}',"  # noqa: S608 - ours
        " '{200}', '{0}', interval '2 s', interval '1 hour', interval '1 day', 4, true)",
    )


def cost_of_one(connection: Connection) -> int:
    """How many buffers it takes to claim a new delivery, which has to come at once, and to settle it."""
    for _ in range(8):  # so that plans are as they stay
        fill(connection, 1)
        ((id_,),) = connection.execute("SELECT id FROM webhook_deliveries ORDER BY seq DESC LIMIT 1")
        cost = buffers(connection, CLAIM)
        find = "SELECT attempts FROM webhook_deliveries WHERE id = %s"
        assert connection.execute(find, (id_,)).fetchone() == (1,)
        cost += cost_to_settle(connection, id_, 1, Result.DELIVERED)
    return cost


def admit(connection: Connection) -> list[Delivery]:
    """Claim until all endpoints know of their deliveries; return what was claimed."""
    held: list[Delivery] = []
    while True:
        found = webhooks.claim(connection, 64, 60, held)
        held += found.deliveries
        if not found.has_more:
            return held


@pytest.fixture
def unkempt(connection: Connection) -> Connection:
    """A database where nothing is vacuumed or analyzed, and one delivery was made."""
    for table in TIMES:
        connection.execute(f"ALTER TABLE webhook_{table} SET (autovacuum_enabled = off)".encode())
    cost_of_one(connection)
    return connection


def drain(connection: Connection) -> int:
    """Deliver all that is due, and return how many."""
    count = 0
    while deliveries := claim(connection):
        count += len(deliveries)
        settle(connection, deliveries, Result.DELIVERED)
    return count


def test_a_claim_does_not_read_endpoints_that_have_nothing_to_send(unkempt: Connection) -> None:
    unkempt.execute(
        "INSERT INTO webhook_endpoints (account_id, endpoint)"
        " SELECT n % 100, 'https://' || n || '.example' FROM generate_series(1, 100000) n"
    )
    assert cost_of_one(unkempt) < FEW_BUFFERS


def test_a_claim_does_not_read_dead_endpoints_that_wait_for_their_time(unkempt: Connection) -> None:
    fill(unkempt, MANY, account="100 + n", endpoint="'https://dead.example'")
    unkempt.execute("UPDATE webhook_deliveries SET due_at = now() + interval '1 hour'")
    unkempt.execute(
        "INSERT INTO webhook_endpoints (account_id, endpoint, failures, failing_since, paused_until, due_at)"
        " SELECT account_id, endpoint, 9, now(), due_at, due_at FROM webhook_deliveries"
    )
    unkempt.execute(
        "INSERT INTO webhook_accounts (account_id, is_failing, due_at)"
        " SELECT account_id, true, due_at FROM webhook_deliveries"
    )
    assert cost_of_one(unkempt) < FEW_BUFFERS
    assert buffers(unkempt, CLAIM) < 100, "an idle poll"


def test_a_claim_does_not_read_what_waits_behind_others(unkempt: Connection) -> None:
    fill(unkempt, MANY, account="2", endpoint="'https://large.example'")
    fill(unkempt, MANY, account="3", endpoint="'https://same.example'", invoice="'same'")
    assert Counter(one.account_id for one in admit(unkempt)) == {2: EACH, 3: 1}
    assert cost_of_one(unkempt) < FEW_BUFFERS


def test_a_claim_does_not_read_what_was_delivered_and_not_vacuumed(unkempt: Connection) -> None:
    fill(unkempt, MANY // 10, account="1 + n % 2")
    assert drain(unkempt) == MANY // 10
    assert cost_of_one(unkempt) < FEW_BUFFERS


def test_neither_claim_nor_settling_reads_the_history(unkempt: Connection) -> None:
    unkempt.execute("ALTER TABLE webhook_history SET (autovacuum_enabled = off)")
    cost = cost_of_one(unkempt)
    unkempt.execute(
        "INSERT INTO webhook_history SELECT n::text, n, 'x-1', 'x', n::text, 1, 'https://shop.example',"
        " 'https://shop.example/', 'invoice.created', '{}', NULL, now(), 1, 200, now() - n * interval '1 s'"
        " FROM generate_series(1, 100000) n"
    )
    assert cost_of_one(unkempt) < cost + 40, "three indexes are deeper"
    assert webhooks.trim_history(unkempt, 50_000, 1000) == 1000
    assert buffers(unkempt, "SELECT trim_webhook_history(interval '3 days', 1000)") < 100


def test_a_claim_is_cheap_whatever_the_statistics_say(conninfo: str, connection: Connection) -> None:
    """They may be of empty tables, and a session keeps the plans that it made then."""
    for table in TIMES:
        connection.execute(f"ALTER TABLE webhook_{table} SET (autovacuum_enabled = off)".encode())
        connection.execute(f"VACUUM ANALYZE webhook_{table}".encode())
    cost_of_one(connection)
    fill(connection, MANY // 10, account="10 + n % 50", endpoint="'https://' || n % 200 || '.example'")
    admit(connection)
    later(connection, 61)
    assert drain(connection) == MANY // 10
    assert cost_of_one(connection) < FEW_BUFFERS
    with psycopg.connect(conninfo, autocommit=True) as fresh:  # which plans only now
        assert cost_of_one(fresh) < FEW_BUFFERS


@pytest.mark.parametrize("result", [Result.DELIVERED, Result.FAILED])
def test_what_settles_a_delivery_does_not_read_the_others_of_its_invoice(
    unkempt: Connection, result: Result
) -> None:
    fill(unkempt, MANY, account="3", endpoint="'https://same.example'", invoice="'same'")
    (delivery,) = admit(unkempt)
    for _ in range(8):
        cost = cost_to_settle(unkempt, delivery.id, delivery.attempts, result)
        (delivery,) = claim(unkempt)
    assert cost < FEW_BUFFERS


# Secrets


def test_an_account_has_a_secret_from_the_start_whoever_makes_it(
    conninfo: str, connection: Connection
) -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("CREATE ROLE clerk_of_webhooks")
        other.execute("GRANT INSERT, SELECT ON accounts TO clerk_of_webhooks")
        other.execute("SET ROLE clerk_of_webhooks")
        (account,) = other.execute("INSERT INTO accounts DEFAULT VALUES RETURNING id").fetchone() or ()
    (secret,) = webhooks.active_secrets(connection, account)
    (first,) = webhooks.active_secrets(connection, 1)
    assert secret != first
    assert len(secret) == len("whsec_") + 64


def test_the_newest_two_sign(connection: Connection) -> None:
    create(connection)
    event_log.number_events(connection, 10)
    seen = webhooks.active_secrets(connection, 1)
    for _ in range(3):
        webhooks.add_secret(connection, 1)
        newest, second = webhooks.active_secrets(connection, 1)
        assert second == seen[0]
        seen.insert(0, newest)
    (delivery,) = claim(connection)
    assert delivery.secrets == tuple(seen[:2])
    assert len(set(seen)) == 4


def test_nobodys_secret_is_not_found(connection: Connection) -> None:
    for query in (webhooks.add_secret, webhooks.active_secrets):
        with pytest.raises(NotFound):
            query(connection, 404)
