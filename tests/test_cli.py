"""The commands, as a shell sees them: what they print, where, and with which status."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import trio_ws
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
        (["serve", "--log-level", "loud"], {}, r"--log-level: Invalid enum value 'loud'"),
        (["serve"], {"TRIO_WS_PORT": "x"}, r"TRIO_WS_PORT: Expected `int`, got `str`"),
        (["serve"], {"TRIO_WS_PROT": "1"}, r"unknown setting prot in the environment \(TRIO_WS_PROT\).*"),
        (["serve", "--config", "/nowhere.toml"], {}, r"can't read /nowhere\.toml: No such file or directory"),
        (["check-config"], {"TRIO_WS_CONFIG": "/nowhere.toml"}, r"can't read /nowhere\.toml: .*"),
    ],
)
def test_wrong_usage_and_settings_exit_2_in_one_line(
    arguments: list[str], environment: dict[str, str], pattern: str
) -> None:
    assert_one_line(trio_ws_command(*arguments, **environment), 2, pattern)


def test_a_taken_port_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = trio_ws_command("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
    assert_one_line(done, 1, rf"127\.0\.0\.1 port {port} is taken: .* another --port")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid", "x" * 300])
def test_an_address_that_is_not_ours_is_said(host: str) -> None:
    done = trio_ws_command("serve", "--port", "0", "--host", host)
    assert_one_line(done, 1, rf"{host} port 0 can't be listened on \(.+\): choose another --host or --port")


@pytest.mark.parametrize(
    "url", ["postgresql://127.0.0.1:1/shop", "host=/nowhere", "what?", "postgresql://me:secret@["]
)
@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["migrate"]])
def test_an_unreachable_database_says_what_to_do(command: list[str], url: str) -> None:
    done = trio_ws_command(*command, "--database-url", url)
    assert_one_line(done, 1, r"can't reach the database \(.+\): check --database-url.*")
    assert "secret" not in done.stderr


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
    assert_one_line(done, 1, r"can't read the event log: The database took too long")


def test_a_database_that_lacks_migrations_can_be_refused(empty_database: str) -> None:
    done = trio_ws_command("serve", "--port", "0", "--no-migrate", "--database-url", empty_database)
    assert_one_line(done, 1, r"the database lacks 0001_.*: run `trio-ws migrate`")
    done = trio_ws_command("migrate", "--database-url", empty_database)
    assert (done.returncode, done.stdout.startswith("applied 0001_")) == (0, True)
    done = trio_ws_command("migrate", "--database-url", empty_database)
    assert (done.returncode, done.stdout) == (0, "nothing to do\n")


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
    file.write_text(done.stdout.replace("***", "secret"))
    assert trio_ws_command("check-config", "--config", str(file)).returncode == 0


def test_the_conninfo_in_use_is_printed_alone(tmp_path: Path) -> None:
    given = trio_ws_command("database-url", "--database-url", "postgresql://me:secret@host/shop")
    assert (given.stdout, given.stderr) == ("postgresql://me:secret@host/shop\n", "")
    stopped = trio_ws_command("database-url", "--data-dir", str(tmp_path))
    assert stopped.stderr == f"trio-ws: no server runs on {tmp_path} now\n"
    with embedded_postgres(tmp_path) as postgres:
        running = trio_ws_command("database-url", "--data-dir", str(tmp_path))
    assert (running.stdout, running.stderr) == (f"{postgres.conninfo}\n", "")
    assert running.stdout == stopped.stdout


def test_help_and_version_are_there() -> None:
    assert trio_ws_command("--version").stdout == f"{trio_ws.__version__}\n"
    for arguments in ([], ["--help"], ["serve", "--help"], ["check-config", "-h"]):
        done = trio_ws_command(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: trio-ws" in done.stdout
