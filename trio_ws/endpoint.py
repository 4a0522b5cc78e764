"""Where a webhook goes, as its URL says it, and which addresses are not public. No I/O.

One parser serves the check and the connection, so that they can't take a URL for two different ones. Which
addresses are public is written down here: what Python's `ipaddress` says depends on its version.
"""

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import quote, urlsplit

PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]+")  # a name or an address; without a zone, which is inside
_TARGET_CHARACTERS = "/?:@!$&'()*+,;=-._~%"  # of RFC 3986, and % of what is encoded already
# Longest name that is not ASCII. Turning it into ASCII costs 6 µs a character, and a URL may have 2 000.
MAX_INTERNATIONAL_NAME = 100

# IANA's special-purpose address registries, up to RFC 9780 (2025), and multicast. Those that are reachable
# from everywhere (anycast of PCP and TURN, AS112, AMT) count as well: they lead to a network's own devices,
# or to nobody who takes a webhook.
_SPECIAL_IPV4 = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
    192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15
    198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
"""
# Of IPv6, IANA has given out 2000::/3 to the public and nothing else (RFC 4291, section 2.4): what is special
# outside of it (::/96, 100::/64, 5f00::/16, fc00::/7, fe80::/10, fec0::/10, ff00::/8, …) needs no entry.
_SPECIAL_IPV6 = "2001::/23 2001:db8::/32 2620:4f:8000::/48 3fff::/20"
_NO_IPV4 = [ipaddress.IPv4Network(network) for network in _SPECIAL_IPV4.split()]
_NO_IPV6 = [ipaddress.IPv6Network(network) for network in _SPECIAL_IPV6.split()]
_UNICAST = ipaddress.IPv6Network("2000::/3")

# IPv6 that stands for an IPv4 address, and how many bits follow that.
_WRAPPING = {
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,  # IPv4-mapped: RFC 4291, section 2.5.5.2
    ipaddress.IPv6Network("64:ff9b::/96"): 0,  # NAT64: RFC 6052
    ipaddress.IPv6Network("2002::/16"): 80,  # 6to4: RFC 3056
}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Endpoint(NamedTuple):
    """A URL's parts.

    Attributes:
        scheme: `http` or `https`.
        host: Its name in ASCII, or its address without brackets.
        port: Given, or the scheme's own.
        target: Path and query, as the request's first line has it.
    """

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Return where a URL leads.

        Raises:
            ValueError: nowhere; says why, and not to whom.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").rstrip(".")
            if not host.isascii() and len(host) <= MAX_INTERNATIONAL_NAME:
                host = host.encode("idna").decode("ascii")
        except ValueError:  # UnicodeError is one
            raise ValueError("Expected a URL") from None
        if parts.scheme not in PORTS or not _HOST.fullmatch(host) or port == 0:
            raise ValueError("Expected an http or https URL with a host")
        if "@" in parts.netloc:
            raise ValueError("Expected a URL without user and password")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, host, port or PORTS[parts.scheme], quote(target, _TARGET_CHARACTERS))

    def is_inside(self) -> bool:
        """Return whether its host is this machine or an address that is not public, as it stands there."""
        if self.host == "localhost" or self.host.endswith(".localhost"):  # RFC 6761
            return True
        address = _literal(self.host)
        return address is not None and not is_public(address)

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def is_public(address: Address) -> bool:
    """Return whether anybody on the internet may have that address, or the one that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NO_IPV4)
    for network, bits_behind in _WRAPPING.items():
        if address in network:
            return is_public(ipaddress.IPv4Address(int(address) >> bits_behind & 0xFFFFFFFF))
    if address.scope_id is not None:
        return False  # it is on a network of ours
    return address in _UNICAST and not any(address in network for network in _NO_IPV6)


def _literal(host: str) -> Address | None:
    """Return the address that a host is, in whichever spelling a resolver takes: 127.1 and 0x7f000001 too."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
