"""`trio-ws doctor` finds what is wrong, says what to do, and changes nothing."""

import json
import re
import socket
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.cli.test_main import trio_ws_command
from tests.end_to_end.serving import free_port, serving
from trio_ws.cli.database import warn_of_too_few_sessions
from trio_ws.database.migrations import known_migrations
from trio_ws.settings import Settings

Findings = dict[str, tuple[str, str]]


def examine(*arguments: str, status: int = 0, **environment: str) -> Findings:
    """What it finds, by what it looked at: the state, and all that it says."""
    port = () if "--port" in arguments else ("--port", str(free_port()))
    done = trio_ws_command("doctor", "--json", *port, *arguments, **environment)
    assert (done.returncode, done.stderr) == (status, ""), done
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["what"]: (one["state"], f"{one['found']}: {one['advice']}") for one in found}


def troubles(found: Findings) -> Findings:
    return {what: told for what, told in found.items() if told[0] != "ok"}


def test_a_machine_that_is_well_is_told_so_and_is_left_as_it_was(tmp_path: Path) -> None:
    found = examine("--data-dir", str(tmp_path / "data"), TRIO_WS_CONNECTIONS="100")
    assert troubles(found) == {}
    assert set(found) == {"versions", "port", "file descriptors", "memory", "database", "data folder"}
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_runs_is_looked_at_with_its_database(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        found = examine("--port", port, "--data-dir", str(tmp_path), TRIO_WS_CONNECTIONS="100")
        assert set(troubles(found)) <= {"fsync", "full_page_writes"}, (
            "which a server of a test may be without"
        )
        assert found["port"][1].startswith("trio-ws runs on ")
        assert set(found) > {"schema", "sessions", "clock", "event log", "webhooks", "LISTEN"}


def test_a_port_that_another_program_has_is_a_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = examine("--port", port, "--data-dir", str(tmp_path), status=1)
    assert found["port"][0] == "fail"
    assert "used by another program: stop it" in found["port"][1]


def test_a_server_that_anybody_could_reach_is_warned_of(tmp_path: Path) -> None:
    found = examine("--host", "*", "--auth", "open", "--data-dir", str(tmp_path), TRIO_WS_CONNECTIONS="100")
    assert found["access"] == (
        "warn",
        "any client that can reach * may do everything: set auth to token, or listen on localhost",
    )
    for host, auth in (("127.0.0.1", "open"), ("*", "token")):
        found = examine("--host", host, "--auth", auth, "--data-dir", str(tmp_path))
        assert "access" not in found


def test_a_folder_of_another_major_version_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/PG_VERSION").write_text("9\n")
    found = examine("--data-dir", str(tmp_path), status=1)
    assert found["data folder"][0] == "fail"
    assert re.search(
        r"made by PostgreSQL 9, not \d+: set TRIO_WS_POSTGRES_BINDIR to the programs of 9",
        found["data folder"][1],
    )


def test_a_database_without_our_schema_is_left_without(empty_database: str) -> None:
    found = examine("--database-url", empty_database)
    assert found["schema"][0] == "warn"
    assert "run `trio-ws migrate`" in found["schema"][1]
    assert "event log" not in found
    with psycopg.connect(empty_database) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert tables == (0,)


def test_a_schema_of_a_later_release_is_a_fault(conninfo: str) -> None:
    newest = known_migrations()[-1].version
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9999, 'later', '')")
    assert examine("--database-url", conninfo, status=1)["schema"] == (
        "fail",
        f"the database is at version 9999, but this trio-ws knows only {newest}: upgrade trio-ws: ",
    )


def test_what_may_lose_data_is_warned_of(conninfo: str) -> None:
    found = examine("--database-url", conninfo)
    assert found["fsync"][0] == found["full_page_writes"][0] == "warn"  # as the tests have it


def test_triggers_that_a_tool_has_left_otherwise_are_told_with_what_to_type(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("ALTER TABLE accounts DISABLE TRIGGER ALL")  # as `pg_restore --disable-triggers`
        connection.execute("ALTER TABLE accounts ENABLE TRIGGER ALL")
        state, told = examine("--database-url", conninfo)["triggers"]
        assert state == "warn"
        connection.execute(told.partition(" disabled: ")[2].encode())
        assert "triggers" not in examine("--database-url", conninfo)
        connection.execute("ALTER TABLE invoices DISABLE TRIGGER log_new")
        state, told = examine("--database-url", conninfo, status=1)["triggers"]
        assert (state, told.rpartition(": ")[2]) == (
            "fail",
            "ALTER TABLE public.invoices ENABLE TRIGGER log_new",
        )


def test_who_else_may_create_in_the_schema_is_warned_of(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")  # as PostgreSQL 14 has it
    state, told = examine("--database-url", conninfo)["privileges"]
    assert state == "warn"
    assert told.endswith(": REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    done = trio_ws_command("migrate", "--database-url", conninfo)
    assert done.stdout == "nothing to do\n"
    assert "other roles may create functions and tables in our schema: REVOKE CREATE ON SCHEMA" in done.stderr


def test_notifications_that_get_lost_are_noticed(conninfo: str, empty_database: str) -> None:
    # Of another database they do not come, as they do not through a pool that hands sessions to others.
    found = examine("--database-url", conninfo, TRIO_WS_LISTEN_URL=empty_database)
    assert found["LISTEN"][0] == "warn"
    assert "past the pool" in found["LISTEN"][1]


def test_events_and_webhooks_that_are_stuck_are_noticed(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO event (type, topics, data) SELECT 'x', '{}', '{}' FROM generate_series(1, 10001)"
        )
        connection.execute(
            "INSERT INTO webhook_deliveries"
            " (seq, event_name, invoice, account_id, endpoint, url, type, data, failed_at)"
            " VALUES (1, '', '', 1, '', '', '', '{}', now())"
        )
    found = examine("--database-url", conninfo)
    assert found["event log"][0] == found["webhooks"][0] == "warn"
    assert re.search("1000[0-9] not sent yet", found["event log"][1])
    assert "1 failed" in found["webhooks"][1]


def test_a_copy_of_another_database_is_noticed(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO webhook_deliveries"
            " (seq, event_name, invoice, account_id, endpoint, url, type, data, origin)"
            " VALUES (1, '', '', 1, '', '', '', '{}', '1.1')"
        )
    state, told = examine("--database-url", conninfo)["held webhooks"]
    assert (state, told[:40]) == ("warn", "1 that another database has queued: this")


def test_a_server_that_sends_no_webhooks_says_so(conninfo: str) -> None:
    state, told = examine("--database-url", conninfo, TRIO_WS_WEBHOOKS="false")["webhooks"]
    assert (state, told) == ("ok", "0 waiting, none failed; this server sends none: ")


def test_too_few_sessions_are_a_fault(conninfo: str) -> None:
    found = examine("--database-url", conninfo, "--workers", "100", status=1, TRIO_WS_CONNECTIONS="10")
    assert troubles(found)["sessions"][0] == "fail"


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])  # nobody listens; nobody answers (RFC 5737)
def test_a_database_that_can_t_be_reached_is_a_fault_and_its_password_no_secret_told(host: str) -> None:
    conninfo = make_conninfo(host=host, port=str(free_port()), user="x", password="geheim")
    done = trio_ws_command("doctor", "--port", str(free_port()), "--database-url", conninfo)
    assert done.returncode == 1
    assert "fail database: can't be reached" in done.stdout
    assert "geheim" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(("days", "state"), [(30, "ok"), (3, "warn")])
def test_a_certificate_s_end_is_seen_coming(tmp_path: Path, days: int, state: str) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    names = ["-nodes", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, "-days", str(days)], check=True, capture_output=True)
    files = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    assert examine("--data-dir", str(tmp_path / "d"), *files)["TLS"][0] == state


def test_a_certificate_that_has_expired_is_a_fault(tmp_path: Path) -> None:
    expired = Path(__file__).parent / "expired.pem"  # at the end of 2020
    found = examine("--data-dir", str(tmp_path / "d"), "--tls-cert", str(expired), status=1)
    assert found["TLS"][0] == "fail"


def test_a_server_says_where_postgresql_allows_too_few_sessions(
    conninfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_too_few_sessions(Settings(workers=2), conninfo)
    assert caplog.text == ""
    warn_of_too_few_sessions(Settings(workers=40), conninfo)
    assert "PostgreSQL allows 97 sessions, but 40 workers may open 360: raise max_connections" in caplog.text
