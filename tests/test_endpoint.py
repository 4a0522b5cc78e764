"""Where a webhook's URL leads, and which addresses are inside, however they are spelled."""

import encodings.idna
import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_protocol import INVOICE, Contract, request
from trio_ws.endpoint import MAX_INTERNATIONAL_NAME, Endpoint, is_public
from trio_ws.testing import simulated_server

# IANA's special-purpose registries, entry by entry, and what else is not the internet.
SPECIAL = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/31"),
    *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
    *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/128", "::1/128", "::/96", "::/8", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23"),
    *("2001::/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48", "2001:3::/32"),
    *("2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32"),
    *("2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
]
BESIDE = [
    *(
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
    ),
    *("169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0"),
    *("192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "203.0.112.255"),
    *("203.0.114.0", "223.255.255.255"),
    *("2000::", "2001:200::", "2001:db7:ffff::", "2001:db9::", "2620:4f:7fff::", "2620:4f:8001::", "3ffe::"),
]
INSIDE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254"),  # noqa: S104
    *("172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "100::1", "2001:db8::1", "2001::1", "fc00::1", "fd12:3456::1"),
    *("fe80::1", "fec0::1", "ff02::1", "ff0e::1", "4000::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::7f00:1"),  # NAT64, RFC 6052 and RFC 8215
    *("2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::1"),  # 6to4
]
OUTSIDE = [
    *("8.8.8.8", "1.1.1.1", "172.32.0.1", "192.169.0.1", "11.0.0.1", "100.128.0.1"),
    *("2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
]
OTHER_SPELLINGS = [
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0x7f.1",
    "0",
    "10.1",
    "127.0.0.1.",
]
NAMES_OF_OURSELVES = ["localhost", "LOCALHOST", "localhost.", "shop.localhost", "shop.localhost."]
NO_URLS = [
    *(
        "",
        "shop.example/hook",
        "ftp://shop.example",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "gopher://x",
    ),
    *("http://", "https:///hook", "https://?x", "https://#x", "https://:80/", "https://shop.example:port/"),
    *(
        "https://shop.example:0/",
        "https://shop.example:65536/",
        "https://[::1/",
        "https://[shop]/",
        "http:/x",
    ),
    *("https://user:pass@shop.example/", "https://@shop.example/", "https://user@shop.example/"),
    *("http://[fe80::1%25eth0]/", "https://shop example/", "https://shop.example;x/", "https://a,b/"),
    *(f"https://{'a' * 64}é.example/", "https://.é/"),
]


@pytest.mark.parametrize("address", BESIDE)
def test_what_is_beside_a_special_network_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("network", SPECIAL)
def test_a_special_network_is_not_public(network: str) -> None:
    found = ipaddress.ip_network(network)
    for address in (found[0], found[-1]):
        assert not is_public(address)
        assert Endpoint.parse(url_of(str(address))).is_inside()


WRAPPED = ["::ffff:{}", "64:ff9b::{}", "2002:{}::", "2002:{}:ffff:ffff:ffff:ffff:ffff"]


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_an_address_that_wraps_another_is_as_public_as_that(wrapped: str) -> None:
    def wrap(address: str) -> ipaddress.IPv6Address:
        number = int(ipaddress.IPv4Address(address))
        return ipaddress.IPv6Address(wrapped.format(f"{number >> 16:x}:{number & 0xFFFF:x}"))

    for network in SPECIAL:
        if "." in network:
            found = ipaddress.IPv4Network(network)
            assert not is_public(wrap(str(found[0])))
            assert not is_public(wrap(str(found[-1])))
    for address in BESIDE:
        if "." in address:
            assert is_public(wrap(address))


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1111%1", "::ffff:10.0.0.1%1"])
def test_an_address_with_a_zone_is_on_a_network_of_ours(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


def test_what_is_public_does_not_depend_on_python_s_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for class_ in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        for name in ("is_global", "is_private", "is_reserved", "is_multicast"):
            monkeypatch.setattr(class_, name, property(lambda _: 1 / 0))
    assert is_public(ipaddress.ip_address("8.8.8.8"))
    assert not is_public(ipaddress.ip_address("fec0::1"))


def test_a_long_international_name_is_refused_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = 0

    def prepare(label: str) -> str:
        nonlocal prepared
        prepared += len(label)
        return label

    monkeypatch.setattr(encodings.idna, "nameprep", prepare)
    for host in ("é" * 1990, "é." * 990 + "e", "é" * (MAX_INTERNATIONAL_NAME + 1)):
        with pytest.raises(ValueError, match=r"^Expected an http or https URL with a host$"):
            Endpoint.parse(f"http://{host}/")
    assert not prepared
    assert Endpoint.parse("http://bücher.example/").host.startswith("xn--")
    assert prepared


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", OUTSIDE)
def test_what_is_outside_is(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def url_of(host: str) -> str:
    return f"http://[{host}]/hook" if ":" in host else f"http://{host}:8000/hook"


@pytest.mark.parametrize("host", [*INSIDE, *OTHER_SPELLINGS, *NAMES_OF_OURSELVES])
def test_a_url_that_points_inside_is_seen(host: str) -> None:
    assert Endpoint.parse(url_of(host)).is_inside()


@pytest.mark.parametrize(
    "host", [*OUTSIDE, "shop.example", "localhost.example", "127.0.0.1.nip.example", "xn--e1a"]
)
def test_a_url_that_may_point_outside_is_let_through(host: str) -> None:
    assert not Endpoint.parse(url_of(host)).is_inside()


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_is_said_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^Expected a.* URL") as error:
        Endpoint.parse(url)
    assert not url or url not in str(error.value)


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("https://Shop.Example", "shop.example", "/"),
        ("https://shop.example:443/a/b?c=d&e=f#g", "shop.example", "/a/b?c=d&e=f"),
        ("http://shop.example:443/", "shop.example:443", "/"),
        ("https://shop.example?x", "shop.example", "/?x"),
        ("http://[2606:4700::1111]:8080/x", "[2606:4700::1111]:8080", "/x"),
        ("https://bücher.example/süß?ü=%C3%BC", "xn--bcher-kva.example", "/s%C3%BC%C3%9F?%C3%BC=%C3%BC"),
        ("https://shop.example/\r\nHost: evil", "shop.example", "/Host:%20evil"),
    ],
)
def test_a_url_becomes_a_request(url: str, authority: str, target: str) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.authority, endpoint.target) == (authority, target)


@given(
    st.text(alphabet=st.sampled_from([*string.printable, "é", "\u2028", "。", "℀", "\ud800"]), max_size=40)
)
def test_whatever_stands_there_it_is_an_endpoint_or_a_value_error(text: str) -> None:
    for url in (text, f"http://{text}", f"https://shop.example{text}"):
        try:
            endpoint = Endpoint.parse(url)
        except ValueError:
            continue
        assert endpoint.authority.isascii()
        assert endpoint.target.isascii()
        assert not set(string.whitespace) & set(endpoint.authority + endpoint.target)
        endpoint.is_inside()


@pytest.mark.parametrize(
    "url",
    [*NO_URLS, *map(url_of, ("127.0.0.1", "10.1", "localhost", "::1", "::ffff:10.0.0.1", "169.254.169.254"))],
)
async def test_an_invoice_with_an_impossible_webhook_is_not_made(contract: Contract, url: str) -> None:
    world, _ = contract
    client = await world.connect()
    reply = await request(client, **INVOICE, webhook_url=url)
    assert (reply["status"], reply["code"]) == ("error", "invalid_value")
    assert "$.webhook_url" in reply["detail"]
    assert "regex" not in reply["detail"]
    reply = await request(client, action="subscribe", type="account", id=1, snapshot=True)
    assert reply["data"]["snapshot"] == []


async def test_a_webhook_comes_back_with_its_invoice(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    for url in ("https://shop.example/hook?key=1", "http://8.8.8.8:8000"):
        created = (await request(client, **INVOICE, webhook_url=url))["data"]
        assert created["webhook_url"] == url
        assert (await request(client, action="fetch_invoice", id=created["uid"]))["data"] == created


async def test_the_same_key_with_another_webhook_is_another_request(contract: Contract) -> None:
    world, _ = contract
    client = await world.connect()
    await request(client, **INVOICE, idempotency_key="k", webhook_url="https://shop.example/1")
    reply = await request(client, **INVOICE, idempotency_key="k", webhook_url="https://shop.example/2")
    assert reply["code"] == "idempotency_mismatch"


async def test_where_private_addresses_are_allowed_they_are() -> None:
    async with simulated_server(webhook_private_addresses=True) as world:
        client = await world.connect()
        reply = await request(client, **INVOICE, webhook_url="http://127.0.0.1:9000/hook")
        assert reply["status"] == "success"
