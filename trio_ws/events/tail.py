"""The end of the event log, followed: events are numbered, read and published, in order, each once.

Three things wake it, the fastest first: a commit of our own, PostgreSQL's NOTIFY, and a look from time to
time, which alone would do: a wake-up that is lost costs a moment, never an event.
"""

import logging
import math
from collections.abc import Callable

import trio

from trio_ws import metrics
from trio_ws.database import queries
from trio_ws.database.gateway import Database
from trio_ws.errors import ActionError
from trio_ws.events.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

BATCH = 500  # events a read: some 300 KB, and a few ms in the loop between two checkpoints of a read
# Before others have their turn: half a ms or so. A turn for each event cost 30 µs, more than its followers.
TURN_DELIVERIES = 64
# After news that not everybody was notified of, look again so soon, which is when number_events() of the
# schema will do it.
AGAIN_SECONDS = 0.01
OUTAGE_SECONDS = 0.5  # pause while the database is away: it is back at our clients within two


class Tail:
    """Reads on from the end of the dispatcher's log whenever it is woken.

    Args:
        database: Where the log is.
        dispatcher: Who is told of what is new in it.
        poll_seconds: How long to wait for being woken.
        alive: Called at each look, whatever comes of it.
    """

    def __init__(
        self,
        database: Database,
        dispatcher: Dispatcher,
        poll_seconds: float,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._alive = alive
        self._database = database
        self._dispatcher = dispatcher
        self._poll_seconds = poll_seconds
        self._upto = 0.0  # the number up to which there may be events that we were told of
        self._woken = trio.lowlevel.ParkingLot()
        self.read_at = -math.inf  # when the last look began that came to the log's end, on trio's clock

    def wake(self, upto: float = math.inf) -> None:
        """Say that there may be new events, with numbers up to that or with none yet."""
        self._upto = max(self._upto, upto)
        self._woken.unpark_all()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start from the log's end and publish what is added to it, for ever.

        Raises:
            ActionError: the log's end could not be read at the start; later outages are sat out.
        """
        self._dispatcher.log.restart(await self._database.run_ahead(queries.read_position))
        await self._catch_up()  # what came while no server ran has no number yet, and no follower
        task_status.started()
        pause = self._poll_seconds
        while True:
            with trio.move_on_after(pause):
                # PostgreSQL notifies us of what we have numbered ourselves, too: no look for that.
                while self._upto <= self._dispatcher.log.end.seq:
                    await self._woken.park()
            self._upto = 0
            self._alive()
            try:
                is_told = await self._catch_up()
                pause = self._poll_seconds if is_told else min(AGAIN_SECONDS, self._poll_seconds)
            except ActionError:
                await trio.sleep(OUTAGE_SECONDS)  # the gateway has said why
            except Exception:
                logger.exception("reading the event log failed; trying on")
                await trio.sleep(OUTAGE_SECONDS)

    async def _catch_up(self) -> bool:
        """Publish what is new, and tell whether everybody was notified of it."""
        began = trio.current_time()
        more = True
        while more:
            end = self._dispatcher.log.end
            read = await self._database.run_ahead(queries.advance, end.seq, BATCH)
            if read.end.epoch != end.epoch or read.end.seq < end.seq:
                logger.warning("the event log ends at %s, and was at %s: starting anew", read.end, end)
                self._dispatcher.restart(read.end)
                return read.is_told
            self._dispatcher.log.first = read.first
            # Ages by the database's clock alone, and then how long it took since by ours.
            read_at = trio.current_time()
            if read.events:
                metrics.LOG_BATCH.observe(len(read.events))
            deliveries = 0
            for event in read.events:
                deliveries += 1 + self._dispatcher.publish(event)
                age = max(0.0, read.now - event.at)  # that clock may have been set back
                metrics.LAG.observe(age + trio.current_time() - read_at)
                if deliveries >= TURN_DELIVERIES:
                    deliveries = 0
                    await trio.lowlevel.checkpoint()
            more = len(read.events) == BATCH
        self.read_at = began
        return read.is_told
