"""What other programs write is taken or refused alike by the simulated database and by PostgreSQL."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import DataError, Error, Rollback
from trio.testing import MockClock

from tests.programs import OtherProgram
from trio_ws.database import event_log, expiry, queries
from trio_ws.database.gateway import Database
from trio_ws.errors import IdempotencyMismatch, NotFound, Timeout
from trio_ws.messages import CreateInvoice
from trio_ws.testing import PostgresSession, Session, SimulatedDatabase
from trio_ws.testing.refusals import (
    CheckViolation,
    DatatypeMismatch,
    FeatureNotSupported,
    ForeignKeyViolation,
    InFailedSqlTransaction,
    InvalidTextRepresentation,
    LockNotAvailable,
    NoData,
    NotNullViolation,
    NumericValueOutOfRange,
    UndefinedColumn,
    UniqueViolation,
)
from trio_ws.topics import Event

Serverless = tuple[Database, OtherProgram]

INVOICE: dict[str, Any] = {"amount": 5, "currency": "EUR", "account_id": 1}
KEYED = {**INVOICE, "idempotency_key": "k"}
UID, OTHER = UUID(int=1), UUID(int=2)
ALL = 100


async def new_events(database: Database) -> list[Event]:
    """All events that are there, numbered, but for those of the first prices."""
    await database.run(event_log.number_events, ALL)
    return (await database.run(event_log.read_events, 3, ALL)).events


async def statuses(database: Database, uids: Sequence[UUID]) -> list[str]:
    found = [await database.run(queries.fetch_invoice, uid, None) for uid in uids]
    return [msgspec.json.decode(invoice)["status"] for invoice in found]


def create(**columns: Any) -> Callable[[Session], object]:
    return lambda session: session.create_invoice(**{**INVOICE, **columns})


def update(**columns: Any) -> Callable[[Session], object]:
    return lambda session: session.update_invoice(UID, **columns)


def pay_nobody(**columns: Any) -> Callable[[Session], object]:
    payment = {"reference": "r", "amount": 1, "status": "settled", **columns}
    return lambda session: session.record_payment(OTHER, **payment)


def price(
    value: Any, currency: str = "XYZ", base: str = "USD", account: int = 1
) -> Callable[[Session], object]:
    return lambda session: session.set_price(currency, value, base, account)


@pytest.mark.parametrize(
    ("write", "kind", "name"),
    [
        (create(amount=0), CheckViolation, "amount_check"),
        (create(amount=2**53), CheckViolation, "amount_check"),
        (create(amount=2**63), NumericValueOutOfRange, None),
        (create(amount="five"), InvalidTextRepresentation, None),
        (create(amount=None), NotNullViolation, "amount"),
        (create(currency="usd"), CheckViolation, "currency_check"),
        (create(currency="USD\n"), CheckViolation, "currency_check"),
        (create(account_id=2), ForeignKeyViolation, "invoices_account_id_fkey"),
        (create(status="new"), CheckViolation, "invoices_status_check"),
        (create(status=None), NotNullViolation, "status"),
        (create(memo="a\0b"), DataError, None),
        (create(memo="x" * 1001), CheckViolation, "memo"),
        (create(address="x" * 129), CheckViolation, "address"),
        (create(webhook_url="ftp://x"), CheckViolation, "webhook_url"),
        (create(idempotency_key=""), CheckViolation, "idempotency_key"),
        (create(request_hash=bytes(65)), CheckViolation, "request_hash"),
        (create(uid=UID), UniqueViolation, "invoices_uid_key"),
        (create(uid=None), NotNullViolation, "uid"),
        (create(uid=5), DatatypeMismatch, None),
        (create(uid="no uid"), InvalidTextRepresentation, None),
        (create(id=1), UniqueViolation, "invoices_pkey"),
        (create(**KEYED), UniqueViolation, "invoices_idempotency"),
        (create(created_at=None), NotNullViolation, "created_at"),
        (create(colour="red"), UndefinedColumn, None),
        (update(status="paid"), CheckViolation, None),
        (update(status=None), NotNullViolation, "status"),
        (update(amount=6), CheckViolation, None),
        (update(amount=0), CheckViolation, "amount_check"),
        (update(idempotency_key="another"), CheckViolation, None),
        (update(id=None), CheckViolation, None),
        (update(memo="x" * 1001), CheckViolation, "memo"),
        (update(colour="red"), UndefinedColumn, None),
        (lambda session: session.update_invoice(OTHER, memo="x"), NoData, None),
        (lambda session: session.update_invoice(OTHER, amount=0), NoData, None),
        (lambda session: session.update_invoice(OTHER, memo="\0"), DataError, None),
        (pay_nobody(), NoData, None),
        (pay_nobody(status="new"), NoData, None),
        (pay_nobody(id=2**63), NumericValueOutOfRange, None),
        (price(Decimal(-1)), CheckViolation, "prices_amount_check"),
        (price(Decimal(0)), CheckViolation, "prices_value_check"),
        (price(Decimal("1e-37")), CheckViolation, "prices_value_check1"),
        (price(Decimal("1e15")), CheckViolation, "prices_amount_check"),
        (price(Decimal("1e30")), NumericValueOutOfRange, None),
        (price(Decimal("NaN")), FeatureNotSupported, None),
        (price(Decimal("Infinity")), FeatureNotSupported, None),
        (price(Decimal(1) + Decimal("1e-27"), base="XMR", currency="XMR"), CheckViolation, "base_currency"),
        (price(None), NotNullViolation, "amount"),
        (price(Decimal(1), currency="xyz"), CheckViolation, "currency_check"),
        (price(Decimal(1), account=2), ForeignKeyViolation, "prices_account_id_fkey"),
        (lambda session: session.delete_price("XYZ"), NoData, None),
        (lambda session: session.create_account(id=1), UniqueViolation, "accounts_pkey"),
        (lambda session: session.create_account(id=0), CheckViolation, "accounts_id_check"),
        (lambda session: session.create_account(name="a\nb"), CheckViolation, "name"),
        (lambda session: session.create_account(name=None), NotNullViolation, "name"),
        (lambda session: session.create_token(2), ForeignKeyViolation, "tokens_account_id_fkey"),
        (lambda session: session.create_token(1, []), CheckViolation, "tokens_scopes_check"),
        (lambda session: session.revoke_token("nobody's"), NoData, None),
    ],
)
async def test_what_can_not_be_is_refused_and_leaves_no_trace(
    serverless: Serverless, write: Callable[[Session], object], kind: type[Error], name: str | None
) -> None:
    database, program = serverless
    await program.create_invoice(**KEYED, uid=UID)
    before = await new_events(database)
    with pytest.raises(kind) as refused:
        await program.run(write)
    assert type(refused.value) is kind
    assert (refused.value.diag.constraint_name or refused.value.diag.column_name) == name
    assert await new_events(database) == before


async def test_a_version_and_time_of_change_that_are_given_count_for_nothing(serverless: Serverless) -> None:
    database, program = serverless
    uid = await program.create_invoice(**INVOICE, version=7)
    for columns in (
        {"memo": "a", "version": 9},
        {"version": 20},
        {"updated_at": datetime(2000, 1, 1, tzinfo=UTC)},
    ):
        await program.update_invoice(uid, **columns)
    changes = [msgspec.json.decode(event.data)["version"] for event in await new_events(database)]
    assert changes == [1, 2]


async def test_a_number_that_was_given_is_gone_whatever_became_of_its_row(serverless: Serverless) -> None:
    database, program = serverless

    async def next_id() -> int:
        invoice = await database.run(queries.fetch_invoice, await program.create_invoice(**INVOICE), None)
        return int(msgspec.json.decode(invoice)["id"])

    def undo(session: Session) -> None:
        with session.transaction():
            session.create_invoice(**INVOICE)
            raise Rollback

    assert await next_id() == 1
    for refused in ({"amount": 0}, {"account_id": 9}, {"memo": "x" * 1001}):
        with pytest.raises(Error):
            await program.create_invoice(**{**INVOICE, **refused})
    assert await next_id() == 5, "what was refused"
    for refused in ({"memo": "\0"}, {"amount": 2**63}, {"colour": "red"}):
        with pytest.raises(Error):
            await program.create_invoice(**{**INVOICE, **refused})
    assert await next_id() == 6, "what never began"
    await program.run(undo)
    assert await next_id() == 8, "what was undone"
    action = CreateInvoice(**KEYED)
    for _ in range(3):
        await database.run(queries.create_invoice, action)
    with pytest.raises(IdempotencyMismatch):
        await database.run(queries.create_invoice, CreateInvoice(**{**KEYED, "amount": 6}))
    assert await next_id() == 13, "what a client repeated"
    with pytest.raises(NotFound):
        await database.run(queries.create_invoice, CreateInvoice(**{**INVOICE, "account_id": 9}))
    assert await next_id() == 14, "what no account is for"
    await program.create_invoice(**INVOICE, id=15)
    with pytest.raises(UniqueViolation):
        await next_id()
    assert await next_id() == 16, "what somebody else has given"
    for value in (1, 2, 2):
        await program.set_price("BTC", Decimal(value))
    await program.set_price("XYZ", Decimal(1))
    (*_, last) = (await database.run(queries.read_prices, 0, ALL)).prices
    assert msgspec.json.decode(last)["id"] == 7, "what changed a price"


async def test_a_transaction_is_done_whole_or_not_at_all(serverless: Serverless) -> None:
    database, program = serverless
    uids = [await program.create_invoice(**INVOICE) for _ in range(3)]
    await program.update_invoice(uids[2], status="cancelled")
    before = await new_events(database)

    def book(session: Session, payments: Sequence[UUID]) -> None:
        with session.transaction():
            for uid in payments:
                session.update_invoice(uid, status="confirming")
                session.update_invoice(uid, status="paid")

    with pytest.raises(CheckViolation, match="is cancelled and cannot become confirming"):
        await program.run(lambda session: book(session, uids))
    assert await statuses(database, uids) == ["unpaid", "unpaid", "cancelled"]
    assert await new_events(database) == before
    await program.run(lambda session: book(session, uids[:2]))
    assert await statuses(database, uids) == ["paid", "paid", "cancelled"]
    booked = [msgspec.json.decode(event.data)["id"] for event in (await new_events(database))[len(before) :]]
    assert booked == [1, 1, 2, 2], "in the order in which they were written"


async def test_a_transaction_sees_what_it_has_written_and_nobody_else_does(serverless: Serverless) -> None:
    database, program = serverless
    (uid,) = uids = [await program.create_invoice(**INVOICE)]
    with program.open_session() as session, session.transaction():
        session.update_invoice(uid, status="confirming")
        assert session.lock_invoice(uid)["status"] == "confirming"
        with pytest.raises(NoData):
            session.lock_invoice(OTHER)
        another = session.create_invoice(**INVOICE)
        assert await statuses(database, uids) == ["unpaid"]
        with pytest.raises(NotFound):
            await database.run(queries.fetch_invoice, another, None)
        assert len(await new_events(database)) == 1
        with pytest.raises(Timeout):
            await database.run(queries.change_status, uid, "cancelled", None)
        await program.create_invoice(**INVOICE)
        assert len(await new_events(database)) == 2
    assert await statuses(database, [uid, another]) == ["confirming", "unpaid"]
    ids = [msgspec.json.decode(event.data)["id"] for event in await new_events(database)]
    assert ids == [1, 3, 1, 2], "what was committed later comes later"


async def test_who_waits_for_what_a_transaction_has_changed_goes_on_once_it_has_ended(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    uid = database.create_invoice(**INVOICE)
    expired = database.create_invoice(**INVOICE, expires_in_seconds=0)
    async with trio.open_nursery() as nursery:
        session = database.session()
        with session.transaction():
            session.update_invoice(uid, memo="x")
            session.update_invoice(expired, memo="x")
            nursery.start_soon(database.run, queries.change_status, uid, "cancelled", None)
            await trio.sleep(1)
            assert await database.run(expiry.expire_invoices, ALL) == 0, "it passes by what is locked"
            with pytest.raises(LockNotAvailable):
                database.update_invoice(uid, memo="y")
    assert await statuses(database, [uid]) == ["cancelled"]
    assert await database.run(expiry.expire_invoices, ALL) == 1


async def test_a_part_of_a_transaction_can_be_undone_alone(serverless: Serverless) -> None:
    database, program = serverless
    uids = [await program.create_invoice(**INVOICE) for _ in range(3)]
    await program.update_invoice(uids[1], status="cancelled")

    def book(session: Session) -> list[UUID]:
        refused = []
        with session.transaction():
            for uid in uids:
                try:
                    with session.transaction():
                        session.update_invoice(uid, memo="booked")
                        session.update_invoice(uid, status="confirming")
                except CheckViolation:
                    refused.append(uid)
        return refused

    assert await program.run(book) == [uids[1]]
    assert await statuses(database, uids) == ["confirming", "cancelled", "confirming"]
    invoice = await database.run(queries.fetch_invoice, uids[1], None)
    assert "memo" not in msgspec.json.decode(invoice)


async def test_after_a_refusal_a_transaction_does_nothing_more(serverless: Serverless) -> None:
    database, program = serverless
    (uid,) = uids = [await program.create_invoice(**INVOICE)]

    def ignore_it(session: Session) -> None:
        with session.transaction():
            session.update_invoice(uid, status="confirming")
            with pytest.raises(CheckViolation):
                session.create_invoice(**{**INVOICE, "amount": 0})
            with pytest.raises(InFailedSqlTransaction):
                session.update_invoice(uid, status="paid")
            with pytest.raises(InFailedSqlTransaction), session.transaction():
                pass

    await program.run(ignore_it)
    assert await statuses(database, uids) == ["unpaid"], "PostgreSQL says nothing, and has undone it"

    def ignore_it_in_a_part(session: Session) -> None:
        with session.transaction():
            session.update_invoice(uid, status="confirming")
            with pytest.raises(InFailedSqlTransaction), session.transaction(), pytest.raises(CheckViolation):
                session.create_invoice(**{**INVOICE, "amount": 0})
            with pytest.raises(CheckViolation), session.transaction():
                session.create_invoice(**{**INVOICE, "amount": 0})

    with pytest.raises(InFailedSqlTransaction):
        await program.run(ignore_it_in_a_part)
    assert await statuses(database, uids) == ["unpaid"]


async def test_what_never_reached_postgresql_ends_no_transaction(serverless: Serverless) -> None:
    database, program = serverless
    (uid,) = uids = [await program.create_invoice(**INVOICE)]

    def go_on(session: Session) -> None:
        with session.transaction():
            with pytest.raises(DataError):
                session.update_invoice(uid, memo="\0")
            with pytest.raises(NoData):
                session.update_invoice(OTHER, memo="x")
            session.update_invoice(uid, status="confirming")

    await program.run(go_on)
    assert await statuses(database, uids) == ["confirming"]


# Whatever is written


class Refusal(NamedTuple):
    """What of an error is the same on both."""

    kind: str
    constraint: str | None
    column: str | None
    message: str


def refusal_of(error: Error) -> Refusal:
    message = (error.diag.message_primary or str(error)) if isinstance(error, CheckViolation) else ""
    return Refusal(type(error).__name__, error.diag.constraint_name, error.diag.column_name, message)


Write = tuple[str, dict[str, Any]]  # a method of Session and its arguments
Block = tuple[str, list["Write | Block"]]  # a transaction: how it ends, and what is in it

UIDS = [UUID(int=number) for number in range(1, 5)]
TEXTS = st.text(max_size=5) | st.sampled_from(["", "x" * 128, "x" * 129, "y" * 1001, "a b", "a\0", "\ud800"])
NUMBERS = st.integers(-1, 7) | st.sampled_from([2**53 - 1, 2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1])
CURRENCIES = st.sampled_from(["EUR", "BTC", "JPY", "usd", "US", "A" * 10, "A" * 11, "EUR\n"])
PORTS = [f"https://shop.example:{port}/" for port in (0, 1, 80, 65535, 65536, 99999)]
URLS = TEXTS | st.sampled_from(
    ["https://shop.example/", "http://x", "https://", "HTTPS://x", "https://x y", *PORTS]
)
TIMES = st.datetimes(
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))])
)
STATUSES = st.sampled_from(["unpaid", "confirming", "paid", "expired", "cancelled", "new"])
INVOICES = {
    "id": NUMBERS,
    "uid": st.sampled_from(UIDS),
    "account_id": st.integers(0, 3),
    "amount": NUMBERS,
    "currency": CURRENCIES,
    "status": STATUSES,
    "version": NUMBERS,
    "memo": TEXTS,
    "webhook_url": URLS,
    "redirect_url": URLS,
    "address": TEXTS,
    "expires_at": TIMES,
    "created_at": TIMES,
    "updated_at": TIMES,
    "amount_paid": NUMBERS,
    "amount_pending": NUMBERS,
    "idempotency_key": TEXTS | st.sampled_from(["k", "l"]),
    "request_hash": st.binary(max_size=3) | st.sampled_from([bytes(64), bytes(65)]),
}
EDGES = ["1", "1.00", "0.004", "-0.005", "1e-36", "1e-37", "9e13", "1e14", "1e17", "1e40", "NaN", "-Infinity"]
VALUES = (
    st.decimals(-(10**40), 10**40)
    | st.sampled_from(list(map(Decimal, EDGES)))
    | st.builds(lambda digits: Decimal(f"1.{'0' * digits}1"), st.sampled_from([70, 71, 72]))
)


def columns(names: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Few columns, each with a value or NULL."""
    return st.dictionaries(st.sampled_from(names), st.none(), max_size=3).flatmap(
        lambda chosen: st.fixed_dictionaries({name: st.none() | INVOICES[name] for name in chosen})
    )


PAYMENTS = {
    "id": NUMBERS,
    "reference": TEXTS | st.sampled_from(["a", "b", "c", "x" * 200, "x" * 201]),
    "amount": NUMBERS,
    "currency": CURRENCIES,
    "status": st.sampled_from(["pending", "settled", "failed", "new"]),
    "version": NUMBERS,
    "created_at": TIMES,
    "updated_at": TIMES,
}


def _payment(more: dict[str, Any], uid: UUID, reference: str, amount: int, status: str) -> dict[str, Any]:
    return {"uid": uid, "reference": reference, "amount": amount, "status": status, **more}


def _full(given_columns: dict[str, Any], uid: UUID) -> dict[str, Any]:
    return {**INVOICE, "uid": uid, **given_columns}


PRICE_KEYS: dict[str, st.SearchStrategy[Any]] = {
    "currency": CURRENCIES,
    "base_currency": CURRENCIES | st.just("USD"),
    "account_id": st.integers(1, 3),
}
WRITES = st.one_of(
    st.tuples(st.just("create_invoice"), st.builds(_full, columns([*INVOICES]), st.sampled_from(UIDS))),
    st.tuples(
        st.just("update_invoice"),
        st.builds(
            lambda uid, changes: {"uid": uid, **changes},
            st.sampled_from(UIDS),
            st.builds(
                lambda some, status: {**some, "status": status},
                columns([name for name in INVOICES if name != "uid"]),
                st.none() | STATUSES,
            ),
        ),
    ),
    st.tuples(
        st.just("record_payment"),
        st.builds(
            _payment,
            st.dictionaries(st.sampled_from([*PAYMENTS]), st.none(), max_size=1).flatmap(
                lambda chosen: st.fixed_dictionaries({name: st.none() | PAYMENTS[name] for name in chosen})
            ),
            st.sampled_from(UIDS),
            st.sampled_from(["a", "b"]),
            st.integers(-5, 5),
            st.sampled_from(["pending", "settled", "failed"]),
        ),
    ),
    st.tuples(
        st.just("create_account"),
        st.fixed_dictionaries({}, optional={"id": st.integers(-1, 4), "name": st.none() | TEXTS}),
    ),
    st.tuples(st.just("set_price"), st.fixed_dictionaries({**PRICE_KEYS, "value": st.none() | VALUES})),
    st.tuples(st.just("delete_price"), st.fixed_dictionaries(PRICE_KEYS)),
)
ENDS = st.sampled_from(["commit", "commit", "commit or stop at a refusal", "roll back", "raise"])
ACTIONS = st.lists(
    st.recursive(WRITES, lambda inner: st.tuples(ENDS, st.lists(inner, max_size=4)), max_leaves=6), max_size=8
)


def play(session: Session, actions: Sequence[Any], *, is_careless: bool = True) -> Iterator[object]:
    """Write, and yield what comes of each write; who is not careless goes on after none that was refused."""
    for name, what in actions:
        try:
            if isinstance(what, dict):
                yield getattr(session, name)(**what)
                continue
            with session.transaction():
                yield from play(session, what, is_careless="refusal" not in name)
                if name == "roll back":
                    raise Rollback
                if name == "raise":
                    raise LookupError
        except LookupError as error:
            yield type(error)
        except (Error, UnicodeEncodeError) as error:
            yield refusal_of(error) if isinstance(error, Error) else type(error)
            if not is_careless or (isinstance(error, InFailedSqlTransaction) and not isinstance(what, dict)):
                raise


def outcomes_of(session: Session, actions: Sequence[Any]) -> list[object]:
    outcomes: list[object] = []
    for action in actions:
        with suppress(Error, UnicodeEncodeError):
            outcomes += play(session, [action])
    return outcomes


def shown(row: bytes) -> dict[str, Any]:
    """A row, each number by its digits, and without what only a clock says."""
    fields: dict[str, Any] = json.loads(row, parse_float=str)
    return {name: value for name, value in fields.items() if not _is_of_today(value)}


def _is_of_today(value: object) -> bool:
    return isinstance(value, str) and "2026-" <= value < "2100-"


def simulated(actions: Sequence[Any]) -> tuple[list[object], list[Any]]:
    """What comes of each write, and the events that there are then."""
    database = SimulatedDatabase()
    outcomes = outcomes_of(database.session(), actions)
    return outcomes, [
        (event.type, event.topics, event.data, event.previous) for event in database.written[3:]
    ]


RESET = """
    TRUNCATE accounts, invoices, prices RESTART IDENTITY CASCADE;
    INSERT INTO accounts DEFAULT VALUES;
    INSERT INTO prices (account_id, currency, value)
      VALUES (1, 'BTC', 43000.00), (1, 'ETH', 2300.00), (1, 'EUR', 1.08);
    DELETE FROM event;
"""
WRITTEN = "SELECT type, topics, data::text, coalesce(previous::text, 'null') FROM event ORDER BY id"


@pytest.fixture
def psql(conninfo: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(conninfo, autocommit=True, prepare_threshold=None) as connection:
        connection.execute("ALTER TABLE invoices DISABLE TRIGGER keep")
        connection.execute("ALTER TABLE tokens DISABLE TRIGGER keep")
        connection.execute("ALTER TABLE payments DISABLE TRIGGER keep")
        yield connection


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(actions=ACTIONS)
async def test_whatever_is_written_both_databases_say_the_same_and_log_the_same(
    psql: psycopg.Connection[Any], actions: list[Any]
) -> None:
    psql.execute(RESET)
    outcomes = outcomes_of(PostgresSession(psql), actions)
    written = psql.execute(WRITTEN).fetchall()
    expected, events = simulated(actions)
    assert expected == outcomes
    assert [as_compared(*event) for event in events] == [as_compared(*event) for event in written]


def as_compared(type_: str, topics: Sequence[str], data: Any, previous: Any) -> Any:
    before, after = (value if isinstance(value, str) else bytes(value).decode() for value in (previous, data))
    was = None if before == "null" else shown(before.encode())
    return type_, [*topics], shown(after.encode()), was
