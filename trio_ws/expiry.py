"""Invoices that nobody pays in time: they expire by the database's clock, once, whoever looks first."""

import logging

import trio

from trio_ws.database import queries
from trio_ws.database.gateway import Database
from trio_ws.errors import ActionError
from trio_ws.events.tail import Tail

logger = logging.getLogger(__name__)

BATCH = 500


async def expire_invoices(database: Database, tail: Tail, pause_seconds: float) -> None:
    """Look for invoices that are overdue, for ever; of many processes, each takes what no other is at."""
    while True:
        expired = 0
        try:
            expired = await database.run(queries.expire_invoices, BATCH)
        except ActionError:
            pass  # The database is away or busy, and the gateway has said so.
        except Exception:
            logger.exception("expiring invoices failed; trying on")
        if expired:
            tail.wake()
        if expired < BATCH:
            await trio.sleep(pause_seconds)
