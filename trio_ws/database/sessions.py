"""How each session of ours begins: with settings of its own, and with our schema found.

A role, a database, the environment or the conninfo may set anything that a session starts with: another
encoding, time limits, a search path. What would change what our statements read, do or wait for is set here,
in every session.

The search path is PostgreSQL's own schema and no other. PostgreSQL finds a function or operator by the best
match among all schemas on the path. So a role that may create in one of them could have its own function
called in place of PostgreSQL's, with the rights of our role. Our statements name our schema by `@schema@`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import psycopg
from psycopg.abc import Params

from trio_ws.errors import StartupError

Row = tuple[Any, ...]
Connection = psycopg.Connection[Row]

SCHEMA = b"@schema@"  # in our SQL, the place of our schema's name, quoted
ENCODING = "UTF8"

# None of these is left to a role, a database, PGOPTIONS, PGTZ, PGDATESTYLE or the like. They are PostgreSQL's
# own defaults, but for the encoding, the zone, and jit, which takes longer than our statements do. One is not
# here: default_transaction_read_only is set for maintenance or on a full disk, so that nobody writes.
SETTINGS = {
    "client_encoding": ENCODING,
    "default_transaction_isolation": "'read committed'",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "row_security": "on",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "exit_on_error": "off",
    "bytea_output": "hex",
    "datestyle": "'ISO, MDY'",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "plan_cache_mode": "auto",
    "jit": "off",
}
NO_SETTINGS: Mapping[str, str] = {}
TRANSACTION_TIMEOUT_SINCE = 170000  # the version of PostgreSQL, as libpq says it

POOLER_TRIES = 5  # a pooler hands out what came back last, unless another program takes it first

# Aurora has no such function, or the right to call it was revoked. A standby's refusal is another error.
_NOT_SAID = (
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
)

SEARCH_PATH = "pg_catalog, pg_temp"  # pg_temp last, or it would come first

# Where `schema_migrations` is seen, else where a new table would go. The path is still the role's here, so
# each name is qualified and each argument has its exact type.
_FIND_SCHEMA = (
    "SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.oid OPERATOR(pg_catalog.=)"
    " pg_catalog.to_regclass('schema_migrations'::pg_catalog.text)::pg_catalog.oid),"
    " pg_catalog.current_schema())"
)
# The first eight digits of a WAL file's name are the timeline that it is of.
_READ_PRIMARY = (
    "(SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()),"
    " pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8)"
)


class Primary(NamedTuple):
    """Which primary a session is on.

    Args:
        cluster: Its system_identifier, which all copies of one share.
        timeline: The timeline that it writes. A promotion gives a copy a higher one.
    """

    cluster: str
    timeline: int


def refuse_pooler(connection: Connection, conninfo: str) -> None:
    """Refuse a pooler that gives a session to the next client: that one would get our settings and our lock.

    Before anything is set; where a pooler keeps a session for its client, it is as good as none.

    Raises:
        StartupError: there is one.
    """
    if connection.info.backend_pid == _process_id(connection):
        return  # nobody stands between
    with psycopg.connect(conninfo, autocommit=True, connect_timeout=10) as other:
        for _ in range(POOLER_TRIES):
            if _process_id(connection) == _process_id(other):
                raise StartupError(
                    "a pooler stands between us and PostgreSQL: have `listen_url` lead past it"
                )


def _process_id(connection: Connection) -> object:
    ((process_id,),) = connection.execute("SELECT pg_catalog.pg_backend_pid()")
    return process_id


def begin_session(connection: Connection, settings: Mapping[str, str] = NO_SETTINGS) -> Primary | None:
    """Set all that a session of ours relies on, and have its statements know our schema as `@schema@`.

    It is one round trip. SET is a statement and no function: nobody can put another in its place.

    Args:
        connection: A new one, in autocommit mode.
        settings: What it has besides `SETTINGS` or other than these, as SQL writes it.

    Returns:
        The primary that it is on; None: PostgreSQL does not say.

    Raises:
        StartupError: the role's search path leads to no schema.
    """
    wanted = {**SETTINGS, **settings}
    if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
        wanted["transaction_timeout"] = "0"
    statements = [f"SET {name} = {value}" for name, value in wanted.items()]
    return _begin(connection, statements, [f"SET search_path = {SEARCH_PATH}"])


def begin_pooled_session(connection: Connection) -> Primary | None:
    """Do so behind a pooler, which gives each statement another session: what can be set is left to the role.

    Returns:
        The primary that the pooler has reached now; None: PostgreSQL does not say.

    Raises:
        StartupError: the role's search path leads to no schema.
    """
    return _begin(connection)


def is_standby(connection: Connection) -> bool:
    """Return whether a session is on a standby, as far as the server says so: PostgreSQL 14 and later do."""
    return connection.info.parameter_status("in_hot_standby") == "on"


def _begin(connection: Connection, before: Sequence[str] = (), after: Sequence[str] = ()) -> Primary | None:
    try:
        asked = "" if is_standby(connection) else f", {_READ_PRIMARY}"  # which it would refuse
        schema, *primary = _find(connection, [*before, _FIND_SCHEMA + asked, *after])
    except _NOT_SAID:
        schema, *primary = _find(connection, [*before, _FIND_SCHEMA, *after])
    if schema in (None, "pg_catalog"):  # as in a session that a pooler has had from another client
        raise StartupError("the search_path leads to no schema: see ALTER ROLE … SET search_path")
    if "$" in schema:  # which would end a dollar-quoted text that names it
        raise StartupError(f"the schema {schema} has a $ in its name: rename it")
    connection.cursor_factory = _cursor_for(schema)
    if not primary:
        return None
    cluster, timeline = primary
    return Primary(cluster, int(timeline, 16))


def _find(connection: Connection, statements: Sequence[str]) -> Row:
    cursor = connection.execute("; ".join(statements).encode(), prepare=False)
    while cursor.description is None:
        cursor.nextset()
    (row,) = cursor.fetchall()
    return row


def with_schema(connection: Connection, sql: bytes) -> bytes:
    """Return SQL with the name of a session's schema for `@schema@`."""
    cursors: Any = connection.cursor_factory
    return sql.replace(SCHEMA, cursors.schema)


@functools.cache
def _cursor_for(schema: str) -> type[psycopg.Cursor[Row]]:
    """Return the class of cursors that write a schema's name for `@schema@`."""
    name = b'"' + schema.encode().replace(b'"', b'""') + b'"'

    class Cursor(psycopg.Cursor[Row]):
        schema = name

        def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
            if isinstance(query, str):
                query = query.encode()
            if isinstance(query, bytes):  # where there are parameters, a % is doubled
                query = query.replace(SCHEMA, name if params is None else name.replace(b"%", b"%%"))
            return super().execute(query, params, **options)

    return Cursor
