"""Whatever a role, a database, the conninfo or the environment sets, our sessions read and do the same."""

from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from trio_ws.database import event_log, queries, tokens
from trio_ws.database.gateway import Gateway
from trio_ws.database.sessions import SETTINGS
from trio_ws.errors import ActionError
from trio_ws.messages import CreateInvoice
from trio_ws.settings import Settings
from trio_ws.topics import Topic

HOSTILE = {
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "statement_timeout": "500",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "2000",
    "row_security": "off",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "exit_on_error": "on",
    "bytea_output": "escape",
    "datestyle": "German",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "plan_cache_mode": "force_custom_plan",
    "jit": "on",
    "search_path": "nowhere, public",
}


def test_each_setting_of_ours_has_a_hostile_value_here() -> None:
    assert {*SETTINGS, "search_path"} == set(HOSTILE)


def sleep(connection: queries.Connection, seconds: float) -> None:
    connection.execute("SELECT pg_sleep(%s)", (seconds,))


@pytest.fixture
def hostile(conninfo: str) -> str:
    """The conninfo of a role with all of them."""
    with psycopg.connect(conninfo, autocommit=True) as owner:
        if not owner.execute("SELECT FROM pg_roles WHERE rolname = 'hostile'").fetchall():
            owner.execute("CREATE ROLE hostile LOGIN SUPERUSER")
            for name, value in HOSTILE.items():
                # A path is a list of names; all other values are one.
                given = value if name == "search_path" else f"'{value}'"
                owner.execute(f"ALTER ROLE hostile SET {name} = {given}".encode())
    return make_conninfo(conninfo, user="hostile")


async def test_a_server_whose_role_has_every_hostile_setting_does_as_any(hostile: str) -> None:
    gateway = Gateway(hostile, Settings())
    await gateway.run(sleep, 0.6)
    memo = "Zürich, 東京, 😀"
    for _ in range(2):  # as it is the first time, and as it was prepared
        invoice = CreateInvoice(amount=1, currency="USD", account_id=1, memo=memo, expires_in_seconds=0.5)
        row: dict[str, Any] = msgspec.json.decode(await gateway.run(queries.create_invoice, invoice))
        assert row["memo"] == memo
        assert row["createdAt"].endswith("+00:00")
        ((batched,),) = [await gateway.run(queries.create_invoices, [(invoice,)])]
        assert batched is not None
        await gateway.run(event_log.number_events, 100)
        event = (await gateway.run(event_log.read_events, 3, 100)).events[-1]
        assert abs(event.at - 1.7e9) < 1e9
        assert memo.encode() in bytes(event.data)
        await gateway.run(queries.read_snapshot, Topic("account", "1"), None)
        assert await gateway.run(queries.fetch_invoice, UUID(row["uid"]), 1)
        with pytest.raises(ActionError):
            await gateway.run(tokens.identify, b"nobody's")
    gateway.close()


async def test_none_of_them_is_left(hostile: str) -> None:
    gateway = Gateway(hostile, Settings())

    def left(connection: queries.Connection) -> dict[str, tuple[str, str]]:
        rows = connection.execute("SELECT lower(name), setting FROM pg_settings WHERE source = 'user'")
        return dict(rows.fetchall())

    assert await gateway.run(left) == {}
    gateway.close()


async def test_the_environment_changes_nothing_either(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = " ".join(f"-c {name}={value}" for name, value in HOSTILE.items() if " " not in value)
    monkeypatch.setenv("PGOPTIONS", options)
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
    monkeypatch.setenv("PGDATESTYLE", "German")
    await test_a_server_whose_role_has_every_hostile_setting_does_as_any(conninfo)


async def test_behind_a_pooler_the_encoding_is_ours(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one of the few settings that a pooler hands on."""
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    latin = make_conninfo(conninfo, client_encoding="LATIN1")
    gateway = Gateway(latin, Settings(listen_url=latin))

    def encoding(connection: queries.Connection) -> str:
        return connection.info.encoding

    assert await gateway.run(encoding) == "utf-8"
    gateway.close()
