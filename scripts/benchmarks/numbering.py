"""How many events a second get their numbers, in the batches of the tail, each its own commit."""

import tempfile
import time
from pathlib import Path

import psycopg

from trio_ws.database import migrations
from trio_ws.database.embedded import embedded_postgres
from trio_ws.events.tail import BATCH

EVENTS = 100_000
TRANSACTION = 100  # events; of one that is larger than a batch, some are numbered beside those of others


def measure():
    """Return the line."""
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_postgres(Path(folder)) as postgres,
        psycopg.connect(postgres.conninfo, autocommit=True) as database,
    ):
        migrations.migrate(postgres.conninfo)
        for _ in range(EVENTS // TRANSACTION):
            database.execute(
                "INSERT INTO invoices (account_id, amount, currency)"
                " SELECT 1, 1, 'USD' FROM generate_series(1, %s)",
                (TRANSACTION,),
            )
        begin = time.monotonic()
        numbered = 0
        while more := database.execute("SELECT number_events(%s)", (BATCH,)).fetchone()[0]:
            numbered += more
        seconds = time.monotonic() - begin
    return f"{numbered} events in batches of {BATCH}: {numbered / seconds:,.0f} events/s"
