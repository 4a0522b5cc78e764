"""Log lines on stderr, as text or as JSON: what happened, and to whom.

Each connection's tasks share a few fields, its number first, and each of their lines has them. What clients
send is in no line, nor a token. A failure that repeats is counted: what varies belongs into the fields. A
failure is a line from warning on, and what is logged with `extra={"repeats": True}`.
"""

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec

from trio_ws.settings import Settings

STDERR = 2
LINES = 10_000  # that wait to be written, some 2 MB; what comes then is lost, and counted
SUM_UP_SECONDS = 1.0
CLOSE_SECONDS = 1.0

MARGIN = "    | "  # before each line of an exception, which may quote what others sent
_PLAIN = re.compile(r"[\w.:/@%+-]+")
# C0, DEL, C1; what else ends a line or turns the direction of what follows (Unicode's Zl, Zp, bidi controls).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# Of the connection whose task this is: its number, and the account that its token names.
fields: ContextVar[dict[str, object]] = ContextVar("fields")


@contextmanager
def of(whose: dict[str, object]) -> Iterator[None]:
    """Have lines be about a connection, whichever task logs them."""
    token = fields.set(whose)
    try:
        yield
    finally:
        fields.reset(token)


class _Context(logging.Filter):
    """Puts the fields into each record, and what a line's `extra` says as `figures`."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.fields = {**fields.get({}), **vars(record).get("figures", {})}
        return True


class _TextFormatter(logging.Formatter):
    """A line for each record. What an exception says stands below, each line with a mark before it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        given = "".join(f" {name}={_word(value)}" for name, value in vars(record)["fields"].items())
        return _one_line(super().formatMessage(record) + given)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "\n".join(MARGIN + _one_line(line) for line in super().formatException(ei).split("\n"))


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
        return _one_line(msgspec.json.encode(line).decode())


def _word(value: object) -> str:
    """Return a field's value so that no other can follow it within it."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    """Write as an escape each character that ends a line, or moves what a terminal shows."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Failure(NamedTuple):
    """What makes two lines one failure that repeats."""

    logger: str
    level: int
    message: str
    exception: type[BaseException] | None


class Scribe(logging.Handler):
    """Writes lines from a thread of its own, so that a slow reader of stderr, or none at all, blocks nothing.

    A failure that repeats within `SUM_UP_SECONDS` is counted, and the count is said after that.

    Args:
        descriptor: The file that is written to.
        form: "text" or "json".
    """

    def __init__(self, descriptor: int, form: str) -> None:
        super().__init__()
        text = "%(asctime)s %(levelname)-7s [%(process)d] %(message)s"
        self.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter(text))
        self.addFilter(_Context())
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(LINES)
        self._counting = threading.Lock()
        self._repeats: dict[_Failure, int] = {}
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it; never wait."""
        may_repeat = record.levelno >= logging.WARNING or vars(record).get("repeats", False)
        if may_repeat and self._is_repeated(record):
            return
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            with self._counting:
                self._lost += 1

    def close(self) -> None:
        """Have what waits written, as far as that is done in `CLOSE_SECONDS`."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _is_repeated(self, record: logging.LogRecord) -> bool:
        exception = record.exc_info[0] if record.exc_info else None
        failure = _Failure(record.name, record.levelno, record.getMessage(), exception)
        with self._counting:
            known = self._repeats.get(failure)
            self._repeats[failure] = 0 if known is None else known + 1
        return known is not None

    def _write(self) -> None:
        due = time.monotonic() + SUM_UP_SECONDS
        line: str | None = ""
        while line is not None:
            try:
                line = self._lines.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                line = ""
            if line:
                self._write_line(line)
            if line is None or time.monotonic() >= due:
                self._sum_up()
                due = time.monotonic() + SUM_UP_SECONDS

    def _sum_up(self) -> None:
        with self._counting:
            repeats = {failure: times for failure, times in self._repeats.items() if times}
            self._repeats = dict.fromkeys(repeats, 0)  # what goes on is summed up again
            lost, self._lost = self._lost, 0
        for failure, times in repeats.items():
            self._say(failure.logger, failure.level, failure.message, repeated=times)
        if lost:
            self._say(__name__, logging.WARNING, "lines were lost, for nobody read them", lost=lost)

    def _say(self, logger: str, level: int, message: str, **figures: int) -> None:
        name = logging.getLevelName(level)
        said = {"name": logger, "levelno": level, "levelname": name, "msg": message, "fields": figures}
        self._write_line(self.format(logging.makeLogRecord(said)))

    def _write_line(self, line: str) -> None:
        data = (line + "\n").encode(errors="backslashreplace")
        with suppress(OSError):  # nobody reads it any more, and there is nobody else to tell
            while data:
                data = data[os.write(self._descriptor, data) :]


def configure_logs(settings: Settings) -> None:
    """Send this process's log to stderr, in the form and from the level that are set."""
    handler = Scribe(STDERR, settings.log_format)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # It logs each frame at debug level, contents included.
    logging.getLogger("trio-websocket").setLevel(logging.WARNING)
