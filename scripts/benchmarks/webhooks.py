"""What dead endpoints of webhooks cost: how long another account waits, and how long one claim takes."""

import socket
import statistics
import tempfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg

from scripts.benchmarks.target import serving
from trio_ws.database import event_log, migrations, queries, webhooks
from trio_ws.database.embedded import embedded_postgres
from trio_ws.database.webhooks import Outcome, Result

HANGING = 640  # endpoints of one account: they accept a connection, and never answer
BYSTANDER = 20  # webhooks of another account, a second apart
EXISTING = (10, 10_000, 100_000)  # dead endpoints, each with a delivery that waits for its time
CLAIMS = 50
PATIENCE_SECONDS = 180


def measure():
    """Return the line."""
    delays = sorted(_delays())
    claims = ", ".join(f"{seconds * 1000:.1f} ms with {existing:,}" for existing, seconds in _claims())
    return (
        f"{HANGING} endpoints of one account hang: another account's webhook takes"
        f" {statistics.median(delays):.2f} s, at most {delays[-1]:.2f} s;"
        f" to claim one and settle it beside endpoints that wait: {claims}"
    )


def _delays():
    hanging = socket.create_server(("0.0.0.0", 0), backlog=4096)  # noqa: S104 - all that 127.0.0.0/8 has
    hook = f"http://127.0.{{}}.{{}}:{hanging.getsockname()[1]}/"
    with (
        hanging,
        _receiving() as (url, came),
        serving(webhook_private_addresses="true") as target,
        psycopg.connect(target.conninfo, autocommit=True) as database,
    ):
        database.execute("INSERT INTO accounts DEFAULT VALUES")
        insert = "INSERT INTO invoices (account_id, amount, currency, webhook_url)"
        database.cursor().executemany(
            f"{insert} VALUES (1, 1, 'USD', %s)",
            [(hook.format(1 + n // 250, 1 + n % 250),) for n in range(HANGING)],
        )
        for _ in range(BYSTANDER):
            time.sleep(1)
            begin = time.monotonic()
            came.clear()
            database.execute(f"{insert} VALUES (2, 1, 'USD', %s)", (url,))
            came.wait(PATIENCE_SECONDS)
            yield time.monotonic() - begin


@contextmanager
def _receiving():
    came = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            came.set()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", came
        server.shutdown()


def _claims():
    with tempfile.TemporaryDirectory() as folder, embedded_postgres(Path(folder)) as postgres:
        migrations.migrate(postgres.conninfo)
        with psycopg.connect(postgres.conninfo) as database:
            queries.prepare_connection(database, 60)
            existing = 0
            for number in EXISTING:
                _add_dead(database, existing + 1, number)
                existing = number
                yield number, statistics.median(_claim_one(database) for _ in range(CLAIMS))


def _add_dead(database, first, last):
    database.execute(
        "WITH dead AS (INSERT INTO @schema@.webhook_deliveries"
        " (seq, event_name, invoice, account_id, endpoint, url, type, data, attempts, due_at)"
        " SELECT -n, '', n, n %% 10000, 'https://' || n || '.example', '', '', '{}', 1,"
        " now() + interval '1 h' FROM generate_series(%s::int, %s::int) n"
        " RETURNING account_id, endpoint, due_at),"
        " accounts AS (INSERT INTO @schema@.webhook_accounts (account_id, is_failing, due_at)"
        " SELECT DISTINCT account_id, true, due_at FROM dead ON CONFLICT DO NOTHING)"
        " INSERT INTO @schema@.webhook_endpoints"
        " (account_id, endpoint, due_at, failures, failing_since, paused_until)"
        " SELECT account_id, endpoint, due_at, 9, now(), due_at FROM dead",
        (first, last),
    )


def _claim_one(database):
    database.execute(
        "INSERT INTO @schema@.invoices (account_id, amount, currency, webhook_url)"
        " VALUES (1, 1, 'USD', 'https://x.example')"
    )
    event_log.number_events(database, 100)
    begin = time.monotonic()
    claim = webhooks.claim(database, 64, 30, [])
    assert claim.deliveries
    has_history = True  # as it is unless `webhook_history_seconds` is 0
    outcomes = [Outcome(one, Result.DELIVERED, status=200) for one in claim.deliveries]
    webhooks.settle(database, outcomes, 86400, has_history)
    return time.monotonic() - begin
