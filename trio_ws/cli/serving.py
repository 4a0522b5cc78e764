"""`serve`: the server from its sockets to its end, in this process or in several.

With `workers` above 1 this process is their parent: it keeps the port, the database and the workers, and
serves nobody itself.
"""

import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
import trio

from trio_ws import server, workers
from trio_ws.cli.database import open_database
from trio_ws.cli.options import NO_SERVE_OPTIONS, ServeOptions
from trio_ws.database import embedded, migrations
from trio_ws.database.gateway import Gateway
from trio_ws.errors import ActionError, StartupError, leaves
from trio_ws.logs import configure_logs
from trio_ws.settings import Settings

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM)
RESTART_SECONDS = 0.5  # pause between looks at the embedded PostgreSQL
BACKLOG = 1024  # connections that the kernel holds for us; a herd that reconnects comes at once
STOP_SECONDS = 5.0  # what a worker may take to stop besides its settings' deadlines

Beside = Callable[[trio.Event], Awaitable[None]]  # something that minds the shutdown event


class Orders(msgspec.Struct):
    """What a worker is told: the settings in force, and the addresses that its parent keeps."""

    settings: Settings
    addresses: list[tuple[int, tuple[Any, ...]]]


def serve(*, options: ServeOptions = NO_SERVE_OPTIONS) -> None:
    """Run the server until SIGTERM or SIGINT; a second one ends it at once."""
    for number in STOPPING:
        signal.signal(number, _unwind)  # until trio takes over, and after it
    settings, sources = options.load()
    configure_logs(settings)
    sockets = _bind(settings)
    auth = _who_may_come(settings, sources, [opened for opened in sockets if not _is_loopback(opened)])
    settings = msgspec.structs.replace(settings, auth=auth)
    with open_database(settings, shared=False) as database:
        if settings.migrate:
            migrations.migrate(database.conninfo)
        else:
            migrations.require_migrated(database.conninfo)
        start = _serve if settings.workers == 1 else _keep_workers
        beside = [] if database.server is None else [partial(_keep_running, database.server)]
        trio.run(_until_stopped, partial(start, settings, database.conninfo, sockets), *beside)
    logger.info("stopped")


def work() -> None:
    """Serve as one of several processes; the parent says how on stdin, which lasts as long as it does."""
    for number in STOPPING:
        signal.signal(number, _unwind)
    orders = msgspec.json.decode(workers.read_orders(), type=Orders)
    configure_logs(orders.settings)
    sockets = [
        socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=True)
        for family, address in orders.addresses
    ]
    assert orders.settings.database_url  # noqa: S101 - the parent's, embedded or not
    serve_here = partial(_serve, orders.settings, orders.settings.database_url, sockets)
    trio.run(_until_stopped, serve_here, workers.heed_parent)


def _who_may_come(
    settings: Settings, sources: Mapping[str, str], exposed: Sequence[socket.socket]
) -> Literal["open", "token"]:
    """Return the `auth` in force: beyond loopback, only who typed it opens a server to anybody."""
    if not exposed:
        return settings.auth or "open"
    if settings.auth != "open":
        return "token"
    where = " and ".join(map(_url, exposed))
    if sources["auth"] == "--auth":
        logger.warning("whoever reaches %s may do everything: --auth is open", where)
        return "open"
    logger.warning("%s asks for tokens: only --auth open, typed, opens it, not %s", where, sources["auth"])
    return "token"


def _bind(settings: Settings) -> list[socket.socket]:
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


async def _until_stopped(serve: Beside, *beside: Beside) -> None:
    """Serve until a signal says to stop, with what has to go on meanwhile."""
    shutdown = trio.Event()
    try:
        with trio.open_signal_receiver(*STOPPING) as received:
            async with trio.open_nursery() as around:
                around.start_soon(_turn_into, received, shutdown)
                for task in beside:
                    around.start_soon(task, shutdown)
                await serve(shutdown)
                around.cancel_scope.cancel()
    except* StartupError as errors:
        raise leaves(errors)[0] from None


async def _serve(
    settings: Settings, conninfo: str, sockets: list[socket.socket], shutdown: trio.Event
) -> None:
    gateway = Gateway(conninfo, settings)
    listeners: list[server.Listener] = [
        trio.SocketListener(trio.socket.from_stdlib_socket(opened)) for opened in sockets
    ]
    try:
        async with trio.open_nursery() as serving:
            await serving.start(server.serve, settings, gateway, listeners, shutdown)
            _say_where(sockets)
    except* ActionError as errors:
        raise StartupError(f"can't read the event log: {leaves(errors)[0]}") from None
    finally:
        gateway.close()


async def _keep_workers(
    settings: Settings, conninfo: str, sockets: list[socket.socket], shutdown: trio.Event
) -> None:
    told = msgspec.structs.replace(settings, database_url=conninfo)
    orders = Orders(told, [(opened.family, opened.getsockname()) for opened in sockets])
    patience = settings.drain_seconds + 2 * settings.close_seconds + STOP_SECONDS
    crew = workers.Workers(_worker_command(), msgspec.json.encode(orders), shutdown, patience)
    async with trio.open_nursery() as serving:
        await serving.start(crew.run, settings.workers)
        _say_where(sockets)


def _worker_command() -> list[str]:
    """Return this program's own name, found where it was found for us: in the current folder only if so."""
    here = sys.path[0] in ("", os.getcwd())  # noqa: PTH109 - compared as the interpreter writes it
    return [sys.executable, *([] if here else ["-P"]), "-m", "trio_ws", "worker"]


async def _keep_running(postgres: embedded.EmbeddedPostgres, _: trio.Event) -> None:
    """Start the embedded PostgreSQL anew where it has ended: nobody else would."""
    while True:
        await trio.sleep(RESTART_SECONDS)
        if postgres.has_ended():
            logger.warning("the embedded PostgreSQL has ended: starting it anew")
            try:
                await trio.to_thread.run_sync(postgres.restart)
            except StartupError as error:
                logger.warning("%s; trying on", error)


async def _turn_into(received: AsyncIterator[int], shutdown: trio.Event) -> None:
    async for number in received:
        if shutdown.is_set():  # end as if we had no handler; what we have started ends with us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        logger.info("stopping on %s", signal.Signals(number).name)
        shutdown.set()


def _unwind(_: int, __: object) -> None:
    """Leave through all context managers, which stop what they have started."""
    sys.exit(0)


def _is_loopback(opened: socket.socket) -> bool:
    return ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback


def _say_where(sockets: list[socket.socket]) -> None:
    for opened in sockets:
        print(f"Listening on {_url(opened)}", flush=True)


def _url(opened: socket.socket) -> str:
    host, port = opened.getsockname()[:2]
    return f"ws://[{host}]:{port}" if opened.family == socket.AF_INET6 else f"ws://{host}:{port}"
