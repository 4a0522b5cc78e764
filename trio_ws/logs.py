"""Log lines on stderr, as text or as JSON: what happened, and to whom.

Each connection's tasks share a few fields, its number first, and each of their lines has them. What clients
send is in no line, nor a token.
"""

import logging
import sys
from contextvars import ContextVar

import msgspec

from trio_ws.settings import Settings

# Of the connection whose task this is: its number, and the account that its token names.
fields: ContextVar[dict[str, object]] = ContextVar("fields")


class _Context(logging.Filter):
    """Puts the fields into each record, and what a line's `extra` says as `figures`."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.fields = {**fields.get({}), **vars(record).get("figures", {})}
        return True


class _TextFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        given = "".join(f" {name}={value}" for name, value in vars(record)["fields"].items())
        return super().formatMessage(record) + given


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **vars(record)["fields"],
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure_logs(settings: Settings) -> None:
    """Send this process's log to stderr, in the form and from the level that are set."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)-7s [%(process)d] %(message)s"))
    handler.addFilter(_Context())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # It logs each frame at debug level, contents included.
    logging.getLogger("trio-websocket").setLevel(logging.WARNING)
