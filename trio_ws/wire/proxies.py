"""Where a client is when proxies stand before us: what those say that we trust, and nobody else.

    X-Forwarded-For: 203.0.113.9, 10.0.0.7
    Forwarded: for=203.0.113.9;proto=https, for=10.0.0.7

Each proxy appends the address that called it. So the last value is the word of the proxy that calls us. The
value before it counts if the last one names a proxy that we trust, and so on.
"""

import ipaddress
import logging
import re
from collections.abc import Iterable

from trio_ws.wire.head import MAX_ITEMS, Head, Refusal

logger = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Hop = tuple[str, str]  # what a proxy wrote, and what of it should be an address

# RFC 7239 section 4. Ports and IPv6 addresses belong in quotes; some proxies leave them out.
_PAIR = re.compile(r'[ \t]*+(?:([^\s"(),/:;=]++)=("(?:[^"\\]|\\.)*+"|[^\s",;]++))?+[ \t]*+([,;]|\Z)')
_ESCAPED = re.compile(r"\\(.)")

TOLD_CHARACTERS = 100  # of what a proxy said, for the log: an address and its port take 50
MAX_NODE = 128  # characters of an address, its port and what they stand in, each of them escaped
MAX_PAIRS = 4 * MAX_ITEMS  # in one header: RFC 7239 has by, for, host and proto


class Proxies:
    """The proxies that we trust.

    What they say and we can't use is logged once of each kind: a proxy with a wrong setting says it of each
    client. Clients whose address is not known count as where the last proxy is that we know of.

    Args:
        networks: Where they are.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]
        self._logged: set[str] = set()

    def __contains__(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)

    def find_client(self, head: Head, peer: Address) -> Address:
        """Return where the client is.

        A proxy writes one of the two headers and passes on the other one as the client sent it. So where
        both come, they count only if both lead to the same address.

        Args:
            head: From the client, by way of the proxies.
            peer: Who has called us.

        Raises:
            Refusal: a header has too many items.
        """
        told = {
            name: self._follow(name, read(head), peer)
            for name, read in (("x-forwarded-for", _read_list), ("forwarded", _read_forwarded))
            if head.values(name)
        }
        if len(set(told.values())) > 1:
            self._log_once("Forwarded and X-Forwarded-For disagree: have the proxy remove one", peer, **told)
            return peer
        return next(iter(told.values()), peer)

    def _follow(self, header: str, hops: list[Hop], peer: Address) -> Address:
        while hops and peer in self:
            told, node = hops.pop()  # those before it are read only if it is a proxy of ours
            address = _read_address(node)
            if address is None:
                self._log_once(f"a trusted proxy names no address in {header}", peer, told=told)
                break
            peer = address
        return peer

    def _log_once(self, message: str, peer: Address, **told: object) -> None:
        if message not in self._logged:
            self._logged.add(message)
            figures = {name.replace("-", "_"): str(value)[:TOLD_CHARACTERS] for name, value in told.items()}
            logger.warning(message, extra={"figures": {"proxy": str(peer), **figures}})


def unmapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does: RFC 4291 section 2.5.5.2."""
    return getattr(address, "ipv4_mapped", None) or address


def _read_list(head: Head) -> list[Hop]:
    return [(item, item) for item in head.items("x-forwarded-for")]


def _read_forwarded(head: Head) -> list[Hop]:
    """Return what each element has as `for`; if any of it can't be read, all of it as one that names none.

    Half a quote that a client sends would hide what the proxy says behind it, so nothing of it is used.
    """
    text = ",".join(head.values("forwarded"))
    if text.count(",") + text.count(";") > MAX_PAIRS:  # a head of nothing else took 60 ms
        raise Refusal(431, f"A header has over {MAX_PAIRS} items", given="forwarded")
    hops: list[Hop] = []
    pairs: dict[str, str] = {}
    at, end = 0, ","
    while end:
        if (match := _PAIR.match(text, at)) is None:
            return [(text, "")]
        name, value, end = match.groups()
        at = match.end()
        if name is not None:
            pairs[name.lower()] = value
        if end != ";" and pairs:
            node = pairs.get("for", "")
            hops.append((node, node))
            pairs = {}
    if len(hops) > MAX_ITEMS:
        raise Refusal(431, f"A header has over {MAX_ITEMS} items", given="forwarded")
    return hops


def _read_address(text: str) -> Address | None:
    """Return the address that a proxy wrote, with or without a port, or None where it is none."""
    if len(text) > MAX_NODE:
        return None
    host = _ESCAPED.sub(r"\1", text.strip('"'))
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return unmapped(ipaddress.ip_address(host))
    except ValueError:
        return None
