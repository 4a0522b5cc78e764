"""`trio-ws top`: what a server that runs is doing, second by second."""

import http.client
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from cyclopts import Parameter
from cyclopts.types import PositiveFloat
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trio_ws.cli.measured import Change, Samples, parse, sparkline, together
from trio_ws.cli.target import NO_CREDENTIALS, Credentials, Place
from trio_ws.errors import StartupError
from trio_ws.settings import TOKEN_VARIABLE, SettingsError

PATIENCE_SECONDS = 3.0  # for an answer; a server that is well takes some milliseconds
HISTORY = 60  # points of a line
MOST_ROWS = 8  # of actions, codes and queries


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    measure: Callable[[Change], float | None]
    show: Callable[[float], str]


def _level(name: str) -> Callable[[Change], float]:
    return lambda change: change.level(name)


def _rate(name: str) -> Callable[[Change], float]:
    return lambda change: change.rate(name)


def _quantile(name: str, share: float) -> Callable[[Change], float | None]:
    return lambda change: change.quantile(name, share)


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _per_second(value: float) -> str:
    return f"{value:,.1f}/s"


def _milliseconds(value: float) -> str:
    return f"{value * 1000:,.1f} ms"


def _seconds(value: float) -> str:
    return f"{value:,.2f} s"


def _bytes(value: float) -> str:
    for unit in ("B", "KB", "MB"):
        if value < 1024:  # noqa: PLR2004 - of one unit in the next
            return f"{value:,.1f} {unit}" if unit != "B" else f"{value:,.0f} B"
        value /= 1024
    return f"{value:,.1f} GB"


def _percent(value: float) -> str:
    return f"{value * 100:.0f} %"


FIGURES = (
    Figure("connections", _level("trio_ws_connections"), _whole),
    Figure("  opened", _rate("trio_ws_connections_opened_total"), _per_second),
    Figure("  closed", _rate("trio_ws_connections_closed_total"), _per_second),
    Figure("topics followed", _level("trio_ws_subscriptions"), _whole),
    Figure("requests", _rate("trio_ws_requests_total"), _per_second),
    Figure("events sent", _rate("trio_ws_events_sent_total"), _per_second),
    Figure("event delay, p50", _quantile("trio_ws_event_lag_seconds", 0.5), _milliseconds),
    Figure("event delay, p99", _quantile("trio_ws_event_lag_seconds", 0.99), _milliseconds),
    Figure("waiting in outboxes", _level("trio_ws_outbox_bytes"), _bytes),
    Figure("  of the slowest", _level("trio_ws_outbox_max_bytes"), _bytes),
    Figure("fell behind", _rate("trio_ws_catch_ups_total"), _per_second),
    Figure("resumed", _rate("trio_ws_replays_total"), _per_second),
    Figure("position in the log", _level("trio_ws_log_position"), _whole),
    Figure("log last read", _level("trio_ws_log_read_age_seconds"), _seconds),
    Figure("memory", _level("process_resident_memory_bytes"), _bytes),
    Figure("processor", _rate("process_cpu_seconds_total"), _percent),
    Figure("file descriptors", _level("process_open_fds"), _whole),
    Figure("bugs", _level("trio_ws_unhandled_exceptions_total"), _whole),
)


def top(
    *urls: Annotated[
        str, Parameter(help="Servers to sum up. Default: TRIO_WS_URL, the context's or localhost:8080.")
    ],
    interval: Annotated[PositiveFloat, Parameter(help="Seconds between updates.")] = 1.0,
    once: Annotated[bool, Parameter(negative=(), help="Print one table and exit.")] = False,
    credentials: Credentials = NO_CREDENTIALS,
) -> None:
    """Show what a server is doing, live, until Ctrl-C. Prints one table if stdout is no terminal."""
    server = credentials.place(urls[0] if urls else None)
    places = [_place(url) for url in urls or (server.url,)]
    console = Console()
    view = View()
    with ThreadPoolExecutor(len(places)) as pool:
        looks = look(places, interval, Reader(server), pool)
        if once or not console.is_terminal:
            for _ in range(2):
                view.add(*next(looks))
            if not view.is_known:
                raise StartupError(f"{view.trouble}: is the server running, and is the URL right?")
            console.print(view.render(with_lines=False))
            return
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                for found in looks:
                    view.add(*found)
                    live.update(view.render(), refresh=True)
        except KeyboardInterrupt:  # as it is meant to end
            sys.exit(0)


def _place(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{url!r} is no http:// or https:// URL")
    return parts._replace(scheme=scheme, path=parts.path.rstrip("/") or "/metrics").geturl()


Look = tuple[Samples | None, float, str]  # what was measured, when (s), and what went wrong
Read = Callable[[str], Samples | str]  # of a place: what it measures, or what went wrong


def look(places: list[str], interval: float, read: Read, pool: ThreadPoolExecutor) -> Iterator[Look]:
    """Yield what is measured, over and over, at equal pauses."""
    due = time.monotonic()
    while True:
        found, troubles = [], []
        for place, answer in zip(places, pool.map(read, places), strict=True):
            if isinstance(answer, str):
                troubles.append(f"{place} {answer}")
            else:
                found.append(answer)
        # A sum that lacks a part would be another figure.
        yield None if troubles else together(found), time.monotonic(), "; ".join(troubles)
        now = time.monotonic()
        due = max(due + interval, now)
        time.sleep(due - now)


class Reader:
    """Asks servers for their figures.

    Args:
        server: Who we are there, and which certificates are trusted.
    """

    def __init__(self, server: Place) -> None:
        self._token = server.token
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # a server is asked itself
            urllib.request.HTTPSHandler(context=server.tls()),
        )

    def __call__(self, place: str) -> Samples | str:
        """Return what a server measures, or what went wrong."""
        request = urllib.request.Request(place)  # noqa: S310 - `_place` lets http and https by
        if self._token is not None:  # elsewhere it is nobody's business
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=PATIENCE_SECONDS) as answer:
                return parse(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.UNAUTHORIZED:
                return f"asks for a token, as {TOKEN_VARIABLE} may hold"
            return f"answers {error.code}"
        except (OSError, http.client.HTTPException) as error:
            return f"can't be reached ({getattr(error, 'reason', None) or error})"
        except ValueError:
            return "shows no measurements"


class View:
    """What is shown: figures with their last minute, and tables of what is most."""

    def __init__(self) -> None:
        self.trouble = ""
        self._lines: dict[str, deque[float | None]] = {
            figure.name: deque(maxlen=HISTORY) for figure in FIGURES
        }
        self._last: tuple[Samples, float] | None = None
        self._change: Change | None = None

    @property
    def is_known(self) -> bool:
        """Whether there are figures."""
        return self._change is not None

    def add(self, samples: Samples | None, at: float, trouble: str) -> None:
        """Take one look."""
        self.trouble = trouble
        before, self._last = self._last, None if samples is None else (samples, at)
        if samples is None:
            for line in self._lines.values():
                line.append(None)
        elif before is not None:
            self._change = Change(before[0], samples, at - before[1])
            for figure in FIGURES:
                self._lines[figure.name].append(figure.measure(self._change))

    def render(self, *, with_lines: bool = True) -> RenderableType:
        """Return it, drawn."""
        parts: list[RenderableType] = []
        if self.trouble:
            parts.append(Text(f"{self.trouble}; trying on", style="bold red"))
        if self._change is None:
            return Group(*parts, Text("looking"))
        change = self._change
        figures = Table.grid(padding=(0, 2))
        for figure in FIGURES:
            value = figure.measure(change)
            shown = Text("–" if value is None else figure.show(value), justify="right")
            row: list[str | Text] = [figure.name, shown]
            if with_lines:
                row.append(Text(sparkline(self._lines[figure.name]), style="cyan"))
            figures.add_row(*row)
        parts += [figures, self._actions(change), self._queries(change)]
        return Group(*parts)

    @staticmethod
    def _actions(change: Change) -> RenderableType:
        table = _table("action", "a second")
        for action, rate in list(change.rates("trio_ws_requests_total", "action").items())[:MOST_ROWS]:
            table.add_row(action, _per_second(rate))
        codes = {
            code: rate
            for code, rate in change.rates("trio_ws_requests_total", "code").items()
            if code != "success"
        }
        for code, rate in list(codes.items())[:MOST_ROWS]:
            table.add_row(Text(code, style="red"), _per_second(rate))
        return table if table.row_count else Text("")

    @staticmethod
    def _queries(change: Change) -> RenderableType:
        table = _table("query", "a second", "p50", "p99")
        name = "trio_ws_database_query_seconds"
        for query, rate in list(change.rates(f"{name}_count", "query").items())[:MOST_ROWS]:
            table.add_row(
                query, _per_second(rate), *(_time(change, name, share, query) for share in (0.5, 0.99))
            )
        return table if table.row_count else Text("")


def _time(change: Change, name: str, share: float, query: str) -> str:
    seconds = change.quantile(name, share, query=query)
    return "–" if seconds is None else _milliseconds(seconds)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
