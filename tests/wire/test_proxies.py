"""Where a client is, when proxies stand between."""

import ipaddress
import logging
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import hostile
from trio_ws.wire.head import MAX_ITEMS, Head, Refusal
from trio_ws.wire.proxies import MAX_NODE, Proxies

PROXIES = ("10.0.0.0/8", "127.0.0.1", "fd00::/8")
PEER = ipaddress.ip_address("127.0.0.1")


def find(peer: str, headers: dict[str, list[str]], proxies: Proxies | None = None) -> str:
    head = Head("GET", "/", "1.1", headers)
    return str((proxies or Proxies(PROXIES)).find_client(head, ipaddress.ip_address(peer)))


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # by nobody that we trust
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["1.2.3.4, 198.51.100.1"], "198.51.100.1"),  # the first was made up by the client
        ("127.0.0.1", ["198.51.100.1, 10.1.2.3"], "198.51.100.1"),  # two proxies of ours
        ("127.0.0.1", ["198.51.100.1", "10.1.2.3"], "198.51.100.1"),
        ("127.0.0.1", ["10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, nonsense"], "127.0.0.1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),  # as Azure's gateway writes it
        ("127.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("127.0.0.1", ['"[2001:db8::1]:4711"'], "2001:db8::1"),
        ("127.0.0.1", ['"198.51.100.1"'], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1:4711:1"], "127.0.0.1"),
        ("127.0.0.1", ["[198.51.100.1, [", '"'], "127.0.0.1"),
    ],
)
def test_a_client_is_where_the_last_proxy_that_we_trust_says(peer: str, told: list[str], client: str) -> None:
    assert find(peer, {"x-forwarded-for": told}) == client


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        ("203.0.113.9", ["for=198.51.100.1"], "203.0.113.9"),  # by nobody that we trust
        ("127.0.0.1", ["for=198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["For=198.51.100.1; Proto=https;by=10.0.0.1"], "198.51.100.1"),
        ("127.0.0.1", ['by=10.0.0.1;for="198.51.100.1:4711"'], "198.51.100.1"),
        ("127.0.0.1", ['for="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17"),
        ("127.0.0.1", ["for=198.51.100.1:4711"], "198.51.100.1"),  # the quotes are left out
        ("127.0.0.1", ["for=[2001:db8::1]"], "2001:db8::1"),
        ("127.0.0.1", [r'for="198.51.100\.1"'], "198.51.100.1"),
        ("127.0.0.1", ["for=1.2.3.4, for=198.51.100.1"], "198.51.100.1"),  # the first was made up
        ("127.0.0.1", ["for=198.51.100.1, for=10.1.2.3"], "198.51.100.1"),  # two proxies of ours
        ("127.0.0.1", ["for=198.51.100.1", "for=10.1.2.3"], "198.51.100.1"),
        ("127.0.0.1", [r' for=198.51.100.1 , ,;, for=10.1.2.3;host="a,b;c=\"", '], "198.51.100.1"),
        ("127.0.0.1", ["for=unknown"], "127.0.0.1"),
        ("127.0.0.1", ["for=_hidden"], "127.0.0.1"),
        ("127.0.0.1", ["for=198.51.100.1, proto=https"], "127.0.0.1"),  # the last proxy does not say
        ("127.0.0.1", ["for=198.51.100.1, for=unknown, for=10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", ['for=", for=198.51.100.1'], "127.0.0.1"),  # a client's half quote
        ("127.0.0.1", ['for=", for="[2001:db8::1]"'], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(peer: str, told: list[str], client: str) -> None:
    assert find(peer, {"forwarded": told}) == client


@pytest.mark.parametrize(
    ("listed", "forwarded", "client"),
    [
        ("198.51.100.1", "for=198.51.100.1", "198.51.100.1"),
        ("198.51.100.1:4711", "for=1.2.3.4, for=198.51.100.1", "198.51.100.1"),
        ("198.51.100.1", "for=198.51.100.2", "127.0.0.1"),
        ("198.51.100.1, 10.1.2.3", "for=198.51.100.2, for=10.1.2.3", "127.0.0.1"),
        ("198.51.100.1", "for=unknown", "127.0.0.1"),
        ("unknown", "for=198.51.100.1", "127.0.0.1"),
    ],
)
def test_where_both_headers_come_neither_is_believed_unless_they_agree(
    listed: str, forwarded: str, client: str
) -> None:
    assert find("127.0.0.1", {"x-forwarded-for": [listed], "forwarded": [forwarded]}) == client


def test_what_proxies_say_and_we_cannot_use_is_logged_once_of_each_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    proxies = Proxies(PROXIES)
    for number in range(5):
        both = {"x-forwarded-for": [f"198.51.100.{number}"], "forwarded": ["for=198.51.100.77"]}
        for headers in (
            {"x-forwarded-for": [f"client-{number}"]},
            {"forwarded": [f"for=_client-{number}"]},
            {"forwarded": ["x" * 10_000]},
            both,
        ):
            find("127.0.0.1", headers, proxies)
    assert [(record.getMessage(), vars(record)["figures"]) for record in caplog.records] == [
        (
            "a trusted proxy names no address in x-forwarded-for",
            {"proxy": "127.0.0.1", "told": "client-0"},
        ),
        ("a trusted proxy names no address in forwarded", {"proxy": "127.0.0.1", "told": "_client-0"}),
        (
            "Forwarded and X-Forwarded-For disagree: have the proxy remove one",
            {"proxy": "127.0.0.1", "x_forwarded_for": "198.51.100.0", "forwarded": "198.51.100.77"},
        ),
    ]
    find("127.0.0.1", {"forwarded": ["x" * 10_000]})
    assert len(vars(caplog.records[-1])["figures"]["told"]) == 100, "cut short"


@pytest.mark.parametrize("header", [{"x-forwarded-for": ["::1,"]}, {"forwarded": ["for=unknown,"]}])
def test_more_items_than_anybody_needs_are_refused(header: dict[str, list[str]]) -> None:
    for name, (item,) in header.items():
        with pytest.raises(Refusal) as refused:
            find("127.0.0.1", {name: [item * (MAX_ITEMS + 1)]})
        assert refused.value.status == 431


@given(st.text(alphabet='for=1.;, "\\[]:x\t', max_size=40))
def test_whatever_stands_in_forwarded_a_client_is_somewhere(text: str) -> None:
    assert Proxies(PROXIES).find_client(Head("GET", "/", "1.1", {"forwarded": [text]}), PEER)


SIZE = 32 * 1024  # of a head
HOSTILE = {
    "semicolons": ";",
    "commas": ",",
    "pairs": "a=b;",
    "elements": "a=b,",
    "addresses": "for=10.0.0.1,",
    "escapes": "\\a",
    "backslashes": "\\",
    "spaces": " ",
    "colons": ":",
    "digits": "1",
}


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
@pytest.mark.parametrize("begin", ["", 'for="', "for=[", 'for="[fe80::1%'])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_header_is_gone_through_character_by_character(header: str, begin: str, name: str) -> None:
    filled = begin + HOSTILE[name] * ((SIZE - len(begin) - 1) // len(HOSTILE[name]))
    for value in (filled, filled + '"'):

        def look(told: str = value) -> None:
            with suppress(Refusal):
                assert len(find("127.0.0.1", {header: [told]})) <= MAX_NODE

        assert hostile.count_steps(look) <= 20 * MAX_ITEMS
        assert not hostile.is_slow(look)


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_a_long_address_is_none(header: str) -> None:
    for zone in ("a" * MAX_NODE, "\\a" * MAX_NODE):
        assert (
            find("127.0.0.1", {header: [f'for="[fe80::1%{zone}]"'.removeprefix("for=" * (header[0] == "x"))]})
            == "127.0.0.1"
        )
