"""One client: its requests over plain HTTP, and the line that one of them asks for, until we hang up."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import trio

from trio_ws import logs, metrics
from trio_ws.actions.services import Described, Outlined, Services
from trio_ws.database.gateway import Database
from trio_ws.errors import CloseCode
from trio_ws.http.actions import Actions
from trio_ws.http.events import EventStream
from trio_ws.http.origins import admit_page, telling
from trio_ws.http.pages import Pages
from trio_ws.http.requests import Requests
from trio_ws.line import Line
from trio_ws.places import Place
from trio_ws.pulse import Pulse
from trio_ws.websocket import WebSocket
from trio_ws.wire.admission import unavailable
from trio_ws.wire.head import Head, Refusal
from trio_ws.wire.stream import Wire

_numbers = itertools.count(1)


class Parts(NamedTuple):
    """What serves requests. Traces have parts of their own.

    Attributes:
        database: Returns what requests are given of the server's database.
        actions: Makes what answers actions over plain HTTP.
        events: Makes an event stream.
        websocket: Makes a WebSocket.
    """

    database: Callable[[Database], Database] = lambda database: database
    actions: Callable[..., Actions] = Actions
    events: Callable[..., EventStream] = EventStream
    websocket: Callable[..., WebSocket] = WebSocket


PARTS = Parts()


class Connection:
    """Serves one client on one stream.

    Args:
        stream: The accepted socket, or anything like it.
        services: The server's.
        pulse: Says when to show the client that we are there.
        pages: What plain HTTP finds here.
        place: Where the client is.
        parts: What serves its requests.

    Attributes:
        number: What it is called in this process.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        services: Services,
        pulse: Pulse,
        pages: Pages,
        place: Place | None = None,
        *,
        parts: Parts = PARTS,
    ) -> None:
        self._services = services
        self._pulse = pulse
        self._place = place or Place()
        self._parts = parts
        self._settings = services.settings
        self.number = next(_numbers)
        self._log_fields: dict[str, object] = {"connection": self.number}
        self._wire = Wire(stream, self._settings)
        self._actions = parts.actions(services, self._log_fields, self._place.find)
        self._requests = Requests(self._wire, self._settings, pages, self._actions)
        self._admitting = trio.CancelScope()
        self._line: Line | None = None
        self._has_left = False

    async def run(self) -> None:
        """Serve the client until either side ends it.

        Whatever the client sends, this returns; whatever happens here, it leaves no task, no subscription
        and no socket behind.
        """
        self._log_fields.update(logs.fields.get({}))
        logs.fields.set(self._log_fields)
        try:
            if (line := await self._open()) is not None:
                await line.run()
        finally:
            self._actions.close()
            if self._line is not None:
                self._has_left = True
                self._line.leave()
            patience = trio.current_time() + self._settings.close_seconds
            # Shielded, for it has to be done, but no longer than who ends us has time for.
            with trio.CancelScope(deadline=min(patience, trio.current_effective_deadline()), shield=True):
                await self._wire.hang_up()

    def outline(self) -> Outlined | None:
        """Return who the client is; None: it has no line, or that is ending."""
        if self._line is None or self._line.is_ending or self._has_left:
            return None
        return self._line.outline(self._place.address)

    def describe(self) -> Described:
        """Return how the client is, if it has a line."""
        assert self._line is not None  # noqa: S101 - it has an outline
        return self._line.describe()

    @property
    def has_line(self) -> bool:
        """Return whether it has come to a WebSocket or an event stream."""
        return self._line is not None

    @property
    def waiting_bytes(self) -> int:
        """What waits for the client to read."""
        return 0 if self._line is None else self._line.waiting_bytes

    def end(self, code: CloseCode, reason: str = "", *, seconds: float = 0.0) -> None:
        """Begin to end the connection: see `Line.end`."""
        self._stop(seconds)
        if self._line is not None:
            self._line.end(code, reason, seconds=seconds)

    def send_away(self, code: CloseCode, seconds: float) -> None:
        """Begin to end the connection, and say when to come back: see `Line.send_away`."""
        self._stop(seconds)
        if self._line is not None:
            self._line.send_away(code, seconds)

    def _stop(self, seconds: float) -> None:
        self._requests.stop(seconds)
        self._admitting.cancel()

    async def _open(self) -> Line | None:
        """Serve requests until one has come to a line, and return that; None: none has."""
        try:
            if (head := await self._requests.until_line()) is not None:
                if head.asks_for_websocket:
                    return await self._admit(head, self._parts.websocket)
                told = admit_page(head, self._services.settings)
                with telling(told):
                    return await self._admit(head, partial(self._parts.events, told=told))
        except Refusal as refusal:
            metrics.REFUSED.labels(refusal.status).inc()
            soonest = trio.current_time() + self._settings.close_seconds
            await self._wire.refuse(refusal, by=max(soonest, self._requests.head_deadline))
        return None

    async def _admit(self, head: Head, make: Callable[..., WebSocket | EventStream]) -> Line | None:
        """Return the line that a head asks for, opened; None: the client has gone.

        Args:
            head: What is asked.
            make: Makes the line.

        Raises:
            Refusal: it may not have it.
        """
        if self._place.count(head) is not None:
            raise unavailable(self._settings, "No more connections are taken from there")
        self._actions.close()  # a lasting connection authenticates again
        self._line = line = self._make_line(make)
        answer = None
        by = self._admitting.deadline = trio.current_time() + self._settings.head_seconds
        try:
            with self._admitting:
                answer = await line.admit(head)
        except Refusal:
            if not self._requests.is_stopping:
                raise
        if self._requests.is_stopping:
            raise unavailable(self._settings, "The server is stopping")
        if answer is None:
            raise Refusal(408, "The request took too long")
        with suppress(trio.BrokenResourceError):
            await self._wire.send_all(answer, by=by)
            return line
        return None

    def _make_line(self, make: Callable[..., WebSocket | EventStream]) -> WebSocket | EventStream:
        return make(self._wire, self._services, self._pulse, self._log_fields)
