"""The beginning of the event log, cut off in small batches as it grows old."""

import logging

import trio

from trio_ws.database import queries, webhooks
from trio_ws.database.gateway import Database
from trio_ws.errors import ActionError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
BATCH = 1000  # events; a delete of some ms
PAUSE_SECONDS = 0.1  # between batches, so that a long backlog leaves room for others


async def trim_log(database: Database, retention_seconds: float) -> None:
    """Delete events older than that, for ever; of many processes, one does it at a time."""
    while True:
        trimmed = 0
        try:
            trimmed = await database.run(queries.trim_events, retention_seconds, BATCH)
            await database.run(webhooks.trim, retention_seconds)
        except ActionError:
            pass  # The database is away or busy: there is no hurry.
        except Exception:
            logger.exception("trimming the event log failed; trying on")
        await trio.sleep(PAUSE_SECONDS if trimmed == BATCH else LOOK_SECONDS)
