"""Every setting: its default, its unit, and where its value came from.

A flag beats `TRIO_WS_*` in the environment, which beats the TOML file, which beats the default. An unknown
or impossible setting is refused in one line that names where it stands. A limit that may be lifted takes
the word `none`; 0 never means "no limit".
"""

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
import psycopg
from msgspec import Meta, Struct
from psycopg.conninfo import conninfo_to_dict

from trio_ws.errors import StartupError

PREFIX = "TRIO_WS_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"  # names the TOML file, so it can't stand in it
TOKEN_VARIABLE = f"{PREFIX}TOKEN"  # who a client is: no setting of the server's
URL_VARIABLE = f"{PREFIX}URL"  # where a client finds the server: none either
CONTEXT_VARIABLE = f"{PREFIX}CONTEXT"  # the same by a name
NO_SETTINGS = (CONFIG_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE, CONTEXT_VARIABLE)

# A URL in which one @ ends the user's name and password, so that nothing of these is taken for a host.
_URL_SCHEME = re.compile(r"\s*postgres(ql)?:", re.IGNORECASE)
_URL = re.compile(
    r"postgres(ql)?://(([^@:/?#%\s]|%[0-9A-Fa-f]{2})*(:([^@/?#%\s]|%[0-9A-Fa-f]{2})*)?@)?"
    r"([^@/?#\s])*(/([^@?#\s])*)?(\?[^@\s]*)?"
)

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1, le=2**31)]
Rate = Annotated[float, Meta(gt=0, le=2**31)]  # in one second
Seconds = Annotated[float, Meta(gt=0, le=86400)]


class Settings(Struct, frozen=True, kw_only=True):
    """The settings in force. What each is for stands beside it, for people and for the page of settings."""

    host: Annotated[
        str, Meta(description="address to listen on; `localhost`, `*` and `::` mean IPv4 and IPv6")
    ] = "localhost"
    port: Annotated[Port, Meta(description="port to listen on; 0 picks a free one")] = 8080
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=1024)], Meta(description="processes that share the port")
    ] = 1
    database_url: Annotated[
        str | None, Meta(description="PostgreSQL, as URL or conninfo; none: a private, embedded one")
    ] = None
    listen_url: Annotated[
        str | None,
        Meta(description="the same database without PgBouncer, for LISTEN; none: `database_url`"),
    ] = None
    log_url: Annotated[
        str | None,
        Meta(description="standby to read the event log from; none: `database_url`"),
    ] = None
    data_dir: Annotated[
        str | None,
        Meta(description="data directory of the embedded PostgreSQL; none: `trio-ws` in XDG_DATA_HOME"),
    ] = None
    postgres_bindir: Annotated[
        str | None, Meta(description="folder with PostgreSQL's programs; none: search for them")
    ] = None
    migrate: Annotated[
        bool,
        Meta(description="migrate the schema at start; false: refuse to start on an old one"),
    ] = True
    auth: Annotated[
        Literal["open", "token"] | None,
        Meta(description="`open` (no authentication) or `token`; none: `open` on loopback, else `token`"),
    ] = None
    origins: Annotated[
        tuple[str, ...],
        Meta(description="other origins whose pages may connect, besides the server's own host"),
    ] = ()
    tls_cert: Annotated[
        str | None, Meta(description="PEM file of the certificate and its chain; none: no TLS")
    ] = None
    tls_key: Annotated[
        str | None, Meta(description="PEM file of the private key; none: in the same file")
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="proxies (addresses or networks) whose `X-Forwarded-For` or `Forwarded` counts"),
    ] = ()
    metrics_listen: Annotated[
        Annotated[str, Meta(pattern=r"^.+:[0-9]{1,5}\Z")] | None,
        Meta(description="HOST:PORT for `/metrics`, off the clients' port; each next worker, the next port"),
    ] = None
    console: Annotated[bool, Meta(description="serve the web console at `/console`")] = True
    checkout: Annotated[
        bool, Meta(description="let customers see an invoice without a token, also at `/pay/UID`")
    ] = False
    otel: Annotated[
        bool, Meta(description="trace requests by OpenTelemetry; its variables `OTEL_*` say where to")
    ] = False
    log_format: Annotated[Literal["text", "json"], Meta(description="format of log lines")] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="lowest level that is logged")
    ] = "info"

    database_connections: Annotated[
        Count, Meta(description="database connections for queries, of each process")
    ] = 4
    statement_seconds: Annotated[
        Seconds, Meta(description="timeout of a query, and of waiting for a free connection")
    ] = 2.0
    poll_seconds: Annotated[
        Seconds, Meta(description="poll interval of the event log, if no notification comes")
    ] = 0.1
    expiry_seconds: Annotated[Seconds, Meta(description="poll interval for overdue invoices")] = 0.5

    retention_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=3155760000)] | None,
        Meta(description="how long events are kept, for clients that resume"),
    ] = 604800.0
    log_memory_bytes: Annotated[Count, Meta(description="memory for events, for clients that catch up")] = (
        33554432
    )

    connections: Annotated[Count | None, Meta(description="connections of one process")] = 10000
    connections_per_address: Annotated[
        Count | None, Meta(description="connections from one address; see `trusted_proxies`")
    ] = 1000
    connections_per_second: Annotated[Count | None, Meta(description="new connections a second")] = 1000
    head_bytes: Annotated[Count | None, Meta(description="longest HTTP request head")] = 32768
    webhooks: Annotated[
        bool, Meta(description="send webhooks; false: only queue them, for other processes to send")
    ] = True
    webhook_private_addresses: Annotated[
        bool, Meta(description="allow webhooks to private and loopback addresses")
    ] = False
    webhook_seconds: Annotated[Seconds, Meta(description="timeout of an attempt to deliver a webhook")] = 10.0
    webhook_answer_bytes: Annotated[Count, Meta(description="how much of a webhook's answer is read")] = 65536
    webhook_retry_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=31536000)], Meta(description="how long a webhook is tried again")
    ] = 259200.0
    webhook_history_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=3155760000)],
        Meta(description="how long delivered webhooks are kept; 0: not at all"),
    ] = 2592000.0

    head_seconds: Annotated[Seconds, Meta(description="time for a request head or body to arrive")] = 10.0
    authenticate_seconds: Annotated[
        Seconds | None, Meta(description="time for a client to authenticate, if a token is needed")
    ] = 10.0
    message_bytes: Annotated[Count | None, Meta(description="longest message or body from a client")] = 65536
    message_fragments: Annotated[
        Count | None, Meta(description="frames or chunks that a message may come in")
    ] = 128
    control_frames_per_second: Annotated[
        Count | None, Meta(description="pings and pongs from one client a second")
    ] = 20
    requests_per_second: Annotated[
        Rate | None, Meta(description="requests from one client a second; a long one counts as several")
    ] = 100.0
    requests_burst: Annotated[Count | None, Meta(description="requests from one client at once")] = 200
    subscriptions: Annotated[Count | None, Meta(description="topics that one connection may follow")] = 1000
    outbox_bytes: Annotated[Count, Meta(description="bytes that may wait for one client to read")] = 262144
    ping_seconds: Annotated[Seconds, Meta(description="interval between pings")] = 20.0
    pong_seconds: Annotated[Seconds, Meta(description="time for a pong to arrive")] = 10.0
    write_seconds: Annotated[Seconds, Meta(description="time for a client to read 16 KB")] = 15.0
    close_seconds: Annotated[Seconds, Meta(description="time for the closing handshake")] = 2.0
    drain_seconds: Annotated[Seconds, Meta(description="time to finish requests when the server stops")] = (
        25.0
    )
    retry_spread_seconds: Annotated[
        Seconds,
        Meta(description="period over which disconnected clients are spread when they reconnect"),
    ] = 10.0


# What a server that runs can't change: what it has opened, and what other parts took over at the start.
_FIXED = (
    "host port workers database_url listen_url log_url data_dir postgres_bindir migrate auth tls_cert tls_key"
    " metrics_listen console checkout otel log_format database_connections statement_seconds poll_seconds"
    " expiry_seconds retention_seconds log_memory_bytes webhooks webhook_private_addresses webhook_seconds"
    " webhook_answer_bytes webhook_retry_seconds webhook_history_seconds"
)
FIXED = frozenset(_FIXED.split())
FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


class Loaded(NamedTuple):
    """Settings, and for each the place that its value came from."""

    settings: Settings
    sources: dict[str, str]


class SettingsError(StartupError):
    """A setting is unknown or impossible; the message names it and where it stands."""


def load(flags: Mapping[str, object], environment: Mapping[str, str], config: Path | None = None) -> Loaded:
    """Return the settings in force.

    Args:
        flags: What was given on the command line; None: not given.
        environment: `os.environ`, of which `TRIO_WS_*` counts; an empty value is as good as none.
        config: The TOML file; None: the one that `TRIO_WS_CONFIG` names, if any.

    Raises:
        SettingsError: see there.
    """
    values: dict[str, object] = {}
    sources = dict.fromkeys(FIELDS, "default")
    for origin, name, value in (
        *_from_file(config or _path(environment.get(CONFIG_VARIABLE))),
        *_from_environment(environment),
        *((_flag(name, value), name, value) for name, value in flags.items()),
    ):
        if value is not None:
            values[name] = _convert(origin, name, value)
            sources[name] = origin
    return Loaded(Settings(**values), sources)  # type: ignore[arg-type] # each was converted above


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the TOML file: for editors, and for checks where no server is."""
    whole = msgspec.json.schema(Settings)["$defs"][Settings.__name__]
    properties = {name: _as_in_toml(found) for name, found in whole["properties"].items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "trio-ws settings",
        "description": "Settings of trio-ws, in the file of --config.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _as_in_toml(found: dict[str, Any]) -> dict[str, Any]:
    """Say what may stand in the file: TOML has no null, so it is the word `none`."""
    if found.get("default", "") is None:
        found["default"] = "none"
    kinds = found.get("anyOf", [])
    for kind in kinds:
        if kind.get("type") == "null":
            kind.clear()
            kind["const"] = "none"
    for kind in (found, *kinds):
        if "pattern" in kind:
            kind["pattern"] = kind["pattern"].replace(r"\Z", "$")
        if "enum" in kind:
            kind["enum"] = ["none" if value is None else value for value in kind["enum"]]
    return found


def reloaded(in_force: Settings, new: Settings) -> Settings:
    """Return what comes into force of new settings: those that can't be changed stay as they are."""
    return msgspec.structs.replace(new, **{name: getattr(in_force, name) for name in FIXED})


def data_dir(settings: Settings, environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the embedded PostgreSQL: the XDG base directory specification, or as set.

    Raises:
        SettingsError: there is no telling.
    """
    environment = os.environ if environment is None else environment
    home = environment.get("XDG_DATA_HOME") or "~/.local/share"
    try:
        return Path(settings.data_dir or f"{home}/trio-ws").expanduser().absolute()
    except RuntimeError:  # neither HOME nor an entry of ours in the list of users: a container's
        raise SettingsError("no home folder is known, so set --data-dir") from None


Given = tuple[str, str, object]  # where a value stands, the setting's name, the value


def _from_file(path: Path | None) -> list[Given]:
    if path is None:
        return []
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"can't read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    return [(f"{name} in {path}", _known(name, f"{path}"), value) for name, value in table.items()]


def _from_environment(environment: Mapping[str, str]) -> list[Given]:
    return [
        (
            variable,
            _known(variable.removeprefix(PREFIX).lower(), f"the environment ({variable})"),
            value,
        )
        for variable, value in environment.items()
        if variable.startswith(PREFIX) and variable not in NO_SETTINGS and value
    ]


def _known(name: str, place: str) -> str:
    if name not in FIELDS:
        known = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f": is it {known[0]}?" if known else ""
        raise SettingsError(f"unknown setting {name} in {place}{hint}")
    return name


def _convert(origin: str, name: str, value: object) -> object:
    if value == "none":
        value = None
    if isinstance(value, str) and get_origin(get_args(FIELDS[name].type)[0]) is tuple:
        value = [part.strip() for part in value.split(",")]
    try:
        converted = msgspec.convert(value, type=FIELDS[name].type, strict=False)
        if name == "trusted_proxies":
            for network in converted:
                ipaddress.ip_network(network, strict=False)
        if name in ("database_url", "listen_url", "log_url") and converted is not None:
            _check_conninfo(converted)
    except ValueError as error:  # msgspec.ValidationError is one
        raise SettingsError(f"{origin}: {error}") from None
    return converted


def _check_conninfo(conninfo: str) -> None:
    """Refuse what libpq would misread: its errors quote the text, and with it the password.

    Raises:
        ValueError: it is no conninfo; the message holds nothing of it.
    """
    if _URL_SCHEME.match(conninfo) and not _URL.fullmatch(conninfo):
        raise ValueError(
            "not a PostgreSQL URL: encode @ : / ? # % and spaces in a password, such as @ as %40"
        )
    try:
        conninfo_to_dict(conninfo)
    except (psycopg.Error, ValueError):
        raise ValueError("not a PostgreSQL conninfo (no details, as they may quote the password)") from None


def _flag(name: str, value: object) -> str:
    return ("--no-" if value is False else "--") + name.replace("_", "-")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
