"""The addresses that are listened on: taken, shared by several processes, and whom they let in."""

import errno
import ipaddress
import logging
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from trio_ws.errors import StartupError
from trio_ws.settings import Settings

logger = logging.getLogger(__name__)

# Connections that the kernel holds for us: as many as it does by itself (net.core.somaxconn). Who finds no
# room tries again after a second, and where fewer wait than we take in one, we have nothing to do for the
# rest of it: with 1024 that was 4 of the 10 s of a herd (`scripts/bench herd`).
BACKLOG = 4096


# What stands for addresses of both families; a machine may lack one of them. Names under `localhost` are
# loopback, whatever /etc/hosts says (RFC 6761), and browsers try ::1 first.
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - if asked for
BOTH = {"localhost": ("127.0.0.1", "::1"), "*": EVERYWHERE, "::": EVERYWHERE}
LACKING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # this family
FREE_PORT_TRIES = 10  # for a port that is free in both


class PortTaken(StartupError):
    """Another program listens there."""


def bind(settings: Settings) -> list[socket.socket]:
    """Take the port: before the database, so that a taken one costs no time.

    One process listens from now on. Several share the port, each by a socket of its own, and the kernel
    gives a new connection to one of them; ours then only keep it from others.

    Raises:
        PortTaken: somebody else listens there.
        StartupError: it can't be listened on for another reason.
    """
    tries = 1 if settings.port else FREE_PORT_TRIES
    while True:
        tries -= 1
        try:
            return _bind_all(settings)
        except (OSError, UnicodeError) as error:
            is_taken = getattr(error, "errno", None) == errno.EADDRINUSE
            if is_taken and tries:
                continue
            where = f"{settings.host} port {settings.port}"
            if is_taken:
                raise PortTaken(
                    f"{where} is taken: stop what listens there, or choose another --port"
                ) from None
            why = getattr(error, "strerror", None) or error
            raise StartupError(
                f"{where} can't be listened on ({why}): choose another --host or --port"
            ) from None


def _bind_all(settings: Settings) -> list[socket.socket]:
    hosts = BOTH.get(settings.host, (settings.host,))
    lacking: OSError | None = None
    with ExitStack() as stack:
        opened: list[socket.socket] = []
        for family, address in _resolve(hosts, settings.port):
            port = opened[0].getsockname()[1] if opened else settings.port
            try:
                taken = _take(family, (address[0], port, *address[2:]), alone=settings.workers == 1)
            except OSError as error:
                if len(hosts) == 1 or error.errno not in LACKING:
                    raise
                lacking = error
            else:
                opened.append(stack.enter_context(taken))
        if lacking is not None and not opened:
            raise lacking
        stack.pop_all()
    return opened


def _resolve(hosts: Sequence[str], port: int) -> list[tuple[int, Any]]:
    """Return families and addresses, each once."""
    found = [
        (family, address)
        for host in hosts
        for family, *_, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    ]
    return list(dict.fromkeys(found))


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
