"""Writes the page of all settings: `python -m tests.docs.configuration > trio_ws/docs/configuration.md`."""

import sys
from typing import Any

import msgspec

from trio_ws.settings import FIELDS, FIXED, schema

GROUPS = {
    "Where it listens": "host port workers tls_cert tls_key metrics_listen console",
    "The database": (
        "database_url listen_url log_url data_dir postgres_bindir migrate database_connections"
        " statement_seconds"
    ),
    "Who may come": "auth checkout authenticate_seconds origins trusted_proxies",
    "How many": "connections connections_per_address connections_per_second subscriptions",
    "What a client may send": (
        "head_bytes head_seconds message_bytes message_fragments control_frames_per_second"
        " requests_per_second requests_burst"
    ),
    "Slow and dead clients": "outbox_bytes write_seconds ping_seconds pong_seconds close_seconds",
    "The event log": "poll_seconds retention_seconds log_memory_bytes expiry_seconds",
    "Webhooks": (
        "webhooks webhook_private_addresses webhook_seconds webhook_answer_bytes webhook_retry_seconds"
        " webhook_history_seconds"
    ),
    "Stopping": "drain_seconds retry_spread_seconds",
    "The server's own log, and traces": "log_format log_level otel",
}

HEAD = """\
# Settings

A flag (`--port 9000`) beats the environment (`TRIO_WS_PORT=9000`), which beats the TOML file that `--config`
or `TRIO_WS_CONFIG` names (`port = 9000`), which beats the default. Every setting can stand in the environment
and in the file; `trio-ws serve --help` lists the flags. `trio-ws check-config` shows what is in force and
where it comes from, and `trio-ws check-config --schema` prints a JSON Schema of the file, for editors.

Where a setting may be `none`, that is the word for no limit, or for what stands beside it; 0 is never a word
for it. Times are in seconds, sizes in bytes. On SIGHUP the settings are read anew; those with a ↻ then hold
for clients that come from then on, the others need a new start.

For the settings of several PostgreSQL hosts see [Two PostgreSQLs](two-postgresqls.md), and for the number of
connections [Many servers](many-servers.md).

This page is made from the settings themselves, by `python -m tests.docs.configuration`.
"""


def page() -> str:
    """Return the page."""
    return HEAD + "".join(f"\n## {title}\n\n{_table(names.split())}" for title, names in GROUPS.items())


def _table(names: list[str]) -> str:
    rows = ["| setting | default | may be | | what it is |", "|---|---|---|---|---|"]
    for name in names:
        default = FIELDS[name].default
        shown = "none" if default is None else msgspec.json.encode(default).decode().strip('"')
        about = schema()["properties"][name]
        changes = "" if name in FIXED else "↻"
        rows.append(f"| `{name}` | {shown} | {_kinds(about)} | {changes} | {about['description']} |")
    return "\n".join(rows) + "\n"


def _kinds(about: dict[str, Any]) -> str:
    return ", or ".join(map(_kind, about.get("anyOf", [about])))


def _kind(kind: dict[str, Any]) -> str:
    if "const" in kind:
        return f"`{kind['const']}`"
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if kind["type"] not in ("integer", "number"):
        return {"boolean": "`true`, `false`", "array": "a list of texts", "string": "a text"}[kind["type"]]
    least = f"above {kind['exclusiveMinimum']}" if "exclusiveMinimum" in kind else f"{kind['minimum']}"
    what = "an integer, " if kind["type"] == "integer" else ""
    return f"{what}{least} to {kind['maximum']}"


if __name__ == "__main__":
    sys.stdout.write(page())
