"""Accounts and tokens from the shell, and what a running server makes of them."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.cli.test_main import assert_one_line, trio_ws_command
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, Server, call, receive, serving
from trio_ws.identity import TOKEN_PREFIX

EVERYWHERE = "0.0.0.0"  # noqa: S104 - that is what is tested; only loopback calls


def ask(data_dir: Path, *arguments: str) -> list[str]:
    """Run a command on the server's database, and return the lines that it prints."""
    done = trio_ws_command(*arguments, "--data-dir", str(data_dir))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def connect_as(server: Server, token: str) -> ClientConnection:
    return connect(
        server.url,
        additional_headers={"Authorization": f"Bearer {token}"},
        open_timeout=PATIENCE_SECONDS,
    )


def close_code(client: ClientConnection) -> int:
    """Wait for the server to close, and say with what."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=PATIENCE_SECONDS)
    assert closed.value.rcvd
    return closed.value.rcvd.code


def test_a_token_is_made_used_and_revoked_from_a_shell_while_several_processes_serve(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", "--auth", "token") as server, contextlib.ExitStack() as lines:
        (account,) = ask(tmp_path, "account", "create", "--name", "The corner shop")
        *said, token = ask(tmp_path, "token", "create", "--account", account, "--scope", "read,write")
        assert said == [f"token 1 of account {account}, read,write; it is shown this once:"]
        assert token.startswith(TOKEN_PREFIX)
        # Some with each process, nearly always.
        clients = [lines.enter_context(connect_as(server, token)) for _ in range(8)]
        invoice = {name: value for name, value in INVOICE.items() if name != "account_id"}
        created = call(clients[0], **invoice)["data"]
        assert created["account_id"] == int(account)
        with server.connect() as nobody:
            assert call(nobody, action="fetch_invoice", id=created["uid"])["code"] == "unauthorized"
            assert call(nobody, action="authenticate", token=token)["status"] == "success"
            assert call(nobody, action="fetch_invoice", id=created["uid"])["data"] == created
        assert ask(tmp_path, "token", "revoke", "1") == ["revoked token 1"]
        assert [close_code(client) for client in clients] == [4401] * len(clients)
        with pytest.raises(InvalidStatus) as refused, connect_as(server, token):
            pass
        assert refused.value.response.status_code == 401
        (line,) = ask(tmp_path, "token", "list")
        assert re.fullmatch(rf"1  account {account}  read,write  created [^ ]+  revoked [^ ]+", line)
        assert ask(tmp_path, "token", "revoke", "1") == ["revoked token 1"]
        assert ask(tmp_path, "token", "list") == [line]
        assert server.stop() == 0
        assert token not in "".join(server.log())


def test_the_commands_that_ask_a_server_bring_a_token(tmp_path: Path) -> None:
    with serving(tmp_path, "--auth", "token") as server:
        *_, token = ask(tmp_path, "token", "create", "--account", "1", "--scope", "read,write")
        ask_for = ("call", "create_invoice", "amount=1", "currency=USD", "--url", server.url)
        done = trio_ws_command(*ask_for, TRIO_WS_TOKEN=token)
        assert json.loads(done.stdout)["account_id"] == 1
        done = trio_ws_command(*ask_for, "--token", token)
        assert done.returncode == 0
        done = trio_ws_command(*ask_for)
        assert_one_line(done, 1, "Authentication required.*")
        done = trio_ws_command(*ask_for, TRIO_WS_TOKEN="wrong")
        assert_one_line(done, 1, "The server turned us away: 401 Unauthorized.*")
        done = trio_ws_command("check-config", TRIO_WS_TOKEN=token)
        assert done.returncode == 0
        assert token not in done.stdout


def test_top_brings_a_token_where_one_is_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, "--auth", "token") as server:
        *_, token = ask(tmp_path, "token", "create", "--account", "1", "--scope", "read")
        ask_for = ("top", "--once", "--interval", "0.1", server.url)
        for done in (
            trio_ws_command(*ask_for, TRIO_WS_TOKEN=token),
            trio_ws_command(*ask_for, "--token", token),
        ):
            assert re.search(r"^connections +0$", done.stdout, re.MULTILINE), done
        for wrong in ("", "wrong"):
            done = trio_ws_command(*ask_for, TRIO_WS_TOKEN=wrong)
            assert_one_line(done, 1, ".*asks for a token, as TRIO_WS_TOKEN may hold.*")


def test_a_token_expires(tmp_path: Path) -> None:
    with serving(tmp_path, "--auth", "token") as server:
        *_, token = ask(tmp_path, "token", "create", "--account", "1", "--scope", "read", "--expires", "10s")
        (line,) = ask(tmp_path, "token", "list")
        assert re.fullmatch(r"1  account 1  read  created [^ ]+  expires [^ ]+", line)
        with connect_as(server, token) as client:
            assert call(client, action="subscribe", type="account", id=1)["status"] == "success"
            assert close_code(client) == 4401


@pytest.mark.parametrize(
    ("arguments", "status", "pattern"),
    [
        (["token", "create", "--account", "7", "--scope", "read"], 1, "Account not found"),
        (["token", "create", "--account", "0", "--scope", "read"], 1, "Account not found"),
        (["token", "create", "--account", "1", "--scope", "all"], 2, "--scope: 'all' is none of read, .*"),
        (["token", "create", "--account", "1", "--scope", "admin"], 2, "--scope: admin is for operators.*"),
        (["token", "create", "--scope", "read"], 2, "--scope: read is for an account: give --account"),
        (["account", "rename", "7", "x"], 1, "Account not found"),
        (["token", "create", "--account", "1", "--scope", ""], 2, "--scope: '' is none of read, .*"),
        (
            ["token", "create", "--account", "1", "--scope", "read", "--expires", "soon"],
            2,
            "--expires: 'soon' is no duration such as .*",
        ),
        (["token", "revoke", "7"], 1, "Token not found"),
        (["token", "revoke", "first"], 2, ".*first.*"),
        (["account", "create"], 2, ".*--name.*"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    conninfo: str, arguments: list[str], status: int, pattern: str
) -> None:
    done = trio_ws_command(*arguments, "--database-url", conninfo)
    assert_one_line(done, status, pattern)


def test_without_a_server_the_embedded_database_is_not_there(tmp_path: Path) -> None:
    done = trio_ws_command("token", "list", "--data-dir", str(tmp_path))
    assert_one_line(done, 1, "no server is running on .*: start one, or choose another --data-dir")


# Where a server listens decides who may come


def test_beyond_loopback_a_token_is_demanded(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", EVERYWHERE) as server, server.connect() as client:
        assert call(client, **INVOICE)["code"] == "unauthorized"


def test_unless_open_was_typed(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", EVERYWHERE, "--auth", "open") as server:
        with server.connect() as client:
            assert call(client, **INVOICE)["status"] == "success"
        server.stop()
        assert any("may do everything" in line for line in server.log())


def test_and_not_merely_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_WS_AUTH", "open")
    with serving(tmp_path, "--host", EVERYWHERE) as server:
        with server.connect() as client:
            assert call(client, **INVOICE)["code"] == "unauthorized"
        server.stop()
        assert any("only --auth open, typed, opens it, not TRIO_WS_AUTH" in line for line in server.log())


def test_a_page_of_another_origin_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_WS_ORIGINS", "https://shop.example, https://till.example")
    with serving(tmp_path) as server:
        host = server.url.removeprefix("ws://")
        for origin in map(Origin, ("https://shop.example", "https://till.example", f"http://{host}")):
            with connect(server.url, origin=origin) as client:
                assert call(client, action="subscribe", type="account", id=1)["status"] == "success"
        evil = Origin("https://evil.example")
        with pytest.raises(InvalidStatus) as refused, connect(server.url, origin=evil):
            pass
        assert refused.value.response.status_code == 403
        with connect(server.url) as client:
            call(client, action="subscribe", type="account", id=1)
            call(client, **INVOICE)
            assert receive(client)["type"] == "invoice.created"


def test_accounts_and_tokens_are_listed_as_json_too(tmp_path: Path) -> None:
    with serving(tmp_path, "--auth", "token") as server:
        (line,) = ask(tmp_path, "account", "create", "--name", "A shop", "--json")
        shop = json.loads(line)
        assert shop | {"createdAt": ""} == {"id": 2, "name": "A shop", "createdAt": ""}
        assert ask(tmp_path, "account", "rename", "2", "Überladen") == ["renamed account 2"]
        first, second = ask(tmp_path, "account", "list", "--json")
        assert json.loads(second) | {"createdAt": ""} == {"id": 2, "name": "Überladen", "createdAt": ""}
        assert re.fullmatch(r"2  created [^ ]+  Überladen", ask(tmp_path, "account", "list")[1])
        assert json.loads(first)["id"] == 1
        (line,) = ask(tmp_path, "token", "create", "--scope", "admin", "--json")
        token = json.loads(line)
        assert (token["id"], token["account_id"], token["scopes"]) == (1, None, ["admin"])
        with connect_as(server, token["token"]) as client:
            assert call(client, action="subscribe", type="account", id=2)["status"] == "success"
        (line,) = ask(tmp_path, "token", "list", "--json")
        assert json.loads(line) | {"createdAt": ""} == {
            "id": 1,
            "account_id": None,
            "scopes": ["admin"],
            "createdAt": "",
        }
        assert re.fullmatch(r"1  an operator  admin  created .*", ask(tmp_path, "token", "list")[0])
