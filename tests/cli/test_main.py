"""The commands, as a shell sees them: what they print, where, and with which status."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import trio_ws
from tests import clusters
from tests.end_to_end.serving import INVOICE, call, serving
from trio_ws.database.embedded import embedded_postgres
from trio_ws.settings import FIELDS


def trio_ws_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in an environment without settings but these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_WS_")}
    return subprocess.run(
        [sys.executable, "-m", "trio_ws", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**clean, **environment},
    )


def assert_one_line(done: subprocess.CompletedProcess[str], status: int, pattern: str) -> None:
    """The command failed with this status, and one line on stderr said so."""
    assert (done.returncode, done.stdout) == (status, ""), done
    assert re.fullmatch(f"trio-ws: {pattern}\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "pattern"),
    [
        (["serve", "--port", "http"], {}, r"--port: Expected `int`, got `str`"),
        (["serve", "--port", "65536"], {}, r"--port: Expected `int` <= 65535"),
        (["serve", "--prot", "1"], {}, r"Unknown option: --prot\. Did you mean --port\?"),
        (["serve", "extra"], {}, r"Unused Tokens: \['extra'\]\."),
        (["dance"], {}, r'Unknown command "dance"\..*'),
        (
            ["serve", "--log-level", "loud"],
            {},
            r'Invalid value "loud" for --log-level\. .*"warning".*',
        ),
        (["serve"], {"TRIO_WS_PORT": "x"}, r"TRIO_WS_PORT: Expected `int`, got `str`"),
        (["serve"], {"TRIO_WS_PROT": "1"}, r"unknown setting prot in the environment \(TRIO_WS_PROT\).*"),
        (["serve", "--config", "/nowhere.toml"], {}, r"can't read /nowhere\.toml: No such file or directory"),
        (["call", "ping", "action=x"], {}, r"no field can be called 'action': .*"),
        (["call", "ping", "request_id=7"], {}, r"no field can be called 'request_id': .*"),
        (["call", "create_invoice", "memo=NaN"], {}, r"nan is no number that can be sent"),
        (["call", "create_invoice", "memo=[-Infinity]"], {}, r"-inf is no number that can be sent"),
        (["call", "ping", "--url", "ws://a..b"], {}, r"'ws://a\.\.b' is no ws:// or wss:// URL: .*"),
        (["check-config"], {"TRIO_WS_CONFIG": "/nowhere.toml"}, r"can't read /nowhere\.toml: .*"),
    ],
)
def test_wrong_usage_and_settings_exit_2_in_one_line(
    arguments: list[str], environment: dict[str, str], pattern: str
) -> None:
    assert_one_line(trio_ws_command(*arguments, **environment), 2, pattern)


def test_a_failure_is_said_in_one_write_for_workers_share_stderr() -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)  # each write is a datagram
    with ours, theirs:
        subprocess.run(
            [sys.executable, "-m", "trio_ws", "dance"],
            check=False,
            stderr=theirs.fileno(),
            timeout=60,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert re.fullmatch(rb"trio-ws: Unknown command .*\n", ours.recv(4096))


def test_a_taken_port_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = trio_ws_command("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
    assert_one_line(done, 1, rf"localhost port {port} is taken: .* another --port")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid", "x" * 300])
def test_an_address_that_is_not_ours_is_said(host: str) -> None:
    done = trio_ws_command("serve", "--port", "0", "--host", host)
    assert_one_line(done, 1, rf"{host} port 0 can't be listened on \(.+\): choose another --host or --port")


@pytest.mark.parametrize(
    "url", ["postgresql://127.0.0.1:1/shop", "host=/nowhere", "postgresql://me:secret@no.such.host"]
)
@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["migrate"]])
def test_an_unreachable_database_says_what_to_do(command: list[str], url: str) -> None:
    done = trio_ws_command(*command, "--database-url", url)
    assert_one_line(done, 1, r"can't reach the database \(.+\): check --database-url.*")
    assert "secret" not in done.stderr


@pytest.mark.parametrize("url", ["what?", "postgresql://me:secret@[", "postgresql://me:se/cret@db/shop"])
@pytest.mark.parametrize("command", ["serve", "migrate", "check-config", "doctor", "database-url"])
def test_a_database_url_that_is_none_is_named_and_not_quoted(command: str, url: str) -> None:
    done = trio_ws_command(command, "--database-url", url)
    assert_one_line(done, 2, r"--database-url: not a PostgreSQL .+")
    assert "cret" not in done.stderr


def test_a_role_that_may_not_migrate_is_said(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN")
    for arguments in ([], ["--no-migrate"]):
        done = trio_ws_command(
            "serve", "--port", "0", *arguments, "--database-url", f"{empty_database} user=guest"
        )
        assert done.returncode == 1
        assert done.stderr.startswith("trio-ws: the database "), done.stderr
        assert done.stderr.count("\n") == 1


def test_an_event_log_that_cannot_be_read_is_said(conninfo: str) -> None:
    with psycopg.connect(conninfo) as other:
        other.execute("LOCK TABLE event_log")
        done = trio_ws_command("serve", "--port", "0", "--database-url", conninfo)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "trio-ws: can't read the event log: The database took too long"


def test_a_database_that_lacks_migrations_can_be_refused(empty_database: str) -> None:
    done = trio_ws_command("serve", "--port", "0", "--no-migrate", "--database-url", empty_database)
    assert_one_line(done, 1, r"the database lacks the migrations 0001_.*: run `trio-ws migrate`")
    done = trio_ws_command("migrate", "--database-url", empty_database)
    assert (done.returncode, done.stdout.startswith("applied 0001_")) == (0, True)
    done = trio_ws_command("migrate", "--database-url", empty_database)
    assert (done.returncode, done.stdout) == (0, "nothing to do\n")
    assert (
        trio_ws_command("migrate", "--json", "--database-url", empty_database).stdout == '{"applied": []}\n'
    )


def test_migrating_goes_past_a_pooler(empty_database: str) -> None:
    """There it would leave its lock behind, in a session that others get."""
    done = trio_ws_command("migrate", "--database-url", "host=/pooler", TRIO_WS_LISTEN_URL=empty_database)
    assert (done.returncode, done.stdout.startswith("applied 0001_")) == (0, True), done


def test_migrating_starts_the_embedded_database_or_uses_the_one_that_runs(tmp_path: Path) -> None:
    done = trio_ws_command("migrate", "--data-dir", str(tmp_path))
    assert done.stdout.startswith("applied 0001_"), done
    with embedded_postgres(tmp_path):
        done = trio_ws_command("migrate", "--data-dir", str(tmp_path))
    assert done.stdout == "nothing to do\n", done


def test_the_settings_in_force_are_shown_with_their_source(tmp_path: Path) -> None:
    file = tmp_path / "trio-ws.toml"
    file.write_text("ping_seconds = 5")
    done = trio_ws_command(
        *("check-config", "--config", str(file), "--database-url", "postgresql://me:secret@host/shop"),
        *("--host", "::1", "--no-migrate"),
        TRIO_WS_PORT="9000",
        XDG_DATA_HOME="/data",
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(" = ")[0] for line in lines] == list(FIELDS)
    assert "port = 9000  # TRIO_WS_PORT" in lines
    assert f"ping_seconds = 5.0  # ping_seconds in {file}" in lines
    assert 'host = "::1"  # --host' in lines
    assert "migrate = false  # --no-migrate" in lines
    assert 'log_level = "info"  # default' in lines
    assert 'listen_url = "none"  # default' in lines
    assert 'data_dir = "/data/trio-ws"  # default' in lines
    assert "secret" not in done.stdout
    as_json = trio_ws_command("check-config", "--config", str(file), "--json", TRIO_WS_PORT="9000").stdout
    listed = [json.loads(line) for line in as_json.splitlines()]
    assert {"name": "port", "value": 9000, "source": "TRIO_WS_PORT"} in listed
    assert {"name": "listen_url", "value": None, "source": "default"} in listed
    file.write_text(done.stdout.replace("***", "secret"))
    assert trio_ws_command("check-config", "--config", str(file)).returncode == 0


def test_the_conninfo_in_use_is_printed_alone(tmp_path: Path) -> None:
    given = trio_ws_command("database-url", "--database-url", "postgresql://me:secret@host/shop")
    assert (given.stdout, given.stderr) == ("postgresql://me:secret@host/shop\n", "")
    stopped = trio_ws_command("database-url", "--data-dir", str(tmp_path))
    assert stopped.stderr == f"trio-ws: no server is running on {tmp_path} now\n"
    with embedded_postgres(clusters.copy_to(tmp_path)) as postgres:
        running = trio_ws_command("database-url", "--data-dir", str(tmp_path))
    assert (running.stdout, running.stderr) == (f"{postgres.conninfo}\n", "")
    assert running.stdout == stopped.stdout


def test_help_and_version_are_there() -> None:
    assert trio_ws_command("--version").stdout == f"{trio_ws.__version__}\n"
    for arguments in ([], ["--help"], ["serve", "--help"], ["check-config", "-h"]):
        done = trio_ws_command(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: trio-ws" in done.stdout


def insert_invoices(conninfo: str, count: int, account_id: int = 1) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO accounts (id, name) VALUES (%s, 'x') ON CONFLICT DO NOTHING", (account_id,)
        )
        connection.execute(
            "INSERT INTO invoices (account_id, amount, currency) SELECT %s, n, 'USD'"
            " FROM generate_series(1, %s) n",
            (account_id, count),
        )


@contextmanager
def tailing(conninfo: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `trio-ws events tail`."""
    command = [sys.executable, "-m", "trio_ws", "events", "tail", "--database-url", conninfo, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next event that it prints."""
    assert process.stdout
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def position(conninfo: str, seq: int) -> str:
    """The position of an event that has a number."""
    with psycopg.connect(conninfo) as connection:
        ((name,),) = connection.execute(
            "SELECT coalesce((SELECT name FROM event WHERE seq = %s), (SELECT trimmed_name FROM event_log))",
            (seq,),
        )
    return f"{name}.{seq}"


def test_the_log_itself_is_read_without_a_server(conninfo: str) -> None:
    insert_invoices(conninfo, 3)
    insert_invoices(conninfo, 1, account_id=2)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT number_events(100)")
    with tailing(conninfo, "--account", "1", "--after", position(conninfo, 4), "--json") as tail:
        found = [read(tail) for _ in range(2)]
        insert_invoices(conninfo, 1, account_id=2)
        insert_invoices(conninfo, 1)
        found.append(read(tail))
        tail.send_signal(signal.SIGINT)
        assert (tail.wait(60), tail.stderr and tail.stderr.read()) == (128 + signal.SIGINT, "")
    assert [event["position"] for event in found] == [position(conninfo, number) for number in (5, 6, 9)]
    assert [event["data"]["amount"] for event in found] == [2, 3, 1]
    assert {event["type"] for event in found} == {"invoice.created"}


def test_the_log_is_read_until_nobody_reads_what_it_prints(conninfo: str) -> None:
    with tailing(conninfo, "--after", position(conninfo, 0)) as tail:
        assert tail.stdout
        assert re.match(r"[0-9a-f]{8}\.1  price\.updated  ", tail.stdout.readline())
        tail.stdout.close()
        insert_invoices(conninfo, 1)
        assert (tail.wait(60), tail.stderr and tail.stderr.read()) == (128 + signal.SIGINT, "")


def test_a_log_that_goes_back_in_time_is_a_gap(conninfo: str) -> None:
    with (
        psycopg.connect(conninfo, autocommit=True) as connection,
        tailing(conninfo, "--after", position(conninfo, 0), "--json") as tail,
    ):
        assert [read(tail)["gap"] for _ in range(3)] == [False] * 3
        connection.execute("UPDATE event SET name = 'another'")
        connection.execute("UPDATE event_step SET name = 'another'")
        assert read(tail) == {"gap": True, "position": "another.3"}


def test_a_log_that_cannot_be_read_from_there_is_said(conninfo: str, tmp_path: Path) -> None:
    there = ["events", "tail", "--database-url", conninfo]
    assert_one_line(trio_ws_command(*there, "--after", "x"), 2, r"--after: 'x' is no position")
    assert_one_line(trio_ws_command(*there, "--account", "x"), 2, r".*--account.*")
    done = trio_ws_command(*there, "--after", "0ther-1.5")
    assert_one_line(done, 1, r"the log goes from \S+\.0 to \S+\.3, without 0ther-1\.5")
    done = trio_ws_command("events", "tail", "--data-dir", str(tmp_path))
    assert_one_line(done, 1, rf"no server is running on {tmp_path}: start one, or choose another --data-dir")


def test_events_are_read_from_the_first_that_is_kept(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        there = ("events", "tail", "--data-dir", str(tmp_path), "--from", "start")
        with server.connect() as client:
            uid = call(client, **INVOICE)["data"]["uid"]
        with subprocess.Popen(
            [sys.executable, "-m", "trio_ws", *there, "--json"], stdout=subprocess.PIPE, text=True
        ) as tail:
            assert tail.stdout
            found = next(json.loads(line) for line in iter(tail.stdout.readline, "") if uid in line)
            tail.kill()
        assert found["type"] == "invoice.created"
        assert_one_line(trio_ws_command(*there, "--after", "x.1"), 2, "give either --after or --from start")


def test_what_was_meant_is_suggested(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for words, hint in (
            (["lst_prices"], "did you mean list_prices?"),
            (["create_invoice", "amout=1", "currency=USD"], "amout: did you mean amount?"),
            (["dance"], "actions: subscribe, resume"),
        ):
            for way in ([], ["--http"]):
                done = trio_ws_command("call", *words, *way, "--url", server.url)
                assert_one_line(done, 1, rf".*{re.escape(hint)}.*")


def test_a_stdout_that_is_full_is_told_in_one_line() -> None:
    command = [sys.executable, "-m", "trio_ws", "asyncapi"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "trio-ws: can't write to stdout: No space left on device\n")


def test_where_it_listens_is_a_log_line_where_these_are_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trio_ws", "serve", "--port", "0", "--log-format", "json"]
    with subprocess.Popen(
        [*command, "--data-dir", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr
        lines = iter(server.stderr.readline, "")
        told = next(line for line in map(json.loads, lines) if "Listening" in line["message"])
        assert re.fullmatch(r"Listening on ws://127\.0\.0\.1:\d+", told["message"])
        server.terminate()
        assert server.communicate()[0] == ""


def test_the_interface_and_the_settings_are_described_in_json() -> None:
    assert json.loads(trio_ws_command("asyncapi").stdout)["asyncapi"] == "3.0.0"
    assert json.loads(trio_ws_command("openapi").stdout)["openapi"] == "3.1.1"
    schema = json.loads(trio_ws_command("check-config", "--schema").stdout)
    assert list(schema["properties"]) == list(FIELDS)
