"""The queue of webhooks on real PostgreSQL: how it fills, and many who claim from it at once."""

import threading
from collections import Counter
from collections.abc import Iterator
from random import Random

import msgspec
import psycopg
import pytest

from tests.programs import prepare
from trio_ws.database import queries, webhooks
from trio_ws.database.queries import Connection
from trio_ws.errors import NotFound
from trio_ws.messages import CreateInvoice


@pytest.fixture
def connection(conninfo: str) -> Iterator[Connection]:
    """A connection as the server's are."""
    with psycopg.connect(conninfo) as connection:
        prepare(connection, statement_seconds=10)
        yield connection


def create(connection: Connection, url: str = "https://shop.example/hook") -> None:
    queries.create_invoice(connection, CreateInvoice(amount=1, currency="USD", account_id=1, webhook_url=url))


# Filling it


def test_what_is_queued_outlives_the_trimming_of_its_event(connection: Connection) -> None:
    create(connection)
    queries.number_events(connection, 100)
    connection.execute("UPDATE event SET at = at - interval '8 days'")
    assert queries.trim_events(connection, 86400, 100) == 4
    (delivery,) = webhooks.claim(connection, 10, 10, 60)
    assert delivery.event.type == "invoice.created"


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "é://ü", "x" * 100_000, "https://a@b@c/", "\n", "https://h\n"]
)
def test_whatever_stands_where_a_url_should_the_log_goes_on(connection: Connection, url: str) -> None:
    connection.execute(  # as of an invoice that is older than the limits
        "INSERT INTO event (type, topics, has_webhook, data) VALUES ('invoice.created', '{}', true,"
        " json_build_object('uid', gen_random_uuid(), 'account_id', 1, 'webhook_url', %s::text))",
        (url,),
    )
    queries.number_events(connection, 100)
    assert queries.read_position(connection).seq == 4
    (delivery,) = webhooks.claim(connection, 10, 10, 60)
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
    assert webhooks.claim(connection, 10, 10, 60) == []
    queries.number_events(connection, 10)
    assert [delivery.event.seq for delivery in webhooks.claim(connection, 10, 10, 60)] == [4]


def test_an_idle_look_writes_nothing_and_takes_no_lock(connection: Connection) -> None:
    with connection.transaction():
        assert webhooks.claim(connection, 10, 10, 60) == []
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        (locks,) = connection.execute(held).fetchone() or ()
        (xid,) = connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() or ("no row",)
    assert (locks, xid) == (0, None)


# Claiming from it


CLAIMERS, INVOICES, CHANGES, ENDPOINTS, EACH = 5, 30, 4, 3, 4


def test_many_claimers_deliver_each_event_in_order_and_keep_to_the_limit(
    conninfo: str, connection: Connection
) -> None:
    """They claim, dawdle, put off, give back and finish, while other programs write and number."""
    for number in range(INVOICES):
        create(connection, f"https://{number % ENDPOINTS}.example/{number}")
    delivered: list[tuple[int, int]] = []
    under_way: Counter[str] = Counter()
    most: Counter[str] = Counter()
    lock = threading.Lock()
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(conninfo) as writer:
            prepare(writer)
            for change in range(CHANGES):
                for number in range(1, INVOICES + 1):
                    writer.execute("UPDATE invoices SET memo = %s WHERE id = %s", (str(change), number))
                    queries.number_events(writer, 7)

    def claim(seed: int) -> None:
        random = Random(seed)
        with psycopg.connect(conninfo) as claimer:
            prepare(claimer, statement_seconds=10)
            while not done.is_set():
                claimed = webhooks.claim(claimer, 5, EACH, 60)
                with lock:
                    for delivery in claimed:
                        under_way[delivery.url.split("/")[2]] += 1
                    most.update(dict.fromkeys(under_way, 0))
                    for host, count in under_way.items():
                        most[host] = max(most[host], count)
                for delivery in claimed:
                    with lock:
                        under_way[delivery.url.split("/")[2]] -= 1
                        fate = random.random()
                        if fate >= 0.3:
                            data = msgspec.json.decode(delivery.event.data)
                            delivered.append((data["id"], data["version"]))
                    if fate < 0.1:
                        webhooks.release(claimer, [delivery.event.seq])
                    elif fate < 0.3:
                        webhooks.put_off(claimer, delivery, "answered 500", random.random() / 100, 60)
                    else:
                        webhooks.finish(claimer, delivery.event.seq)

    threads = [threading.Thread(target=claim, args=(seed,)) for seed in range(CLAIMERS)]
    writer = threading.Thread(target=write)
    for thread in (writer, *threads):
        thread.start()
    writer.join()
    queries.number_events(connection, 1000)
    left = "SELECT count(*) FROM webhook_deliveries"
    while connection.execute(left).fetchone() != (0,):
        pass
    done.set()
    for thread in threads:
        thread.join()

    versions: dict[int, list[int]] = {}
    for id_, version in delivered:
        versions.setdefault(id_, []).append(version)
    assert versions == {id_: list(range(1, CHANGES + 2)) for id_ in range(1, INVOICES + 1)}
    assert max(most.values()) <= EACH


def test_claims_are_made_one_after_the_other(conninfo: str, connection: Connection) -> None:
    create(connection)
    queries.number_events(connection, 10)
    with psycopg.connect(conninfo) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('trio_ws.claim_webhooks'))")
        connection.execute("SET statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            webhooks.claim(connection, 1, 10, 60)
    assert len(webhooks.claim(connection, 1, 10, 60)) == 1


def test_what_is_retried_has_all_its_time_anew(connection: Connection) -> None:
    create(connection)
    queries.number_events(connection, 10)
    connection.execute("UPDATE webhook_deliveries SET since = since - interval '4 days'")
    days = 3 * 86400
    (delivery,) = webhooks.claim(connection, 10, 10, 60)
    assert webhooks.put_off(connection, delivery, "answered 500", 0, days) is True
    assert webhooks.retry(connection, None) == 1
    (delivery,) = webhooks.claim(connection, 10, 10, 60)
    assert webhooks.put_off(connection, delivery, "answered 500", 0, days) is False


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
    queries.number_events(connection, 10)
    seen = webhooks.active_secrets(connection, 1)
    for _ in range(3):
        webhooks.add_secret(connection, 1)
        newest, second = webhooks.active_secrets(connection, 1)
        assert second == seen[0]
        seen.insert(0, newest)
    (delivery,) = webhooks.claim(connection, 10, 10, 60)
    assert delivery.secrets == tuple(seen[:2])
    assert len(set(seen)) == 4


def test_nobodys_secret_is_not_found(connection: Connection) -> None:
    for query in (webhooks.add_secret, webhooks.active_secrets):
        with pytest.raises(NotFound):
            query(connection, 404)
