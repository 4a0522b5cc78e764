"""What is counted and measured, for Prometheus: one registry a process, under names that stay.

Where something has a size at any moment, it is asked when Prometheus asks; nothing is counted for each frame.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

import trio_ws

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # what `generate_latest` makes

_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # s
_BATCHES = (1, 2, 5, 10, 25, 50, 100, 250, 500)

INFO = Gauge("trio_ws_info", "Which trio_ws this is.", ["version"], registry=REGISTRY)
INFO.labels(trio_ws.__version__).set(1)

CONNECTIONS = Gauge("trio_ws_connections", "Open WebSockets and event streams.", registry=REGISTRY)
HTTP_CONNECTIONS = Gauge(
    "trio_ws_http_connections", "Open connections with plain HTTP requests.", registry=REGISTRY
)
TASKS = Gauge("trio_ws_tasks", "Tasks of the event loop.", registry=REGISTRY)
SUBSCRIPTIONS = Gauge("trio_ws_subscriptions", "Subscriptions of all clients.", registry=REGISTRY)
PRICES = Gauge("trio_ws_prices", "Prices in memory.", registry=REGISTRY)
OUTBOX_BYTES = Gauge("trio_ws_outbox_bytes", "Bytes that wait for clients to read.", registry=REGISTRY)
OUTBOX_MOST = Gauge("trio_ws_outbox_max_bytes", "Bytes that wait for the slowest client.", registry=REGISTRY)
OPENED = Counter(
    "trio_ws_connections_opened", "WebSockets and event streams that were opened.", registry=REGISTRY
)
CLOSED = Counter(
    "trio_ws_connections_closed",
    "WebSockets and event streams that ended, by close code or reason.",
    ["code"],
    registry=REGISTRY,
)
REFUSED = Counter(
    "trio_ws_http_requests_rejected",
    "HTTP requests that were refused, by status.",
    ["status"],
    registry=REGISTRY,
)
TURNED_AWAY = Counter(
    "trio_ws_connections_rejected",
    "Connections refused over a limit, by limit.",
    ["limit"],
    registry=REGISTRY,
)

BUGS = Counter("trio_ws_unhandled_exceptions", "Unhandled exceptions; the log has them.", registry=REGISTRY)

AUTHENTICATIONS = Counter(
    "trio_ws_authentications",
    "Tokens that were checked for a client, by result: success or the error code.",
    ["code"],
    registry=REGISTRY,
)
TOKENS = Gauge("trio_ws_tokens", "Different tokens that open connections use.", registry=REGISTRY)

EVENTS_SENT = Counter("trio_ws_events_sent", "Events sent, counted for each client.", registry=REGISTRY)
CATCH_UPS = Counter(
    "trio_ws_catch_ups", "Slow clients that started to catch up from the log.", registry=REGISTRY
)
REPLAYS = Counter("trio_ws_replays", "Clients that resumed from an older position.", registry=REGISTRY)
LAG_NAME = "trio_ws_event_lag_seconds"
LAG = Histogram(
    LAG_NAME, "Time from a change to its event being sent.", buckets=_LATENCIES, registry=REGISTRY
)
LOG_POSITION = Gauge("trio_ws_log_position", "Number of the last event that was sent.", registry=REGISTRY)
LOG_FIRST = Gauge(
    "trio_ws_log_first_position", "Number of the first event that can be replayed.", registry=REGISTRY
)
LOG_AGE = Gauge(
    "trio_ws_log_read_age_seconds", "Seconds since the log was last read to its end.", registry=REGISTRY
)
LOG_RESTARTS = Counter(
    "trio_ws_log_restarts",
    "How often the event log was replaced, so that older positions are no longer valid.",
    registry=REGISTRY,
)
LOG_READS = Counter(
    "trio_ws_log_reads",
    "Reads of the event log that returned events, by server, with log_url.",
    ["server"],
    registry=REGISTRY,
)
LOG_BATCH = Histogram("trio_ws_log_batch_events", "Events of one read.", buckets=_BATCHES, registry=REGISTRY)

DATABASE_SECONDS = Histogram(
    "trio_ws_database_query_seconds",
    "Duration of queries, by name.",
    ["query"],
    buckets=_LATENCIES,
    registry=REGISTRY,
)
DATABASE_BATCH = Histogram(
    "trio_ws_database_batch_requests",
    "Requests in one batch, by query.",
    ["query"],
    buckets=_BATCHES,
    registry=REGISTRY,
)
DATABASE_WAIT = Histogram(
    "trio_ws_database_batch_wait_seconds",
    "How long the first request of a batch waited for the batch to be taken up, by query.",
    ["query"],
    buckets=_LATENCIES,
    registry=REGISTRY,
)
DATABASE_POOL_WAIT = Histogram(
    "trio_ws_database_pool_wait_seconds",
    "How long a query or a batch waited for a free connection, by lane.",
    ["lane"],
    buckets=_LATENCIES,
    registry=REGISTRY,
)
DATABASE_FAILURES = Counter(
    "trio_ws_database_failures", "Queries that failed, by name.", ["query"], registry=REGISTRY
)
DATABASE_CONNECTS = Counter(
    "trio_ws_database_connections_opened", "Connections opened to PostgreSQL.", registry=REGISTRY
)
DATABASE_STUCK = Gauge(
    "trio_ws_database_sessions_stuck",
    "Sessions that were cut off but still run in PostgreSQL, for example without a synchronous standby.",
    registry=REGISTRY,
)
PRIMARY = Gauge(
    "trio_ws_database_primary_info",
    "The primary that was connected to last; a fail-over changes the timeline.",
    ["system_identifier", "timeline"],
    registry=REGISTRY,
)
WEBHOOKS = Counter(
    "trio_ws_webhook_attempts", "Attempts to deliver a webhook, by result.", ["result"], registry=REGISTRY
)
WEBHOOK_SECONDS = Histogram(
    "trio_ws_webhook_attempt_seconds",
    "Duration of an attempt to deliver a webhook.",
    buckets=_LATENCIES,
    registry=REGISTRY,
)
WEBHOOK_ANSWERS = Counter(
    "trio_ws_webhook_responses",
    "Attempts to deliver a webhook, by the answer's class: 2xx to 5xx, or none.",
    ["status"],
    registry=REGISTRY,
)
WEBHOOKS_WAITING = Gauge(
    "trio_ws_webhooks_waiting",
    "Webhooks that wait to be delivered, of all processes, counted up to 100000.",
    registry=REGISTRY,
)
WEBHOOKS_OLDEST = Gauge(
    "trio_ws_webhooks_oldest_age_seconds",
    "How long the oldest of these webhooks has waited.",
    registry=REGISTRY,
)
WEBHOOKS_HELD = Gauge(
    "trio_ws_webhooks_held",
    "Webhooks queued by the database that this one is a copy of, counted up to 100000.",
    registry=REGISTRY,
)
WEBHOOK_ENDPOINTS_DEAD = Gauge(
    "trio_ws_webhook_endpoints_dead",
    "Dead endpoints of webhooks, of all processes.",
    registry=REGISTRY,
)
EXPIRED = Counter(
    "trio_ws_invoices_expired", "Overdue invoices that this process has expired.", registry=REGISTRY
)
BACKGROUND_FAILURES = Counter(
    "trio_ws_background_failures",
    "Background steps that failed and are tried again, by step.",
    ["step"],
    registry=REGISTRY,
)


class _Counted(Collector):
    """What is counted without the lock of a `Counter`, which is a tenth of what a `ping` costs.

    Args:
        name: As a `Counter` is given it.
        documentation: The same.
        labels: The names of its labels.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self.counts: dict[tuple[str, ...], int] = defaultdict(int)
        self._family = name, documentation, labels
        REGISTRY.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        name, documentation, labels = self._family
        family = CounterMetricFamily(name, documentation, labels=labels)
        for values, count in tuple(self.counts.items()):  # others count meanwhile
            family.add_metric(values, count)
        yield family


_requests = _Counted("trio_ws_requests", "Requests answered, by action and error code.", ["action", "code"])
_invoices = _Counted(
    "trio_ws_invoices",
    "Invoices that got a status, by that status, as this process reads it in the event log.",
    ["status"],
)


def count_request(action: str, code: str) -> None:
    """Count a request that was answered."""
    _requests.counts[action, code] += 1


def count_invoice(status: str) -> None:
    """Count an invoice that has got a status."""
    _invoices.counts[status,] += 1


# Of these the console draws the parts, too: by what they are labelled with.
PARTS = {
    "trio_ws_requests": "code",
    "trio_ws_connections_closed": "code",
    "trio_ws_http_requests_rejected": "status",
    "trio_ws_connections_rejected": "limit",
    "trio_ws_webhook_attempts": "result",
    LAG_NAME: "le",
    "trio_ws_database_query_seconds": "le",
    "trio_ws_database_pool_wait_seconds": "le",
}
# Of several processes, the largest: all say the same, or a sum would say nothing.
LARGEST = frozenset(
    {
        "process_start_time_seconds",
        "trio_ws_info",
        "trio_ws_invoices_total",
        "trio_ws_log_first_position",
        "trio_ws_log_position",
        "trio_ws_log_read_age_seconds",
        "trio_ws_outbox_max_bytes",
        "trio_ws_prices",
        "trio_ws_webhook_endpoints_dead",
        "trio_ws_webhooks_held",
        "trio_ws_webhooks_oldest_age_seconds",
        "trio_ws_webhooks_waiting",
    }
)


def figures() -> dict[str, float]:
    """Return all of it by name, each name summed over its labels: what the console draws.

    Of those in `PARTS` there are the parts, too, as `trio_ws_event_lag_seconds_bucket:0.001`.
    """
    found: dict[str, float] = defaultdict(float)
    for family in REGISTRY.collect():
        label = PARTS.get(family.name, "")
        for sample in family.samples:
            if label in sample.labels:
                found[f"{sample.name}:{sample.labels[label]}"] += sample.value
            if not sample.name.endswith(("_bucket", "_created")):
                found[sample.name] += sample.value
    return dict(found)


def together(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of several processes as one server's."""
    found: dict[str, float] = {}
    for name in sorted({name for part in parts for name in part}):
        values = [part[name] for part in parts if name in part]
        found[name] = max(values) if name in LARGEST else sum(values)
    return found


def page() -> bytes:
    """Return all of it as Prometheus reads it."""
    return generate_latest(REGISTRY)
