"""The schema, brought up to date by numbered SQL files: forward only, each applied once, checksummed.

A file names our schema by `@schema@`, and without it finds nothing but PostgreSQL's own: see `sessions`.
Files that are older than this rule have our schema on their search path.

Any number of servers may start at once: the first takes an advisory lock and migrates, the others wait.
Polling for the lock, because a transaction that waits in `pg_advisory_lock` holds a snapshot, and with
that deadlocks a migration's CREATE INDEX CONCURRENTLY.
"""

import hashlib
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import NamedTuple

import psycopg

from trio_ws.database.sessions import ENCODING, SCHEMA, Connection, Row, begin_session, refuse_pooler
from trio_ws.errors import StartupError

logger = logging.getLogger(__name__)

MINIMUM_POSTGRESQL = 14  # the oldest release that the PostgreSQL project supported in 2026
ADVICE = "check --database-url, or leave it out for an embedded PostgreSQL"
LOCK_KEY = 0x7472696F5F7773  # "trio_ws"
LOCK_SECONDS = 300.0  # a migration of a large table in another process takes its time
LOCK_POLL_SECONDS = 0.1
# Our schema, and the roles that have all rights there: superusers, its and the database's owner, and we, with
# the roles that we are a member of, but a superuser is a member of all.
_OURS = "to_regnamespace($schema$@schema@$schema$)"
_TRUSTED = (
    "(SELECT oid FROM pg_roles WHERE rolsuper"  # noqa: S608 - constants
    " OR pg_has_role(oid, 'USAGE') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
    f" UNION SELECT nspowner FROM pg_namespace WHERE oid = {_OURS}"
    " UNION SELECT datdba FROM pg_database WHERE datname = current_database())"
)
_OTHERS_MAY_CREATE = (
    "SELECT format('REVOKE CREATE ON SCHEMA %s FROM %s', max(nspname::regnamespace::text),"  # noqa: S608 - constants
    " string_agg(CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, ', '))"
    " FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))"
    f" WHERE pg_namespace.oid = {_OURS} AND privilege_type = 'CREATE' AND grantee NOT IN {_TRUSTED}"
    " HAVING count(*) > 0"
)
_OTHER_OWNER = (
    f"SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'schema_migrations'"  # noqa: S608 - constants
    f" AND relnamespace = {_OURS} AND relowner NOT IN {_TRUSTED}"
)
_THEIR_FUNCTIONS = (
    "WITH theirs AS (SELECT 'pg_proc'::regclass AS kind, oid, proowner AS owner FROM pg_proc"  # noqa: S608 - constants
    f" WHERE pronamespace = {_OURS} UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner FROM pg_operator"
    f" WHERE oprnamespace = {_OURS})"
    " SELECT pg_describe_object(kind, oid, 0), pg_get_userbyid(owner) FROM theirs"
    f" WHERE owner NOT IN {_TRUSTED} ORDER BY 1 LIMIT 1"
)
# Every statement on a table waits behind an ALTER that waits for that table. A client's statement has 2 s.
TABLE_LOCK_TIMEOUT = "'1s'"
TABLE_LOCK_PAUSE_SECONDS = (0.5, 1.5)  # until the next try, so that the others get on


class Migration(NamedTuple):
    """One SQL file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """What identifies this form of the file."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations() -> list[Migration]:
    """Return the migrations that come with this version, in order."""
    files = (resources.files("trio_ws.database") / "schema").iterdir()
    named = sorted((file.name, file.read_text("utf-8")) for file in files if file.name.endswith(".sql"))
    return [Migration(int(name[:4]), name.removesuffix(".sql"), sql) for name, sql in named]


def migrate(conninfo: str) -> list[str]:
    """Apply what the database lacks, and return the names of what was applied.

    Args:
        conninfo: Leads to PostgreSQL itself: a pooler would keep the session, and with it the lock.

    Raises:
        StartupError: the database can't be reached, is too old, or is from a newer trio-ws.
    """
    with _connect(conninfo) as connection:
        _take_lock(connection)
        if missing := _missing(connection):
            _refuse_traps(connection, missing)
            connection.execute(
                "CREATE TABLE IF NOT EXISTS @schema@.schema_migrations (version int PRIMARY KEY,"
                " name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
        for migration in missing:
            logger.info("applying migration %s", migration.name)
            _apply_patiently(connection, migration)
        return [migration.name for migration in missing]


def require_migrated(conninfo: str) -> None:
    """Check that the database lacks nothing.

    Raises:
        StartupError: it does, or any reason that `migrate` has.
    """
    with _connect(conninfo) as connection:
        if missing := _missing(connection):
            names = ", ".join(migration.name for migration in missing)
            raise StartupError(f"the database lacks the migrations {names}: run `trio-ws migrate`")


def others_may_create(conninfo: str) -> str | None:
    """Say who else may create in our schema, and what to type against it; None: nobody.

    It need not harm: our functions and sessions call nothing of theirs. But other programs may.

    Raises:
        StartupError: as `migrate`.
    """
    with _connect(conninfo) as connection:
        for (statement,) in _fetch(connection, _OTHERS_MAY_CREATE):
            return str(statement)
    return None


@contextmanager
def _connect(conninfo: str) -> Iterator[Connection]:
    try:
        connection = psycopg.connect(conninfo, autocommit=True, connect_timeout=10, client_encoding=ENCODING)
    except psycopg.ProgrammingError:  # its text would quote the password
        raise StartupError(f"can't reach the database (not a valid conninfo): {ADVICE}") from None
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise StartupError(f"can't reach the database ({reason}): {ADVICE}") from None
    with connection:
        if connection.info.server_version < MINIMUM_POSTGRESQL * 10000:
            version = connection.info.parameter_status("server_version")
            raise StartupError(f"PostgreSQL {version} is too old: {MINIMUM_POSTGRESQL} or later is needed")
        if (encoding := connection.info.parameter_status("server_encoding")) != ENCODING:
            raise StartupError(f"the database's encoding is {encoding}: create one with ENCODING 'UTF8'")
        try:
            refuse_pooler(connection, conninfo)
            begin_session(connection, {"lock_timeout": TABLE_LOCK_TIMEOUT})
            yield connection
        except psycopg.Error as error:
            reason = str(error).strip().splitlines()[0]
            raise StartupError(
                f"the database refused a migration ({reason}): fix it in the database"
            ) from None


def _take_lock(connection: Connection) -> None:
    """Take the lock for as long as the connection lives."""
    deadline = time.monotonic() + LOCK_SECONDS
    while not _fetch(connection, "SELECT pg_try_advisory_lock(%s)", LOCK_KEY)[0][0]:
        if time.monotonic() > deadline:
            raise StartupError(
                "another process has been migrating the database for minutes: see pg_stat_activity"
            )
        time.sleep(LOCK_POLL_SECONDS)


def _missing(connection: Connection) -> list[Migration]:
    try:
        rows = _fetch(connection, "SELECT version, name, checksum FROM @schema@.schema_migrations")
    except psycopg.errors.UndefinedTable:
        return known_migrations()
    applied = {version: (name, checksum) for version, name, checksum in rows}
    known = known_migrations()
    newest = known[-1].version
    if (found := max(applied, default=0)) > newest:
        raise StartupError(
            f"the database is at version {found}, but this trio-ws knows only {newest}: upgrade trio-ws"
        )
    for migration in known:
        name, checksum = applied.get(migration.version, (migration.name, migration.checksum))
        if checksum != migration.checksum:
            raise StartupError(
                f"migration {name} differs from the one that was applied:"
                " use the trio-ws that applied it, or restore the file"
            )
    return [migration for migration in known if migration.version not in applied]


def _refuse_traps(connection: Connection, missing: list[Migration]) -> None:
    """Refuse to migrate where another role's function would be called with our rights."""
    for (owner,) in _fetch(connection, _OTHER_OWNER):  # who may have given it triggers
        raise StartupError(f"the table schema_migrations belongs to {owner}: migrate as that role")
    if all(SCHEMA.decode() in migration.sql for migration in missing):
        return
    # The oldest files find functions and operators by chance: see `sessions`.
    for what, whose in _fetch(connection, _THEIR_FUNCTIONS):
        raise StartupError(
            f"our schema has functions or operators of other roles, such as the {what} of {whose}:"
            " drop them, or use a separate schema for trio-ws on the search_path"
        )


def _apply_patiently(connection: Connection, migration: Migration) -> None:
    """Apply a migration, again and again while others hold its tables."""
    deadline = time.monotonic() + LOCK_SECONDS
    is_told = False
    while True:
        try:
            return _apply(connection, migration)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() > deadline:
                raise StartupError(
                    f"migration {migration.name} waits for locked tables: see pg_stat_activity"
                ) from None
        if not is_told:
            logger.warning("migration %s waits for locked tables", migration.name)
            is_told = True
        time.sleep(random.uniform(*TABLE_LOCK_PAUSE_SECONDS))  # noqa: S311 - spreads, hides nothing


def _apply(connection: Connection, migration: Migration) -> None:
    with connection.transaction():
        if SCHEMA.decode() not in migration.sql:
            connection.execute("SET LOCAL search_path = @schema@, pg_temp")
        connection.execute(migration.sql.encode())
        connection.execute(
            "INSERT INTO @schema@.schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )


def _fetch(connection: Connection, query: str, *args: object) -> list[Row]:
    return connection.execute(query.encode(), args or None).fetchall()
