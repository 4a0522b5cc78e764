"""Where a webhook's URL leads, and which addresses are inside, however they are spelled."""

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_protocol import INVOICE, Contract, request
from trio_ws.endpoint import Endpoint, is_public
from trio_ws.testing import simulated_server

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
