"""The protocol's page, played: each session on a real server, each line compared with what comes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from websockets.sync.client import ClientConnection

from tests.cli.test_main import trio_ws_command
from tests.documents.test_asyncapi import DOCUMENT
from tests.end_to_end.serving import PATIENCE_SECONDS, Server, serving
from trio_ws.currencies import EXPONENTS
from trio_ws.database import embedded
from trio_ws.errors import CloseCode

PAGE = (Path(__file__).parents[2] / "trio_ws/docs/protocol.md").read_text()
SESSIONS = re.findall(r"^```session( tokens| customer| operator)?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PAGE_S_OPERATOR = "trio_ws_A0pErAt0rSt0kEn_A0pErAt0rSt0kEn_A0pErAt0rS"
PAGE_S_TOKEN = "trio_ws_ZcJiTEcrREyAcE0G_RXK5Xh5DA3kRZ6zJb4mUaVKbOk"
NAMES = {"id", "uid", "position"}  # another here than on the page, and the same throughout
TIMES = {"createdAt", "updatedAt", "expiresAt", "revokedAt", "timestamp"}
MORE = "…"

# Codes that a page can't show, since they need a server in trouble: where they are shown.
SHOWN_ELSEWHERE = {
    "too_many_subscriptions": "tests/test_server.py",
    "rate_limited": "tests/test_connection.py",
    "unavailable": "tests/end_to_end/test_faults.py",
    "timeout": "tests/end_to_end/test_faults.py",
    "internal": "tests/test_connection.py",
}


class Reader:
    """Compares what stands on the page with what came, and learns what the page's names stand for here."""

    def __init__(self, **known: str) -> None:
        self._here: dict[Any, Any] = dict(known)

    def here(self, text: str) -> str:
        """What is sent, with the names that things have here."""
        for name, value in self._here.items():
            if isinstance(name, str):
                text = text.replace(name, value)
        return text

    def compare(self, expected: Any, found: Any, key: str = "") -> None:
        if isinstance(expected, dict):
            assert isinstance(found, dict)
            names = [name for name in expected if not name.startswith(MORE)]
            if len(names) == len(expected):
                assert list(found) == names
            assert [name for name in found if name in names] == names, found
            for name in names:
                self.compare(expected[name], found[name], name)
        elif isinstance(expected, list):
            whole = expected[-1:] != [MORE]
            expected = expected if whole else expected[:-1]
            assert len(expected) == len(found) or (len(expected) < len(found) and not whole)
            for one, other in zip(expected, found, strict=False):
                self.compare(one, other)
        elif key in NAMES | TIMES and expected is not None:
            assert re.sub("[0-9a-f]+", "0", str(found)) == re.sub("[0-9a-f]+", "0", str(expected)), "its form"
            if key in NAMES:
                assert self._here.setdefault(expected, found) == found, f"{expected} was another before"
        else:
            assert found == (self.here(expected) if isinstance(expected, str) else expected)


def parse(text: str) -> Any:
    """JSON in which … stands for more fields, or for more items."""
    numbers = iter(range(1000))
    text = text.replace(f",{MORE}]", f',"{MORE}"]')
    return json.loads(re.sub(rf'(?<!"){MORE}', lambda _: f'"{MORE}{next(numbers)}":0', text))


def play(session: str, client: ClientConnection, data_dir: Path, reader: Reader) -> None:
    for line in session.splitlines():
        sign, _, rest = line.partition(" ")
        if sign == ">":
            client.send(reader.here(rest))
        elif sign == "<":
            reader.compare(parse(rest), json.loads(client.recv(timeout=PATIENCE_SECONDS)))
        else:
            assert sign == "psql>"
            with psycopg.connect(embedded.conninfo(data_dir)) as connection:
                connection.execute(reader.here(rest).encode())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as server:
        yield server


def test_all_that_stands_there_is_so(server: Server) -> None:
    reader = Reader()
    sessions = [session for who, session in SESSIONS if not who]
    assert len(sessions) >= 10
    for session in sessions:
        with server.connect() as client:
            play(session, client, server.data_dir, reader)


def test_also_where_tokens_are_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, "--auth", "token", "--checkout") as server:
        options = ["--account", "1", "--scope", "read,write", "--data-dir", str(tmp_path)]
        token = trio_ws_command("token", "create", *options).stdout.split()[-1]
        made = trio_ws_command("token", "create", "--scope", "admin", "--data-dir", str(tmp_path))
        reader = Reader(**{PAGE_S_TOKEN: token, PAGE_S_OPERATOR: made.stdout.split()[-1]})
        sessions = [session for who, session in SESSIONS if who]
        assert len(sessions) == 3, "a merchant's, a customer's and an operator's"
        for session in sessions:
            with server.connect() as client:
                play(session, client, server.data_dir, reader)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ('{"a":1,"b":2}', {"b": 2, "a": 1}),
        ('{"a":1}', {"a": 1, "b": 2}),
        ('{"a":1,…}', {"b": 2}),
        ('{"id":5,"x":{"id":5}}', {"id": 1, "x": {"id": 2}}),
        ('{"uid":"5735e250-b53e-4ace-a025-afac1bc77ee2"}', {"uid": "x"}),
        ("[1]", [1, 2]),
    ],
)
def test_what_is_not_so_would_be_seen(expected: str, found: Any) -> None:
    with pytest.raises(AssertionError):
        Reader().compare(parse(expected), found)


def test_each_action_is_shown() -> None:
    shown = set(re.findall(r'^> \{"action":"(\w+)"', PAGE, re.MULTILINE))
    assert shown >= set(DOCUMENT["operations"]) - {"events"}


def test_each_error_code_is_in_the_table_and_shown() -> None:
    chapter = PAGE.partition("## Error codes")[2]
    table = set(re.findall(r"^\| `(\w+)` \|", chapter, re.MULTILINE))
    assert table == set(DOCUMENT["components"]["schemas"]["Failure"]["properties"]["code"]["enum"])
    shown = set(re.findall(r'"code":"(\w+)"', PAGE))
    assert table - shown == set(SHOWN_ELSEWHERE)
    for code, place in SHOWN_ELSEWHERE.items():
        assert code in (Path(__file__).parents[2] / place).read_text(), code


def test_each_close_code_is_in_the_table() -> None:
    table = set(map(int, re.findall(r"^\| (\d{4}) \|", PAGE, re.MULTILINE)))
    assert table == {*CloseCode, 1000}


def test_each_currency_is_in_the_table_with_its_digits() -> None:
    section = PAGE.partition("## Currencies")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", section, re.MULTILINE)
    shown = {
        name: int(digits) for digits, names in rows for name in re.findall(r"\b[A-Z][A-Z0-9]{2,}\b", names)
    }
    del shown["ISO"]  # "all others of ISO 4217"
    assert shown == {name: EXPONENTS[name] for name in shown}
    assert {digits for name, digits in EXPONENTS.items() if name not in shown} == {2}
