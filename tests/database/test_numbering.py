"""Numbering costs what is new, keeps the order of each row, and delays no event for a large transaction."""

import json
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.end_to_end.size import LARGEST
from tests.programs import prepare
from trio_ws.database import event_log
from trio_ws.database.queries import Connection

INSERT = "INSERT INTO invoices (account_id, amount, currency) SELECT %s, 1, 'USD' FROM generate_series(1, %s)"
MANY = 20_000  # events; read one by one, they would take thousands of buffers
LARGE_BYTES = 600_000  # that a step takes: 500 KB and one event
FEW_BUFFERS = 250  # of 8 KB, that a step may read: it reads some 40


@pytest.fixture
def programs(conninfo: str) -> Iterator[list[psycopg.Connection[Any]]]:
    """Other programs on the same database, each with a session of its own."""
    with ExitStack() as stack:
        connect = [psycopg.connect(conninfo, autocommit=True) for _ in range(4)]
        yield [stack.enter_context(one) for one in connect]


@pytest.fixture
def server(conninfo: str) -> Iterator[Connection]:
    """A session as the server's, which has numbered what there is."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        prepare(connection, 10.0)
        connection.execute("INSERT INTO accounts (name) VALUES ('second')")
        number_all(connection)
        yield connection


def advance(connection: Connection, after: int, most: int) -> event_log.LogRead:
    """Number and read on, as the log's tail does."""
    read = event_log.advance(connection, after, most)
    if not read.events and read.end.seq > after:
        return event_log.read_events(connection, after, most)
    return read


def number_all(connection: Connection, most: int = 500) -> None:
    """Number until there is no more."""
    idle = 0
    while idle < 2:
        ((numbered,),) = connection.execute("SELECT number_events(%s)", (most,))
        idle = 0 if numbered or event_log.read_events(connection, 0, 1).has_more else idle + 1


def numbered(connection: Connection) -> list[Any]:
    """The id, subject and type of each event that has a number, in the log's order."""
    rows = connection.execute("SELECT seq, id, subject, type FROM event WHERE seq IS NOT NULL ORDER BY seq")
    found = rows.fetchall()
    assert [row[0] for row in found] == list(range(1, len(found) + 1)), "there is a gap"
    return [row[1:] for row in found]


def buffers(connection: Connection, statement: str) -> int:
    """How many buffers a statement reads, what its functions do included."""
    plan = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off) {statement}".encode())
    text = "\n".join(str(line) for (line,) in plan)
    read = re.search(r"Buffers: shared([^\n]*)", text)
    return sum(int(count) for count in re.findall(r"(?:hit|read)=(\d+)", read[1])) if read else 0


def cost_of_one(connection: Connection) -> int:
    """How many buffers it takes to number one event and to read it."""
    for _ in range(8):  # so that plans are as they stay, and deleted entries are marked as such
        end = event_log.read_position(connection).seq
        connection.execute(INSERT.encode(), (2, 1))
        cost = buffers(connection, "SELECT number_events(500)")
        read = event_log.read_events(connection, end, 500)
        assert [event.seq for event in read.events] == [end + 1]
    return cost


def test_a_step_does_not_read_what_is_not_committed(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    other, *_ = programs
    other.execute("BEGIN")
    other.execute(INSERT.encode(), (1, MANY))
    assert cost_of_one(server) < FEW_BUFFERS
    assert buffers(server, "SELECT number_events(500)") < FEW_BUFFERS
    other.execute("ROLLBACK")
    assert cost_of_one(server) < FEW_BUFFERS, "nor what never will be"


def test_a_step_does_not_read_what_a_long_snapshot_keeps(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    dump, *_ = programs
    dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    dump.execute("SELECT count(*) FROM accounts")
    for _ in range(MANY // 200):
        server.execute(INSERT.encode(), (1, 200))
        server.execute("SELECT number_events(500)")
    assert cost_of_one(server) < FEW_BUFFERS
    dump.execute("COMMIT")


def test_a_step_that_waited_for_another_one_does_not_read_what_has_its_number(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    importer, till, first, second = programs
    importer.execute(INSERT.encode(), (1, MANY))
    number_all(server)
    second.execute("SELECT number_events(500)")  # so that its plans are made
    first.execute("BEGIN")
    first.execute("SELECT FROM event_log FOR UPDATE")
    with ThreadPoolExecutor(1) as threads:
        till.execute(INSERT.encode(), (2, 1))
        cost = threads.submit(buffers, second, "SELECT number_events(500)")
        deadline = time.monotonic() + 60
        while not is_waiting(server, second):
            assert time.monotonic() < deadline
        till.execute(INSERT.encode(), (2, 1))  # of which the one that waits does not know
        first.execute("SELECT number_events(500)")
        first.execute("COMMIT")
        assert cost.result(60) < 2 * FEW_BUFFERS, "a step looks a second time"


def test_a_step_that_waited_while_another_one_numbered_all_does_not_wait_for_the_disk(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    _, till, first, second = programs
    till.execute(INSERT.encode(), (2, 1))
    first.execute("BEGIN")
    first.execute("SELECT number_events(500)")
    second.execute("BEGIN")
    with ThreadPoolExecutor(1) as threads:
        numbered = threads.submit(lambda: second.execute("SELECT number_events(500)").fetchone())
        deadline = time.monotonic() + 60
        while not is_waiting(server, second):
            assert time.monotonic() < deadline
        first.execute("COMMIT")
        assert numbered.result(timeout=60) == (0,)
    assert second.execute("SHOW synchronous_commit").fetchone() == ("off",)


def test_whether_more_is_to_come_is_known_until_all_has_its_number(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    till, *_ = programs
    before = event_log.read_position(server).seq
    for _ in range(5):
        till.execute(INSERT.encode(), (2, 40))
    left = []
    while (read := advance(server, before, 100)).has_more:
        before = read.end.seq
        left.append(len(read.events))
        assert len(left) < 20
    assert sum(left) + len(read.events) == 200
    assert not advance(server, read.end.seq, 100).has_more


@pytest.mark.parametrize("count", [1, 4, 5, 6, 40, 400])
def test_what_is_numbered_is_read_with_it_unless_it_is_too_large_for_one_answer(
    server: Connection, count: int
) -> None:
    before = event_log.read_position(server)
    server.execute(
        "INSERT INTO @schema@.invoices (account_id, amount, currency, memo)"
        " SELECT 1, n, 'USD', repeat('x', 1000) FROM generate_series(1, %s) n",
        (count,),
    )
    read = event_log.advance(server, before.seq, 5000)
    assert len(read.events) == (count if count <= 5 else 0), "the rest of them would not be kept back"
    read = advance(server, before.seq, 5000)
    assert read.known_as == before.name
    assert [json.loads(bytes(event.data))["amount"] for event in read.events] == [*range(1, count + 1)]
    assert advance(server, read.end.seq, 5000).events == []


def is_waiting(connection: Connection, other: "psycopg.Connection[Any]") -> bool:
    """Whether another session waits for a lock."""
    locks = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
    return connection.execute(locks, (other.info.backend_pid,)).fetchone() == (True,)


def test_a_large_transaction_delays_no_other_event(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    importer, till, *_ = programs
    importer.execute(INSERT.encode(), (1, 3000))
    server.execute("SELECT number_events(500)")
    for _ in range(3):
        till.execute(INSERT.encode(), (2, 1))
        (newest,) = till.execute("SELECT max(id) FROM event").fetchone() or (None,)
        before = event_log.read_position(server).seq
        read = advance(server, before, 500)
        assert read.has_more
        assert newest in [row[0] for row in numbered(server)[before:]]
    number_all(server)
    assert len(numbered(server)) == 3 + 3000 + 3
    assert not event_log.read_events(server, 0, 1).has_more


def test_a_step_takes_few_large_rows_and_they_delay_no_other_event(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    importer, till, *_ = programs
    importer.execute(LARGEST.encode(), (1, 400))
    server.execute("SELECT number_events(500)")
    till.execute(INSERT.encode(), (2, 1))
    before = event_log.read_position(server).seq
    read = advance(server, before, 500)
    newest = till.execute("SELECT seq > %s FROM event ORDER BY id DESC LIMIT 1", (before,))
    assert newest.fetchone() == (True,)
    assert read.has_more
    while read.has_more:
        assert 0 < sum(len(bytes(event.data)) for event in read.events) < LARGE_BYTES
        read = advance(server, read.events[-1].seq, 500)
    assert len(numbered(server)) == 3 + 400 + 1


def test_a_row_of_a_large_transaction_keeps_the_order_of_its_events(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    importer, till, *_ = programs
    importer.execute(INSERT.encode(), (1, 3000))
    server.execute("SELECT number_events(500)")
    till.execute("UPDATE invoices SET memo = 'changed' WHERE id = (SELECT max(id) FROM invoices)")
    till.execute("UPDATE invoices SET memo = 'again' WHERE id = (SELECT max(id) FROM invoices)")
    number_all(server)
    in_order(numbered(server))


def test_a_row_keeps_the_order_of_its_events_where_a_step_ends_between_two_transactions(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    older, newer, *_ = programs
    newer.execute(INSERT.encode(), (1, 1))
    number_all(server)
    older.execute("BEGIN")
    older.execute("SELECT pg_current_xact_id()")
    for program in (newer, older):  # so the older one has the later event
        program.execute("UPDATE invoices SET memo = gen_random_uuid()::text WHERE id = 1")
    older.execute("COMMIT")
    number_all(server, most=1)
    in_order(numbered(server))


def in_order(events: list[Any]) -> None:
    """Check that the events of each row come in the order in which they were written."""
    last: dict[int, int] = {}
    for id_, subject, _ in events:
        assert last.get(subject, 0) < id_, f"{subject} has {id_} after {last[subject]}"
        last[subject] = id_


def test_nobody_numbers_ahead_of_what_it_has_read(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    """Or a slow process would fall ever further behind in a long import."""
    for _ in range(5):
        programs[0].execute(INSERT.encode(), (1, 100))
    start = event_log.read_position(server).seq
    for _ in range(9):
        event_log.number_events(server, 100, start)
    assert event_log.read_position(server).seq == start + 100


def test_a_dump_from_a_cluster_with_higher_numbers_of_transactions_is_taken_over(
    server: Connection, programs: list[psycopg.Connection[Any]]
) -> None:
    programs[0].execute(INSERT.encode(), (1, 5))
    server.execute("UPDATE event SET tx = tx + 1000000000 WHERE seq IS NULL")
    server.execute("UPDATE event_step SET below = below + 1000000000, open = '{7}'")
    before = event_log.start_log(server).end.seq
    number_all(server)
    assert event_log.read_position(server).seq == before + 5


def test_steps_go_with_the_events_that_they_numbered(server: Connection) -> None:
    for _ in range(20):
        server.execute(INSERT.encode(), (1, 10))
        server.execute("SELECT number_events(500)")
    end = event_log.read_position(server)
    assert event_log.trim_events(server, 0.0, 100_000) == end.seq
    ((steps,),) = server.execute("SELECT count(*) FROM event_step")
    assert steps == 1
    assert event_log.read_position(server) == end


def test_trimming_reads_what_it_deletes_whatever_the_statistics_say(server: Connection) -> None:
    server.execute("ALTER TABLE event SET (autovacuum_enabled = off)")
    for _ in range(40):
        server.execute(INSERT.encode(), (1, 500))
        server.execute("SELECT number_events(500)")
    assert event_log.trim_events(server, 0.0, 10) == 10
    cost = buffers(server, "SELECT trim_events(interval '0', 10)")
    assert cost < FEW_BUFFERS


@pytest.mark.parametrize("seed", range(12))
def test_whatever_transactions_do_each_event_has_one_number_in_the_order_of_its_row(
    server: Connection, programs: list[psycopg.Connection[Any]], seed: int
) -> None:
    chance = random.Random(seed)
    for program in programs:
        program.execute("SET lock_timeout = '1ms'")
    open_: set[int] = set()
    often = chance.choice([0.5, 0.05])  # or the steps are behind, and each ends between transactions

    def act(number: int) -> None:
        program = programs[number]
        match chance.choice(["begin", "insert", "insert", "many", "update", "update", "savepoint", "end"]):
            case "begin" if number not in open_:
                program.execute("BEGIN")
                open_.add(number)
            case "insert":
                program.execute(INSERT.encode(), (1, chance.randint(1, 4)))
            case "many":
                program.execute(INSERT.encode(), (2, chance.randint(20, 60)))
            case "update":
                program.execute(
                    "UPDATE invoices SET memo = gen_random_uuid()::text WHERE id IN"
                    " (SELECT id FROM invoices ORDER BY random() LIMIT %s FOR UPDATE SKIP LOCKED)",
                    (chance.choice([1, 1, 2, 30]),),
                )
            case "savepoint" if number in open_:
                program.execute("SAVEPOINT here")
                program.execute(INSERT.encode(), (1, 3))
                program.execute("ROLLBACK TO here" if chance.random() < 0.5 else "RELEASE here")
            case "end" if number in open_:
                program.execute("COMMIT" if chance.random() < 0.8 else "ROLLBACK")
                open_.discard(number)

    for _ in range(250):
        act(chance.randrange(len(programs)))
        if chance.random() < often:
            server.execute("SELECT number_events(%s)", (chance.choice([1, 5, 10, 50]),))
    for number in open_:
        programs[number].execute("COMMIT")
    number_all(server, most=10)
    events = numbered(server)
    in_order(events)
    ((written,),) = server.execute("SELECT count(*) FROM event")
    assert len(events) == written
