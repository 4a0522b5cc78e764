"""Where a webhook goes, as its URL says it, and which addresses are none of an outsider's business. No I/O.

One parser serves the check and the connection, so that they can't take a URL for two different ones.
"""

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import quote, urlsplit

PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]+")  # a name or an address; without a zone, which is inside
_TARGET_CHARACTERS = "/?:@!$&'()*+,;=-._~%"  # of RFC 3986, and % of what is encoded already
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all of IPv6 that IANA has given out to the public
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # RFC 7526: to 6to4 relays, were there any

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
            if ":" not in host:
                host = host.encode("ascii" if host.isascii() else "idna").decode("ascii")
        except ValueError:  # UnicodeError is one
            raise ValueError("Expected a URL") from None
        if parts.scheme not in PORTS or not _HOST.fullmatch(host) or port == 0:
            raise ValueError("Expected an http or https URL with a host")
        if "@" in parts.netloc:
            raise ValueError("Expected a URL without user and password")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, host, port or PORTS[parts.scheme], quote(target, _TARGET_CHARACTERS))

    def is_inside(self) -> bool:
        """Tell whether its host is this machine or an address that is not public, as it stands there."""
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
    """Tell whether anybody in the internet might have that address, or the one that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and address not in _RELAYS
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    within = address.ipv4_mapped or address.sixtofour
    if within is not None:
        return is_public(within)
    return address.is_global and address in _GLOBAL_UNICAST


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
