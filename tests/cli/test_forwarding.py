"""`webhooks forward`: what a developer's receiver gets, beside what the server itself would send."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from standardwebhooks import Webhook
from trio.testing import MockClock

from tests.cli.test_main import assert_one_line, trio_ws_command
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, Server, call, execute, serving
from tests.end_to_end.test_accounts import ask
from tests.end_to_end.test_webhooks import receiving
from tests.webhooks.test_signature import Verifier, is_from_trio_ws
from trio_ws.cli.forwarding import LONGEST_PAUSE_SECONDS, Forwarder
from trio_ws.client import Event
from trio_ws.testing import SimulatedReceiver
from trio_ws.webhooks.answer import Answer
from trio_ws.webhooks.post import PostError

__all__ = ["is_from_trio_ws"]  # a fixture

ODD = 'ü"\\/\x01\x1f\x7f\u2028☕\U0001f600\ttab'  # what two writers of JSON may spell in two ways
HOOK = "http://localhost:3000/hook"


@contextmanager
def forwarding(server: Server, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `trio-ws webhooks forward`."""
    command = [sys.executable, "-m", "trio_ws", "webhooks", "forward", "--url", server.url, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What it prints with --json."""
    assert process.stdout
    return map(json.loads, process.stdout)


def test_a_receiver_gets_what_the_server_would_send_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_from_trio_ws: Verifier
) -> None:
    monkeypatch.setenv("TRIO_WS_WEBHOOK_PRIVATE_ADDRESSES", "true")
    with (
        receiving() as theirs,
        receiving() as ours,
        serving(tmp_path) as server,
        forwarding(server, "--to", ours.url, "--json") as process,
    ):
        lines = lines_of(process)
        begin = next(lines)
        assert (begin["kind"], begin["account_id"], begin["to"]) == ("begin", 1, ours.url)
        with server.connect() as client:
            memo = ODD
            uid = call(client, **{**INVOICE, "memo": memo}, webhook_url=theirs.url)["data"]["uid"]
            payment = {"action": "record_payment", "uid": uid, "reference": "tx-1", "amount": 1000}
            call(client, **payment, status="settled")
        assert re.fullmatch(r"[0-9a-f]+\.[0-9]+", begin["position"])
        sent = {posted.body: posted for posted in theirs.delivered(3)}
        for posted in ours.delivered(3):
            original = sent.pop(posted.body).headers
            assert {name.lower() for name in posted.headers} == {name.lower() for name in original}
            for name in ("content-type", "user-agent", "content-length", "connection"):
                assert posted.headers[name] == original[name]
            assert is_from_trio_ws(posted.headers["trio-ws-signature"], posted.body, begin["secret"])
            Webhook(begin["secret"]).verify(posted.body, posted.headers)
            said = next(lines)
            assert posted.headers["trio-ws-delivery"] == posted.headers["webhook-id"] == said["delivery"]
            assert (said["status"], said["state"], said["attempt"]) == (200, "delivered", 1)
            assert (said["invoice"], said["position"]) == (uid, json.loads(posted.body)["position"])
        assert sent == {}
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGINT
        assert process.stderr
        assert process.stderr.read() == ""


def test_only_the_types_that_are_wanted_are_sent_in_words_and_with_the_secret_that_was_given(
    tmp_path: Path, is_from_trio_ws: Verifier
) -> None:
    with receiving() as receiver, serving(tmp_path) as server:
        to = receiver.url.removeprefix("http://")
        types = "payment.created, invoice.updated"
        with forwarding(server, "--to", to, "--events", types, "--secret", "mine") as process:
            assert process.stdout
            first = process.stdout.readline()
            assert first == f"events of account 1 go to {receiver.url}, signed with mine\n"
            with server.connect() as client:
                uid = call(client, **INVOICE)["data"]["uid"]
                call(client, action="cancel_invoice", uid=uid)
            (posted,) = receiver.delivered(1)
            assert posted.data["status"] == "cancelled"
            assert is_from_trio_ws(posted.headers["trio-ws-signature"], posted.body, "mine")
            assert process.stdout.readline().endswith(f"  invoice.updated  {uid}  200\n")


def test_it_goes_on_where_it_was_once_the_server_is_back(tmp_path: Path) -> None:
    with receiving() as receiver, serving(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        with forwarding(server, "--to", receiver.url, "--json") as process:
            next(lines_of(process))
            with server.connect() as client:
                uid = call(client, **INVOICE)["data"]["uid"]
            receiver.delivered(1)
            server.stop()
            with serving(tmp_path, port=port) as again:
                with again.connect() as client:
                    call(client, action="cancel_invoice", uid=uid)
                (posted,) = receiver.delivered(1)
                assert (posted.data["uid"], posted.data["status"]) == (uid, "cancelled")


def test_a_token_names_the_account_and_an_operators_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver, serving(tmp_path, "--auth", "token") as server:
        ask(tmp_path, "account", "create", "--name", "The other shop")
        token = ask(tmp_path, "token", "create", "--account", "2", "--scope", "read")[-1]
        operator = ask(tmp_path, "token", "create", "--scope", "admin")[-1]
        refused = trio_ws_command(
            *("webhooks", "forward", "--to", receiver.url, "--url", server.url), TRIO_WS_TOKEN=operator
        )
        assert_one_line(refused, 2, "an operator's token is of no account: give --account")
        nobody = trio_ws_command("webhooks", "forward", "--to", receiver.url, "--url", server.url)
        assert_one_line(nobody, 1, "Authentication required")
        monkeypatch.setenv("TRIO_WS_TOKEN", token)
        with forwarding(server, "--to", receiver.url, "--json") as process:
            assert next(lines_of(process))["account_id"] == 2
            for account in (1, 2):
                execute(
                    tmp_path,
                    f"INSERT INTO invoices (amount, currency, account_id) VALUES (5, 'USD', {account})",  # noqa: S608
                )
            (posted,) = receiver.delivered(1)
            assert posted.data["account_id"] == 2


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--to", "ftp://here"], "--to: Expected an http or https URL with a host"),
        (["--to", "http://me:secret@here/"], "--to: Expected a URL without user and password"),
        (
            ["--to", HOOK, "--events", "invoice.created,price.updated"],
            "--events: 'price.updated' is none .*",
        ),
        (["--to", HOOK, "--secret", ""], "--secret: a secret can't be empty"),
        (["--to", HOOK, "--tries", "0"], ".*--tries.*"),
        ([], ".*--to.*"),
    ],
)
def test_what_can_t_be_is_said_in_a_line(arguments: list[str], pattern: str) -> None:
    assert_one_line(trio_ws_command("webhooks", "forward", *arguments), 2, pattern)


def event(number: int) -> Event:
    return Event("invoice.updated", {"uid": f"uid-{number}"}, {"status": "unpaid"}, f"a.{number}")


class Shown:
    """What was printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.attempts: list[tuple[int, str]] = []

    def __call__(self, line: str | None, fields: dict[str, Any]) -> None:
        self.lines += [] if line is None else [line]
        self.attempts.append((fields["attempt"], fields["state"]))


async def test_a_receiver_that_is_down_is_tried_again_in_order_and_said_in_one_line(
    autojump_clock: MockClock,
) -> None:
    receiver, shown = SimulatedReceiver(), Shown()
    forwarder = Forwarder(receiver.post, HOOK, "whsec_1", 5, shown)
    receiver.answers[HOOK] = PostError("can't connect")

    async def send() -> None:
        for number in (1, 2):
            await forwarder.send(event(number))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(7)
        receiver.answers[HOOK] = 200
    assert shown.lines == [
        "a.1  invoice.updated  uid-1  can't connect: trying up to 5 times",
        "a.1  invoice.updated  uid-1  200, at attempt 4",
        "a.2  invoice.updated  uid-2  200",
    ]
    waiting = [(number, "waiting") for number in (1, 2, 3)]
    assert shown.attempts == [*waiting, (4, "delivered"), (1, "delivered")]
    assert [posted.at for posted in receiver.posted] == pytest.approx([0, 2, 6, 14, 14])
    ids = [posted.headers["trio-ws-delivery"] for posted in receiver.posted]
    assert ids[0] == ids[3] != ids[4]
    await Forwarder(receiver.post, HOOK, "whsec_2", 1, shown).send(event(1))  # by another run
    assert receiver.posted[-1].headers["trio-ws-delivery"] == ids[0]


async def test_what_no_attempt_helps_is_skipped(autojump_clock: MockClock) -> None:
    receiver, shown = SimulatedReceiver(), Shown()
    forwarder = Forwarder(receiver.post, HOOK, "whsec_1", 3, shown)
    receiver.answers[HOOK] = Answer(503, "3600")
    await forwarder.send(event(1))
    assert shown.lines == [
        "a.1  invoice.updated  uid-1  503: trying up to 3 times",
        "a.1  invoice.updated  uid-1  503: skipped after attempt 3",
    ]
    pauses = [posted.at for posted in receiver.posted]
    assert pauses == pytest.approx([0, LONGEST_PAUSE_SECONDS, 2 * LONGEST_PAUSE_SECONDS])
    receiver.answers[HOOK] = 410
    await forwarder.send(event(2))
    assert shown.lines[2:] == ["a.2  invoice.updated  uid-2  410: skipped after attempt 1"]
