"""Sessions that go on in PostgreSQL after they were cut are counted, and cancelled where that is safe."""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

import psycopg
import pytest
import trio

from tests import clusters
from trio_ws import metrics
from trio_ws.database import event_log, lanes, queries
from trio_ws.database.embedded import embedded_postgres
from trio_ws.database.gateway import Gateway
from trio_ws.database.lanes import Cut, Lane
from trio_ws.database.queries import Connection
from trio_ws.database.sessions import Primary, begin_session
from trio_ws.database.stuck import find_stuck
from trio_ws.errors import ActionError, Outage
from trio_ws.messages import CreateInvoice
from trio_ws.settings import Settings

PATIENCE_SECONDS = 60
CONNECTIONS = 2
INVOICE = CreateInvoice(amount=1, currency="USD", account_id=1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The conninfo of a PostgreSQL whose standby can go away."""
    with embedded_postgres(clusters.copy_to(tmp_path_factory.mktemp("cluster"))) as postgres:
        yield postgres.conninfo


@asynccontextmanager
async def gateway_to(conninfo: str, *, is_pooled: bool = False) -> AsyncIterator[Gateway]:
    """Yield one that listens, and gives up soon."""
    settings = Settings(
        database_connections=CONNECTIONS,
        statement_seconds=0.5,
        listen_url=conninfo if is_pooled else None,
    )
    with closing(Gateway(conninfo, settings)) as gateway:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.watch, lambda _=math.inf: None)
            yield gateway
            nursery.cancel_scope.cancel()


@contextmanager
def standby_away(conninfo: str) -> Iterator[Connection]:
    """Have each commit wait for a standby that is not there; yield a session that sees it."""
    with psycopg.connect(conninfo, autocommit=True) as other:
        try:
            set_standby(other, "nobody")
            yield other
        finally:
            set_standby(other, "")


def set_standby(connection: Connection, name: str) -> None:
    connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'".encode())
    connection.execute("SELECT pg_reload_conf()")


def count(connection: Connection, what: str) -> int:
    ((found,),) = connection.execute(f"SELECT count(*) FROM {what}".encode())  # noqa: S608 - of ours
    return int(found)


WAITING = "pg_stat_activity WHERE wait_event = 'SyncRep'"
OURS = "pg_stat_activity WHERE application_name = 'trio-ws'"


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not is_so():  # noqa: ASYNC110 - PostgreSQL tells nobody
            await trio.sleep(0.02)


def stuck() -> float:
    return metrics.figures()["trio_ws_database_sessions_stuck"]


def times_asked() -> float:
    name = "trio_ws_database_query_seconds_count"
    return metrics.REGISTRY.get_sample_value(name, {"query": "find_stuck"}) or 0.0


async def write_in_vain(gateway: Gateway, lane: Lane) -> None:
    """Write until it is said at once that nobody can."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            try:
                await gateway.run(rename, lane=lane)
            except Outage as error:
                if error.message == "The database is stuck":
                    return
            except ActionError:
                pass


def rename(connection: Connection) -> None:
    connection.execute("UPDATE @schema@.accounts SET name = random()::text")


@pytest.mark.parametrize("is_pooled", [False, True])
async def test_without_its_standby_postgresql_keeps_no_more_sessions_than_we_may_have(
    cluster: str, *, is_pooled: bool
) -> None:
    async with gateway_to(cluster, is_pooled=is_pooled) as gateway:
        with standby_away(cluster) as other:
            before = count(other, "invoices")
            await until(lambda: count(other, "pg_settings WHERE setting = 'nobody'") == 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_in_vain, gateway, Lane.UPKEEP)
                with trio.fail_after(PATIENCE_SECONDS):
                    while stuck() < CONNECTIONS + 1:
                        with pytest.raises(ActionError):  # by batches, and then alone
                            await gateway.run(queries.create_invoice, INVOICE)
            with pytest.raises(Outage, match="stuck"):
                await gateway.run(queries.list_invoices, ALL, lane=Lane.LISTS)
            assert await gateway.run(event_log.read_position, lane=Lane.CATCH_UP)
            seen = times_asked()
            await until(lambda: times_asked() >= seen + 2)
            assert stuck() == CONNECTIONS + 1
            assert count(other, WAITING) > 0, (
                "or more: where a NOTIFY is in one of them, others wait for that"
            )
            assert count(other, OURS) <= lanes.sessions(CONNECTIONS) + 1
            assert count(other, "invoices") == before, "none was cancelled, which would show it to all"
        await until(lambda: stuck() == 0)
        assert await gateway.run(queries.create_invoice, INVOICE)


ALL = queries.InvoiceFilter(None, None, None)


async def test_what_is_stuck_elsewhere_is_cancelled(cluster: str) -> None:
    def sleep(connection: Connection) -> None:
        connection.execute("SET statement_timeout = 0")
        connection.execute("SELECT pg_sleep(1000)")

    async with gateway_to(cluster) as gateway:
        with psycopg.connect(cluster, autocommit=True) as other:
            with pytest.raises(Outage):
                await gateway.run(sleep, lane=Lane.UPKEEP)
            assert stuck() == 1
            await until(lambda: stuck() == 0)
            await gateway.run(queries.check, lane=Lane.UPKEEP)
            assert count(other, "pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'") == 0


# What the query finds


@pytest.fixture
def asking(conninfo: str) -> Iterator[Connection]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        begin_session(connection)
        yield connection


@pytest.fixture
def pid(conninfo: str) -> Iterator[int]:
    """The process of another session, which is idle."""
    with psycopg.connect(conninfo, autocommit=True) as other:
        yield other.info.backend_pid


HERE = Primary("1", 1)


def test_a_session_that_began_after_the_cut_is_another_one(asking: Connection, pid: int) -> None:
    now = time.monotonic()
    earlier, cut = Cut(pid, HERE, now - 3600), Cut(pid, HERE, now)
    assert find_stuck(asking, HERE, [earlier], now) == set()
    assert find_stuck(asking, HERE, [earlier, cut], now) == {cut}


async def test_one_that_only_waits_for_us_is_ended(asking: Connection, pid: int) -> None:
    now = time.monotonic()
    assert find_stuck(asking, HERE, [Cut(pid, HERE, now)], now)
    await until(lambda: not find_stuck(asking, HERE, [Cut(pid, HERE, now)], now))


@pytest.mark.parametrize("primary", [HERE, None])
def test_what_was_on_another_primary_does_not_matter(
    asking: Connection, pid: int, primary: Primary | None
) -> None:
    now = time.monotonic()
    cuts = {one: Cut(pid, one, now) for one in (Primary("1", 2), HERE, None)}
    assert find_stuck(asking, Primary("2", 1), list(cuts.values()), now) == set()
    assert find_stuck(asking, primary, list(cuts.values()), now) == {cuts[primary]}
