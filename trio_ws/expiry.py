"""Invoices that nobody pays in time: they expire by the database's clock, once, in whichever process."""

from trio_ws import metrics
from trio_ws.database import expiry
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.events.tail import Tail

BATCH = 500


async def expire_invoices(database: Database, tail: Tail, pause_seconds: float) -> float:
    """Expire what is overdue, as a background step. Of many processes, each leaves what another is at."""
    done = await database.run(expiry.expire_invoices, BATCH, lane=Lane.UPKEEP)
    if done:
        metrics.EXPIRED.inc(done)
        tail.wake()
    return 0.0 if done == BATCH else pause_seconds
