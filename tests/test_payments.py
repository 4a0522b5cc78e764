"""Money as it comes: whatever is recorded in whatever order, sums, status and events tell the same story."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.errors import CheckViolation

from tests.programs import OtherProgram, prepare
from tests.test_authorization import bearer
from tests.test_lists import rows_read
from tests.test_protocol import INVOICE, Contract, receive, request
from trio_ws.database import payments
from trio_ws.database.payments import record_payment
from trio_ws.errors import NotFound
from trio_ws.messages import RecordPayment
from trio_ws.testing import PostgresSession, Session, SimulatedClient, SimulatedDatabase

pytestmark = pytest.mark.both_ways

PAYMENT = {"action": "record_payment", "reference": "tx-1", "amount": 1000, "status": "settled"}
FIELDS = [
    *("id", "invoice", "reference", "amount", "currency", "status", "account_id"),
    *("createdAt", "updatedAt", "version"),
]


async def new_invoice(client: SimulatedClient, **more: object) -> dict[str, Any]:
    data: dict[str, Any] = (await request(client, **{**INVOICE, **more}))["data"]
    return data


async def next_change(follower: SimulatedClient) -> dict[str, Any]:
    """The next event but for a new invoice, which may come before or after who follows it."""
    while (event := await receive(follower))["type"] == "invoice.created":
        pass
    return event


async def pay(client: SimulatedClient, uid: str, **more: object) -> dict[str, Any]:
    return await request(client, **{**PAYMENT, "uid": uid, **more})


async def state(client: SimulatedClient, uid: str) -> tuple[Any, ...]:
    invoice = (await request(client, action="fetch_invoice", id=uid))["data"]
    return invoice["status"], invoice.get("amount_paid", 0), invoice.get("amount_pending", 0)


async def test_a_payment_is_recorded_and_told_right_before_what_it_makes_of_the_invoice(
    contract: Contract,
) -> None:
    world, _ = contract
    client, follower = await world.connect(), await world.connect()
    invoice = await new_invoice(client, address="addr")
    for topic in (("invoice", invoice["uid"]), ("account", 1), ("address", "addr")):
        await request(follower, action="subscribe", type=topic[0], id=topic[1])
    payment = (await pay(client, invoice["uid"]))["data"]
    assert list(payment) == FIELDS
    assert payment | {"createdAt": "", "updatedAt": ""} == {
        "id": 1,
        "invoice": invoice["uid"],
        "reference": "tx-1",
        "amount": 1000,
        "currency": "USD",
        "status": "settled",
        "account_id": 1,
        "createdAt": "",
        "updatedAt": "",
        "version": 1,
    }
    first, second = await next_change(follower), await next_change(follower)
    assert (first["type"], first["data"]) == ("payment.created", payment)
    assert "previous" not in first
    assert second["type"] == "invoice.updated"
    assert list(second["data"])[-2:] == ["amount_paid", "version"]
    assert (second["data"]["status"], second["data"]["amount_paid"]) == ("paid", 1000)
    assert second["previous"] == {"status": "unpaid", "amount_paid": None}


async def test_the_same_reference_is_the_same_payment(contract: Contract) -> None:
    world, _ = contract
    client, follower = await world.connect(), await world.connect()
    uid = (await new_invoice(client))["uid"]
    await request(follower, action="subscribe", type="invoice", id=uid)
    first = (await pay(client, uid, status="pending", amount=400))["data"]
    assert await state(client, uid) == ("unpaid", 0, 400)
    assert (await pay(client, uid, status="pending", amount=400))["data"] == first, "said twice"
    raised = (await pay(client, uid, status="pending", amount=1000))["data"]
    assert (raised["id"], raised["version"], raised["amount"]) == (first["id"], 2, 1000)
    assert await state(client, uid) == ("confirming", 0, 1000)
    await pay(client, uid, status="settled", amount=1000)
    assert await state(client, uid) == ("paid", 1000, 0)
    for change in ({"amount": 999}, {"status": "pending"}):
        reply = await pay(client, uid, **change)
        assert (reply["code"], reply["detail"]) == ("conflict", "It is settled over 1000")
    await pay(client, uid, status="failed")
    assert await state(client, uid) == ("paid", 0, 0), "a merchant decides"
    assert (await pay(client, uid, status="settled"))["code"] == "conflict", "what failed, failed"
    told = [await next_change(follower) for _ in range(8)]
    assert [event["type"] for event in told] == [
        *("payment.created", "invoice.updated"),
        *("payment.updated", "invoice.updated") * 3,
    ]
    assert told[2]["previous"] == {"amount": 400}
    assert told[6]["previous"] == {"status": "settled"}
    assert told[7]["previous"] == {"amount_paid": 1000}


@pytest.mark.parametrize("status", ["expired", "cancelled", "paid"])
async def test_money_that_comes_late_is_recorded_and_the_status_stays(
    contract: Contract, status: str
) -> None:
    world, program = contract
    client = await world.connect()
    uid = (await new_invoice(client))["uid"]
    if status == "paid":
        await program.update_invoice(UUID(uid), status="confirming")
    await program.update_invoice(UUID(uid), status=status)
    await pay(client, uid, amount=600)
    assert await state(client, uid) == (status, 600, 0)
    if status != "paid":
        reply = await request(client, action="update_invoice", uid=uid, status="paid")
        assert reply["code"] == "conflict", "as long as it is too little"
    await pay(client, uid, amount=400, reference="tx-2")
    assert await state(client, uid) == (status, 1000, 0)
    if status != "paid":
        reply = await request(client, action="update_invoice", uid=uid, status="paid")
        assert reply["data"]["status"] == "paid"
    await pay(client, uid, amount=-300, reference="refund-1")
    assert await state(client, uid) == ("paid", 700, 0)
    reply = await request(client, action="update_invoice", uid=uid, status="paid")
    assert reply["code"] == "conflict"


async def test_what_has_expired_unnoted_is_not_paid_any_more(
    serverless: tuple[Any, OtherProgram],
) -> None:
    _, program = serverless
    uid = await program.create_invoice(amount=5, currency="EUR", account_id=1, expires_in_seconds=-1)
    await program.run(lambda session: session.record_payment(uid, reference="late", amount=5))
    with program.open_session() as session, session.transaction():
        invoice = session.lock_invoice(uid)
    assert (invoice["status"], invoice["amount_paid"]) == ("expired", 5)


async def test_confirming_that_somebody_else_has_said_stays_until_money_says_more(contract: Contract) -> None:
    world, program = contract
    client = await world.connect()
    uid = (await new_invoice(client))["uid"]
    await program.update_invoice(UUID(uid), status="confirming")
    await pay(client, uid, amount=400, status="pending")
    assert await state(client, uid) == ("confirming", 0, 400)
    await pay(client, uid, amount=600, status="pending", reference="tx-2")
    await pay(client, uid, amount=600, status="failed", reference="tx-2")
    assert await state(client, uid) == ("unpaid", 0, 400)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"amount": 0}, "invalid_value"),
        ({"amount": 2**53}, "invalid_value"),
        ({"amount": -(2**53)}, "invalid_value"),
        ({"amount": 1.5}, "invalid_value"),
        ({"currency": "EUR"}, "invalid_value"),
        ({"currency": "usd"}, "invalid_value"),
        ({"status": "paid"}, "invalid_value"),
        ({"reference": ""}, "invalid_value"),
        ({"reference": "x" * 201}, "invalid_value"),
        ({"reference": "x" * 10240}, "invalid_value"),
        ({"reference": "a\0b"}, "invalid_value"),
        ({"uid": "5735e250-b53e-4ace-a025-afac1bc77ee2"}, "not_found"),
        ({"uid": "nothing"}, "not_found"),
    ],
)
async def test_what_is_no_payment_is_refused_and_changes_nothing(
    contract: Contract, wrong: dict[str, object], code: str
) -> None:
    world, _ = contract
    client = await world.connect()
    uid = (await new_invoice(client))["uid"]
    assert (await pay(client, **{"uid": uid, **wrong}))["code"] == code
    assert await state(client, uid) == ("unpaid", 0, 0)
    assert (await request(client, action="list_payments", uid=uid))["data"] == []
    assert (await pay(client, uid, currency="USD", reference="RF18 5390 0754"))["status"] == "success"


async def test_payments_are_listed_page_by_page_the_oldest_first(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    uid, other = [(await new_invoice(client))["uid"] for _ in range(2)]
    made = [(await pay(client, uid, reference=f"r{n}", amount=n + 1))["data"] for n in range(5)]
    await pay(client, other)
    assert (await request(client, action="list_payments", uid=uid))["data"] == made
    first = await request(client, action="list_payments", uid=uid, limit=2)
    assert first["data"] == made[:2]
    more = (await pay(client, uid, reference="later"))["data"]
    second = await request(client, action="list_payments", uid=uid, limit=2, cursor=first["next"])
    assert second["data"] == made[2:4]
    third = await request(client, action="list_payments", uid=uid, limit=2, cursor=second["next"])
    assert third["data"] == [made[4], more]
    assert "next" not in third, "and no page is empty"
    invoices = await request(client, action="list_invoices", limit=1)
    for cursor in (invoices["next"], "nothing", f"{other}.1", f"{uid}.x", ""):
        reply = await request(client, action="list_payments", uid=uid, cursor=cursor)
        assert reply["code"] == "invalid_value", cursor
    reply = await request(client, action="list_invoices", cursor=first["next"])
    assert reply["code"] == "invalid_value"
    gone = await request(client, action="list_payments", uid="5735e250-b53e-4ace-a025-afac1bc77ee2")
    assert gone["code"] == "not_found"


async def test_anothers_invoice_is_not_there(guarded: Contract) -> None:
    world, program = guarded
    mine = await world.connect(
        authorization=bearer(await program.create_token(1, ["read", "write", "process"]))
    )
    theirs = await world.connect(
        authorization=bearer(await program.create_token(2, ["read", "write", "process"]))
    )
    reader = await world.connect(authorization=bearer(await program.create_token(1, ["read", "write"])))
    uid = (await new_invoice(mine))["uid"]
    assert (await pay(theirs, uid))["code"] == "not_found"
    assert (await request(theirs, action="list_payments", uid=uid))["code"] == "not_found"
    assert (await pay(reader, uid))["code"] == "forbidden"
    assert (await request(reader, action="list_payments", uid=uid))["data"] == []
    await request(theirs, action="subscribe", type="invoice", id=uid)
    assert (await pay(mine, uid))["status"] == "success"
    assert (await theirs.request(action="ping"))["type"] == "pong", "and nobody else is told"


# The model

AMOUNT = 100
REFERENCES = ["a", "b", "c", "d"]


class Step(NamedTuple):
    """A payment that is recorded (a reference, an amount and a status), or a status that is set."""

    reference: str | None
    amount: int
    status: str


STEPS = st.lists(
    st.one_of(
        st.builds(
            Step,
            st.sampled_from(REFERENCES),
            st.sampled_from([AMOUNT, AMOUNT // 2, AMOUNT - 1, 1, -1, -AMOUNT, 2 * AMOUNT]),
            st.sampled_from(["pending", "pending", "settled", "failed"]),
        ),
        st.builds(
            Step, st.none(), st.just(0), st.sampled_from(["expired", "cancelled", "confirming", "paid"])
        ),
    ),
    max_size=12,
)
MAY_BECOME = {"unpaid": {"confirming", "expired", "cancelled"}, "confirming": {"paid", "unpaid"}}


class Model:
    """What the protocol's section 8 says."""

    def __init__(self) -> None:
        self.status = "unpaid"
        self.payments: dict[str, tuple[int, str]] = {}

    def sum(self, status: str) -> int:
        return sum(amount for amount, its in self.payments.values() if its == status)

    def covers(self, *statuses: str) -> bool:
        return sum(map(self.sum, statuses)) >= AMOUNT

    def take(self, step: Step) -> bool:
        """Do a step; tell whether it is allowed."""
        if step.reference is None:
            allowed = step.status in MAY_BECOME.get(self.status, ())
            if step.status == "paid":
                allowed |= self.status != "paid" and self.covers("settled")
            self.status = step.status if allowed else self.status
            return allowed or step.status == self.status
        now, was = (step.amount, step.status), self.payments.get(step.reference)
        if was not in (None, now) and was[1] != "pending" and now != (was[0], "failed"):
            return False
        if was is not None and was[1] == "failed" and now != was:
            return False
        if now != was:
            covered = self.covers("settled", "pending")
            self.payments[step.reference] = now
            if self.status in ("unpaid", "confirming"):
                if self.covers("settled"):
                    self.status = "paid"
                elif self.covers("settled", "pending"):
                    self.status = "confirming"
                elif covered:
                    self.status = "unpaid"
        return True


def play(session: Session, steps: Sequence[Step]) -> tuple[UUID, list[bool]]:
    """Do the steps with a new invoice; tell of each whether it was allowed."""
    uid = session.create_invoice(amount=AMOUNT, currency="USD", account_id=1)
    outcomes = []
    for step in steps:
        try:
            if step.reference is None:
                session.update_invoice(uid, status=step.status)
            else:
                session.record_payment(uid, reference=step.reference, amount=step.amount, status=step.status)
            outcomes.append(True)
        except CheckViolation:
            outcomes.append(False)
    return uid, outcomes


def check(steps: Sequence[Step], outcomes: list[bool], events: Sequence[tuple[str, Any]]) -> None:
    """Compare with the model what was allowed, and the story that the events tell."""
    model = Model()
    assert outcomes == [model.take(step) for step in steps]
    invoice: dict[str, Any] = {}
    payments: dict[str, tuple[int, str]] = {}
    for type_, data in events:
        if type_.startswith("payment."):
            assert (type_ == "payment.created") == (data["reference"] not in payments)
            payments[data["reference"]] = (data["amount"], data["status"])
        else:
            invoice = data
            sums = [sum(a for a, its in payments.values() if its == s) for s in ("settled", "pending")]
            assert [data.get("amount_paid", 0), data.get("amount_pending", 0)] == sums
    assert payments == model.payments
    assert invoice["status"] == model.status
    assert invoice.get("amount_paid", 0) == model.sum("settled")
    assert invoice.get("amount_pending", 0) == model.sum("pending")


@given(steps=STEPS)
async def test_whatever_is_recorded_sums_status_and_events_are_those_of_the_rules(steps: list[Step]) -> None:
    database = SimulatedDatabase()
    _, outcomes = play(database.session(), steps)
    told = [(event.type, msgspec.json.decode(event.data)) for event in database.written[3:]]
    check(steps, outcomes, told)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_whatever_is_recorded_in_postgresql_sums_status_and_events_are_those_of_the_rules(
    psql: psycopg.Connection[Any], steps: list[Step]
) -> None:
    psql.execute("DELETE FROM event")
    uid, outcomes = play(PostgresSession(psql), steps)
    check(steps, outcomes, psql.execute("SELECT type, data FROM event ORDER BY id").fetchall())
    ((paid, pending),) = psql.execute(
        "SELECT coalesce(sum(p.amount) FILTER (WHERE p.status = 'settled'), 0),"
        " coalesce(sum(p.amount) FILTER (WHERE p.status = 'pending'), 0)"
        " FROM payments p JOIN invoices i ON i.id = p.invoice_id WHERE uid = %s",
        [uid],
    ).fetchall()
    with psql.transaction():
        invoice = PostgresSession(psql).lock_invoice(uid)
    assert (invoice.get("amount_paid", 0), invoice.get("amount_pending", 0)) == (paid, pending)


@pytest.fixture
def psql(conninfo: str) -> Any:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


# From SQL


def test_a_statement_of_many_payments_counts_each_once(psql: psycopg.Connection[Any]) -> None:
    uids = [PostgresSession(psql).create_invoice(amount=10, currency="USD", account_id=1) for _ in range(3)]
    psql.execute(
        "INSERT INTO payments (invoice_id, reference, amount, status)"
        " SELECT i.id, 'part ' || n, 1, 'pending' FROM invoices i, generate_series(1, 5000) n"
    )
    psql.execute("UPDATE payments SET status = 'settled' WHERE right(reference, 1) <> '0'")
    psql.execute(
        "INSERT INTO payments (invoice_id, reference, amount) SELECT i.id, 'part 10', 7 FROM invoices i"
        " ON CONFLICT (invoice_id, reference)"
        " DO UPDATE SET amount = excluded.amount, status = excluded.status"
    )
    for uid in uids:
        with psql.transaction():
            invoice = PostgresSession(psql).lock_invoice(uid)
        assert (invoice["status"], invoice["amount_paid"], invoice["amount_pending"]) == ("paid", 4507, 499)
        assert invoice["version"] == 4, "each statement changes it once"
    types = psql.execute("SELECT type, count(*) FROM event GROUP BY type").fetchall()
    assert dict(types)["payment.created"] == 15000
    assert dict(types)["payment.updated"] == 13503


def test_sums_beyond_what_a_payment_may_be_refuse_no_money(psql: psycopg.Connection[Any]) -> None:
    session = PostgresSession(psql)
    uid = session.create_invoice(amount=10, currency="USD", account_id=1)
    psql.execute(
        "INSERT INTO payments (invoice_id, reference, amount)"
        " SELECT i.id, n::text, 9007199254740991 FROM invoices i, generate_series(1, 1025) n"
    )
    with psql.transaction():
        assert session.lock_invoice(uid)["amount_paid"] == 1025 * (2**53 - 1)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("INSERT INTO payments (invoice_id, reference, amount) VALUES (1, 'x', 0)", "payments_amount_check"),
        (
            "INSERT INTO payments (invoice_id, reference, amount) VALUES (1, E'a\\nb', 5)",
            "reference: 1 to 200",
        ),
        (
            "INSERT INTO payments (invoice_id, reference, amount) VALUES (1, repeat('x', 10240), 5)",
            "reference: ",
        ),
        (
            "INSERT INTO payments (invoice_id, reference, amount, currency) VALUES (1, 'x', 5, 'EUR')",
            "currency: the invoice's, which is USD",
        ),
        ("UPDATE payments SET amount = 6", "over 5 is settled and cannot become settled over 6"),
        ("UPDATE payments SET status = 'pending'", "cannot become pending"),
        ("UPDATE payments SET reference = 'y'", "only the status and amount of payment 1 can change"),
        ("UPDATE payments SET invoice_id = 2", "only the status and amount"),
        ("DELETE FROM payments", "rows of payments are not removed"),
        ("TRUNCATE payments CASCADE", "rows of payments are not removed"),
        ("UPDATE invoices SET amount_paid = 10", "amount_paid, amount_pending: the sums"),
        (
            "UPDATE invoices SET amount_pending = 10, status = 'confirming'",
            "amount_paid, amount_pending: the",
        ),
        ("INSERT INTO invoices (account_id, amount, currency, amount_paid) VALUES (1, 5, 'USD', 5)", "sums"),
    ],
)
def test_what_breaks_the_rules_from_psql_says_which(
    psql: psycopg.Connection[Any], statement: str, says: str
) -> None:
    for _ in range(2):
        PostgresSession(psql).create_invoice(amount=10, currency="USD", account_id=1)
    psql.execute("INSERT INTO payments (invoice_id, reference, amount) VALUES (1, 'first', 5)")
    before = psql.execute("SELECT * FROM invoices ORDER BY id").fetchall()
    with pytest.raises(CheckViolation) as refused:
        psql.execute(statement.encode())
    assert says in str(refused.value)
    assert psql.execute("SELECT * FROM invoices ORDER BY id").fetchall() == before
    assert psql.execute("SELECT count(*), sum(amount) FROM payments").fetchall() == [(1, 5)]


def test_a_writer_of_payments_needs_no_other_right(psql: psycopg.Connection[Any], conninfo: str) -> None:
    uid = PostgresSession(psql).create_invoice(amount=10, currency="USD", account_id=1)
    psql.execute("DROP ROLE IF EXISTS cashier")
    psql.execute("CREATE ROLE cashier LOGIN")
    psql.execute("GRANT INSERT, UPDATE, SELECT ON payments TO cashier")
    try:
        psql.execute("SET ROLE cashier")
        psql.execute("INSERT INTO payments (invoice_id, reference, amount) VALUES (1, 'first', 10)")
        psql.execute("RESET ROLE")
        with psql.transaction():
            assert PostgresSession(psql).lock_invoice(uid)["status"] == "paid"
    finally:
        psql.execute("DROP OWNED BY cashier")
        psql.execute("DROP ROLE cashier")


async def test_many_writers_at_once_are_summed_exactly(conninfo: str) -> None:
    invoices, each = 10, 30

    def record(writer: int) -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for n in range(each):
                connection.execute(  # each payment is recorded by two of them
                    "INSERT INTO payments (invoice_id, reference, amount) SELECT id, %s, 1 FROM invoices"
                    " ON CONFLICT (invoice_id, reference)"
                    " DO UPDATE SET amount = excluded.amount, status = excluded.status",
                    [f"{writer // 2}-{n}"],
                )

    with psycopg.connect(conninfo, autocommit=True) as connection:
        for _ in range(invoices):
            PostgresSession(connection).create_invoice(amount=4 * each, currency="USD", account_id=1)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for writer in range(8):
                    nursery.start_soon(trio.to_thread.run_sync, record, writer)
        found = connection.execute("SELECT status, amount_paid, amount_pending FROM invoices").fetchall()
        assert found == [("paid", 4 * each, 0)] * invoices
        paid = connection.execute(
            "SELECT count(*) FROM event WHERE type = 'invoice.updated' AND previous ->> 'status' IS NOT NULL"
        ).fetchone()
        assert paid == (invoices,), "each is paid once"


async def test_a_payment_is_told_right_before_what_it_makes_of_the_invoice_whoever_waits(
    conninfo: str,
) -> None:
    """Two record at once: the second one's event is numbered after all of the first one's."""
    with (
        psycopg.connect(conninfo, autocommit=True) as psql,
        psycopg.connect(conninfo) as first,
        psycopg.connect(conninfo, autocommit=True) as second,
    ):
        PostgresSession(psql).create_invoice(amount=10, currency="USD", account_id=1)
        record = "INSERT INTO payments (invoice_id, reference, amount) VALUES (1, %s, 1)"

        def record_second() -> None:
            second.execute(record, ["second"])

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                first.execute("SELECT FROM invoices FOR NO KEY UPDATE")
                nursery.start_soon(trio.to_thread.run_sync, record_second)
                waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
                while psql.execute(waits, [second.info.backend_pid]).fetchone() != (1,):
                    await trio.lowlevel.checkpoint()
                first.execute(record, ["first"])
                first.commit()
        told = psql.execute(
            "SELECT coalesce(data ->> 'reference', data ->> 'amount_paid') FROM event"
            " WHERE subject = 1 AND type <> 'invoice.created' ORDER BY id"
        ).fetchall()
        assert told == [("first",), ("1",), ("second",), ("2",)]


def test_what_another_programs_trigger_makes_of_a_payment_is_held_to_the_rules(
    psql: psycopg.Connection[Any],
) -> None:
    PostgresSession(psql).create_invoice(amount=10, currency="USD", account_id=1)
    for change, says in (
        ("NEW.reference := E'a\\nb'", "reference: 1 to 200 characters"),
        ("NEW.currency := 'EUR'", "currency: the invoice's, which is USD"),
        ("NEW.created_at := '10000-01-01T00:00:00Z'", "created_at: within the years 1 to 9999"),
    ):
        psql.execute(
            "CREATE OR REPLACE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {change}; RETURN NEW; END $$".encode()
        )
        psql.execute(
            "CREATE OR REPLACE TRIGGER meddle BEFORE INSERT ON payments FOR EACH ROW"
            " EXECUTE FUNCTION public.meddle()"
        )
        with pytest.raises(CheckViolation) as refused:
            psql.execute("INSERT INTO payments (invoice_id, reference, amount) VALUES (1, 'first', 5)")
        assert says in str(refused.value)


def test_a_writer_of_invoices_forges_no_sums_by_a_trigger(psql: psycopg.Connection[Any]) -> None:
    PostgresSession(psql).create_invoice(amount=10, currency="USD", account_id=1)
    psql.execute("DROP ROLE IF EXISTS forger")
    psql.execute("CREATE ROLE forger")
    psql.execute("GRANT SELECT, UPDATE ON invoices TO forger")
    psql.execute("CREATE SCHEMA forgery AUTHORIZATION forger")
    try:
        psql.execute("SET ROLE forger")
        psql.execute(
            "CREATE FUNCTION forgery.forge() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN UPDATE public.invoices SET amount_paid = 10; RETURN NEW; END $$"
        )
        psql.execute("CREATE TABLE forgery.any (n int)")
        psql.execute(
            "CREATE TRIGGER forge BEFORE INSERT ON forgery.any FOR EACH ROW EXECUTE FUNCTION forgery.forge()"
        )
        with pytest.raises(CheckViolation, match="the sums of the invoice's payments: record a payment"):
            psql.execute("INSERT INTO forgery.any VALUES (1)")
    finally:
        psql.execute("RESET ROLE")
        psql.execute("DROP OWNED BY forger")
        psql.execute("DROP ROLE forger")


def test_an_invoice_that_comes_while_its_payment_is_refused_is_no_conflict(conninfo: str) -> None:
    """The second look sees what has been committed since the first one."""
    with psycopg.connect(conninfo, autocommit=True) as psql, psycopg.connect(conninfo) as recorder:
        prepare(recorder)
        recorder.commit()
        uid = UUID("5735e250-b53e-4ace-a025-afac1bc77ee2")
        action = RecordPayment(uid=str(uid), reference="first", amount=5, status="settled")

        class Late:
            """A connection before whose second statement the invoice is committed."""

            statements = 0

            def execute(self, *args: Any) -> Any:
                self.statements += 1
                if self.statements == 2:
                    psql.execute(
                        "INSERT INTO invoices (uid, amount, currency, account_id) VALUES (%s, 10, 'USD', 1)",
                        [uid],
                    )
                return recorder.execute(*args)

        late: Any = Late()
        with pytest.raises(NotFound):
            record_payment(late, uid, action, None)
        assert late.statements == 2


def test_a_page_of_payments_costs_what_it_holds_whatever_the_statistics_say(
    psql: psycopg.Connection[Any],
) -> None:
    prepare(psql)
    uid, other = [PostgresSession(psql).create_invoice(amount=9, currency="USD", account_id=1) for _ in "ab"]
    for _ in range(6):  # so that the plan is made before there is anything
        payments.list_payments(psql, uid, 0, 50, 1)
    psql.execute("ALTER TABLE payments SET (autovacuum_enabled = off)")
    psql.execute("ALTER TABLE payments DISABLE TRIGGER follow_new")
    psql.execute(
        "INSERT INTO payments (invoice_id, reference, amount)"
        " SELECT i.id, n::text, 1 FROM generate_series(1, 10000) n, invoices i"
    )
    for after in (0, 10_000):
        with psql.transaction():
            before = rows_read(psql, "payments")
            page = payments.list_payments(psql, other, after, 50, 1)
            assert len(msgspec.json.decode(page.items)) == 50
            assert rows_read(psql, "payments") - before < 200
