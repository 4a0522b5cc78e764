"""`trio-ws doctor`: checks what a server needs, one thing after the other, and says what to fix.

It changes nothing: it makes no folder, starts no PostgreSQL and migrates no schema. Each check has a
deadline, so the command ends whatever is broken.
"""

import http.client
import ipaddress
import json
import os
import platform
import resource
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import psycopg
from rich.console import Console
from rich.text import Text

import trio_ws
from trio_ws.cli.database import MORE_SESSIONS, sessions_of
from trio_ws.cli.options import NO_SERVE_OPTIONS, AsJson, ServeOptions
from trio_ws.cli.sockets import EVERYWHERE, PortTaken, bind
from trio_ws.database import embedded, migrations, programs
from trio_ws.database.sessions import ENCODING, Connection, begin_session, refuse_pooler
from trio_ws.errors import StartupError
from trio_ws.settings import Settings, data_dir

DEADLINE_SECONDS = 3  # for each check
SPARE_DESCRIPTORS = 256  # as `serve` reckons
CONNECTION_BYTES = 40 * 1024  # an idle client with what it may use of the kernel; docs/operating.md
FREE_BYTES = 1 << 30  # a WAL and a log that grow need room
CLOCK_SECONDS = 1.0  # apart; expiry goes by the database's clock, a token's too
CERTIFICATE_DAYS = 14
UNNUMBERED_EVENTS = 10_000  # a busy second's

State = Literal["ok", "warn", "fail"]
COLOURS: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        state: Whether the check passed.
        what: What was checked.
        found: The result.
        advice: What to do, if it did not pass.
    """

    state: State
    what: str
    found: str
    advice: str = ""


def doctor(*, as_json: AsJson = False, options: ServeOptions = NO_SERVE_OPTIONS) -> None:
    """Check what a server needs, and say what to fix. Takes the options of `serve`.

    It changes nothing. The exit status is 1 if a check fails.
    """
    settings, _ = options.load()
    console = Console(highlight=False, soft_wrap=True)
    states = set()
    for finding in examine(settings):
        states.add(finding.state)
        if as_json:
            print(json.dumps(finding._asdict(), ensure_ascii=False), flush=True)
        else:
            console.print(_line(finding))
    if "fail" in states:
        sys.exit(1)


def _line(finding: Finding) -> Text:
    line = Text.assemble((f"{finding.state:5}", COLOURS[finding.state]), f"{finding.what}: {finding.found}")
    return line.append(f": {finding.advice}") if finding.advice else line


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what each check finds, as it does."""
    for check in (_versions, _port, _access, _certificate, _descriptors, _memory):
        yield from check(settings)
    conninfo = settings.database_url or embedded.running_conninfo(data_dir(settings))
    if conninfo is None:
        yield from _embedded(settings)
        return
    direct = settings.listen_url or conninfo  # a pooler would keep what is set for a session
    try:
        _connect(conninfo).close()
        connection = _connect(direct)
        refuse_pooler(connection, direct)
        begin_session(connection, {"statement_timeout": f"'{DEADLINE_SECONDS}s'"})
    except psycopg.Error as error:
        yield Finding("fail", "database", f"can't be reached ({_reason(error)})", migrations.ADVICE)
        return
    except StartupError as error:
        yield Finding("fail", "database", str(error))
        return
    with connection:
        yield from _schema(direct)
        for question in (_server, _room, _clock, _triggers, _log, _webhooks):
            try:
                yield from question(settings, connection)
            except psycopg.errors.UndefinedTable:
                pass  # The schema is not up to date, as was said above.
            except psycopg.Error as error:
                yield Finding(
                    "fail", "database", f"query failed ({_reason(error)})", "fix it in the database"
                )
    yield from _notifications(direct, conninfo)


# This machine


def _versions(_: Settings) -> Iterator[Finding]:
    yield Finding("ok", "versions", f"trio-ws {trio_ws.__version__}, Python {platform.python_version()}")


def _port(settings: Settings) -> Iterator[Finding]:
    where = f"{settings.host} port {settings.port}"
    try:
        for opened in bind(settings):
            opened.close()
    except PortTaken:
        pass  # perhaps by one of ours
    except StartupError as error:
        yield Finding("fail", "port", str(error), "choose another")
        return
    else:
        yield Finding("ok", "port", f"{where} is free")
        return
    ready = _ask(settings, "/readyz")
    if ready is None or _ask(settings, "/healthz") != "ok":
        yield Finding(
            "fail", "port", f"{where} is used by another program", "stop it, or choose another port"
        )
    elif ready == "ok":
        yield Finding("ok", "port", f"trio-ws runs on {where}")
    else:
        yield Finding("warn", "port", f"trio-ws runs on {where}, but is not ready", ready)


def _access(settings: Settings) -> Iterator[Finding]:
    """See whether a server without tokens could be reached from elsewhere."""
    if settings.auth == "open" and not _is_loopback(settings.host):
        found = f"any client that can reach {settings.host} may do everything"
        yield Finding("warn", "access", found, "set auth to token, or listen on localhost")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, or all of them
        return False


def _ask(settings: Settings, path: str) -> str | None:
    """Return what a page of a server says that may be there already."""
    host = "localhost" if settings.host in ("*", *EVERYWHERE) else settings.host
    if settings.tls_cert is None:
        connection = http.client.HTTPConnection(host, settings.port, timeout=DEADLINE_SECONDS)
    else:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is on this machine
        connection = http.client.HTTPSConnection(
            host, settings.port, timeout=DEADLINE_SECONDS, context=context
        )
    try:
        connection.request("GET", path)
        return connection.getresponse().read(1000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _certificate(settings: Settings) -> Iterator[Finding]:
    if settings.tls_cert is None:
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        decoded = ssl._ssl._test_decode_cert(settings.tls_cert)  # type: ignore[attr-defined] # noqa: SLF001
    except OSError as error:  # ssl.SSLError is one
        yield Finding("fail", "TLS", f"can't use {settings.tls_cert} ({error})", "check tls_cert and tls_key")
        return
    days = (ssl.cert_time_to_seconds(decoded["notAfter"]) - time.time()) / 86400
    state: State = "ok" if days > CERTIFICATE_DAYS else "warn" if days > 0 else "fail"
    advice = "" if state == "ok" else "renew it, and send SIGHUP"
    found = f"expires in {days:.0f} days" if days > 0 else f"expired {-days:.0f} days ago"
    yield Finding(state, "TLS", f"the certificate {found}", advice)


def _descriptors(settings: Settings) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = "any number" if hard == resource.RLIM_INFINITY else str(hard)
    wanted = None if settings.connections is None else settings.connections + SPARE_DESCRIPTORS
    found = f"{allowed} allowed, for {settings.connections or 'any number of'} connections"
    if hard != resource.RLIM_INFINITY and (wanted is None or hard < wanted):
        advice = "raise LimitNOFILE or `ulimit -Hn`, or lower `connections`"
        yield Finding("warn", "file descriptors", found, advice)
    else:
        yield Finding("ok", "file descriptors", found)


def _memory(settings: Settings) -> Iterator[Finding]:
    if settings.connections is None:
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = settings.workers * settings.connections * CONNECTION_BYTES
    found = f"{there >> 20} MB, of which clients may need {wanted >> 20} MB"
    if wanted > there:
        yield Finding("warn", "memory", found, "lower `connections`")
    else:
        yield Finding("ok", "memory", found)


def _embedded(settings: Settings) -> Iterator[Finding]:
    folder = data_dir(settings)
    try:
        found = Path(settings.postgres_bindir) if settings.postgres_bindir else programs.find()
    except StartupError as error:
        yield Finding("fail", "database", "the embedded PostgreSQL can't start", str(error))
        return
    yield Finding("ok", "database", f"embedded PostgreSQL from {found}, starts with the server")
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding("fail", "data folder", f"{place} is not writable", "choose another --data-dir")
        return
    if (other := _other_version(folder, found)) is not None:
        yield other
        return
    free = shutil.disk_usage(place).free
    state: State = "ok" if free >= FREE_BYTES else "warn" if free else "fail"
    advice = "" if state == "ok" else "free disk space: PostgreSQL stops without it"
    yield Finding(state, "data folder", f"{folder}, {free >> 20} MB free", advice)


def _other_version(folder: Path, programs_folder: Path) -> Finding | None:
    """See whether the folder was made by another major version, which these programs can't read."""
    cluster = embedded.cluster_of(folder)
    if not (cluster / "PG_VERSION").exists():
        return None
    command = [str(programs_folder / "postgres"), "--version"]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    if (other := embedded.other_version(cluster, said)) is None:
        return None
    found = f"made by PostgreSQL {other.made_by}, not {other.found}"
    return Finding("fail", "data folder", found, other.advice)


# The database


def _connect(conninfo: str) -> Connection:
    return psycopg.connect(
        conninfo, autocommit=True, connect_timeout=DEADLINE_SECONDS, client_encoding=ENCODING
    )


def _reason(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _row(connection: Connection, query: str) -> tuple[object, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None  # noqa: S101 - each of these returns one
    return row


def _server(_: Settings, connection: Connection) -> Iterator[Finding]:
    version = connection.info.parameter_status("server_version")
    if connection.info.server_version < migrations.MINIMUM_POSTGRESQL * 10000:
        advice = f"{migrations.MINIMUM_POSTGRESQL} or later is needed"
        yield Finding("fail", "database", f"PostgreSQL {version} is too old", advice)
    else:
        yield Finding("ok", "database", f"PostgreSQL {version} answers")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        yield Finding("fail", "encoding", f"{encoding}", "create the database with ENCODING 'UTF8'")
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        (value,) = _row(connection, f"SHOW {name}")
        if value == "off":
            yield Finding("warn", name, "off", "turn it on: else a machine crash loses acknowledged writes")


def _schema(conninfo: str) -> Iterator[Finding]:
    try:
        migrations.require_migrated(conninfo)
    except StartupError as error:
        yield Finding("warn" if "lacks" in str(error) else "fail", "schema", str(error))
    else:
        yield Finding("ok", "schema", f"at version {migrations.known_migrations()[-1].version}, the newest")
        if revoke := migrations.others_may_create(conninfo):
            yield Finding(
                "warn", "privileges", "other roles may create functions and tables in our schema", revoke
            )


def _room(settings: Settings, connection: Connection) -> Iterator[Finding]:
    room = sessions_of(settings, connection)
    found = (
        f"{room.allowed} allowed, {room.used} in use; a server with these settings opens up to {room.wanted}"
    )
    if room.wanted > room.allowed:
        yield Finding("fail", "sessions", found, MORE_SESSIONS)
    else:
        yield Finding("ok", "sessions", found)


def _clock(_: Settings, connection: Connection) -> Iterator[Finding]:
    before = time.time()
    (there,) = _row(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    after = time.time()
    apart = max(before - float(str(there)), float(str(there)) - after, 0.0)
    if apart > CLOCK_SECONDS:
        advice = "use NTP on both: invoices and tokens expire by the database's clock"
        yield Finding("warn", "clock", f"{apart:.1f} s apart from the database's", advice)
    else:
        yield Finding("ok", "clock", f"within {max(apart, after - before):.3f} s of the database's")


# As they were made: see the schema's 0013, and 0016 for payments.
_TRIGGERS = (
    "SELECT format('ALTER TABLE %s ENABLE %sTRIGGER %I', tgrelid::regclass, wanted, tgname),"
    " tgenabled = 'D' FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid CROSS JOIN LATERAL (SELECT CASE"
    " tgname WHEN 'log_new' THEN '' WHEN 'follow_new' THEN '' WHEN 'follow_changed' THEN ''"
    " WHEN 'log_copy' THEN 'REPLICA ' ELSE 'ALWAYS ' END AS wanted) it"
    " WHERE NOT tgisinternal AND pronamespace = to_regnamespace($schema$@schema@$schema$)"
    " AND tgenabled::text <> CASE wanted WHEN '' THEN 'O' WHEN 'REPLICA ' THEN 'R' ELSE 'A' END"
    " AND EXISTS (SELECT FROM @schema@.schema_migrations WHERE version >= 13)"
    " ORDER BY tgrelid, tgname"
)


def _triggers(_: Settings, connection: Connection) -> Iterator[Finding]:
    """See whether a tool for loading data has left triggers otherwise than they were made."""
    found = connection.execute(_TRIGGERS).fetchall()
    if found:
        disabled = sum(is_disabled for _, is_disabled in found)
        changed = f"{len(found)} have a changed state, {disabled} of them disabled"
        yield Finding(
            "fail" if disabled else "warn",
            "triggers",
            changed,
            "; ".join(statement for statement, _ in found),
        )


def _log(_: Settings, connection: Connection) -> Iterator[Finding]:
    first, last, waiting, age, size = _row(
        connection,
        "SELECT first, last, (SELECT count(*) FROM @schema@.event WHERE seq IS NULL),"
        " (SELECT extract(epoch FROM clock_timestamp() - at) FROM @schema@.event WHERE seq >= first"
        "  ORDER BY seq LIMIT 1)::float8,"
        " pg_size_pretty(pg_total_relation_size($schema$@schema@.event$schema$)) FROM @schema@.event_end",
    )
    oldest = "" if age is None else f", the oldest {float(str(age)) / 3600:.1f} h old"
    found = f"events {first} to {last}{oldest}, {size}"
    if int(str(waiting)) > UNNUMBERED_EVENTS:
        yield Finding("warn", "event log", f"{found}; {waiting} not sent yet", "is a server running?")
    else:
        yield Finding("ok", "event log", f"{found}; {waiting} not sent yet")


def _webhooks(settings: Settings, connection: Connection) -> Iterator[Finding]:
    (dead,) = _row(connection, "SELECT count(paused_until) FROM @schema@.webhook_endpoints")
    waiting, failed, held = _row(
        connection,
        "SELECT count(*) FILTER (WHERE failed_at IS NULL AND origin = here),"
        " count(*) FILTER (WHERE failed_at IS NOT NULL AND NOT is_held),"
        " count(*) FILTER (WHERE is_held OR failed_at IS NULL AND origin <> here)"
        " FROM @schema@.webhook_deliveries, @schema@.this_database() here",
    )
    silent = "" if settings.webhooks else "; this server sends none"
    if held:
        advice = "this is a copy of it: to send them from here, run `trio-ws webhooks release`"
        yield Finding("warn", "held webhooks", f"{held} that another database has queued", advice)
    if failed or dead:
        advice = "see `trio-ws webhooks list`, and retry them when their receivers work again"
        found = f"{waiting} waiting, {failed} failed, {dead} dead endpoints{silent}"
        yield Finding("warn", "webhooks", found, advice)
    else:
        yield Finding("ok", "webhooks", f"{waiting} waiting, none failed{silent}")


def _notifications(direct: str, conninfo: str) -> Iterator[Finding]:
    """See whether notifications arrive: a pool that hands a session to others loses them."""
    try:
        with _connect(direct) as listening, _connect(conninfo) as other:
            listening.execute("LISTEN trio_ws_doctor")
            other.execute("NOTIFY trio_ws_doctor")
            came = any(listening.notifies(timeout=DEADLINE_SECONDS, stop_after=1))
    except psycopg.Error as error:
        yield Finding(
            "warn", "LISTEN", f"can't be tested ({_reason(error)})", "events are delivered by polling only"
        )
        return
    if came:
        yield Finding("ok", "LISTEN", "notifications arrive")
    else:
        advice = (
            "set listen_url to PostgreSQL itself, past the pool: until then, events are delivered by polling"
        )
        yield Finding("warn", "LISTEN", "notifications do not arrive", advice)
