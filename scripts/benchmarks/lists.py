"""How long a page of a list or a snapshot takes, among a million invoices or as many as are told."""

import random
import tempfile
import time
from pathlib import Path

import psycopg

from trio_ws.database import migrations, queries
from trio_ws.database.embedded import embedded_postgres
from trio_ws.database.queries import InvoiceFilter
from trio_ws.topics import Topic

INVOICES = 1_000_000
ACCOUNTS = 1000  # the first of them has three of ten invoices
STATEMENT = 500_000  # invoices that are filled in at once
PAGES = 1000  # that are read of each kind
SECONDS = 60  # that one may take
FILL = """
INSERT INTO invoices (amount, currency, account_id, status, address, memo)
SELECT 1000, 'USD', %(first)s + CASE WHEN g %% 10 < 3 THEN 0 ELSE (g * 7919) %% %(accounts)s END,
    (ARRAY['paid', 'paid', 'paid', 'paid', 'expired', 'expired', 'cancelled', 'paid', 'unpaid', 'confirming'])
        [1 + (g * 31) %% 10],
    CASE WHEN g %% 100 = 0 THEN 'shared' WHEN g %% 4 = 0 THEN 'address' || g %% 200000 END, 'memo of ' || g
FROM generate_series(%(start)s::bigint, %(end)s) g
"""


def measure(invoices=INVOICES):
    """Return the lines."""
    with tempfile.TemporaryDirectory() as folder, embedded_postgres(Path(folder)) as postgres:
        migrations.migrate(postgres.conninfo)
        accounts = _fill(postgres.conninfo, invoices)
        with psycopg.connect(postgres.conninfo) as database:
            queries.prepare_connection(database, SECONDS)
            return "\n    ".join([f"{invoices} invoices", *_read(database, accounts, invoices)])


def _fill(conninfo, invoices):
    """Make invoices, without their events, and return the accounts' ids."""
    with psycopg.connect(conninfo, autocommit=True) as database:
        database.execute("SET synchronous_commit = off")
        made = database.execute(
            "INSERT INTO accounts (name) SELECT 'account ' || g FROM generate_series(1, %s) g RETURNING id",
            (ACCOUNTS,),
        )
        accounts = [id_ for (id_,) in made]
        database.execute("ALTER TABLE invoices DISABLE TRIGGER log_new")
        for start in range(1, invoices + 1, STATEMENT):
            end = min(invoices, start + STATEMENT - 1)
            database.execute(FILL, {"first": accounts[0], "accounts": ACCOUNTS, "start": start, "end": end})
        database.execute("ALTER TABLE invoices ENABLE TRIGGER log_new")
        database.execute("VACUUM ANALYZE invoices")
    return accounts


def _read(database, accounts, invoices):
    chance = random.Random(1)  # noqa: S311 - hides nothing

    def account():
        return accounts[0] if chance.random() < 0.2 else chance.choice(accounts)

    def address():
        return f"address{chance.randrange(0, 200_000, 4)}"

    def listed(**wanted):
        """Return what reads a page, from the first or any other id on."""

        def read():
            given = {name: value() if callable(value) else value for name, value in wanted.items()}
            before = chance.choice([None, chance.randrange(1, invoices)])
            wants = InvoiceFilter(most=50, before=before, **given)
            return lambda: queries.list_invoices(database, wants)

        return read

    def snapshot(kind, which):
        def read():
            topic = Topic(kind, str(which()))
            return lambda: queries.read_snapshot(database, topic, None)

        return read

    yield from (
        _line("an account's", listed(account_id=account)),
        *(_line(f"an account's, {one}", listed(account_id=account, statuses=[one])) for one in STATUSES),
        _line("an account's by an address", listed(account_id=account, address=address)),
        _line("an account's by an address of many", listed(account_id=account, address="shared")),
        _line("all accounts', cancelled", listed(statuses=["cancelled"])),
        _line("all accounts', by an address of many", listed(address="shared")),
        _line("an account's by a part of a memo", listed(account_id=account, memo="memo of 77")),
        _line("all accounts' by a memo that nobody has", listed(memo="nobody's")),
        _line("snapshot of an account", snapshot("account", account)),
        _line("snapshot of an address", snapshot("address", address)),
        _line("snapshot of an address of many", snapshot("address", lambda: "shared")),
    )


STATUSES = ("unpaid", "paid", "cancelled")


def _line(name, prepare):
    took = []
    for _ in range(PAGES):
        read = prepare()
        begin = time.perf_counter()
        read()
        took.append((time.perf_counter() - begin) * 1000)
    took.sort()
    return f"{name}: p50 {took[PAGES // 2]:.2f}, p99 {took[PAGES * 99 // 100]:.2f} ms"
