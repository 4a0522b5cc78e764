"""The how-tos' programs, run as they stand."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.docs.pages import programs, write
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, Server, call, execute, receive, serving
from trio_ws.database import embedded
from trio_ws.database import programs as postgres

PAGE = "howtos.md"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "data") as server:
        yield server


def make_invoice(server: Server) -> str:
    with server.connect() as client:
        return str(call(client, **INVOICE)["data"]["uid"])


def pay(server: Server, uid: str) -> None:
    for status in ("confirming", "paid"):
        execute(server.data_dir, f"UPDATE invoices SET status = '{status}' WHERE uid = '{uid}'")  # noqa: S608


def test_the_till_and_the_checkout_page_are_of_some_twenty_lines() -> None:
    for name in ("till.py", "checkout.html"):
        lines = [line for line in programs(PAGE)[name].splitlines() if line.strip()]
        assert len(lines) <= 22


def test_the_till_sells(server: Server, tmp_path: Path) -> None:
    file = write(PAGE, "till.py", tmp_path, server.url)
    with subprocess.Popen([sys.executable, file, "1000"], stdout=subprocess.PIPE, text=True) as till:
        assert till.stdout
        uid = till.stdout.readline().split()[1]
        pay(server, uid)
        assert till.communicate(timeout=PATIENCE_SECONDS)[0] == "paid\n"
        assert till.returncode == 0


def test_the_till_on_asyncio_sells_two_at_once(server: Server, tmp_path: Path) -> None:
    file = write(PAGE, "till_asyncio.py", tmp_path, server.url)
    with subprocess.Popen([sys.executable, file, "1000", "2000"], stdout=subprocess.PIPE, text=True) as till:
        assert till.stdout
        for uid in [till.stdout.readline().split()[1] for _ in range(2)]:
            pay(server, uid)
        assert till.communicate(timeout=PATIENCE_SECONDS)[0] == "paid\npaid\n"
        assert till.returncode == 0


@contextmanager
def shop(folder: Path) -> Iterator[str]:
    """A web server of another origin, which shows what is in a folder."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def test_the_checkout_page_turns_paid(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").mkdir()
    with shop(tmp_path / "shop") as origin:
        monkeypatch.setenv("TRIO_WS_ORIGINS", origin)
        with serving(tmp_path / "data", "--auth", "token", "--checkout") as server:
            write(PAGE, "checkout.html", tmp_path / "shop", server.url)
            uid = str(UUID(int=1))
            execute(
                server.data_dir,
                f"INSERT INTO invoices (uid, amount, currency, account_id) VALUES ('{uid}', 1000, 'USD', 1)",  # noqa: S608
            )
            page.goto(f"{origin}/checkout.html#{uid}")
            expect(page.locator("#status")).to_have_text("unpaid")
            expect(page.locator("#amount")).to_have_text("1000 USD")
            pay(server, uid)
            expect(page.locator("#status")).to_have_text("paid")


def test_the_processor_records_once_and_only_what_can_be(server: Server, tmp_path: Path) -> None:
    file, uid = write(PAGE, "processor.py", tmp_path), make_invoice(server)
    conninfo = embedded.conninfo(server.data_dir)
    execute(server.data_dir, programs(PAGE)["grant.sql"])

    def record(status: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(file), conninfo, uid, "tx-17", "1000", status]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    with server.connect() as client:
        call(client, action="subscribe", type="invoice", id=uid)
        assert [record("pending").stdout for _ in range(2)] == ["recorded, version 1\n"] * 2
        assert record("settled").stdout == "recorded, version 2\n"
        refused = record("pending")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("not recorded: ")
        told: list[str] = []
        while len(told) < 4:
            event = receive(client)
            if event["type"] != "invoice.created":  # which may come after it was subscribed to
                told.append(event["data"]["status"])
        assert told == ["pending", "confirming", "settled", "paid"]
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET ROLE processor")
        connection.execute("UPDATE payments SET status = 'failed'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE invoices SET memo = 'x'")


INVOICES = """\
id,uid,amount,currency,status,account_id,created_at,updated_at
7,5735e250-b53e-4ace-a025-afac1bc77ee2,1000,USD,paid,1,2024-12-30T15:14:46.085243+00:00,2024-12-30T15:20:00+00:00
9,0b0a9f0e-8f0e-4a53-9f68-0c1e7a1f6a10,250,EUR,unpaid,2,2024-12-31T10:00:00+01:00,2024-12-31T10:00:00+01:00
"""
PRICES = "id,currency,base_currency,amount,account_id\n4,BTC,USD,4300000,1\n"


def import_all(server: Server, folder: Path) -> subprocess.CompletedProcess[str]:
    file = write(PAGE, "import.sql", folder)
    psql = postgres.find() / "psql"
    return subprocess.run(
        [psql, embedded.conninfo(server.data_dir), "-v", "ON_ERROR_STOP=1", "-f", file],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "LD_LIBRARY_PATH": str(psql.parent.parent / "lib")},
    )


def test_what_another_server_had_is_brought_over_and_its_clients_go_on(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "invoices.csv").write_text(INVOICES)
    (tmp_path / "prices.csv").write_text(PRICES)
    done = import_all(server, tmp_path)
    assert done.returncode == 0, done.stderr
    with server.connect() as client:
        uid = "5735e250-b53e-4ace-a025-afac1bc77ee2"
        client.send(json.dumps({"action": "fetch_invoice", "id": uid}))
        fetched = receive(client)["data"]
        assert fetched == {
            "id": 7,
            "uid": uid,
            "amount": 1000,
            "currency": "USD",
            "status": "paid",
            "account_id": 1,
            "createdAt": "2024-12-30T15:14:46.085243+00:00",
            "updatedAt": "2024-12-30T15:20:00.000000+00:00",
            "version": 1,
        }
        (price,) = call(client, action="list_prices")["data"]
        assert (price["id"], price["amount"], price["value"]) == (4, 4300000, 43000.0)
        assert call(client, **INVOICE)["data"]["id"] == 10
        second = call(client, action="fetch_invoice", id="0b0a9f0e-8f0e-4a53-9f68-0c1e7a1f6a10")["data"]
        assert (second["account_id"], second["createdAt"]) == (2, "2024-12-31T09:00:00.000000+00:00")


def test_a_row_that_can_t_be_stops_the_import_and_nothing_has_changed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "invoices.csv").write_text(INVOICES.replace(",250,", ",0,"))
    (tmp_path / "prices.csv").write_text(PRICES)
    assert import_all(server, tmp_path).returncode != 0
    with server.connect() as client:
        assert (
            call(client, action="fetch_invoice", id="5735e250-b53e-4ace-a025-afac1bc77ee2")["code"]
            == "not_found"
        )
        assert len(call(client, action="list_prices")["data"]) == 3
