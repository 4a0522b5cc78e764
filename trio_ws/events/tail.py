"""The end of the event log, followed: events are numbered, read and published, in order, each once.

Three things wake it, the fastest first: a commit of our own, PostgreSQL's NOTIFY, and a look from time to
time, which alone would do: a wake-up that is lost costs a moment, never an event.
"""

import logging

import trio

from trio_ws.database import queries
from trio_ws.database.gateway import Database
from trio_ws.errors import ActionError
from trio_ws.events.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

BATCH = 500  # events a read: some 300 KB, and a few ms in the loop between two checkpoints of a read
OUTAGE_SECONDS = 0.5  # pause while the database is away: it is back at our clients within two


class Tail:
    """Reads on from the end of the dispatcher's log whenever it is woken."""

    def __init__(self, database: Database, dispatcher: Dispatcher, poll_seconds: float) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._poll_seconds = poll_seconds
        self._woken = trio.Event()

    def wake(self) -> None:
        """Say that there may be new events."""
        self._woken.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start from the log's end and publish what is added to it, for ever.

        Raises:
            ActionError: the log's end could not be read at the start; later outages are sat out.
        """
        self._dispatcher.log.restart(await self._database.run_ahead(queries.read_position))
        await self._catch_up()  # what came while no server ran has no number yet, and no follower
        task_status.started()
        while True:
            with trio.move_on_after(self._poll_seconds):
                await self._woken.wait()
            self._woken = trio.Event()
            try:
                await self._catch_up()
            except ActionError:
                await trio.sleep(OUTAGE_SECONDS)  # the gateway has said why
            except Exception:
                logger.exception("reading the event log failed; trying on")
                await trio.sleep(OUTAGE_SECONDS)

    async def _catch_up(self) -> None:
        read = BATCH
        while read == BATCH:
            await self._database.run_ahead(queries.number_events, BATCH)
            position = self._dispatcher.log.end
            end, events = await self._database.run_ahead(queries.read_events, position.seq, BATCH)
            if end.epoch != position.epoch or end.seq < position.seq:
                logger.warning("the event log ends at %s, and was at %s: starting anew", end, position)
                self._dispatcher.restart(end)
                return
            for event in events:
                self._dispatcher.publish(event)
                await trio.lowlevel.checkpoint()  # a thousand followers take milliseconds
            read = len(events)
