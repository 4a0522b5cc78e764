"""Which host a new connection goes to, and which primaries are refused, with real ones."""

import math
import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests import clusters
from trio_ws import metrics
from trio_ws.database import gateway as gateway_module
from trio_ws.database import hosts, queries
from trio_ws.database.embedded import EmbeddedPostgres, embedded_postgres
from trio_ws.database.gateway import Gateway
from trio_ws.database.hosts import Fence, Hosts
from trio_ws.database.queries import Connection
from trio_ws.database.sessions import Primary
from trio_ws.errors import Unavailable
from trio_ws.settings import Settings

PATIENCE_SECONDS = 30
NOBODY = "/nowhere"


def prepare(connection: Connection) -> Primary | None:
    return queries.prepare_connection(connection, 10)


def failures() -> float:
    """Return how many connections could not be opened."""
    (family,) = metrics.DATABASE_FAILURES.labels(
        "connect"
    ).collect()  # alone: others are asked inside of trio
    return next(sample.value for sample in family.samples if sample.name.endswith("_total"))


def host_of(conninfo: str) -> str:
    return str(conninfo_to_dict(conninfo)["host"])


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is tried, in order, of `host`, `hostaddr` and `port`."""
    tried: list[dict[str, Any]] = []
    connect = psycopg.connect

    def note(conninfo: str, **options: Any) -> Any:
        tried.append({name: options[name] for name in ("host", "hostaddr", "port") if name in options})
        return connect(conninfo, **options)

    monkeypatch.setattr(psycopg, "connect", note)
    return tried


# Which host


def test_the_host_that_was_good_last_is_tried_first(conninfo: str, tried: list[dict[str, Any]]) -> None:
    good = host_of(conninfo)
    known = Hosts(make_conninfo(conninfo, host=f"{NOBODY},{good}"), prepare, Fence())
    before = failures()
    for _ in range(3):
        known.connect().close()
    assert [place["host"] for place in tried] == [NOBODY, good, good, good]
    assert failures() == before + 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("host=/a,/b,/c port=1", [{"host": "/a"}, {"host": "/b"}, {"host": "/c"}]),
        ("host=/a,/b port=1,2", [{"host": "/a", "port": "1"}, {"host": "/b", "port": "2"}]),
        ("postgresql://%2fa,%2fb:2/db", [{"host": "/a", "port": ""}, {"host": "/b", "port": "2"}]),
        (
            "host=a,b hostaddr=127.1.1.1,127.1.1.2 port=1",
            [{"host": "a", "hostaddr": "127.1.1.1"}, {"host": "b", "hostaddr": "127.1.1.2"}],
        ),
        ("hostaddr=127.1.1.1,127.1.1.2 port=1", [{"hostaddr": "127.1.1.1"}, {"hostaddr": "127.1.1.2"}]),
        ("host=/a", [{"host": "/a"}]),
        ("host=/a port=1", [{"host": "/a"}]),
    ],
)
def test_hosts_are_tried_in_their_order(
    given: str, expected: list[dict[str, str]], tried: list[dict[str, Any]]
) -> None:
    with pytest.raises(psycopg.OperationalError):
        Hosts(given, prepare, Fence()).connect()
    assert tried == expected


@pytest.mark.parametrize(
    "given", ["", "service=nowhere", "host=/a,/b port=1,2,3", "host=/a hostaddr=127.1.1.1,127.1.1.2"]
)
def test_what_names_no_hosts_or_not_well_is_left_to_libpq(given: str, tried: list[dict[str, Any]]) -> None:
    with pytest.raises(psycopg.Error):
        Hosts(make_conninfo(given, dbname="nowhere"), prepare, Fence()).connect()
    assert tried == [{}]


def test_the_hosts_of_the_environment_are_tried_too(
    tried: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", "/a,/b")
    with pytest.raises(psycopg.Error):
        Hosts("dbname=nowhere", prepare, Fence()).connect()
    assert [place["host"] for place in tried] == ["/a", "/b"]


def test_hosts_to_be_taken_at_random_are_shuffled_once(
    tried: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "shuffle", list.reverse)
    known = Hosts("host=/a,/b,/c load_balance_hosts=random", prepare, Fence())
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            known.connect()
    assert [place["host"] for place in tried] == ["/c", "/b", "/a"] * 2


def test_where_no_host_is_good_each_reason_is_told(tried: list[dict[str, Any]]) -> None:
    with pytest.raises(psycopg.OperationalError) as failed:
        Hosts("host=/a,/b", prepare, Fence()).connect()
    assert '"/a/.s' in str(failed.value)
    assert '"/b/.s' in str(failed.value)


# Which primary


def copy_that_is_promoted(data_dir: Path) -> Path:
    """Put a copy there of what all clusters here are copies of; as it starts it becomes a primary."""
    cluster = clusters.copy_to(data_dir) / "postgres"
    with (cluster / "postgresql.conf").open("a") as settings:
        settings.write("restore_command = 'false'\nhot_standby = off\n")  # it is ready when it is promoted
    make_file(cluster, "recovery.signal")
    return data_dir


def make_file(cluster: Path, name: str) -> None:
    owner = cluster.stat()
    (cluster / name).touch()
    os.chown(cluster / name, owner.st_uid, owner.st_gid)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A primary on timeline 1."""
    with embedded_postgres(clusters.copy_to(tmp_path / "old")) as postgres:
        yield postgres


@pytest.fixture
def new(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A copy of it that was promoted, and so is on timeline 2."""
    with embedded_postgres(copy_that_is_promoted(tmp_path / "new")) as postgres:
        yield postgres


def both(first: EmbeddedPostgres, second: EmbeddedPostgres) -> str:
    return make_conninfo(first.conninfo, host=f"{host_of(first.conninfo)},{host_of(second.conninfo)}")


def timeline(connection: Connection) -> int:
    (row,) = connection.execute("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
    return int(row[0], 16)


def shown_timelines() -> list[str]:
    return [sample.labels["timeline"] for metric in metrics.PRIMARY.collect() for sample in metric.samples]


async def test_a_primary_that_was_replaced_is_used_no_more(
    old: EmbeddedPostgres, new: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Gateway(both(old, new), Settings())) as gateway:
        assert await gateway.run(timeline) == 1
        assert shown_timelines() == ["1"]
        old.stop()
        assert await gateway.run(timeline) == 2
        assert shown_timelines() == ["2"]
        new.stop()
        old.start()
        before = failures()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await gateway.run(timeline)
        assert failures() == before + 4, "each host each time"
        assert "was replaced: it writes timeline 1, and 2 has been seen" in caplog.text
        new.start()
        assert await gateway.run(timeline) == 2


async def test_sessions_that_were_kept_on_a_primary_that_was_replaced_are_used_no_more(
    old: EmbeddedPostgres, new: EmbeddedPostgres
) -> None:
    def use_another(connection: Connection) -> int:
        """Connect once more while this one is in use."""
        pool = gateway._pool  # noqa: SLF001
        pool._idle.append(pool.connect())  # noqa: SLF001 - as a query beside this one would
        return timeline(connection)

    with closing(Gateway(both(old, new), Settings())) as gateway:
        assert await gateway.run(timeline) == 1
        door = Path(host_of(old.conninfo)) / ".s.PGSQL.5432"
        door.rename(door.with_name("closed"))  # to who comes anew; who is in stays
        assert await gateway.run(use_another) == 1
        for _ in range(3):
            assert await gateway.run(timeline) == 2
        door.with_name("closed").rename(door)


async def test_a_listener_leaves_a_primary_that_was_replaced(
    old: EmbeddedPostgres, new: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "HEARTBEAT_SECONDS", 0.05)
    listens = "SELECT FROM pg_stat_activity WHERE query = 'LISTEN trio_ws'"
    heard = trio.Event()
    with (
        closing(Gateway(both(old, new), Settings())) as gateway,
        psycopg.connect(new.conninfo, autocommit=True) as other,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.watch, lambda _=math.inf: heard.set())
            await heard.wait()
            door = Path(host_of(old.conninfo)) / ".s.PGSQL.5432"
            door.rename(door.with_name("closed"))
            gateway._pool.connect().close()  # noqa: SLF001 - as a query would that finds no idle session
            with trio.fail_after(PATIENCE_SECONDS):
                while not other.execute(listens).fetchall():  # noqa: ASYNC110 - PostgreSQL tells nobody
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        door.with_name("closed").rename(door)


async def test_a_process_that_has_seen_only_the_old_one_knows_no_better(
    old: EmbeddedPostgres, new: EmbeddedPostgres
) -> None:
    with closing(Gateway(both(old, new), Settings())) as gateway:
        assert await gateway.run(timeline) == 1


def test_a_standby_is_passed_by_and_counted(old: EmbeddedPostgres, tmp_path: Path) -> None:
    make_file(clusters.copy_to(tmp_path / "standby") / "postgres", "standby.signal")
    with embedded_postgres(tmp_path / "standby") as standby:
        before = failures()
        with Hosts(both(standby, old), prepare, Fence()).connect() as connection:
            assert connection.info.host == host_of(old.conninfo)
        assert failures() == before + 1
        with pytest.raises(psycopg.OperationalError, match="is a standby, which only reads"):
            Hosts(standby.conninfo, prepare, Fence()).connect()


@pytest.mark.parametrize("function", ["pg_control_system()", "pg_current_wal_lsn()"])
def test_where_postgresql_does_not_say_there_is_no_fence_and_that_is_said_once(
    old: EmbeddedPostgres, function: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with psycopg.connect(old.conninfo, autocommit=True) as owner:
        owner.execute("CREATE ROLE shop LOGIN")
        owner.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC".encode())
    fence = Fence()
    known = Hosts(make_conninfo(old.conninfo, user="shop"), prepare, fence)
    for _ in range(2):
        with known.connect() as connection:
            assert fence.primary_of(connection) is None
            assert not fence.refuses(connection)
            assert connection.execute("SHOW search_path").fetchall() == [("pg_catalog, pg_temp",)]
    said = [record.getMessage() for record in caplog.records if record.name == hosts.__name__]
    assert said == ["PostgreSQL does not say which primary it is: one that was replaced is used"]


async def test_the_listener_and_what_goes_by_a_pooler_obey_the_same_fence(
    old: EmbeddedPostgres, new: EmbeddedPostgres
) -> None:
    """A `listen_url` means that the other one leads through a pooler."""
    with closing(Gateway(old.conninfo, Settings(listen_url=new.conninfo))) as gateway:
        assert await gateway.run(timeline) == 1
        gateway._open_listener().close()  # noqa: SLF001 - without waiting for it
        with pytest.raises(Unavailable):
            await gateway.run(timeline)
