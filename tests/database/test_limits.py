"""The limits of the protocol hold for any program that writes to the tables, and no stricter ones."""

from datetime import datetime

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.programs import OtherProgram, prepare
from trio_ws.database import expiry
from trio_ws.database.gateway import Database
from trio_ws.messages import CreateInvoice, Invoice
from trio_ws.testing.refusals import CheckViolation

Serverless = tuple[Database, OtherProgram]

INVOICE = {"amount": 5, "currency": "EUR", "account_id": 1}
INSERT = "INSERT INTO invoices (account_id, amount, currency,"
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
# No program can send a NUL to PostgreSQL.
URLS = st.from_regex(
    r"(https?|ftp|javascript|HTTP)?:?/{0,2}[a-z.:@\[\]_é]{0,4}(:[0-9]{0,6})?[/?#]?[^\s\0]{0,3}\s?",
    fullmatch=True,
)


def fits(field: str, value: str) -> bool:
    """Whether a client may send it."""
    try:
        msgspec.convert({**INVOICE, field: value}, CreateInvoice)
    except msgspec.ValidationError:
        return False
    return True


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    field=st.sampled_from(["memo", "address", "webhook_url", "redirect_url"]),
    value=st.one_of(TEXTS, URLS, TEXTS.map(lambda text: f"https://x{text}")),
    length=st.sampled_from([0, 127, 128, 129, 999, 1000, 1001, 1999, 2000, 2001, 1_000_000]),
)
@example("memo", "x", 1_000_000)
@example("memo", "€", 1000)
@example("address", "", 0)
@example("address", "x\u00a0", 128)
@example("redirect_url", "javascript:alert(1)", 0)
@example("redirect_url", "https://x\n", 0)
@example("webhook_url", "https://€", 2000)
@example("webhook_url", "http://[::", 0)
@example("webhook_url", "http://[::1]:80/", 0)
@example("webhook_url", "http://[shop]/", 0)
@example("webhook_url", "https://shop.example:99999/", 0)
@example("webhook_url", "https://shop.example:65535?x", 0)
@example("webhook_url", "https://shop.example:65536/", 0)
@example("webhook_url", "https://shop.example:00/", 0)
@example("webhook_url", "https://shop.example:/", 0)
@example("webhook_url", "https://user:secret@shop.example/", 0)
@example("webhook_url", "https://shop%20.example/", 0)
@example("webhook_url", "https://shop..example/", 0)
@example("webhook_url", "https://shop_1.example./x y", 0)
@example("redirect_url", "https://shop.example\\@evil.example/", 0)
@example("redirect_url", "https://büro.example:8443#x", 0)
async def test_a_table_takes_what_a_client_may_send_and_nothing_else(
    serverless: Serverless, field: str, value: str, length: int
) -> None:
    _, program = serverless
    value = value.ljust(length, value[-1] if value else "x")
    uid = await program.create_invoice(**INVOICE)
    if fits(field, value):
        await program.create_invoice(**INVOICE, **{field: value})
        await program.update_invoice(uid, **{field: value})
        return
    with pytest.raises(CheckViolation, match=f"^{field}: "):
        await program.create_invoice(**INVOICE, **{field: value})
    with pytest.raises(CheckViolation, match=f"^{field}: "):
        await program.update_invoice(uid, **{field: value})


@pytest.mark.parametrize(
    ("column", "statement"),
    [
        ("expires_at", f"{INSERT} expires_at) VALUES (1, 1, 'USD', '10000-01-01')"),
        ("created_at", f"{INSERT} created_at) VALUES (1, 1, 'USD', '0044-03-15 BC')"),
        ("updated_at", f"{INSERT} updated_at) VALUES (1, 1, 'USD', '10000-01-01')"),
        ("idempotency_key", f"{INSERT} idempotency_key) VALUES (1, 1, 'USD', 'a b')"),
        ("request_hash", f"{INSERT} request_hash) VALUES (1, 1, 'USD', repeat('x', 65)::bytea)"),
        ("expires_at", "UPDATE invoices SET expires_at = '10000-01-01'"),
        ("value", "INSERT INTO prices (account_id, currency, value) VALUES (1, 'XMR', 1 + 1e-100)"),
        ("value", "UPDATE prices SET value = 1 + 1e-100"),
        ("base_currency", "INSERT INTO prices (account_id, currency, value) VALUES (1, 'USD', 1)"),
        ("name", "INSERT INTO accounts (name) VALUES (repeat('x', 201))"),
        ("name", "INSERT INTO accounts (name) VALUES (E'a\\nb')"),
        ("name", "UPDATE accounts SET name = repeat('x', 1000000)"),
    ],
)
def test_what_has_no_form_on_the_wire_is_refused_by_name(conninfo: str, column: str, statement: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
        ((before,),) = other.execute("SELECT count(*) FROM event")
        with pytest.raises(psycopg.errors.CheckViolation, match=f"^{column}: ") as refused:
            other.execute(statement.encode())
        assert refused.value.diag.column_name == column
        assert other.execute("SELECT count(*) FROM event").fetchone() == (before,)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_every_time_that_is_allowed_has_a_form_on_the_wire(conninfo: str, moment: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        ((row,),) = other.execute(
            "INSERT INTO invoices (account_id, amount, currency, expires_at, created_at)"
            " VALUES (1, 1, 'USD', %s, %s) RETURNING invoice_json(invoices)::text",
            (moment, moment),
        )
    assert msgspec.json.decode(row, type=Invoice).expires_at == datetime.fromisoformat(moment)


def test_what_is_older_than_its_limit_can_still_be_paid_or_expire(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as owner:
        owner.execute("ALTER TABLE invoices DISABLE TRIGGER USER")
        owner.execute(
            "INSERT INTO invoices (account_id, amount, currency, memo, redirect_url, expires_at) SELECT"
            " 1, n, 'USD', repeat('x', 5000), 'javascript:', now() FROM generate_series(1, 2) n"
        )
        owner.execute("ALTER TABLE invoices ENABLE TRIGGER USER")
        owner.execute("UPDATE invoices SET status = 'confirming' WHERE id = 1")
        prepare(owner, 10)
        assert expiry.expire_invoices(owner, 10) == 1
        with pytest.raises(psycopg.errors.CheckViolation, match=r"^memo: "):
            owner.execute("UPDATE invoices SET memo = memo || 'x' WHERE id = 1")
        with pytest.raises(psycopg.errors.CheckViolation, match=r"^redirect_url: "):
            owner.execute("UPDATE invoices SET redirect_url = 'data:' WHERE id = 1")
        owner.execute("UPDATE invoices SET memo = 'short', redirect_url = 'https://x/' WHERE id = 1")
