"""The one door to PostgreSQL, with the real one behind it: what fails, how, and how it comes back."""

import contextlib
import errno
import itertools
import math
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from unittest.mock import ANY

import psycopg
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests import clusters
from trio_ws import metrics
from trio_ws.database import event_log, lanes, queries, tokens
from trio_ws.database import gateway as gateway_module
from trio_ws.database import pool as pool_module
from trio_ws.database.embedded import embedded_postgres
from trio_ws.database.gateway import Gateway
from trio_ws.database.lanes import Lane
from trio_ws.database.pool import QueryFailedError
from trio_ws.database.queries import Connection
from trio_ws.database.statement import Statement
from trio_ws.errors import NotFound, Timeout, Unauthorized, Unavailable
from trio_ws.identity import hash_token
from trio_ws.messages import CreateInvoice
from trio_ws.settings import Settings

PATIENCE_SECONDS = 30
TERMINATE_OTHERS = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


@pytest.fixture
def gateway(conninfo: str) -> Iterator[Gateway]:
    """A gateway of two connections that gives up soon."""
    gateway = Gateway(conninfo, Settings(database_connections=2, statement_seconds=1.0))
    yield gateway
    gateway.close()


def backend(connection: Connection) -> int:
    (row,) = connection.execute("SELECT pg_backend_pid()")
    return int(row[0])


def sleep(connection: Connection, seconds: float) -> None:
    connection.execute("SELECT pg_sleep(%s)", (seconds,))


wait = Statement[float, str]("wait", b"SELECT pg_sleep($1::float8)::text", str)
Sleep = Callable[[Connection, float], object]
both_ways = pytest.mark.parametrize(
    "query", [pytest.param(sleep, id="in a thread"), pytest.param(wait, id="without a thread")]
)


def terminate_all(conninfo: str) -> int:
    """End the database's other sessions, and return how many there were."""
    with psycopg.connect(conninfo, autocommit=True) as other:
        return terminate_others(other)


def terminate_others(connection: Connection) -> int:
    """Do it on a connection that there is."""
    return len(connection.execute(TERMINATE_OTHERS).fetchall())


async def test_a_query_returns_what_it_returns_and_raises_what_it_raises(gateway: Gateway) -> None:
    assert (await gateway.run(event_log.read_position)).seq >= 0
    with pytest.raises(NotFound, match="Account not found"):
        await gateway.run(queries.create_invoice, CreateInvoice(amount=1, currency="USD", account_id=9))


async def test_a_connection_is_used_again(gateway: Gateway) -> None:
    assert len({await gateway.run(backend) for _ in range(5)}) == 1


async def test_no_more_connections_than_set_are_opened(gateway: Gateway) -> None:
    backends: set[int] = set()

    async def query() -> None:
        await gateway.run(sleep, 0.01)
        backends.add(await gateway.run(backend))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(query)
    assert len(backends) <= 2


@both_ways
async def test_a_statement_that_takes_too_long_is_given_up(gateway: Gateway, query: Sleep) -> None:
    with pytest.raises(Timeout):
        await gateway.run(query, PATIENCE_SECONDS)
    await gateway.run(queries.check)


async def test_a_row_that_stays_locked_is_given_up(gateway: Gateway, conninfo: str) -> None:
    def update(connection: Connection) -> None:
        connection.execute("UPDATE @schema@.accounts SET name = 'b'")

    with psycopg.connect(conninfo) as other:
        other.execute("UPDATE accounts SET name = 'a'")
        with pytest.raises(Timeout):
            await gateway.run(update)


@both_ways
async def test_who_finds_no_free_connection_in_time_is_told(gateway: Gateway, query: Sleep) -> None:
    errors: list[str] = []

    async def ask() -> None:
        try:
            await gateway.run(query, 0.7)
        except Unavailable as error:
            errors.append(error.message)

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask)
    assert errors
    assert set(errors) == {"The database is busy"}


async def test_sessions_ended_while_idle_are_not_noticed_by_callers(gateway: Gateway, conninfo: str) -> None:
    before = await gateway.run(backend)
    assert await trio.to_thread.run_sync(terminate_all, conninfo) == 1
    assert await gateway.run(backend) != before


@both_ways
async def test_a_session_ended_in_a_query_is_unavailable_and_replaced(
    gateway: Gateway, conninfo: str, query: Sleep
) -> None:
    outcome: list[Exception] = []

    async def ask() -> None:
        try:
            await gateway.run(query, 0.9)
        except Unavailable as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not await trio.to_thread.run_sync(terminate_all, conninfo):
            pass
    assert len(outcome) == 1
    await gateway.run(queries.check)


async def test_no_database_is_unavailable(tmp_path: Path) -> None:
    gateway = Gateway(f"host={tmp_path} user=postgres", Settings())
    with pytest.raises(Unavailable, match="can't be reached"):
        await gateway.run(queries.check)


def make_read_only(conninfo: str, value: str = "on") -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        database = other.info.dbname
        other.execute("SET default_transaction_read_only = off")
        other.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = {value}".encode())


async def test_a_read_only_database_is_unavailable(gateway: Gateway, conninfo: str) -> None:
    make_read_only(conninfo)
    with pytest.raises(Unavailable):
        await gateway.run(queries.create_invoice, CreateInvoice(amount=1, currency="USD", account_id=1))
    assert await gateway.run(event_log.read_position)


@pytest.mark.parametrize("lane", Lane)
async def test_no_lane_keeps_another_waiting(gateway: Gateway, lane: Lane) -> None:
    others = [other for other in Lane if {lane, other} != {Lane.CLIENTS, Lane.LISTS} and other is not lane]
    held = threading.Event()

    def hold(connection: Connection) -> None:
        assert held.wait(PATIENCE_SECONDS)

    async with trio.open_nursery() as nursery:
        for _ in range(lanes.connections(2)[lane]):
            nursery.start_soon(partial(gateway.run, hold, lane=lane))
        await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE_SECONDS):
            for other in others:
                await gateway.run(queries.check, lane=other)
            with pytest.raises(Unavailable, match="The database is busy"):
                await gateway.run(queries.check, lane=lane)
        held.set()


async def test_many_tokens_are_looked_up_together(gateway: Gateway, conninfo: str) -> None:
    def queries_made() -> float:
        named = ({"query": "identify_all"}, {"query": "identify"})
        return sum(
            metrics.REGISTRY.get_sample_value("trio_ws_database_query_seconds_count", name) or 0
            for name in named
        )

    async def look_up(number: int) -> None:
        try:
            found.append(
                (await gateway.run(tokens.identify, hash_token(str(number)), lane=Lane.IDENTIFY)).account_id
            )
        except Unauthorized:
            unknown.append(number)

    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("INSERT INTO accounts (name) VALUES ('second')")
        other.execute(
            "INSERT INTO tokens (account_id, hash, scopes) VALUES (2, %s, '{read}')", (hash_token("7"),)
        )
    found: list[int | None] = []
    unknown: list[int] = []
    async with watching(gateway):
        before = queries_made()
        async with trio.open_nursery() as nursery:
            for number in range(700):
                nursery.start_soon(look_up, number)
        assert queries_made() - before < 10
    assert (found, len(unknown)) == ([2], 699)


async def test_lists_leave_half_of_the_connections_to_other_requests(gateway: Gateway) -> None:
    held = threading.Event()

    def hold(connection: Connection) -> None:
        assert held.wait(PATIENCE_SECONDS)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(_ignore_unavailable, partial(gateway.run, hold, lane=Lane.LISTS))
        await wait_all_tasks_blocked()
        await gateway.run(queries.check)
        held.set()


async def _ignore_unavailable(run: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(Unavailable):
        await run()


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), psycopg.OperationalError()])
async def test_whatever_keeps_a_connection_from_being_opened_is_an_outage(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(psycopg, "connect", connect)
        with pytest.raises(Unavailable, match="can't be reached"):
            await gateway.run(queries.check)
    await gateway.run(queries.check)


async def test_a_thread_that_cannot_be_started_is_an_outage(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(trio._core._thread_cache, "start_thread_soon", start)  # noqa: SLF001 - where it fails
        patch.setattr(trio._threads, "start_thread_soon", start)  # noqa: SLF001 - its name there
        with pytest.raises(Unavailable, match="no thread"):
            await gateway.run(queries.check)
    await gateway.run(queries.check)


async def test_two_transactions_that_collide_are_both_done(gateway: Gateway, conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("INSERT INTO accounts (name) VALUES ('second')")
    barrier = threading.Barrier(2)
    runs: list[int] = []

    def change(connection: Connection, first: int, second: int) -> None:
        runs.append(first)
        with connection.transaction():
            connection.execute("UPDATE @schema@.accounts SET name = 'x' WHERE id = %s", (first,))
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(PATIENCE_SECONDS)
            barrier.abort()
            connection.execute("UPDATE @schema@.accounts SET name = 'x' WHERE id = %s", (second,))

    patient = Gateway(conninfo, Settings(statement_seconds=20.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patient.run, change, 1, 2)
        nursery.start_soon(patient.run, change, 2, 1)
    patient.close()
    assert len(runs) > 2, "PostgreSQL undid one of them, which was done again"


async def test_a_statement_that_collides_is_done_again_and_not_for_ever(
    gateway: Gateway, conninfo: str
) -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("CREATE SEQUENCE tries")
        other.execute(
            "CREATE FUNCTION collide(times int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('public.tries') <= times THEN RAISE serialization_failure; END IF;"
            " RETURN currval('public.tries'); END $$"
        )
    collide = Statement[int, int]("collide", b"SELECT @schema@.collide($1::int)::text", int)
    assert await gateway.run(collide, 2) == 3
    with pytest.raises(Unavailable):
        await gateway.run(collide, 99)
    assert await gateway.run(collide, 0) == 7


async def test_the_logs_end_is_read_without_a_thread(
    gateway: Gateway, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.run(queries.check)  # a connection is opened in one
    monkeypatch.delattr(trio.to_thread, "run_sync")
    write(conninfo)
    read = await gateway.run(event_log.advance, 0, 10, lane=Lane.AHEAD)
    assert read.events[-1].type == "invoice.created"
    assert await gateway.run(event_log.number, 0, 10, lane=Lane.AHEAD) == read._replace(events=[], now=ANY)


async def test_a_session_on_a_server_that_only_reads_is_not_kept(gateway: Gateway, conninfo: str) -> None:
    invoice = CreateInvoice(amount=1, currency="USD", account_id=1)
    make_read_only(conninfo)
    before = await gateway.run(backend)
    with pytest.raises(Unavailable):
        await gateway.run(queries.create_invoice, invoice)
    make_read_only(conninfo, "off")
    assert await gateway.run(queries.create_invoice, invoice)
    assert await gateway.run(backend) != before


async def test_a_table_that_changed_under_a_prepared_statement_is_read_again(
    gateway: Gateway, conninfo: str
) -> None:
    await gateway.run(tokens.list_tokens)
    await gateway.run(tokens.list_tokens)
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("ALTER TABLE tokens ALTER COLUMN id TYPE int")
    with pytest.raises(QueryFailedError, match="list_tokens: FeatureNotSupported"):
        await gateway.run(tokens.list_tokens)
    await gateway.run(tokens.list_tokens)


async def test_many_open_files_are_no_trouble(gateway: Gateway) -> None:
    await gateway.run(queries.check)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(gateway.run, sleep, 0.05)  # on connections that are opened now
        await gateway.run(queries.check)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_an_outage_is_logged_once_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "STEADY_SECONDS", 0.0)
    caplog.set_level("INFO")
    with embedded_postgres(clusters.copy_to(tmp_path)) as postgres:
        gateway = Gateway(postgres.conninfo, Settings())
        await gateway.run(queries.check)
        await trio.to_thread.run_sync(postgres.stop)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await gateway.run(queries.check)
        await trio.to_thread.run_sync(postgres.start)
        await gateway.run(queries.check)
        gateway.close()
    assert_logged(caplog, "the database is away", "the database is back")


async def test_a_database_that_only_reads_is_logged_once_too(
    gateway: Gateway, conninfo: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    invoice = CreateInvoice(amount=1, currency="USD", account_id=1)
    make_read_only(conninfo)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await gateway.run(queries.create_invoice, invoice)
        await gateway.run(event_log.read_position)
    assert_logged(caplog, "the database is away")
    monkeypatch.setattr(pool_module, "STEADY_SECONDS", 0.0)  # enough of them have passed
    await gateway.run(event_log.read_position)
    assert_logged(caplog, "the database is away", "the database is back")


def assert_logged(caplog: pytest.LogCaptureFixture, *expected: str) -> None:
    messages = [record.getMessage() for record in caplog.records if record.name == pool_module.__name__]
    assert [message.partition(":")[0] for message in messages] == list(expected)


# Notifications


@asynccontextmanager
async def watching(gateway: Gateway) -> AsyncIterator[trio.MemoryReceiveChannel[float]]:
    """Yield a channel that has what each wake-up said, up to a thousand."""
    send, receive = trio.open_memory_channel[float](1000)

    def wake(upto: float = math.inf) -> None:
        send.send_nowait(upto)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.watch, wake)
        with trio.fail_after(PATIENCE_SECONDS):
            await receive.receive()  # it listens
        yield receive
        nursery.cancel_scope.cancel()


def write(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")


async def test_another_programs_commit_wakes_us(gateway: Gateway, conninfo: str) -> None:
    async with watching(gateway) as wakes:
        for _ in range(3):
            await trio.to_thread.run_sync(write, conninfo)
            with trio.fail_after(PATIENCE_SECONDS):
                await wakes.receive()


async def test_a_notification_says_up_to_which_event_there_are_some_whatever_anybody_sends(
    gateway: Gateway, conninfo: str
) -> None:
    payloads = {"17": 17, "": math.inf, "-1": math.inf, "²": math.inf, "9" * 7000: math.inf}

    def notify() -> None:
        with psycopg.connect(conninfo, autocommit=True) as other:
            for payload in payloads:
                other.execute("SELECT pg_notify('trio_ws', %s)", (payload,))

    async with watching(gateway) as wakes:
        await trio.to_thread.run_sync(notify)
        with trio.fail_after(PATIENCE_SECONDS):
            for upto in payloads.values():
                assert await wakes.receive() == upto


async def test_a_listener_that_was_cut_off_listens_again_and_looks(gateway: Gateway, conninfo: str) -> None:
    async with watching(gateway) as wakes:
        assert await trio.to_thread.run_sync(terminate_all, conninfo) == 1
        with trio.fail_after(PATIENCE_SECONDS):
            await wakes.receive()  # for what may have come meanwhile
        await trio.to_thread.run_sync(write, conninfo)
        with trio.fail_after(PATIENCE_SECONDS):
            await wakes.receive()


async def test_a_listener_that_was_cut_off_and_finds_no_descriptor_tries_again(
    gateway: Gateway, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: its session was ended, and nothing is left to open another one with."""
    failures = trio.Event()
    tries = itertools.count(1)
    connect = psycopg.connect

    def fail(*_: object, **__: object) -> None:
        if next(tries) == 3:
            trio.from_thread.run_sync(failures.set)
        raise OSError(errno.EMFILE, "Too many open files")

    async with watching(gateway) as wakes:
        with connect(conninfo, autocommit=True) as other, monkeypatch.context() as patch:
            patch.setattr(psycopg, "connect", fail)
            await trio.to_thread.run_sync(terminate_others, other)
            with trio.fail_after(PATIENCE_SECONDS):
                await failures.wait()
        with trio.fail_after(PATIENCE_SECONDS):
            await wakes.receive()


async def test_a_quiet_line_is_tried_from_time_to_time(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "HEARTBEAT_SECONDS", 0.05)
    async with watching(gateway) as wakes:
        with trio.fail_after(PATIENCE_SECONDS):
            for _ in range(3):
                await wakes.receive()


async def test_the_listener_may_have_a_url_of_its_own(conninfo: str, tmp_path: Path) -> None:
    gateway = Gateway(f"host={tmp_path}", Settings(listen_url=conninfo))
    async with watching(gateway):
        pass


# A server that answers nothing more


@both_ways
async def test_a_stopped_server_is_noticed_by_our_own_clock(tmp_path: Path, query: Sleep) -> None:
    """SIGSTOP: the kernel goes on acknowledging, so no option of TCP's and no timeout of its own helps."""
    with embedded_postgres(clusters.copy_to(tmp_path / "data")) as postgres:
        gateway = Gateway(postgres.conninfo, Settings(statement_seconds=0.5))
        process = await gateway.run(backend)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.watch, lambda *_: None)
            os.kill(process, signal.SIGSTOP)
            try:
                with trio.fail_after(PATIENCE_SECONDS), pytest.raises(Unavailable):
                    await gateway.run(query, 0.0)
            finally:
                os.kill(process, signal.SIGCONT)
            nursery.cancel_scope.cancel()
        await gateway.run(queries.check)
        gateway.close()


@both_ways
async def test_a_loop_that_stood_still_cuts_no_session_whose_answer_is_there(
    conninfo: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, query: Sleep
) -> None:
    monkeypatch.setattr(pool_module, "WATCHDOG_SECONDS", 0.1)
    gateway = Gateway(conninfo, Settings(statement_seconds=0.3))
    await gateway.run(query, 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.watch, lambda *_: None)
        for _ in range(6):  # which task is first is up to chance
            async with trio.open_nursery() as asking:
                asking.start_soon(gateway.run, query, 0.1)
                await trio.sleep(0.05)
                time.sleep(0.5)  # noqa: ASYNC251 - that is the fault
        nursery.cancel_scope.cancel()
    gateway.close()
    assert not [message for message in caplog.messages if "silent" in message]


async def test_a_session_whose_answer_could_not_be_waited_for_is_not_used_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "fs.epoll.max_user_watches")

    await gateway.run(queries.check)
    with monkeypatch.context() as patch:
        patch.setattr(trio.lowlevel, "wait_readable", fail)
        with pytest.raises(Unavailable):
            await gateway.run(wait, 0.5)
    await gateway.run(queries.check)


@both_ways
async def test_a_cancelled_caller_still_waits_for_the_commit(gateway: Gateway, query: Sleep) -> None:
    started = time.monotonic()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.run, query, 0.3)
            await trio.sleep(0.1)
            scope.cancel()
    assert time.monotonic() - started >= 0.3


async def test_a_bug_in_a_query_is_told_without_what_clients_sent(gateway: Gateway) -> None:
    action = CreateInvoice(amount=0, currency="USD", account_id=1, memo="a memo that no log may hold")
    with pytest.raises(QueryFailedError) as failed:
        await gateway.run(queries.create_invoice, action)
    assert str(failed.value) == "create_invoice: CheckViolation 23514 amount_check"
    assert "memo" not in "".join(traceback.format_exception(failed.value))
    assert await gateway.run(event_log.read_position), "and the next one has a connection"
