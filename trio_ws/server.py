"""Accepting, serving and draining: listeners < connections < background, nested as they stop.

What is used outlives its users: listeners stop first, then the connections run dry, and only then does
what feeds them stop.
"""

import logging
import random
from functools import partial

import trio

from trio_ws.actions.services import Services
from trio_ws.connection import Connection
from trio_ws.database.gateway import Database
from trio_ws.errors import CloseCode
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.log import Log
from trio_ws.events.retention import trim_log
from trio_ws.events.tail import Tail
from trio_ws.expiry import expire_invoices
from trio_ws.settings import Settings
from trio_ws.webhooks.delivery import Deliverer, Post
from trio_ws.webhooks.post import Poster

logger = logging.getLogger(__name__)

Listener = trio.abc.Listener[trio.abc.HalfCloseableStream]


async def serve(
    settings: Settings,
    database: Database,
    listeners: list[Listener],
    shutdown: trio.Event,
    *,
    post: Post | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set, then drain.

    Args:
        settings: The settings in force.
        database: A migrated one.
        listeners: Open ones; they are closed on the way out.
        shutdown: What SIGTERM sets; so does a test.
        post: How webhooks are sent; None: over the network.
        task_status: Told when connections are accepted.

    Raises:
        ActionError: the event log could not be read at the start.
    """
    dispatcher = Dispatcher(Log(database, settings.log_memory_bytes))
    tail = Tail(database, dispatcher, settings.poll_seconds)
    server = _Server(Services(settings, database, dispatcher, tail))
    async with trio.open_nursery() as background:  # stops last
        background.start_soon(database.watch, tail.wake)
        background.start_soon(expire_invoices, database, tail)
        background.start_soon(Deliverer(database, dispatcher.log, settings, post or _poster(settings)).run)
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


def _poster(settings: Settings) -> Poster:
    return Poster(
        private_addresses=settings.webhook_private_addresses, answer_bytes=settings.webhook_answer_bytes
    )


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
