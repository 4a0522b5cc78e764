"""Whoever may create in our schema gains nothing by it: no function or operator of theirs is called by us."""

import inspect
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.database.twins import twins
from trio_ws.database import (
    event_log,
    expiry,
    migrations,
    payments,
    queries,
    tokens,
    webhook_lists,
    webhooks,
)
from trio_ws.database.migrations import known_migrations, migrate
from trio_ws.database.queries import InvoiceFilter
from trio_ws.database.webhook_lists import QUEUED, Wanted
from trio_ws.database.webhooks import Outcome, Result
from trio_ws.errors import Conflict, StartupError
from trio_ws.messages import CreateInvoice, RecordPayment
from trio_ws.topics import Topic

Connection = psycopg.Connection[tuple[object, ...]]

TENANT = "tenant"  # a payment processor's role, say, in a `public` that is everybody's
MAKE = """
DO $do$
DECLARE
  statement text;
BEGIN
  FOREACH statement IN ARRAY current_setting('twins.statements')::text[] LOOP
    BEGIN
      EXECUTE statement;
    EXCEPTION WHEN duplicate_function OR invalid_function_definition THEN
      NULL;  -- one with these arguments is ours, or nobody can make one
    END;
  END LOOP;
END
$do$
"""


@pytest.fixture(scope="module")
def role(postgres: str) -> str:
    """A role with least rights."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {TENANT}".encode())
        connection.execute(f"CREATE ROLE {TENANT} LOGIN".encode())
    return TENANT


def make_twins(conninfo: str) -> int:
    """Have the tenant, who may create in `public`, make twins of all that we call; return how many."""
    with psycopg.connect(conninfo, autocommit=True) as owner:
        owner.execute(f"GRANT CREATE ON SCHEMA public TO {TENANT}".encode())
        statements = list(twins(owner))
    with psycopg.connect(make_conninfo(conninfo, user=TENANT), autocommit=True) as tenant:
        tenant.execute("SELECT set_config('check_function_bodies', 'off', false)")
        tenant.execute("SELECT set_config('twins.statements', %s::text[]::text, false)", (statements,))
        tenant.execute(MAKE)
        ((made,),) = tenant.execute(
            "SELECT (SELECT count(*) FROM pg_proc WHERE proowner = current_user::regrole)"
            " + (SELECT count(*) FROM pg_operator WHERE oprowner = current_user::regrole)"
        )
    assert isinstance(made, int)
    return made


# What a program may do to the tables, in as few words as can be: what it calls itself, it calls as itself.
WRITES = (
    "INSERT INTO accounts (name) VALUES ('another')",
    "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')",
    "INSERT INTO invoices (account_id, amount, currency, version) VALUES (1, 1, 'USD', 7)",
    "INSERT INTO invoices (account_id, amount, currency, expires_at) VALUES (1, 1, 'USD', '2100-01-01')",
    "UPDATE invoices SET webhook_url = 'https://a.example/x', redirect_url = 'https://b.example/'",
    "INSERT INTO invoices (account_id, amount, currency, idempotency_key) VALUES (1, 1, 'USD', 'k')",
    "UPDATE invoices SET memo = 'n', address = 'b', webhook_url = 'http://c.example'",
    "UPDATE invoices SET status = 'confirming'",
    "UPDATE invoices SET status = status",
    "INSERT INTO payments (invoice_id, reference, amount, status) SELECT id, 'a', 1, 'pending' FROM invoices",
    (
        "INSERT INTO payments (invoice_id, reference, amount, currency) SELECT id, 'a', 2, 'USD'"
        " FROM invoices ON CONFLICT (invoice_id, reference) DO UPDATE"
        " SET amount = excluded.amount, status = excluded.status"
    ),
    "UPDATE payments SET status = 'failed'",
    "INSERT INTO prices (account_id, currency, amount) VALUES (1, 'XMR', 5)",
    "INSERT INTO prices (account_id, currency, base_currency, value) VALUES (1, 'XRP', 'JPY', 1.5)",
    "UPDATE prices SET value = 7",
    "UPDATE prices SET amount = 7, currency = currency, set_at = '2100-01-01'",
    "DELETE FROM prices",
    "TRUNCATE prices",
    r"INSERT INTO tokens (account_id, hash, scopes) VALUES (1, '\xHASH', '{read}')".replace(
        "HASH", "00" * 32
    ),
    "UPDATE tokens SET revoked_at = '2000-01-01'",
    "DELETE FROM tokens",
)
REFUSED = (
    "UPDATE invoices SET status = 'paid'",
    "UPDATE invoices SET amount = 2",
    "UPDATE payments SET status = 'pending'",
    "UPDATE payments SET reference = 'b'",
    "INSERT INTO payments (invoice_id, reference, amount, currency) SELECT id, 'b', 1, 'EUR' FROM invoices",
    "DELETE FROM payments",
    "DELETE FROM invoices",
    "TRUNCATE tokens",
    "UPDATE prices SET id = 7",
)
TABLES = "accounts, invoices, payments, prices, tokens"


def write_all(connection: Connection) -> None:
    """Do each of them, under a search path on which twins come first."""
    connection.execute("SET search_path = public, pg_catalog")
    for statement in WRITES:
        connection.execute(statement.encode())
    connection.execute("INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1, 'USD')")
    connection.execute("INSERT INTO prices (account_id, currency, amount) VALUES (1, 'XMR', 5)")
    for statement in REFUSED:
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(statement.encode())


@pytest.mark.parametrize("writer", [TENANT, "postgres"])
def test_no_write_calls_a_function_of_those_who_may_create_in_our_schema(
    conninfo: str, role: str, writer: str
) -> None:
    assert make_twins(conninfo) > 10_000
    with psycopg.connect(conninfo, autocommit=True) as owner:
        owner.execute(f"GRANT ALL ON {TABLES} TO {role}".encode())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"SET SESSION AUTHORIZATION {writer}".encode())
        write_all(connection)


def test_a_database_of_an_older_release_is_mended_without_calling_them(
    empty_database: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(migrations, "known_migrations", lambda: known_migrations()[:10])
        migrate(empty_database)
    make_twins(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as owner:
        with pytest.raises(psycopg.Error, match="a twin was called by postgres"):
            write_all(owner)
        owner.execute("ALTER DATABASE " + owner.info.dbname + " SET search_path = public, pg_catalog")
    migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as owner:
        write_all(owner)


# Before the first migration, whose files find what they call by chance


def test_a_new_installation_is_refused_where_another_role_has_functions(
    empty_database: str, role: str
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as owner:
        owner.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        owner.execute(f"SET ROLE {role}".encode())
        owner.execute("CREATE FUNCTION to_json(text) RETURNS json LANGUAGE sql RETURN 'null'::json")
        with pytest.raises(
            StartupError, match=r"such as the function public.to_json\(text\) of tenant: drop them"
        ):
            migrate(empty_database)
        owner.execute("DROP FUNCTION to_json(text)")
        owner.execute("CREATE OPERATOR || (FUNCTION = textcat, LEFTARG = text, RIGHTARG = text)")
        with pytest.raises(StartupError, match=r"such as the operator public.\|\|\(text,text\) of tenant"):
            migrate(empty_database)
        owner.execute("RESET ROLE")
        owner.execute("CREATE SCHEMA shop")
    assert migrate(make_conninfo(empty_database, options="-csearch_path=shop,public"))


def test_functions_of_those_who_may_do_anything_there_do_not_matter(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as owner:
        owner.execute("CREATE FUNCTION public.more(int) RETURNS int LANGUAGE sql RETURN $1 + 1")
    assert migrate(empty_database)


def test_a_table_of_migrations_that_another_role_has_made_is_refused(empty_database: str, role: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as owner:
        owner.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        owner.execute(f"SET ROLE {role}".encode())
        owner.execute("CREATE TABLE schema_migrations (version int, name text, checksum text)")
    with pytest.raises(StartupError, match="schema_migrations belongs to tenant: migrate as that role"):
        migrate(empty_database)
    # It has its own rights alone, and owns what it makes.
    assert migrate(make_conninfo(empty_database, user=role))


def test_who_else_may_create_there_is_said_with_what_to_type(conninfo: str, role: str) -> None:
    assert migrations.others_may_create(conninfo) is None
    with psycopg.connect(conninfo, autocommit=True) as owner:
        owner.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        owner.execute(f"GRANT CREATE ON SCHEMA public TO {role}".encode())
        revoke = migrations.others_may_create(conninfo)
        assert revoke == "REVOKE CREATE ON SCHEMA public FROM PUBLIC, tenant"
        owner.execute(revoke.encode())
    assert migrations.others_may_create(conninfo) is None


def test_the_server_calls_none_of_them_either(
    conninfo: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_twins(conninfo)
    with psycopg.connect(conninfo, autocommit=True) as owner:
        owner.execute(f"ALTER DATABASE {owner.info.dbname} SET search_path = public, pg_catalog".encode())
    asked = note_what_is_asked(monkeypatch)
    with psycopg.connect(conninfo) as connection:
        queries.prepare_connection(connection, 10)
        ask_everything(connection)
        connection.execute("SET search_path = public, pg_catalog")
        with pytest.raises(psycopg.Error):  # so the twins are good ones
            ask_everything(connection)
    assert {name for name, was_asked in asked.items() if not was_asked} == {"prepare_pooled_connection"}


def note_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Note which of the server's queries is called, from now on."""
    asked: dict[str, bool] = {}
    for module in (queries, event_log, payments, tokens, expiry, webhooks, webhook_lists):
        for name, query in vars(module).items():
            is_ours = inspect.isfunction(query) and query.__module__ == module.__name__
            if is_ours and name[0] != "_" and "connection" in inspect.signature(query).parameters:
                asked[name] = False
                monkeypatch.setattr(module, name, partial(_note, asked, name, query))
    return asked


def _note(asked: dict[str, bool], name: str, query: Callable[..., Any], *args: Any, **given: Any) -> Any:
    asked[name] = True
    return query(*args, **given)


def ask_of_payments(connection: queries.Connection, uid: UUID) -> None:
    """Run those of payments."""
    paid = RecordPayment(uid=str(uid), reference="a", amount=1, status="settled")
    payments.record_payment(connection, uid, paid, 1)
    with pytest.raises(Conflict):
        payments.record_payment(connection, uid, msgspec.structs.replace(paid, amount=2), None)
    assert payments.list_payments(connection, uid, 0, 100, 1).items != b"[]"


def ask_everything(connection: queries.Connection) -> None:
    """Run every query of the server."""
    plain = CreateInvoice(amount=1, currency="USD", account_id=1)
    create = msgspec.structs.replace(plain, webhook_url="https://x/", idempotency_key="k")
    queries.create_invoices(connection, [(create,), (plain,)])
    fields = msgspec.json.decode(queries.create_invoice(connection, create))
    uid = UUID(fields["uid"])
    queries.fetch_invoice(connection, uid, 1)
    queries.fetch_invoices(connection, [(uid, 1), (uid, None)])
    queries.change_status(connection, uid, "confirming", 1)
    ask_of_payments(connection, uid)
    queries.create_invoice(connection, msgspec.structs.replace(plain, expires_in_seconds=1e-6))
    assert expiry.expire_invoices(connection, 10) == 1
    queries.set_price(connection, 1, "XMR", "USD", Decimal("1.5"))
    assert queries.read_prices(connection, 0, 100, 0).prices
    for topic in (Topic("invoice", str(uid)), Topic("account", "1"), Topic("address", "a")):
        queries.read_snapshot(connection, topic, 1)
    filters = InvoiceFilter(account_id=1), InvoiceFilter(address="a", before=9), InvoiceFilter(memo="t")
    for wanted in (InvoiceFilter(), *filters):
        queries.list_invoices(connection, wanted)
    position = event_log.start_log(connection).end
    assert event_log.advance(connection, position.seq, 100).events
    event_log.number(connection, position.seq, 100)
    event_log.number_events(connection, 100)
    last = event_log.read_position(connection).seq
    assert event_log.read_events(connection, last - 1, 100).events
    assert event_log.find_events(connection, 0, ["account:1"], last, 100, position).events
    assert event_log.read_history(connection, uid, 0, 100, 1).events
    assert event_log.trim_events(connection, 0.0, 2) == 2
    account = tokens.create_account(connection, "another").id
    tokens.rename_account(connection, account, "renamed")
    assert tokens.list_accounts(connection)
    token = tokens.create_token(connection, account, bytes(32), ["read"], 60.0).id
    held = tokens.identify(connection, bytes(32))
    assert not tokens.find_ended(connection, [held])
    assert tokens.list_tokens(connection) == tokens.list_tokens(connection, 0, 9, account)
    tokens.revoke_token(connection, token)
    assert tokens.find_ended(connection, [held]) == [held]
    queries.listen(connection)
    queries.check(connection)
    ask_about_webhooks(connection)


def ask_about_webhooks(connection: queries.Connection) -> None:
    """Run every query of the queue of webhooks, in which one waits."""
    listed, *_ = webhook_lists.list_deliveries(connection, 1, QUEUED)
    webhooks.retry(connection, listed.id)
    assert webhooks.figures(connection).waiting
    webhook_lists.list_failing_endpoints(connection, 1)
    has_history = True
    for result in Result:
        (delivery, *_) = webhooks.claim(connection, 1, 60.0, []).deliveries
        webhooks.settle(connection, [Outcome(delivery, result, "error", 0.0)], 60.0, has_history)
        if result is not Result.RELEASED:
            webhooks.retry(connection, delivery.id)
    webhook_lists.find_delivery(connection, delivery.id)
    for wanted in (Wanted(), Wanted(1, "failed"), Wanted(1, "delivered"), Wanted(invoice=listed.invoice)):
        webhook_lists.list_page(connection, wanted)
    webhook_lists.list_deliveries(connection, 1, ["delivered"])
    assert webhooks.retry_all(connection)
    webhook_lists.retry_delivery(connection, delivery.id, 1)
    assert webhooks.trim_history(connection, -60.0, 10) == 0
    webhooks.trim(connection, 60.0, 10)
    connection.execute("UPDATE @schema@.webhook_deliveries SET origin = 'another'")
    held_back = webhooks.hold(connection, 10)
    assert held_back > 0
    assert webhooks.release(connection) == held_back
    connection.execute("UPDATE @schema@.webhook_deliveries SET due_at = NULL")
    assert webhooks.repair(connection, None, 1) is not None
    webhooks.active_secrets(connection, 1)
    webhooks.add_secret(connection, 1)


def test_each_function_of_ours_says_where_it_finds_what_it_calls(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        functions = connection.execute(
            "SELECT proname, prosqlbody IS NOT NULL, proconfig FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace"
        ).fetchall()
    path = "search_path=pg_catalog, pg_temp"
    unbound = {name for name, is_bound, config in functions if not is_bound and path not in (config or ())}
    assert unbound == set()


def test_nothing_of_ours_depends_on_a_function_or_operator_but_postgresqls_and_ours(
    empty_database: str, role: str
) -> None:
    """Defaults, checks, indexes, triggers and bodies hold what they found when they were made."""
    with psycopg.connect(empty_database, autocommit=True) as owner:
        owner.execute("CREATE EXTENSION IF NOT EXISTS plpgsql")
        migrate(empty_database)
        foreign = owner.execute(
            "SELECT pg_describe_object(classid, objid, objsubid),"
            " pg_describe_object(refclassid, refobjid, refobjsubid)"
            " FROM pg_depend JOIN pg_proc ON refclassid = 'pg_proc'::regclass AND refobjid = pg_proc.oid"
            " WHERE pronamespace <> 'pg_catalog'::regnamespace AND proowner <> current_user::regrole"
        ).fetchall()
        operators = owner.execute("SELECT count(*) FROM pg_operator WHERE oprowner <> 10").fetchone()
    assert (foreign, operators) == ([], (0,))
