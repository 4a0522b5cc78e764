"""The commands. Signals become an event here, and errors a line and an exit status.

Exit status: 0 done, 1 can't (the line says what to do), 2 wrong usage or settings.
"""

import errno
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import psycopg
import trio
from cyclopts import App, CycloptsError, Parameter
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import trio_ws
from trio_ws import client, server
from trio_ws.database import embedded, migrations
from trio_ws.database.gateway import Gateway
from trio_ws.errors import ActionError, StartupError, leaves
from trio_ws.logs import configure_logs
from trio_ws.settings import FIELDS, Settings, SettingsError, data_dir, load

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM)
RESTART_SECONDS = 0.5  # pause between looks at the embedded PostgreSQL
BACKLOG = 1024  # connections that the kernel holds for us; a herd that reconnects comes at once

DEFAULT_URL = "ws://localhost:8080"

app = App(
    name="trio-ws",
    help="A WebSocket event server for invoices and prices.",
    version=trio_ws.__version__,
    result_action="return_value",
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes; each is also a setting: `TRIO_WS_*`, or a line of the TOML file."""

    config: Annotated[Path | None, Parameter(help="TOML file of settings; also TRIO_WS_CONFIG.")] = None
    database_url: Annotated[
        str | None, Parameter(help="PostgreSQL 14 or later, as URL or conninfo. Default: an embedded one.")
    ] = None
    data_dir: Annotated[str | None, Parameter(help="Folder of the embedded PostgreSQL.")] = None
    log_format: Annotated[str | None, Parameter(help="text or json.")] = None
    log_level: Annotated[str | None, Parameter(help="debug, info, warning or error.")] = None

    def load(self) -> tuple[Settings, dict[str, str]]:
        """Return the settings in force, and where each comes from."""
        flags = {name: value for name, value in vars(self).items() if name in FIELDS}
        return load(flags, os.environ, self.config)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """What `serve` takes besides."""

    host: Annotated[str | None, Parameter(help="Address to listen on. Default: 127.0.0.1.")] = None
    port: Annotated[str | None, Parameter(help="Port to listen on; 0: any free one. Default: 8080.")] = None
    migrate: Annotated[
        bool | None, Parameter(help="Bring the schema up to date, or refuse to start on an old one.")
    ] = None


NO_OPTIONS = Options()
NO_SERVE_OPTIONS = ServeOptions()


@app.command
def serve(*, options: ServeOptions = NO_SERVE_OPTIONS) -> None:
    """Run the server until SIGTERM or SIGINT; a second one ends it at once."""
    for number in STOPPING:
        signal.signal(number, _unwind)  # until trio takes over, and after it
    settings, _ = options.load()
    configure_logs(settings)
    sockets = _bind(settings)
    for opened in sockets:
        if not ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback:
            logger.warning("whoever reaches %s may do everything: there are no tokens yet", _url(opened))
    with _database(settings, shared=False) as database:
        if settings.migrate:
            migrations.migrate(database.conninfo)
        else:
            migrations.require_migrated(database.conninfo)
        trio.run(_serve, settings, database, sockets)
    logger.info("stopped")


@app.command
def migrate(*, options: Options = NO_OPTIONS) -> None:
    """Bring the database's schema up to date."""
    settings, _ = options.load()
    configure_logs(settings)
    with _database(settings, shared=True) as database:
        applied = migrations.migrate(database.conninfo)
    print(f"applied {', '.join(applied)}" if applied else "nothing to do")


@app.command
def check_config(*, options: ServeOptions = NO_SERVE_OPTIONS) -> None:
    """Show the settings in force, and where each comes from; takes what `serve` takes."""
    settings, sources = options.load()
    shown = {name: getattr(settings, name) for name in sources}
    shown["data_dir"] = str(data_dir(settings))
    for name in ("database_url", "listen_url"):
        shown[name] = _without_password(shown[name])
    for name, value in shown.items():
        print(f"{name} = {json.dumps('none' if value is None else value)}  # {sources[name]}")


@app.command
def database_url(*, options: Options = NO_OPTIONS) -> None:
    """Print the conninfo of the database in use: `psql "$(trio-ws database-url)"`."""
    settings, _ = options.load()
    if settings.database_url:
        print(settings.database_url)
        return
    folder = data_dir(settings)
    if embedded.running_conninfo(folder) is None:
        print(f"trio-ws: no server runs on {folder} now", file=sys.stderr)
    print(embedded.conninfo(folder))


Url = Annotated[str, Parameter(help="Where the server is.")]


@app.command
def listen(
    type_: Annotated[str, Parameter(name="TYPE", help="invoice, account, address or price.")],
    id_: Annotated[str, Parameter(name="ID", help="Which of them.")],
    /,
    *,
    after: Annotated[str | None, Parameter(help="Position to go on from. Default: from now on.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="A JSON object a line.")] = False,
) -> None:
    """Follow a topic and print what comes, until Ctrl-C; comes back by itself after lost lines.

    Example: trio-ws listen account 1
    """

    async def follow() -> None:
        async with client.connect(url) as server, server.follow((type_, id_), after=after) as events:
            async for event in events:
                print(_as_json(event) if as_json else _as_text(event), flush=True)

    _ask(follow)


@app.command
def call(action: str, /, *fields: str, url: Url = DEFAULT_URL) -> None:
    """Do one action and print its reply's data; FIELDS are name=value, a value is JSON or else text.

    Example: trio-ws call create_invoice amount=1000 currency=USD account_id=1
    """
    given = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            raise SettingsError(f"{field!r} is not name=value")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value

    async def ask() -> None:
        async with client.connect(url) as server:
            print(json.dumps(await server.call(action, **given), ensure_ascii=False))

    _ask(ask)


def _as_json(event: client.Event | client.Gap) -> str:
    return json.dumps({"gap": isinstance(event, client.Gap), **event._asdict()}, ensure_ascii=False)


def _as_text(event: client.Event | client.Gap) -> str:
    if isinstance(event, client.Gap):
        return f"{event.position}  something may have been missed before this"
    changed = "" if event.previous is None else f"  was {json.dumps(event.previous, ensure_ascii=False)}"
    return f"{event.position}  {event.type}  {json.dumps(event.data, ensure_ascii=False)}{changed}"


def _ask(question: Callable[[], Awaitable[None]]) -> None:
    """Run a question to the server, and say what it does not like about it in one line."""
    try:
        trio.run(question)
    except client.Refused as error:
        detail = f" ({error.detail})" if error.detail else ""
        raise StartupError(f"{error}{detail}") from None
    except client.Disconnected as error:
        raise StartupError(f"{error}: is the server running, and is --url right?") from None
    except ValueError as error:
        raise SettingsError(str(error)) from None
    except BaseExceptionGroup as errors:
        if any(isinstance(error, KeyboardInterrupt) for error in leaves(errors)):
            raise KeyboardInterrupt from None
        raise


def main() -> None:
    """Run the command line."""
    try:
        app(exit_on_error=False, print_error=False)
    except (CycloptsError, SettingsError) as error:
        _fail(2, error)
    except StartupError as error:
        _fail(1, error)
    except KeyboardInterrupt:  # in a command other than `serve`
        sys.exit(128 + signal.SIGINT)


def _fail(status: int, error: Exception) -> None:
    print(f"trio-ws: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(status)


class _Database(NamedTuple):
    """The database in use, and its server where that is ours to keep running."""

    conninfo: str
    server: embedded.EmbeddedPostgres | None = None


@contextmanager
def _database(settings: Settings, *, shared: bool) -> Iterator[_Database]:
    """Yield the database in use; an embedded one runs meanwhile.

    Args:
        settings: The settings in force.
        shared: Whether the embedded server of another process will do.
    """
    if settings.database_url:
        yield _Database(settings.database_url)
        return
    folder = data_dir(settings)
    if shared and (conninfo := embedded.running_conninfo(folder)):
        yield _Database(conninfo)
        return
    bindir = Path(settings.postgres_bindir) if settings.postgres_bindir else None
    with embedded.embedded_postgres(folder, bindir) as postgres:
        logger.info("embedded PostgreSQL runs on %s", folder)
        yield _Database(postgres.conninfo, postgres)


def _bind(settings: Settings) -> list[socket.socket]:
    """Open the listening sockets: before the database, so that a taken port costs no time."""
    place = f"{settings.host} port {settings.port}"
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason = "is taken: stop what listens there, or choose another --port"
        else:
            why = getattr(error, "strerror", None) or error
            reason = f"can't be listened on ({why}): choose another --host or --port"
        raise StartupError(f"{place} {reason}") from None
    return sockets


async def _serve(settings: Settings, database: _Database, sockets: list[socket.socket]) -> None:
    gateway = Gateway(database.conninfo, settings)
    shutdown = trio.Event()
    listeners: list[server.Listener] = [
        trio.SocketListener(trio.socket.from_stdlib_socket(opened)) for opened in sockets
    ]
    try:
        with trio.open_signal_receiver(*STOPPING) as received:
            async with trio.open_nursery() as around:
                around.start_soon(_turn_into, received, shutdown)
                if database.server is not None:
                    around.start_soon(_keep_running, database.server)
                async with trio.open_nursery() as serving:
                    await serving.start(server.serve, settings, gateway, listeners, shutdown)
                    for opened in sockets:
                        print(f"Listening on {_url(opened)}", flush=True)
                around.cancel_scope.cancel()
    except* ActionError as errors:
        raise StartupError(f"can't read the event log: {leaves(errors)[0]}") from None
    finally:
        gateway.close()


async def _keep_running(postgres: embedded.EmbeddedPostgres) -> None:
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
        if shutdown.is_set():  # end as if we had no handler; the embedded PostgreSQL ends with us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        logger.info("stopping on %s", signal.Signals(number).name)
        shutdown.set()


def _unwind(_: int, __: object) -> None:
    """Leave through all context managers, which stop what they have started."""
    sys.exit(0)


def _url(opened: socket.socket) -> str:
    host, port = opened.getsockname()[:2]
    return f"ws://[{host}]:{port}" if opened.family == socket.AF_INET6 else f"ws://{host}:{port}"


def _without_password(conninfo: str | None) -> str | None:
    if conninfo is None:
        return None
    try:
        parameters: dict[str, Any] = conninfo_to_dict(conninfo)
    except psycopg.Error:
        return "(not a conninfo)"
    for name in parameters:
        if "password" in name:
            parameters[name] = "***"
    return make_conninfo(**parameters)
