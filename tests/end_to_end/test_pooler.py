"""A real PgBouncer in transaction mode before the database: each statement may get another session."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.end_to_end.proxy import Proxy
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, SERVE, call, free_port, receive, running
from tests.requirements import need

TRIO_WS = SERVE[:-1]
REFUSED = (
    ["migrate"],
    ["serve", "--port", "0"],
    ["doctor", "--port", "0"],
    ["token", "list"],
    ["account", "create", "--name", "shop"],
    ["webhooks", "list"],
    ["events", "tail"],
)
CLIENTS = 8
SESSIONS = 3  # of the pooler in PostgreSQL, for all of them
# What the page on operating says to set on the role.
ROLE = (
    "CREATE ROLE pooled LOGIN SUPERUSER",
    "ALTER ROLE pooled SET statement_timeout = '2s'",
    "ALTER ROLE pooled SET lock_timeout = '2s'",
    "ALTER ROLE pooled SET trio_ws.wakes_itself = 'yes'",
    "ALTER ROLE pooled SET search_path = public, pg_temp",
    "ALTER ROLE pooled SET timezone = 'UTC'",
)


@pytest.fixture(scope="module")
def role(postgres: str) -> str:
    with psycopg.connect(postgres, autocommit=True) as connection:
        for statement in ROLE:
            connection.execute(statement.encode())
    return "pooled"


@contextmanager
def pooling(conninfo: str, mode: str, folder: Path) -> Iterator[str]:
    """Run one before a database, and give the conninfo that leads through it."""
    program, port = need("pgbouncer"), free_port()
    config = folder / "pgbouncer.ini"
    # As root it wants to be somebody else, who can't reach PostgreSQL's socket: it goes by our TCP proxy.
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    with Proxy.to_postgres(conninfo) as line:
        database = conninfo_to_dict(line.conninfo(conninfo))
        config.write_text(
            f"[databases]\n{database['dbname']} = {line.conninfo(conninfo)}\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\nauth_type = any\n"
            f"listen_port = {port}\npool_mode = {mode}\ndefault_pool_size = {SESSIONS}\n"
            "server_login_retry = 1\n"
        )
        with subprocess.Popen([program, "-q", *user, str(config)]) as process:
            through = make_conninfo(
                host="127.0.0.1", port=port, dbname=database["dbname"], user=database["user"]
            )
            deadline = time.monotonic() + PATIENCE_SECONDS
            try:
                while not is_reached(through):
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                yield through
            finally:
                process.kill()


def is_reached(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def trio_ws(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = [*TRIO_WS, *arguments]
    return subprocess.run(done, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def test_all_that_clients_ask_is_answered_through_a_pooler(conninfo: str, role: str, tmp_path: Path) -> None:
    direct = make_conninfo(conninfo, user=role)
    environment = {"TRIO_WS_LISTEN_URL": direct, "PGCLIENTENCODING": "LATIN1", "PGTZ": "Asia/Kathmandu"}
    with (
        pooling(direct, "transaction", tmp_path) as through,
        running([*SERVE, "--port", "0", "--database-url", through], tmp_path, environment) as server,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(server.connect()) for _ in range(CLIENTS)]
        for client in clients:
            assert call(client, action="subscribe", type="account", id=1)["status"] == "success"
        for number, creator in enumerate(clients):
            memo = f"東京 {number}"
            creator.send(json.dumps(INVOICE | {"memo": memo}))
            received = [receive(client) for client in [creator, *clients]]
            assert {message["data"]["memo"] for message in received} == {memo}
            assert {message["data"]["createdAt"][-6:] for message in received} == {"+00:00"}
        with psycopg.connect(direct, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'pooled' AND pid <> pg_backend_pid()"
            )
            other.execute("UPDATE invoices SET memo = 'changed' WHERE id = 1")
        assert {receive(client)["data"]["memo"] for client in clients} == {"changed"}
        assert call(clients[0], action="list_prices")["status"] == "success"
        assert server.stop() == 0


def test_a_pooler_is_refused_where_a_session_must_be_ours_alone(empty_database: str, tmp_path: Path) -> None:
    with pooling(empty_database, "transaction", tmp_path) as through:
        reason = "a pooler stands between us and PostgreSQL: have `listen_url` lead past it"
        for command in REFUSED:
            done = trio_ws(*command, "--database-url", through)
            assert done.returncode == 1
            assert reason in done.stderr + done.stdout, command
            with psycopg.connect(through, autocommit=True) as session:  # which others get after us
                changed = session.execute("SELECT name FROM pg_settings WHERE source = 'session'").fetchall()
                assert {name for (name,) in changed} <= {"client_encoding", "DateStyle", "TimeZone"}, command
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT FROM pg_locks WHERE locktype = 'advisory'").fetchall() == []


def test_a_pooler_that_keeps_a_session_for_its_client_is_as_good_as_none(
    empty_database: str, tmp_path: Path
) -> None:
    with pooling(empty_database, "session", tmp_path) as through:
        assert trio_ws("migrate", "--database-url", through).stdout.startswith("applied")
        assert trio_ws("migrate", "--database-url", through).stdout == "nothing to do\n"
