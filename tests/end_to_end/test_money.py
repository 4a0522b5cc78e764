"""Many clients, several processes, one database: an invoice is made once, and ends one way."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from tests.end_to_end.serving import INVOICE, Server, call, receive, serving


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of two workers, patient enough for a slow machine."""
    monkeypatch.setenv("TRIO_WS_STATEMENT_SECONDS", "20")
    with serving(tmp_path, "--workers", "2") as server:
        yield server


@pytest.fixture
def lines(server: Server) -> Iterator[list[ClientConnection]]:
    """Many clients of it."""
    with ExitStack() as open_lines:
        yield [open_lines.enter_context(server.connect()) for _ in range(200)]


def at_once(lines: list[ClientConnection], requests: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Send each line its requests, all lines at the same moment, and return all replies."""
    replies: list[dict[str, Any]] = []
    ready = threading.Barrier(len(lines))

    def ask(line: ClientConnection, requests: list[dict[str, Any]]) -> None:
        ready.wait()
        for fields in requests:
            line.send(json.dumps(fields))
        replies.extend(receive(line) for _ in requests)

    threads = [threading.Thread(target=ask, args=asked) for asked in zip(lines, requests, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def test_a_thousand_creates_with_a_hundred_keys_make_a_hundred_invoices(
    lines: list[ClientConnection],
) -> None:
    requests = [
        [{**INVOICE, "idempotency_key": f"key-{(line * 5 + number) % 100}"} for number in range(5)]
        for line in range(len(lines))
    ]
    replies = at_once(lines, requests)
    made = Counter(reply["data"]["uid"] for reply in replies)
    assert (len(made), set(made.values())) == (100, {10})
    snapshot = call(lines[1], action="subscribe", type="account", id=1, snapshot=True)["data"]["snapshot"]
    assert sorted(invoice["uid"] for invoice in snapshot) == sorted(made)


def test_of_two_hundred_who_cancel_and_pay_one_invoice_one_wins(
    server: Server, lines: list[ClientConnection]
) -> None:
    with server.connect() as follower:
        invoice = call(follower, **INVOICE)["data"]
        uid = invoice["uid"]
        call(follower, action="subscribe", type="invoice", id=uid)
        cancel = {"action": "cancel_invoice", "uid": uid}
        pay = {"action": "update_invoice", "uid": uid, "status": "confirming"}
        replies = at_once(lines, [[cancel if line % 2 else pay] for line in range(len(lines))])
        (winner,) = [reply["data"] for reply in replies if reply["status"] == "success"]
        codes = Counter(reply["code"] for reply in replies if reply["status"] == "error")
        assert codes == {"conflict": 199}
        while (event := receive(follower))["type"] == "invoice.created":
            pass
        assert (event["type"], event["previous"]) == ("invoice.updated", {"status": "unpaid"})
        assert event["data"] == winner
        assert call(follower, action="fetch_invoice", id=uid)["data"] == winner, "and no other event came"


INVOICES, EACH = 20, 10  # invoices, and payments of each line


def test_what_two_hundred_record_at_once_is_summed_exactly_and_each_invoice_is_paid_once(
    server: Server, lines: list[ClientConnection]
) -> None:
    share = len(lines) * EACH // INVOICES  # of an invoice's amount, each payment is 1
    with server.connect() as follower:
        invoices = [call(follower, **{**INVOICE, "amount": share})["data"] for _ in range(INVOICES)]
        call(follower, action="subscribe", type="account", id=1)
        payments = [
            [
                {
                    "action": "record_payment",
                    "uid": invoices[(line + number) % INVOICES]["uid"],
                    "reference": f"tx-{line}-{number}",
                    "amount": 1,
                    "status": "settled",
                }
                for number in range(EACH)
            ]
            for line in range(len(lines))
        ]
        told: list[dict[str, Any]] = []
        due = {"payment.created": len(lines) * EACH, "invoice.updated": len(lines) * EACH}

        def listen() -> None:
            types: Counter[str] = Counter()
            while any(types[name] < count for name, count in due.items()):
                told.append(receive(follower))
                types[told[-1]["type"]] += 1

        listener = threading.Thread(target=listen)
        listener.start()
        replies = at_once(lines, [[*asked, asked[0]] for asked in payments])  # some twice
        assert Counter(reply["status"] for reply in replies) == {"success": len(lines) * (EACH + 1)}
        assert len({reply["data"]["id"] for reply in replies}) == len(lines) * EACH
        listener.join()
        ends = [(event["data"]["uid"], event["data"]["status"]) for event in told if "status" in _was(event)]
        assert sorted(ends) == sorted((invoice["uid"], "paid") for invoice in invoices), "each once"
        for invoice in invoices:
            now = call(follower, action="fetch_invoice", id=invoice["uid"])["data"]
            assert (now["status"], now["amount_paid"], "amount_pending" in now) == ("paid", share, False)


def _was(event: dict[str, Any]) -> dict[str, Any]:
    previous: dict[str, Any] = event.get("previous", {})
    return previous
