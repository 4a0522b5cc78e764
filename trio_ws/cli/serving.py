"""`serve`: the server from its sockets to its end, in this process or in several.

With `workers` above 1 this process is their parent: it keeps the port, the database and the workers, and
serves nobody itself.
"""

import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from prometheus_client import disable_created_metrics

from trio_ws import server, workers
from trio_ws.background import forever
from trio_ws.cli.database import open_database, warn_of_creators, warn_of_too_few_sessions
from trio_ws.cli.init import leave_process_1
from trio_ws.cli.options import NO_SERVE_OPTIONS, ServeOptions
from trio_ws.cli.process import STOPPING, Process
from trio_ws.cli.sockets import bind, bind_metrics, share, url, who_may_come
from trio_ws.connection import PARTS
from trio_ws.database import embedded, migrations
from trio_ws.database.gateway import Database, Gateway
from trio_ws.database.replica import Replicated, Standby
from trio_ws.errors import ActionError, StartupError, leaves
from trio_ws.logs import configure_logs
from trio_ws.settings import Settings
from trio_ws.siblings import Siblings, meeting_place
from trio_ws.systemd import Notifier
from trio_ws.wire.accepting import Listener
from trio_ws.wire.tls import TlsListener, load_certificate, make_context

if TYPE_CHECKING:
    from trio_ws.tracing import Tracing

logger = logging.getLogger(__name__)

RESTART_SECONDS = 0.5  # poll interval of the embedded PostgreSQL
ALIVE_SECONDS = 1.0  # pause between the words of a parent that lives
# Python looks for garbage in all that lives, which stops everything for 150 ms at 1 000 connections, and far
# too often for a server: p99 from commit to frame was 9 to 22 ms, and is 4 now (`scripts/bench latency`).
# So it does once in four million objects, and on the way there looks at few at a time, which are in the
# processor's cache still: with 10 000 and 20 it took 90 ms now and then while clients came, and 50 µs more of
# each.
GARBAGE = (3_000, 5, 250)
STOP_SECONDS = 5.0  # what a worker may take to stop besides `drain_seconds`
SPARE_DESCRIPTORS = 256  # for the database, webhooks, listeners and those who are turned away

Task = Callable[[], Awaitable[None]]


class Orders(msgspec.Struct):
    """What its parent sends to a worker.

    Args:
        settings: Those in force.
        addresses: The sockets that the parent keeps open, on which all workers listen.
        folder: Where the workers' own sockets are; None: nowhere.
    """

    settings: Settings
    addresses: Sequence[tuple[int, tuple[Any, ...]]]
    folder: str | None


def serve(*, options: ServeOptions = NO_SERVE_OPTIONS) -> None:
    """Run the server until SIGTERM or SIGINT. A second signal ends it at once.

    SIGHUP reloads its settings: limits, origins and the log level.
    """
    leave_process_1()
    for number in STOPPING:
        signal.signal(number, _unwind)  # until trio takes over, and after it
    has_terminal = os.isatty(workers.STDIN)  # asked now: of one that was closed the kernel says no
    if not has_terminal:  # a terminal that is closed sends it to end us
        signal.signal(signal.SIGHUP, _let_pass)
    notifier = Notifier(os.environ)
    settings, sources = options.load()
    _set_up(settings)
    _load_certificate(settings)  # before anything is started that would have to be stopped
    if settings.otel:
        _load_tracing()
    sockets = bind(settings)
    settings = msgspec.structs.replace(settings, auth=who_may_come(settings, sources, sockets))
    with open_database(settings, shared=False) as database:
        direct = settings.listen_url or database.conninfo  # the lock of a migration is its session's
        if settings.migrate:
            migrations.migrate(direct)
        else:
            migrations.require_migrated(direct)
        warn_of_creators(direct)
        if settings.listen_url is None:  # else a pool is between us, and shares a few among all
            warn_of_too_few_sessions(settings, direct)
        process = Process(settings, notifier, lambda: options.load()[0], has_terminal=has_terminal)
        start = _serve if settings.workers == 1 else _keep_workers
        beside = (
            []
            if database.server is None
            else [partial(forever, "PostgreSQL", partial(_keep_running, database.server))]
        )
        trio.run(_until_stopped, process, partial(start, process, database.conninfo, sockets), *beside)
    logger.info("stopped")


def work(number: int, /) -> None:
    """Serve as one of several processes; the parent says how on stdin, which lasts as long as it does."""
    for stopping in STOPPING:
        signal.signal(stopping, _unwind)
    orders = msgspec.json.decode(workers.read_orders(), type=Orders)
    _set_up(orders.settings)
    sockets = share(orders.addresses)
    assert orders.settings.database_url  # noqa: S101 - the parent's, embedded or not
    process = Process(orders.settings, workers.Heart())

    def obey(line: bytes) -> None:
        process.take(msgspec.json.decode(line, type=Orders).settings)

    trio.run(
        _until_stopped,
        process,
        partial(
            _serve,
            process,
            orders.settings.database_url,
            sockets,
            number=number,
            siblings=Siblings(None if orders.folder is None else Path(orders.folder)),
        ),
        partial(workers.heed_parent, process.shutdown, obey),
    )


def _set_up(settings: Settings) -> None:
    configure_logs(settings)
    gc.set_threshold(*GARBAGE)
    # When each counter was made: that would double what Prometheus has to keep.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    _allow_descriptors(settings)


def _allow_descriptors(settings: Settings) -> None:
    """Have as many file descriptors as clients may come, if we may: shells allow 1024 of many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if settings.connections is None or hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return
    wanted = settings.connections + SPARE_DESCRIPTORS
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if hard < wanted:
        logger.warning(
            "only %d file descriptors are allowed, too few for %d connections", hard, settings.connections
        )


async def _until_stopped(process: Process, serve: Task, *beside: Task) -> None:
    """Serve until a signal says to stop, with what has to go on meanwhile."""
    try:
        async with trio.open_nursery() as around:
            await around.start(process.heed_signals)
            for task in beside:
                around.start_soon(task)
            await serve()
            around.cancel_scope.cancel()
    except* StartupError as errors:
        raise leaves(errors)[0] from None


async def _serve(
    process: Process,
    conninfo: str,
    sockets: list[socket.socket],
    *,
    number: int = 1,
    siblings: Siblings | None = None,
) -> None:
    settings = process.settings
    database: Database = (gateway := Gateway(conninfo, settings))
    if settings.log_url is not None:
        database = Replicated(gateway, Standby(settings.log_url, settings.statement_seconds))
    listeners = _listeners(sockets)
    reloads: AsyncIterable[Settings] = process.reloads
    if (context := _load_certificate(process.settings)) is not None:
        listeners = [TlsListener(listener, context) for listener in listeners]
        reloads = _reload_certificate(process, context)
    tracing = _load_tracing()(number) if settings.otel else None
    run = partial(
        server.serve,
        parts=PARTS if tracing is None else tracing.parts,
        page_listeners=_listeners(bind_metrics(process.settings, number)),
        reloads=reloads,
        alive=process.alive,
        siblings=siblings,
    )
    try:
        async with trio.open_nursery() as serving:
            await serving.start(run, settings, database, listeners, process.shutdown)
            _say_where(process, sockets)
    except* ActionError as errors:
        raise StartupError(f"can't read the event log: {leaves(errors)[0]}") from None
    finally:
        if tracing is not None:
            await tracing.close()  # noqa: ASYNC102 - it is shielded, and has its deadline
        gateway.close()


def _load_tracing() -> Callable[[int], "Tracing"]:
    """Return what opens the traces of a worker.

    Raises:
        StartupError: it is not installed.
    """
    try:
        from trio_ws.tracing import open_tracing  # noqa: PLC0415 - nobody else has to wait for it, or needs it
    except ImportError as error:
        raise StartupError(f"otel needs OpenTelemetry ({error}): pip install 'trio-ws[otel]'") from None
    return open_tracing


def _load_certificate(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    try:
        return make_context(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise StartupError(
            f"can't use {settings.tls_cert} for TLS ({error}): check tls_cert and tls_key"
        ) from None


async def _reload_certificate(process: Process, context: ssl.SSLContext) -> AsyncIterator[Settings]:
    """Hand settings on as they are reloaded, each time with the certificate as it is then."""
    async for settings in process.reloads:
        assert settings.tls_cert is not None  # noqa: S101 - or there would be no context
        try:
            load_certificate(context, settings.tls_cert, settings.tls_key)
        except OSError as error:
            logger.warning("the certificate was not reloaded: can't use %s: %s", settings.tls_cert, error)
        yield settings


def _listeners(sockets: list[socket.socket]) -> list[Listener]:
    return [trio.SocketListener(trio.socket.from_stdlib_socket(opened)) for opened in sockets]


async def _keep_workers(process: Process, conninfo: str, sockets: list[socket.socket]) -> None:
    with meeting_place() as folder:
        if folder is None:
            logger.warning("no folder for temporary files: the console shows one worker at a time")
        await _keep_workers_in(folder, process, conninfo, sockets)


async def _keep_workers_in(
    folder: Path | None, process: Process, conninfo: str, sockets: list[socket.socket]
) -> None:
    addresses = [(opened.family, opened.getsockname()) for opened in sockets]

    def orders(settings: Settings) -> bytes:
        told = msgspec.structs.replace(settings, database_url=conninfo)
        return msgspec.json.encode(Orders(told, addresses, None if folder is None else str(folder)))

    async def reload() -> None:
        async for settings in process.reloads:
            crew.reload(orders(settings), patience(settings))

    async def say_that_we_live() -> None:
        while True:
            process.alive()
            await trio.sleep(ALIVE_SECONDS)

    def patience(settings: Settings) -> float:
        return settings.drain_seconds + STOP_SECONDS

    settings = process.settings
    crew = workers.Workers(_worker_command(), orders(settings), process.shutdown, patience(settings))
    async with trio.open_nursery() as beside:
        async with trio.open_nursery() as serving:
            beside.start_soon(reload)
            beside.start_soon(say_that_we_live)
            await serving.start(crew.run, settings.workers)
            _say_where(process, sockets)
        beside.cancel_scope.cancel()


def _worker_command() -> list[str]:
    """Return this program's own name, found where it was found for us: in the current folder only if so."""
    here = sys.path[0] in ("", os.getcwd())  # noqa: PTH109 - compared as the interpreter writes it
    return [sys.executable, *([] if here else ["-P"]), "-m", "trio_ws", "worker"]


async def _keep_running(postgres: embedded.EmbeddedPostgres) -> float:
    """Start the embedded PostgreSQL again where it has ended, as a background step: nobody else would."""
    if postgres.has_ended():
        logger.warning("the embedded PostgreSQL has ended: starting it again")
        try:
            await trio.to_thread.run_sync(postgres.restart)
        except StartupError as error:
            logger.warning("%s; trying again", error)
    return RESTART_SECONDS


def _unwind(_: int, __: object) -> None:
    """Leave through all context managers, which stop what they have started."""
    sys.exit(0)


def _let_pass(_: int, __: object) -> None:
    """Ignore SIGHUP before settings are in force, and after."""


def _say_where(process: Process, sockets: list[socket.socket]) -> None:
    scheme = "ws" if process.settings.tls_cert is None else "wss"
    lines = [f"Listening on {url(opened, scheme)}" for opened in sockets]
    if process.settings.log_format == "json":  # all that it says is read by a program, then
        for line in lines:
            logger.info("%s", line)
    else:
        # In one write, also without a buffer: who waits for the first line may close the pipe then.
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
    process.ready()
