"""What commands take, and `check-config`, which shows what comes of it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import psycopg
from cyclopts import Parameter
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from trio_ws import settings
from trio_ws.settings import FIELDS, Settings, data_dir, load


def _words(kind: Any) -> tuple[str, ...]:
    """Return what a setting of some type may be, where that is one of some words."""
    if kind is NoneType:
        return ("none",)
    return get_args(kind) if get_origin(kind) is Literal else sum(map(_words, get_args(kind)), ())


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes; each is also a setting: `TRIO_WS_*`, or a line of the TOML file."""

    config: Annotated[Path | None, Parameter(help="TOML file with settings; also TRIO_WS_CONFIG.")] = None
    database_url: Annotated[
        str | None, Parameter(help="PostgreSQL 14 or later, as URL or conninfo. Default: an embedded one.")
    ] = None
    data_dir: Annotated[str | None, Parameter(help="Data directory of the embedded PostgreSQL.")] = None
    log_format: Annotated[
        str | None, Parameter(help="Format of log lines.", choices=_words(FIELDS["log_format"].type))
    ] = None
    log_level: Annotated[
        str | None, Parameter(help="Lowest level that is logged.", choices=_words(FIELDS["log_level"].type))
    ] = None

    def load(self) -> tuple[Settings, dict[str, str]]:
        """Return the settings in force, and where each comes from."""
        flags = {name: value for name, value in vars(self).items() if name in FIELDS}
        return load(flags, os.environ, self.config)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """What `serve` takes besides."""

    host: Annotated[str | None, Parameter(help="Address to listen on; *: all. Default: localhost.")] = None
    port: Annotated[str | None, Parameter(help="Port to listen on; 0: any free one. Default: 8080.")] = None
    auth: Annotated[
        str | None,
        Parameter(
            help="Who may connect: anybody, or who has a token. Default: open, on loopback.",
            choices=_words(FIELDS["auth"].type),
        ),
    ] = None
    checkout: Annotated[
        bool | None, Parameter(help="Let customers see an invoice without a token, also at /pay/UID.")
    ] = None
    tls_cert: Annotated[str | None, Parameter(help="PEM file of a certificate. Default: no TLS.")] = None
    tls_key: Annotated[str | None, Parameter(help="PEM file of its key. Default: in the same file.")] = None
    metrics_listen: Annotated[
        str | None, Parameter(help="HOST:PORT for /metrics. Default: the clients' port.")
    ] = None
    workers: Annotated[str | None, Parameter(help="Number of processes. Default: 1.")] = None
    migrate: Annotated[
        bool | None, Parameter(help="Migrate the schema at start, or refuse to start on an old one.")
    ] = None


NO_OPTIONS = Options()
NO_SERVE_OPTIONS = ServeOptions()

AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object per line.")]


def check_config(
    *,
    schema: Annotated[
        bool, Parameter(negative=(), help="Print the JSON Schema of the TOML file instead.")
    ] = False,
    as_json: AsJson = False,
    options: ServeOptions = NO_SERVE_OPTIONS,
) -> None:
    """Show the settings in force and where each comes from. Takes the options of `serve`."""
    if schema:
        print(json.dumps(settings.schema(), indent=2, ensure_ascii=False))
        return
    in_force, sources = options.load()
    shown = {name: getattr(in_force, name) for name in sources}
    shown["data_dir"] = str(data_dir(in_force))
    for name in ("database_url", "listen_url", "log_url"):
        shown[name] = _without_password(shown[name])
    for name, value in shown.items():
        if as_json:
            print(json.dumps({"name": name, "value": value, "source": sources[name]}, ensure_ascii=False))
            continue
        print(f"{name} = {json.dumps('none' if value is None else value)}  # {sources[name]}")


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
