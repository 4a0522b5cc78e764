"""Webhooks, the whole: real processes, a real receiver, and kill -9 in between."""

import itertools
import json
import queue
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from standardwebhooks import Webhook
from stripe import WebhookSignature

from tests.cli.test_main import assert_one_line, trio_ws_command
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, call, execute, serving
from tests.end_to_end.test_accounts import ask
from tests.webhooks.test_signature import Verifier, is_from_trio_ws

__all__ = ["is_from_trio_ws"]  # a fixture


class Posted(NamedTuple):
    """What came, and which answer it got."""

    headers: dict[str, str]
    body: bytes
    answer: int

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.body)["data"]
        return data


class Receiver:
    """An HTTP server on loopback.

    Attributes:
        url: What leads to it.
        answer: Chooses the status for each request, by its number.
        posted: What comes.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook?key=a-secret-key"
        self.answer: Callable[[int], int] = lambda _: 200
        self.posted: queue.Queue[Posted] = queue.Queue()

    def next(self) -> Posted:
        return self.posted.get(timeout=2 * PATIENCE_SECONDS)

    def delivered(self, count: int) -> list[Posted]:
        """Wait until so many were taken, and return them."""
        taken: list[Posted] = []
        while len(taken) < count:
            if (posted := self.next()).answer == 200:
                taken.append(posted)
        return taken


@contextmanager
def receiving() -> Iterator[Receiver]:
    numbers = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = receiver.answer(next(numbers))
            receiver.posted.put(Posted(dict(self.headers.items()), body, answer))
            self.send_response(answer)
            self.end_headers()
            self.wfile.write(b"seen")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _allow_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_WS_WEBHOOK_PRIVATE_ADDRESSES", "true")
    monkeypatch.setenv("TRIO_WS_WEBHOOK_SECONDS", "1")  # and a killed server's claims last little longer


def test_a_paid_invoice_arrives_signed_and_in_order_though_the_server_is_killed(
    tmp_path: Path, is_from_trio_ws: Verifier
) -> None:
    with receiving() as receiver:
        receiver.answer = lambda number: 500 if number < 2 else 200
        with serving(tmp_path) as server:
            (secret,) = ask(tmp_path, "webhooks", "secret", "--account", "1")
            with server.connect() as client:
                created = call(client, **INVOICE, webhook_url=receiver.url)["data"]
                assert created["webhook_url"] == receiver.url
            execute(tmp_path, "UPDATE invoices SET status = 'confirming'")
            assert receiver.next().answer == 500
            while "answered 500" not in ask(tmp_path, "webhooks", "list")[0]:
                pass  # else what it has claimed comes when its lease is over, and we would wait so long
            server.stop(signal.SIGKILL)
            assert "a-secret-key" not in "".join(server.log())
        with serving(tmp_path):
            execute(tmp_path, "UPDATE invoices SET status = 'paid'")
            taken = receiver.delivered(3)
    assert [posted.data["status"] for posted in taken] == ["unpaid", "confirming", "paid"]
    assert [posted.data["version"] for posted in taken] == [1, 2, 3]
    assert len({posted.headers["trio-ws-delivery"] for posted in taken}) == 3
    for posted in taken:
        assert is_from_trio_ws(posted.headers["trio-ws-signature"], posted.body, secret)


def test_several_processes_deliver_each_event_once(tmp_path: Path) -> None:
    with receiving() as receiver, serving(tmp_path, "--workers", "2") as server:
        with server.connect() as client:
            for _ in range(20):
                assert call(client, **INVOICE, webhook_url=receiver.url)["status"] == "success"
        execute(tmp_path, "UPDATE invoices SET memo = 'x'")
        taken = receiver.delivered(40)
        assert server.stop() == 0
        assert receiver.posted.empty()
    told: dict[int, list[int]] = {}
    for posted in taken:
        told.setdefault(posted.data["id"], []).append(posted.data["version"])
    assert told == {id_: [1, 2] for id_ in range(1, 21)}


def test_what_has_failed_is_listed_and_retried_from_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_WS_WEBHOOK_RETRY_SECONDS", "0.1")
    with receiving() as receiver, serving(tmp_path) as server:
        receiver.answer = lambda _: 404
        with server.connect() as client:
            uid = call(client, **INVOICE, webhook_url=receiver.url)["data"]["uid"]
        assert receiver.next().answer == 404
        while not (lines := ask(tmp_path, "webhooks", "list", "--failed", "--account", "1")):
            pass
        endpoint = re.escape(receiver.url.partition("/hook")[0])
        found = rf"invoice\.created  {uid}  {endpoint}  attempts \d  failed [^ ]+  answered 404"
        line = rf"[0-9a-f-]{{36}}  account 1  {found}"
        assert re.fullmatch(line, lines[0])
        failing, *listed = ask(tmp_path, "webhooks", "list")
        assert re.fullmatch(rf"endpoint {endpoint}  account 1  failing since [^ ]+  answered 404", failing)
        assert listed == lines
        assert ask(tmp_path, "webhooks", "list", "--account", "2") == []
        receiver.answer = lambda _: 200
        assert ask(tmp_path, "webhooks", "retry", lines[0].split()[0]) == ["retrying 1"]
        assert receiver.delivered(1)[0].data["uid"] == uid
        while ask(tmp_path, "webhooks", "list"):
            pass
        assert ask(tmp_path, "webhooks", "retry", "--failed") == ["retrying 0"]
        assert ask(tmp_path, "webhooks", "retry", "--all", "--json") == ['{"retrying": 0}']
        assert ask(tmp_path, "webhooks", "release", "--json") == ['{"released": 0}']
        assert server.stop() == 0
        assert "a-secret-key" not in "".join(server.log())


def listed(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """What a list says as JSON."""
    return [json.loads(line) for line in ask(tmp_path, "webhooks", "list", "--json", *arguments)]


def test_what_was_delivered_is_listed_shown_and_sent_again_from_a_shell(tmp_path: Path) -> None:
    with receiving() as receiver, serving(tmp_path) as server:
        (secret,) = ask(tmp_path, "webhooks", "secret", "--account", "1")
        (said,) = ask(tmp_path, "webhooks", "secret", "--account", "1", "--json")
        assert json.loads(said) == {"secret": secret, "standard_webhooks": secret}
        with server.connect() as client:
            call(client, **INVOICE, webhook_url=receiver.url)
            first = receiver.next()
            execute(
                tmp_path,
                "INSERT INTO payments (invoice_id, reference, amount) SELECT id, 'a', 1 FROM invoices",
            )
            posted = [first, receiver.next(), receiver.next()]
        for one in posted:
            event = Webhook(secret).verify(one.body, one.headers)
            assert event["data"]["account_id"] == 1
            assert WebhookSignature.verify_header(one.body, one.headers["trio-ws-signature"], secret, 300)
        assert [json.loads(one.body)["type"] for one in posted] == [
            *("invoice.created", "payment.created", "invoice.updated"),
        ]
        while len(found := listed(tmp_path, "--state", "delivered")) < 3:
            pass
        assert found[-1]["id"] == first.headers["webhook-id"] == first.headers["trio-ws-delivery"]
        assert {(one["state"], one["status"], one["attempts"]) for one in found} == {("delivered", 200, 1)}
        assert listed(tmp_path, "--state", "delivered", "--account", "2") == []
        assert listed(tmp_path, "--state", "delivered", "--limit", "3") == found
        assert listed(tmp_path) == []
        *fields, body = ask(tmp_path, "webhooks", "show", found[-1]["id"])
        assert body.encode() == first.body
        assert "status: 200" in fields
        (shown,) = ask(tmp_path, "webhooks", "show", found[-1]["id"], "--json")
        expected = {**found[-1], "url": receiver.url, "body": json.loads(first.body)}
        assert json.loads(shown) == expected
        assert ask(tmp_path, "webhooks", "retry", found[-1]["id"]) == ["retrying 1"]
        again = receiver.next()
        assert (again.headers["webhook-id"], again.body) == (first.headers["webhook-id"], first.body)


def test_a_dead_endpoint_is_listed_after_a_restart_and_gets_all_once_it_is_retried(tmp_path: Path) -> None:
    with receiving() as receiver:
        receiver.answer = lambda _: 503
        with serving(tmp_path) as server, server.connect() as client:
            for _ in range(6):
                assert call(client, **INVOICE, webhook_url=receiver.url)["status"] == "success"
            while "dead, failing since" not in ask(tmp_path, "webhooks", "list")[0]:
                pass
            assert server.stop() == 0
            assert any("an endpoint of webhooks is dead" in line for line in server.log())
        with serving(tmp_path, "--workers", "2"):
            endpoint = re.escape(receiver.url.partition("/hook")[0])
            dead, first, *_ = ask(tmp_path, "webhooks", "list")
            state = r"dead, failing since [^ ]+  next attempt [^ ]+  answered 503"
            assert re.fullmatch(rf"endpoint {endpoint}  account 1  {state}", dead)
            assert ask(tmp_path, "webhooks", "retry", first.split()[0]) == ["retrying 1"]
            receiver.answer = lambda _: 200
            taken = receiver.delivered(6)
            while ask(tmp_path, "webhooks", "list"):
                pass
        assert sorted(posted.data["id"] for posted in taken) == [1, 2, 3, 4, 5, 6]


def test_what_is_held_is_listed_and_released_from_a_shell(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as database:
        database.execute(
            "INSERT INTO webhook_deliveries (seq, event_name, invoice, account_id, endpoint, url, type, data,"
            " origin) VALUES (1, 'x', 'uid', 1, 'https://a.example', 'https://a.example/', 'x', '{}', '1.1')"
        )
    where = ("--database-url", conninfo)
    listed = trio_ws_command("webhooks", "list", *where).stdout
    assert re.fullmatch(
        r"[0-9a-f-]{36}  account 1  x  uid  https://a\.example  attempts 0  held .*\n", listed
    )
    assert trio_ws_command("webhooks", "list", "--failed", *where).stdout == ""
    for count in (1, 0):
        assert trio_ws_command("webhooks", "release", *where).stdout == f"released {count}\n"
    assert "  due " in trio_ws_command("webhooks", "list", *where).stdout


def test_secrets_are_changed_from_a_shell(tmp_path: Path) -> None:
    with serving(tmp_path):
        (first,) = ask(tmp_path, "webhooks", "secret", "--account", "1")
        second, kept = ask(tmp_path, "webhooks", "secret", "--account", "1", "--new")
        assert (kept, len({first, second})) == (first, 2)
        third, kept = ask(tmp_path, "webhooks", "secret", "--account", "1", "--new")
        assert kept == second
        assert ask(tmp_path, "webhooks", "secret", "--account", "1") == [third, second]


@pytest.mark.parametrize(
    ("arguments", "status", "pattern"),
    [
        (["retry", "7"], 1, "Webhook not found, or held"),
        (["show", "7"], 1, "Webhook not found"),
        (["list", "--failed", "--state", "held"], 2, "webhooks list: give either --failed or --state"),
        (["list", "--limit", "0"], 2, "webhooks list: --limit is at least 1"),
        (["retry"], 2, "webhooks retry: give an ID, --failed or --all"),
        (["retry", "7", "--failed"], 2, "webhooks retry: give an ID, --failed or --all"),
        (["retry", "--all", "--failed"], 2, "webhooks retry: give an ID, --failed or --all"),
        (["secret", "--account", "7"], 1, "Account not found"),
        (["secret", "--account", "7", "--new"], 1, "Account not found"),
        (["secret"], 2, ".*--account.*"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    conninfo: str, arguments: list[str], status: int, pattern: str
) -> None:
    done = trio_ws_command("webhooks", *arguments, "--database-url", conninfo)
    assert_one_line(done, status, pattern)


def test_loopback_is_refused_unless_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIO_WS_WEBHOOK_PRIVATE_ADDRESSES")
    with receiving() as receiver, serving(tmp_path) as server, server.connect() as client:
        assert call(client, **INVOICE, webhook_url=receiver.url)["code"] == "invalid_value"
        execute(
            tmp_path,
            f"INSERT INTO invoices (account_id, amount, currency, webhook_url)"  # noqa: S608
            f" VALUES (1, 1, 'USD', '{receiver.url}')",
        )
        while not any("not public" in line for line in ask(tmp_path, "webhooks", "list")):
            pass
        assert receiver.posted.empty()
