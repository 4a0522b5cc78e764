"""Where a client is, when proxies stand between, and whose page it is."""

import ipaddress

import pytest

from trio_ws.wire.admission import check_origin, find_client
from trio_ws.wire.head import Head, Refusal

PROXIES = [ipaddress.ip_network(network) for network in ("10.0.0.0/8", "127.0.0.1", "fd00::/8")]


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
    head = Head("GET", "/", "1.1", {"x-forwarded-for": told})
    assert str(find_client(head, ipaddress.ip_address(peer), PROXIES)) == client


@pytest.mark.parametrize(
    ("host", "origin", "welcome"),
    [
        ("localhost:8080", "http://localhost:8080", True),
        ("till.localhost", "http://till.localhost", True),
        ("127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("evil.example:8080", "http://evil.example:8080", False),  # a name that leads here
        ("localhost.evil.example", "http://localhost.evil.example", False),
        ("evil.example", "https://shop.example", True),  # this page is welcome by name
        ("[", "http://[", False),
        ("localhost:443", "https://localhost", True),  # the port that need not be said
        ("localhost", "http://localhost:80", True),
        ("localhost:80", "https://localhost", False),
        ("LOCALHOST:8080", "HTTP://localhost:8080", True),
        ("evil.example", "https://shop.example:443", True),
        ("evil.example", "https://shop.example:8443", False),
        ("evil.example", "http://shop.example", False),
        ("evil.example", "https://till.example", True),  # it stands in the list with a slash
        ("", "null", False),
        ("", "", False),
        ("", "://", False),
    ],
)
def test_without_tokens_a_name_that_anybody_may_lead_here_is_not_our_own(
    host: str,
    origin: str,
    welcome: bool,  # noqa: FBT001
) -> None:
    head = Head("GET", "/", "1.1", {"host": [host], "origin": [origin]})
    origins = ["https://shop.example", "https://Till.example/"]
    if welcome:
        check_origin(head, origins, is_open=True)
    else:
        with pytest.raises(Refusal) as refused:
            check_origin(head, origins, is_open=True)
        assert refused.value.status == 403
