"""What has grown old, deleted in small batches: of the event log, and of the history of webhooks."""

from trio_ws.database import event_log, webhooks
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane

POLL_SECONDS = 60.0
BATCH = 1000  # events; a delete of some ms
PAUSE_SECONDS = 0.1  # between batches, so that a long backlog leaves room for others


async def trim_log(database: Database, retention_seconds: float) -> float:
    """Delete events older than that, as a background step. Of many processes, one does it at a time."""
    trimmed = await database.run(event_log.trim_events, retention_seconds, BATCH, lane=Lane.UPKEEP)
    forgotten = await database.run(webhooks.trim, retention_seconds, BATCH, lane=Lane.UPKEEP)
    return PAUSE_SECONDS if BATCH in (trimmed, forgotten) else POLL_SECONDS


async def trim_webhook_history(database: Database, history_seconds: float) -> float:
    """Forget webhooks that were delivered longer ago than that, as a background step."""
    forgotten = await database.run(webhooks.trim_history, history_seconds, BATCH, lane=Lane.UPKEEP)
    return PAUSE_SECONDS if forgotten == BATCH else POLL_SECONDS
