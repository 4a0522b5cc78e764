"""Traces of a real server, as a collector gets them by OTLP over HTTP."""

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests import clusters
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, SERVE, Server, call, running, workers_of
from tests.end_to_end.test_workers import wait_until
from trio_ws.tracing import FLUSH_SECONDS

Values = dict[str, str | int | float]


def values(attributes: list[KeyValue]) -> Values:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}


class Collector:
    """Takes what is exported to it.

    Attributes:
        exports: For each, what it says of its process, and its spans.
        paths: Where they were sent.
        is_stuck: While set, it does not answer.
    """

    def __init__(self) -> None:
        self.exports: list[tuple[Values, list[Span]]] = []
        self.paths: set[str] = set()
        self.goes_on = threading.Event()
        self.goes_on.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                collector.paths.add(self.path)
                collector.goes_on.wait(2 * PATIENCE_SECONDS)
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for part in request.resource_spans:
            spans = [span for scope in part.scope_spans for span in scope.spans]
            self.exports.append((values(list(part.resource.attributes)), spans))

    def spans(self) -> list[Span]:
        return [span for _, spans in list(self.exports) for span in spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.goes_on.set()
    collector.server.shutdown()
    thread.join(PATIENCE_SECONDS)
    collector.server.server_close()


@contextmanager
def traced(collector: Collector, data_dir: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    environment = {"TRIO_WS_OTEL": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **variables}
    command = [*SERVE, "--port", "0", "--data-dir", str(clusters.copy_to(data_dir)), *arguments]
    with running(command, data_dir, environment) as server:
        yield server


def test_what_is_left_is_exported_at_the_end_with_what_postgresql_took(
    collector: Collector, tmp_path: Path
) -> None:
    with traced(collector, tmp_path, OTEL_SERVICE_NAME="till", OTEL_BSP_SCHEDULE_DELAY="60000") as server:
        with server.connect() as client:
            assert call(client, **INVOICE)["status"] == "success"
            assert call(client, action="list_invoices", account_id=1)["status"] == "success"
        assert collector.exports == []
        assert server.stop() == 0
    assert collector.paths == {"/v1/traces"}
    resource, _ = collector.exports[0]
    assert (resource["service.name"], resource["trio_ws.worker"]) == ("till", 1)
    actions = {span.name: span for span in collector.spans() if span.kind == Span.SPAN_KIND_SERVER}
    queries = {span.name: span for span in collector.spans() if span.kind == Span.SPAN_KIND_CLIENT}
    assert set(actions) == set(queries) == {"create_invoice", "list_invoices"}
    for name, query in queries.items():
        assert query.parent_span_id == actions[name].span_id
        took = values(list(query.attributes))
        parts = (
            ["batch_wait", "connection_wait", "run"]
            if name == "create_invoice"
            else ["connection_wait", "run"]
        )
        spent = [float(took[f"trio_ws.database.{part}_seconds"]) for part in parts]
        assert min(spent) >= 0
        assert sum(spent) <= (query.end_time_unix_nano - query.start_time_unix_nano) / 1e9 + 0.05
        assert spent[-1] > 0
        assert ("trio_ws.database.batch_wait_seconds" in took) == (name == "create_invoice")


def test_each_worker_is_an_instance_of_its_own(collector: Collector, tmp_path: Path) -> None:
    with traced(collector, tmp_path, "--workers", "2", OTEL_BSP_SCHEDULE_DELAY="50") as server:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(instances := {one["service.instance.id"] for one, _ in list(collector.exports)}) < 2:
            assert time.monotonic() < deadline, instances
            with server.connect() as client:
                call(client, action="ping")
        resources = [resource for resource, _ in list(collector.exports)]
        assert {resource["process.pid"] for resource in resources} == workers_of(server)
        assert {resource["trio_ws.worker"] for resource in resources} == {1, 2}
        assert {resource["service.name"] for resource in resources} == {"trio-ws"}
        assert server.stop() == 0


def test_a_collector_that_hangs_delays_neither_replies_nor_the_end(
    collector: Collector, tmp_path: Path
) -> None:
    collector.goes_on.clear()
    with traced(collector, tmp_path, OTEL_BSP_SCHEDULE_DELAY="1") as server:
        with server.connect() as client:
            call(client, action="ping")
            wait_until("an export", lambda: bool(collector.paths))
            for _ in range(20):
                call(client, action="ping")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < FLUSH_SECONDS + PATIENCE_SECONDS / 2
    assert not [line for line in server.log() if "Traceback" in line]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1", "can't set up OpenTelemetry"),
    ],
)
def test_wrong_variables_are_one_line(tmp_path: Path, variable: str, value: str, said: str) -> None:
    data_dir = clusters.copy_to(tmp_path)
    done = subprocess.run(
        [*SERVE, "--port", "0", "--data-dir", str(data_dir)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={"PATH": "/usr/bin:/bin", "TRIO_WS_OTEL": "true", variable: value},
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; from trio_ws.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--port", "0", "--data-dir", str(tmp_path / "data")],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={"PATH": "/usr/bin:/bin", "TRIO_WS_OTEL": "true"},
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip install 'trio-ws[otel]'" in line
    assert not (tmp_path / "data").exists(), "before anything is started"
