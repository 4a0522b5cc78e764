"""Accepting, serving and draining: listeners < connections < background, nested as they stop.

What is used outlives its users: listeners stop first, then the connections run dry, and only then does
what feeds them stop.
"""

import logging
import random
from collections.abc import AsyncIterable, Callable
from functools import partial

import trio

from trio_ws.actions.services import Services
from trio_ws.connection import Connection
from trio_ws.database.gateway import Database
from trio_ws.errors import CloseCode
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.log import Log
from trio_ws.events.prices import Prices
from trio_ws.events.retention import trim_log
from trio_ws.events.tail import Tail
from trio_ws.expiry import expire_invoices
from trio_ws.settings import Settings

logger = logging.getLogger(__name__)

Listener = trio.abc.Listener[trio.abc.HalfCloseableStream]


async def serve(
    settings: Settings,
    database: Database,
    listeners: list[Listener],
    shutdown: trio.Event,
    *,
    reloads: AsyncIterable[Settings] | None = None,
    alive: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set, then drain.

    Args:
        settings: The settings in force.
        database: A migrated one.
        listeners: Open ones; they are closed on the way out.
        shutdown: What SIGTERM sets; so does a test.
        reloads: Settings that come into force later, for the connections that come then.
        alive: Called again and again, as long as the event loop and the log's tail make progress.
        task_status: Told when connections are accepted.

    Raises:
        ActionError: the event log could not be read at the start.
    """
    dispatcher = Dispatcher(Log(database, settings.log_memory_bytes))
    tail = Tail(database, dispatcher, settings.poll_seconds, alive)
    services = Services(settings, database, dispatcher, tail, Prices(database, dispatcher))
    server = _Server(services)
    async with trio.open_nursery() as background:  # stops last
        background.start_soon(database.watch, tail.wake)
        background.start_soon(expire_invoices, database, tail)
        if reloads is not None:
            background.start_soon(_reload, services, reloads)
        if settings.retention_seconds is not None:
            background.start_soon(trim_log, database, settings.retention_seconds)
        await background.start(tail.run)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:  # stops first
                await accepting.start(
                    partial(
                        trio.serve_listeners,
                        server.serve_connection,
                        listeners,
                        handler_nursery=connections,
                    )
                )
                task_status.started()
                await shutdown.wait()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = server.drain()
        background.cancel_scope.cancel()


async def _reload(services: Services, reloads: AsyncIterable[Settings]) -> None:
    async for services.settings in reloads:
        logger.info("new settings are in force for new connections")


class _Server:
    """The connections that live."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._live: dict[Connection, None] = {}

    async def serve_connection(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one client; whatever fails ends this connection and no other."""
        connection = Connection(stream, self._services)
        self._live[connection] = None
        try:
            await connection.run()
        except Exception:
            logger.exception("connection %d failed", connection.number)
        finally:
            del self._live[connection]

    def drain(self) -> float:
        """Ask all connections to finish what is under way, and return when they must have."""
        settings = self._services.settings
        logger.info("draining %d connections", len(self._live))
        for connection in self._live:
            # Spread, so that the clients do not all come back in the same moment.
            seconds = random.uniform(0, settings.retry_spread_seconds)  # noqa: S311 - hides nothing
            connection.end(CloseCode.GOING_AWAY, f"retry_after={seconds:.1f}", seconds=settings.drain_seconds)
        return trio.current_time() + settings.drain_seconds + 2 * settings.close_seconds
