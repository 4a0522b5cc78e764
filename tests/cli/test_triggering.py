"""`trigger`: each story, played by a running server, and what its invoice is in the end."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.test_main import assert_one_line, trio_ws_command
from tests.end_to_end.serving import Server, call, serving
from tests.end_to_end.test_accounts import ask
from tests.end_to_end.test_webhooks import receiving
from trio_ws.cli.triggering import STORIES

# What an invoice over 10.01 USD is at each step, in the words of `trigger`.
ENDS = {
    "paid": ["unpaid", "confirming  pending 10.01 USD", "paid  paid 10.01 USD"],
    "underpaid": ["unpaid", "unpaid  pending 5.00 USD", "unpaid  paid 5.00 USD"],
    "overpaid": ["unpaid", "confirming  pending 15.01 USD", "paid  paid 15.01 USD"],
    "twice": [
        "unpaid",
        "confirming  pending 10.01 USD",
        "paid  paid 10.01 USD",
        "paid  paid 10.01 USD  pending 10.01 USD",
        "paid  paid 20.02 USD",
    ],
    "failed": ["unpaid", "confirming  pending 10.01 USD", "unpaid"],
    "refunded": ["unpaid", "confirming  pending 10.01 USD", "paid  paid 10.01 USD", "paid"],
    "late": ["unpaid", "expired", "expired  pending 10.01 USD", "expired  paid 10.01 USD"],
    "expired": ["unpaid", "expired"],
    "cancelled": ["unpaid", "cancelled"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("stories") / "data") as server:
        yield server


def test_each_story_is_known_here() -> None:
    assert ENDS.keys() == STORIES.keys()


@pytest.mark.parametrize("name", STORIES)
def test_a_story_is_played_step_by_step(server: Server, name: str) -> None:
    done = trio_ws_command("trigger", name, "--amount", "1001", "--url", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.match(r"invoice [0-9a-f-]{36}: 10\.01 USD  unpaid$", lines[0])
    assert [line.partition("  ")[2] for line in lines] == ENDS[name]


def test_a_step_is_json_where_it_is_asked_for_and_the_invoice_is_the_servers(server: Server) -> None:
    given = ("--currency", "EUR", "--amount", "250", "--account", "1", "--url", server.url, "--json")
    done = trio_ws_command("trigger", "refunded", *given)
    steps: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["step"] for step in steps[1:]] == [
        "payment test-1: 2.50 EUR pending",
        "payment test-1: 2.50 EUR settled",
        "payment refund-1: -2.50 EUR settled",
    ]
    last = steps[-1]["invoice"]
    assert (last["memo"], last["account_id"]) == ("trio-ws trigger refunded", 1)
    with server.connect() as client:
        assert call(client, action="fetch_invoice", id=last["uid"])["data"] == last


def test_the_webhooks_of_a_story_go_where_they_are_to(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_WS_WEBHOOK_PRIVATE_ADDRESSES", "true")
    folder = tmp_path_factory.mktemp("data")
    with receiving() as receiver, serving(folder, "--auth", "token") as server:
        ask(folder, "account", "create", "--name", "The other shop")
        scopes = ("--scope", "read,write,process")
        token = ask(folder, "token", "create", "--account", "2", *scopes)[-1]
        there = ("--url", server.url, "--token", token)
        done = trio_ws_command("trigger", "cancelled", *there, "--webhook-url", receiver.url)
        assert (done.returncode, done.stderr) == (0, "")
        posted = receiver.delivered(2)
        assert [one.data["status"] for one in posted] == ["unpaid", "cancelled"]
        assert {one.data["account_id"] for one in posted} == {2}
        reader = ask(folder, "token", "create", "--account", "2", "--scope", "read")[-1]
        refused = trio_ws_command("trigger", "paid", "--url", server.url, "--token", reader)
        assert_one_line(refused, 1, "The token lacks the scope `write`.*")
        operator = ask(folder, "token", "create", "--scope", "admin")[-1]
        refused = trio_ws_command("trigger", "paid", "--url", server.url, "--token", operator)
        assert_one_line(refused, 2, "an operator's token is of no account: give --account")


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["piad"], "there is no story 'piad'; did you mean paid\\?"),
        (["dance"], "there is no story 'dance'; stories: paid, underpaid, .*"),
        (["paid", "--amount", "1"], ".*--amount.*2.*"),
        ([], ".*NAME.*"),
    ],
)
def test_what_can_t_be_is_said_in_a_line(arguments: list[str], pattern: str) -> None:
    assert_one_line(trio_ws_command("trigger", *arguments), 2, pattern)


def test_the_help_has_a_line_for_each_story_and_for_each_action() -> None:
    stories = trio_ws_command("trigger", "--help", COLUMNS="100").stdout
    for name, story in STORIES.items():
        assert re.search(rf"^ {name} +{re.escape(story.about)} *$", stories, re.MULTILINE)
    actions = trio_ws_command("call", "--help", COLUMNS="100").stdout
    assert re.search(r"^ create_invoice +Create an invoice\. *$", actions, re.MULTILINE)
    assert re.search(r"^ ping +Check that the server answers\. *$", actions, re.MULTILINE)
