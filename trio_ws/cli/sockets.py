"""The addresses that are listened on: taken, shared by several processes, and whom they let in."""

import errno
import ipaddress
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trio_ws.errors import StartupError
from trio_ws.settings import Settings

logger = logging.getLogger(__name__)

# Connections that the kernel holds for us: as many as it does by itself (net.core.somaxconn). Who finds no
# room tries again after a second, and where fewer wait than we take in one, we have nothing to do for the
# rest of it: with 1024 that was 4 of the 10 s of a herd (`scripts/bench herd`).
BACKLOG = 4096


def bind(settings: Settings) -> list[socket.socket]:
    """Take the port: before the database, so that a taken one costs no time.

    One process listens from now on. Several share the port, each by a socket of its own, and the kernel
    gives a new connection to one of them; ours then only keep it from others.
    """
    place = f"{settings.host} port {settings.port}"
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            sockets.append(_take(family, address, alone=settings.workers == 1))
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "is taken: stop what listens there, or choose another --port"
        else:
            why = getattr(error, "strerror", None) or error
            reason = f"can't be listened on ({why}): choose another --host or --port"
        raise StartupError(f"{place} {reason}") from None
    return sockets


def _take(family: int, address: Any, *, alone: bool) -> socket.socket:
    if alone:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    opened = socket.socket(family)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        # Only now: the bind has to fail where another server listens, even one of several processes.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        opened.close()
        raise
    return opened


def bind_metrics(settings: Settings, number: int) -> list[socket.socket]:
    """Take the address where measurements are served, if one is set.

    Args:
        settings: The settings in force.
        number: Which worker we are, from 1: each has a port of its own, the first one that which is set.
    """
    if settings.metrics_listen is None:
        return []
    host, _, port_text = settings.metrics_listen.rpartition(":")
    port = int(port_text)
    port += number - 1 if port else 0
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.create_server((host.strip("[]"), port), family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise StartupError(f"{host} port {port} can't be listened on ({why}): see metrics_listen") from None
    logger.info("measurements are on http://%s:%d/metrics", host, opened.getsockname()[1])
    return [opened]


def share(addresses: Sequence[tuple[int, tuple[Any, ...]]]) -> list[socket.socket]:
    """Listen on addresses that another process keeps, beside it and others like us."""
    return [
        socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=True)
        for family, address in addresses
    ]


def who_may_come(
    settings: Settings, sources: Mapping[str, str], sockets: Sequence[socket.socket]
) -> Literal["open", "token"]:
    """Return the `auth` in force: beyond loopback, only who typed it opens a server to anybody."""
    exposed = [opened for opened in sockets if not _is_loopback(opened)]
    if not exposed:
        return settings.auth or "open"
    if settings.auth != "open":
        return "token"
    where = " and ".join(map(url, exposed))
    if sources["auth"] == "--auth":
        logger.warning("whoever reaches %s may do everything: --auth is open", where)
        return "open"
    logger.warning("%s asks for tokens: only --auth open, typed, opens it, not %s", where, sources["auth"])
    return "token"


def _is_loopback(opened: socket.socket) -> bool:
    return ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback


def url(opened: socket.socket, scheme: str = "ws") -> str:
    """Return where clients find it."""
    host, port = opened.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if opened.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"
