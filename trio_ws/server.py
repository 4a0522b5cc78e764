"""Accepting, serving and draining: listeners < connections < background, nested as they stop.

What is used outlives its users: listeners stop first, then the connections run dry, and only then does
what feeds them stop.
"""

import logging
import math
from collections.abc import AsyncIterable, Callable, Sequence
from functools import partial
from uuid import UUID

import trio
from msgspec import Raw

from trio_ws import logs, metrics, web
from trio_ws.actions import connections
from trio_ws.actions.services import Services
from trio_ws.actions.session import identify
from trio_ws.actions.topics import AHEAD_SECONDS
from trio_ws.background import forever
from trio_ws.connection import PARTS, Connection, Parts
from trio_ws.database import queries
from trio_ws.database.gateway import Database
from trio_ws.database.writes import Writes
from trio_ws.errors import CloseCode, Unauthorized
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.log import Log
from trio_ws.events.prices import Prices
from trio_ws.events.retention import trim_log, trim_webhook_history
from trio_ws.events.tail import Tail
from trio_ws.expiry import expire_invoices
from trio_ws.http.actions import for_programs
from trio_ws.http.pages import Asked, Maker, Pages, health, measurements, readiness
from trio_ws.http.requests import Requests
from trio_ws.identity import hash_token
from trio_ws.limits import Census
from trio_ws.places import CountedPlace
from trio_ws.pulse import Pulse
from trio_ws.settings import Settings
from trio_ws.siblings import Siblings
from trio_ws.web.checkout import pay
from trio_ws.webhooks.attempt import Post
from trio_ws.webhooks.delivery import Deliverer
from trio_ws.webhooks.post import Poster
from trio_ws.wire.accepting import Listener, accept
from trio_ws.wire.admission import SUBPROTOCOL, find_token, refusing, unavailable
from trio_ws.wire.ear import Ear, open_ear
from trio_ws.wire.handshake import learn_answers
from trio_ws.wire.head import Head, Refusal
from trio_ws.wire.proxies import Proxies
from trio_ws.wire.stream import Wire
from trio_ws.wire.tls import Stream

logger = logging.getLogger(__name__)

ACCEPT_RETRY_SECONDS = 0.1
READ_SECONDS = 5.0  # how long a read of the log may take before we say that we are not ready
WRITE_SECONDS = 5.0  # for how long clients' writes may all fail before we say so
TURNED_AWAY = 100  # clients that get a response at a time when there is no room; others are just closed


async def serve(
    settings: Settings,
    database: Database,
    listeners: list[Listener],
    shutdown: trio.Event,
    *,
    page_listeners: Sequence[Listener] = (),
    reloads: AsyncIterable[Settings] | None = None,
    alive: Callable[[], None] = lambda: None,
    post: Post | None = None,
    now: Callable[[], float] | None = None,
    ear: Ear | None = None,
    siblings: Siblings | None = None,
    parts: Parts = PARTS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set, then drain.

    Args:
        settings: The settings in force.
        database: A migrated one.
        listeners: Open ones; they are closed on the way out.
        shutdown: What SIGTERM sets; so does a test.
        page_listeners: Where plain HTTP is served and nothing else; then `/metrics` is there alone.
        reloads: Settings that come into force later, for the connections that come then.
        alive: Called again and again, as long as the event loop and the log's tail make progress.
        post: How webhooks are sent; None: over the network.
        now: The wall clock, in Unix seconds; None: the machine's.
        ear: Hears clients that are silent; None: one for sockets.
        siblings: The processes that serve beside this one; None: there are none.
        parts: What serves requests.
        task_status: Started when connections are accepted.

    Raises:
        ActionError: the event log could not be read at the start.
    """
    database = writes = Writes(database)
    dispatcher = Dispatcher(Log(database, settings.log_memory_bytes))
    tail = Tail(database, dispatcher, settings.poll_seconds, alive)
    look = partial(tail.find_out, math.inf, AHEAD_SECONDS)
    prices = Prices(database, dispatcher, look)
    services = Services(settings, parts.database(database), dispatcher, tail, prices)
    services.now = now or services.now
    services.ear = ear or open_ear()
    services.siblings = siblings or services.siblings
    server = _Server(services, writes, parts)
    server.pages = server.pages_for_clients(with_metrics=not page_listeners)
    async with trio.open_nursery() as background:  # stops last
        background.start_soon(database.watch, tail.wake)
        background.start_soon(server.pulse.run)
        background.start_soon(services.ear.run)
        await background.start(services.siblings.serve, partial(connections.answer, services))
        await learn_answers((None, SUBPROTOCOL))
        expire = partial(expire_invoices, database, tail, settings.expiry_seconds)
        background.start_soon(forever, "expiry", expire)
        background.start_soon(forever, "tokens", services.tokens.check)
        if reloads is not None:
            background.start_soon(_reload, server, reloads)
        if settings.webhooks:
            post = post or _poster(settings)
            background.start_soon(Deliverer(database, dispatcher.log, settings, post, now=services.now).run)
        else:
            logger.info("webhooks are off: this process sends none; they are queued all the same")
        if settings.retention_seconds is not None:
            trim = partial(trim_log, database, settings.retention_seconds)
            background.start_soon(forever, "retention", trim)
        forget = partial(trim_webhook_history, database, settings.webhook_history_seconds)
        background.start_soon(forever, "webhook history", forget)
        await background.start(tail.run)
        for listener in map(_PatientListener, page_listeners):
            background.start_soon(accept, listener, server.serve_pages, background)
        async with trio.open_nursery() as serving:
            async with trio.open_nursery() as accepting:  # stops first
                for listener in map(_PatientListener, listeners):
                    accepting.start_soon(accept, listener, server.serve_connection, serving)
                task_status.started()
                await shutdown.wait()
                server.turn_away_all()
                accepting.cancel_scope.cancel()
            serving.cancel_scope.deadline = server.drain()
        background.cancel_scope.cancel()


async def _reload(server: "_Server", reloads: AsyncIterable[Settings]) -> None:
    async for settings in reloads:
        server.reload(settings)
        logger.info("new settings are in force for new connections")


class _PatientListener(Listener):
    """Waits where trio would end, or log ten tracebacks a second: as when no file descriptor is left.

    Attributes:
        transport: What it listens on.
    """

    def __init__(self, transport: Listener) -> None:
        self.transport = transport

    async def accept(self) -> Stream:
        while True:
            try:
                return await self.transport.accept()
            except OSError as error:  # whatever it is, other clients may come later
                logger.warning("can't accept connections: %s; trying again", error.strerror)
            await trio.sleep(ACCEPT_RETRY_SECONDS)

    async def aclose(self) -> None:
        await self.transport.aclose()


def _poster(settings: Settings) -> Poster:
    return Poster(
        private_addresses=settings.webhook_private_addresses, answer_bytes=settings.webhook_answer_bytes
    )


class _Server:
    """The connections that live.

    Attributes:
        pulse: Says when each shows its client that we are there.
        pages: What plain HTTP finds where clients connect.
    """

    def __init__(self, services: Services, writes: Writes, parts: Parts) -> None:
        self.pulse = Pulse()
        self.pages = Pages({})
        self._services = services
        self._writes = writes
        self._parts = parts
        self._live: dict[Connection, None] = {}
        services.clients = lambda: tuple(self._live)
        self._drains = False
        self._census = Census()
        self.reload(services.settings)
        self._turned_away = trio.CapacityLimiter(TURNED_AWAY)
        self._vital_pages = {"/healthz": health, "/readyz": readiness(self._trouble)}
        self._measured_pages = Pages({**self._vital_pages, "/metrics": measurements})
        tail, log = services.tail, services.dispatcher.log
        metrics.CONNECTIONS.set_function(lambda: sum(one.has_line for one in self._live))
        metrics.HTTP_CONNECTIONS.set_function(lambda: sum(not one.has_line for one in self._live))
        metrics.TASKS.set_function(lambda: trio.lowlevel.current_statistics().tasks_living)
        metrics.PRICES.set_function(lambda: len(services.prices.book or ()))
        metrics.TOKENS.set_function(services.tokens.count)
        metrics.SUBSCRIPTIONS.set_function(services.dispatcher.count)
        metrics.OUTBOX_BYTES.set_function(lambda: sum(one.waiting_bytes for one in self._live))
        metrics.OUTBOX_MOST.set_function(lambda: max((one.waiting_bytes for one in self._live), default=0))
        metrics.LOG_POSITION.set_function(lambda: log.end.seq)
        metrics.LOG_FIRST.set_function(lambda: log.begin.seq + 1)
        metrics.LOG_AGE.set_function(lambda: trio.current_time() - tail.read_at)

    def reload(self, settings: Settings) -> None:
        """Put settings into force for connections that come."""
        self._services.settings = settings
        self._proxies = Proxies(settings.trusted_proxies)
        self._census.limit(
            settings.connections, settings.connections_per_address, settings.connections_per_second
        )

    async def serve_connection(self, stream: Stream) -> None:
        """Serve one client; whatever fails ends this connection and no other."""
        place = CountedPlace(stream, self._proxies, self._census)
        logs.fields.set({"address": place.address} if place.address else {})
        if self._drains:
            await self._send_elsewhere(stream)
            return
        full = self._census.enter(place.address, trio.current_time())
        if full is not None:
            await self._turn_away(stream, full)
            return
        try:
            await self._run(
                Connection(stream, self._services, self.pulse, self.pages, place, parts=self._parts)
            )
        except Exception:
            logger.exception("the connection failed")
            metrics.BUGS.inc()
        finally:
            self._census.leave(place.address)

    async def _run(self, connection: Connection) -> None:
        self._live[connection] = None
        try:
            await connection.run()
        finally:
            del self._live[connection]

    async def serve_pages(self, stream: Stream) -> None:
        """Serve one that asks for pages alone."""
        settings = self._services.settings
        await self._serve_no_websocket(
            stream, self._measured_pages, settings.head_seconds, Refusal(404, "No WebSocket is here")
        )

    async def _serve_no_websocket(
        self, stream: Stream, pages: Pages, head_seconds: float, refusal: Refusal
    ) -> None:
        """Serve pages, and refuse a WebSocket; whatever fails ends this connection and no other."""
        settings = self._services.settings
        told: Refusal | None = None
        try:
            wire = Wire(stream, settings)
            try:
                requests = Requests(wire, settings, pages, head_seconds=head_seconds)
                if (head := await requests.until_line()) is not None:
                    told = refusal if head.asks_for_websocket else for_programs(refusal)
            except Refusal as reason:
                told = reason
            with trio.move_on_after(settings.close_seconds):
                if told is not None:
                    await wire.refuse(told)
                await wire.hang_up()
        except Exception:
            logger.exception("a page failed")
            metrics.BUGS.inc()

    def pages_for_clients(self, *, with_metrics: bool) -> Pages:
        """Return what plain HTTP finds where clients connect."""
        found, guarded = {**self._vital_pages, **web.PAGES}, {}
        if with_metrics:
            guarded["/metrics"] = measurements
        if self._services.settings.console:
            found |= web.CONSOLE
        asked: dict[str, Asked] = {}
        if self._services.settings.checkout:
            found |= web.CHECKOUT
            asked["/pay/"] = self._pay
        return Pages(found, guarded, self._admit, asked)

    async def _pay(self, head: Head) -> Maker:
        """Return what makes a customer's page.

        Raises:
            Refusal: the database could not be asked.
        """
        services = self._services

        async def fetch(uid: UUID) -> Raw:
            return await services.database.ask(queries.fetch_invoice, uid, None).wait()

        with refusing(services.settings):
            return await pay(head.path.rpartition("/")[2], fetch, services.now())

    async def _admit(self, head: Head) -> None:
        """Admit clients that have a token, where one is needed.

        Raises:
            Refusal: it has none.
        """
        if self._services.settings.auth == "open":
            return
        with refusing(self._services.settings):
            if (token := find_token(head)) is None:
                raise Unauthorized("Authentication required")
            await identify(self._services, hash_token(token))

    def _trouble(self) -> str | None:
        """Return why no clients should be sent here, if so."""
        if self._drains:
            return "draining"
        age = trio.current_time() - self._services.tail.progressed_at
        if age > READ_SECONDS + self._services.settings.poll_seconds:
            return f"the event log was read last {age:.0f} s ago: is the database away?"
        failing = self._writes.failing_seconds()
        if failing >= WRITE_SECONDS:
            return f"all writes failed for {failing:.0f} s: is the disk full, or a synchronous standby away?"
        return None

    async def _turn_away(self, stream: Stream, limit: str) -> None:
        """Say that there is no room, to as many as that costs little; who accepted the stream closes it.

        Requests for pages are served: a server that is full is alive, and must not be restarted.
        """
        metrics.TURNED_AWAY.labels(limit).inc()
        logger.warning("connections are turned away: %s is reached", limit)
        try:
            self._turned_away.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            return
        settings = self._services.settings
        refusal = unavailable(settings, "No more connections are taken now")
        try:
            with trio.move_on_after(settings.close_seconds):
                await self._serve_no_websocket(stream, self.pages, settings.close_seconds, refusal)
        finally:
            self._turned_away.release_on_behalf_of(stream)

    def turn_away_all(self) -> None:
        """Refuse new clients from now on: the server is stopping."""
        self._drains = True

    async def _send_elsewhere(self, stream: Stream) -> None:
        """Refuse a client that had connected before the listener was closed."""
        settings = self._services.settings
        refusal = unavailable(settings, "The server is stopping")
        await self._serve_no_websocket(stream, self.pages, settings.close_seconds, refusal)

    def drain(self) -> float:
        """Ask all connections to finish what is under way, and return when they must have."""
        settings = self._services.settings
        logger.info("draining %d connections", len(self._live))
        # A close frame and hanging up take their time too, and all of it is `drain_seconds`.
        farewell = min(2 * settings.close_seconds, settings.drain_seconds / 2)
        for connection in self._live:
            connection.send_away(CloseCode.GOING_AWAY, settings.drain_seconds - farewell)
        return trio.current_time() + settings.drain_seconds
