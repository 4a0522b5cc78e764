"""Where clients are: their addresses, which a proxy may have to say, and how many come from each."""

import ipaddress

from trio_ws import logs, metrics
from trio_ws.limits import Census
from trio_ws.wire.head import Head
from trio_ws.wire.proxies import Address, Proxies, unmapped
from trio_ws.wire.tls import Stream, socket_of

IPV6_NETWORK_BITS = 64  # RFC 4291 section 2.5.1


class Place:
    """Where a client is: nowhere that counts, unless the server knows better.

    Attributes:
        address: None: not known, or not yet.
    """

    __slots__ = ("address",)

    def __init__(self) -> None:
        self.address: str | None = None

    def find(self, head: Head) -> str | None:  # noqa: ARG002 - see above
        """Return its address, as a request says it; None: that is not known."""
        return None

    def count(self, head: Head) -> str | None:  # noqa: ARG002 - see above
        """Count one that comes to stay; or return the limit on its address that is reached."""
        return None


class CountedPlace(Place):
    """Where a client of a server is.

    Args:
        stream: The accepted socket.
        proxies: Those that say where their clients are.
        census: Counts connections by address.
    """

    __slots__ = ("_census", "_proxies", "_proxy")

    def __init__(self, stream: Stream, proxies: Proxies, census: Census) -> None:
        super().__init__()
        peer = _peer_of(stream)
        self._proxy = peer if peer in proxies else None
        self.address = None if peer is None or self._proxy else _name_of(peer)
        self._proxies = proxies
        self._census = census

    def find(self, head: Head) -> str | None:
        """Return where a request comes from, which a proxy has to say."""
        if self._proxy is None:
            return self.address
        return _name_of(self._proxies.find_client(head, self._proxy))

    def count(self, head: Head) -> str | None:
        """Count where a client is that comes by a proxy, and return the limit that is reached."""
        if self._proxy is None or (told := self.find(head)) is None:
            return None
        logs.fields.get()["address"] = told
        if (full := self._census.locate(told)) is None:
            self.address = told
        else:
            metrics.TURNED_AWAY.labels(full).inc()
        return full


def _peer_of(stream: Stream) -> Address | None:
    """Return the address at the other end, if there is one."""
    if (transport := socket_of(stream)) is None:
        return None
    try:
        address = ipaddress.ip_address(transport.socket.getpeername()[0].partition("%")[0])
    except (OSError, ValueError):  # it has gone already, or it is no internet socket
        return None
    return unmapped(address)


def _name_of(address: Address) -> str:
    """Return what is counted as one place: of IPv6 the network, since a client has all of it."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))
    return str(address)
