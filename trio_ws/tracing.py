"""Traces of requests, for OpenTelemetry: a span for each action, and one below it for each of its queries.

Where traces are off, nothing imports this, and nothing asks whether they are on: `Tracing.parts` are classes
that take the place of those that they extend. Spans are exported by a thread of OpenTelemetry's.
"""

import os
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import trio
from opentelemetry.context import attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import trio_ws
from trio_ws.actions.table import Request
from trio_ws.connection import Parts
from trio_ws.database.gateway import Database, Wake
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.database.tickets import Ticket, Timing
from trio_ws.database.timing import seconds, timed
from trio_ws.errors import ActionError, StartupError
from trio_ws.http.actions import ActionRequest, Actions, PlainRequest
from trio_ws.http.events import EventStream
from trio_ws.http.pages import Page
from trio_ws.messages import Failure, Reply
from trio_ws.websocket import WebSocket
from trio_ws.wire.head import Head

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

PROTOCOL_VARIABLE = "OTEL_EXPORTER_OTLP_PROTOCOL"
PROTOCOL = "http/protobuf"  # the only one that we bring an exporter for
FLUSH_SECONDS = 2.0  # at the end, for what was not exported yet; less than a worker has to stop

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Makes spans, of one process.

    Args:
        provider: Where they go.

    Attributes:
        parts: What a server is made of that traces.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        tracer = provider.get_tracer("trio_ws", trio_ws.__version__)
        self.parts = Parts(
            database=partial(_Database, tracer),
            actions=partial(_Actions, _traced(ActionRequest, "http", tracer)),
            events=partial(_EventStream, _traced(PlainRequest, "http", tracer)),
            websocket=partial(_WebSocket, _traced(Request, "websocket", tracer)),
        )

    async def close(self) -> None:
        """Export what is left, as far as there is time."""
        with trio.move_on_after(FLUSH_SECONDS, shield=True):
            await trio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)


def open_tracing(worker: int) -> Tracing:
    """Return what exports over HTTP, as the variables of OpenTelemetry say: `OTEL_*`.

    Args:
        worker: Which of several processes this is, from 1.

    Raises:
        StartupError: they are wrong.
    """
    if (protocol := os.environ.get(PROTOCOL_VARIABLE, PROTOCOL)) != PROTOCOL:
        raise StartupError(f"{PROTOCOL_VARIABLE} is {protocol}, and traces are only sent by {PROTOCOL}")
    try:
        ours: dict[str, str | int] = {
            "service.name": "trio-ws",
            "service.version": trio_ws.__version__,
            "service.instance.id": str(uuid.uuid4()),
            "process.pid": os.getpid(),
            "trio_ws.worker": worker,
        }
        said = OTELResourceDetector().detect()  # what the variables say goes before ours
        resource = Resource.create(ours).merge(said)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # that would have no deadline
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except Exception as error:  # noqa: BLE001 - whatever it is, a variable says it
        raise StartupError(f"can't set up OpenTelemetry, see the variables OTEL_*: {error}") from None
    return Tracing(provider)


def _traced(kind: type[Request], transport: str, tracer: Tracer) -> type[Any]:
    """Return requests of a kind that are spans."""

    class Traced(kind):  # type: ignore[misc, valid-type] # which kind is known when it is called
        __slots__ = ("_span",)

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            name = "unknown" if self._action is None else self.row.name
            attributes = {"trio_ws.transport": transport}
            self._span = tracer.start_span(name, kind=SpanKind.SERVER, attributes=attributes)

        def begin(self) -> bytes | Ticket[Reply] | None:
            token = attach(set_span_in_context(self._span))
            try:
                begun: bytes | Ticket[Reply] | None = super().begin()
            finally:
                detach(token)
            return begun

        async def wait(self) -> bytes:
            token = attach(set_span_in_context(self._span))
            try:
                frame: bytes = await super().wait()
            finally:
                detach(token)
                if self._span.is_recording():  # or its reply had ended it
                    _end(self._span, "cancelled")
            return frame

        def _encode(self, reply: Reply) -> bytes:
            encoded: bytes = super()._encode(reply)
            self._say_who()
            _end(self._span, reply.code if isinstance(reply, Failure) else None)
            return encoded

        def _say_who(self) -> None:
            if (account := self._session.identity.account_id) is not None:
                self._span.set_attribute("trio_ws.account_id", account)
            if self._request_id is not None:
                self._span.set_attribute("trio_ws.request_id", self._request_id)

    return Traced


def _end(span: Span, code: str | None) -> None:
    """End a span; the code is an error's, or None."""
    span.set_attribute("trio_ws.code", code or "success")
    if code is not None:
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR, code))
    span.end()


class _WebSocket(WebSocket):
    def __init__(self, kind: type[Request], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._request_type = kind

    def request(self, text: str | bytes) -> Request:
        return self._request_type(text, self._services, self._session)


class _Actions(Actions):
    def __init__(self, kind: type[ActionRequest], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._request_type = kind

    async def answer(self, head: Head, body: bytes) -> tuple[Page, bool]:
        """Answer a request, as a part of the trace that it names."""
        names = ("traceparent", "tracestate")
        token = attach(_propagator.extract({name: ",".join(head.values(name)) for name in names}))
        try:
            return await super().answer(head, body)
        finally:
            detach(token)


class _EventStream(EventStream):
    def __init__(self, kind: type[PlainRequest], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._request_type = kind


class _Database:
    """A database whose queries are spans, where they are asked for by a request."""

    def __init__(self, tracer: Tracer, database: Database) -> None:
        self._tracer = tracer
        self._database = database

    async def run(
        self, query: Callable[[Connection, *Arguments], T], *args: *Arguments, lane: Lane = Lane.CLIENTS
    ) -> T:
        """Run a query as the database does.

        Raises:
            ActionError: as there.
        """
        if not get_current_span().is_recording():
            return await self._database.run(query, *args, lane=lane)
        span = self._start(query)
        with timed() as timing:
            try:
                answer = await self._database.run(query, *args, lane=lane)
            except BaseException as error:
                _end_query(span, timing, error)
                raise
            _end_query(span, timing, answer)
            return answer

    def ask(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> Ticket[T]:
        """Ask the database."""
        if not get_current_span().is_recording():
            return self._database.ask(query, *args)
        span = self._start(query)
        with timed() as timing:
            ticket = self._database.ask(query, *args)
        ticket.on_settled(lambda: _end_query(span, timing, ticket.outcome))
        return ticket

    async def watch(self, wake: Wake) -> None:
        """Call `wake` whenever there may be new events; never return."""
        await self._database.watch(wake)

    def _start(self, query: Callable[..., object]) -> Span:
        attributes = {"db.system.name": "postgresql", "db.operation.name": query.__name__}
        return self._tracer.start_span(query.__name__, kind=SpanKind.CLIENT, attributes=attributes)


def _end_query(span: Span, timing: Timing, outcome: object) -> None:
    for name, spent in seconds(timing).items():
        span.set_attribute(f"trio_ws.database.{name}_seconds", spent)
    code = None
    if isinstance(outcome, ActionError):
        code = outcome.code
    elif isinstance(outcome, BaseException):
        code = "internal" if isinstance(outcome, Exception) else "cancelled"
    _end(span, code)
