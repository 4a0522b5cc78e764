"""The database that a command works on, and the commands about it."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar, TypeVarTuple

import psycopg

from trio_ws.cli.options import NO_OPTIONS, AsJson, Options
from trio_ws.database import embedded, lanes, migrations, queries
from trio_ws.database.queries import Connection
from trio_ws.database.sessions import ENCODING, begin_session
from trio_ws.errors import ActionError, StartupError
from trio_ws.logs import configure_logs
from trio_ws.settings import Settings, data_dir

logger = logging.getLogger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

STATEMENT_SECONDS = 5.0


def migrate(*, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Migrate the schema of the database."""
    settings, _ = options.load()
    configure_logs(settings)
    with open_database(settings, shared=True) as database:
        direct = settings.listen_url or database.conninfo  # past a pooler
        applied = migrations.migrate(direct)
        warn_of_creators(direct)
    said = f"applied {', '.join(applied)}" if applied else "nothing to do"
    print(json.dumps({"applied": applied}) if as_json else said)


def warn_of_creators(conninfo: str) -> None:
    """Say in the log who else may create in our schema: see `migrations.others_may_create`."""
    if revoke := migrations.others_may_create(conninfo):
        logger.warning("other roles may create functions and tables in our schema: %s", revoke)


class Sessions(NamedTuple):
    """Sessions in PostgreSQL: how many it allows us, how many there are, how many a server may open."""

    allowed: int
    used: int
    wanted: int


MORE_SESSIONS = "raise max_connections, lower `database_connections` or `workers`, or use PgBouncer"


def sessions_of(settings: Settings, connection: Connection) -> Sessions:
    """Return how many sessions there are, and how many these settings may take."""
    ((allowed, used),) = connection.execute(
        "SELECT current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int,"
        " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
    )
    return Sessions(allowed, used, settings.workers * lanes.sessions(settings.database_connections))


def warn_of_too_few_sessions(settings: Settings, conninfo: str) -> None:
    """Say in the log where PostgreSQL allows fewer sessions than the server may open."""
    with suppress(psycopg.Error), psycopg.connect(conninfo, autocommit=True) as connection:
        begin_session(connection)
        room = sessions_of(settings, connection)
        if room.wanted > room.allowed:
            logger.warning(
                "PostgreSQL allows %d sessions, but %d workers may open %d: %s",
                *(room.allowed, settings.workers, room.wanted, MORE_SESSIONS),
            )


def database_url(*, options: Options = NO_OPTIONS) -> None:
    """Print the conninfo of the database in use: `psql "$(trio-ws database-url)"`."""
    settings, _ = options.load()
    if settings.database_url:
        print(settings.database_url)
        return
    folder = data_dir(settings)
    if embedded.running_conninfo(folder) is None:
        print(f"trio-ws: no server is running on {folder} now", file=sys.stderr)
    print(embedded.conninfo(folder))


class OpenDatabase(NamedTuple):
    """The database in use, and its server where that is ours to keep running."""

    conninfo: str
    server: embedded.EmbeddedPostgres | None = None


@contextmanager
def open_database(settings: Settings, *, shared: bool) -> Iterator[OpenDatabase]:
    """Yield the database in use; an embedded one runs meanwhile.

    Args:
        settings: The settings in force.
        shared: Whether the embedded server of another process will do.
    """
    if settings.database_url:
        yield OpenDatabase(settings.database_url)
        return
    folder = data_dir(settings)
    if shared and (conninfo := embedded.running_conninfo(folder)):
        yield OpenDatabase(conninfo)
        return
    bindir = Path(settings.postgres_bindir) if settings.postgres_bindir else None
    with embedded.embedded_postgres(folder, bindir) as postgres:
        logger.info("embedded PostgreSQL runs on %s", folder)
        yield OpenDatabase(postgres.conninfo, postgres)


def running_database(settings: Settings) -> str:
    """Return the conninfo of the database in use, whose server runs already.

    Raises:
        StartupError: it is the embedded one, and no server runs on it.
    """
    folder = data_dir(settings)
    conninfo = settings.database_url or embedded.running_conninfo(folder)
    if conninfo is None:
        raise StartupError(f"no server is running on {folder}: start one, or choose another --data-dir")
    return conninfo


def run_query(options: Options, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> T:
    """Return what a query says of the database in use, whose server runs already.

    Raises:
        StartupError: there is none, or it refuses.
    """
    settings, _ = options.load()
    conninfo = settings.listen_url or running_database(settings)  # a pooler would keep what is set below
    migrations.require_migrated(conninfo)
    try:
        with psycopg.connect(conninfo, client_encoding=ENCODING) as connection:
            queries.prepare_connection(connection, STATEMENT_SECONDS)
            connection.execute("SET trio_ws.wakes_itself = 'no'")  # nobody else would
            return query(connection, *args)
    except (ActionError, psycopg.Error) as error:
        raise StartupError(str(error).strip().partition("\n")[0]) from None
