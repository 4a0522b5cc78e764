"""The end of the event log, followed: events are numbered, read and published, in order, each once.

Three things wake it, the fastest first: a commit of our own, PostgreSQL's NOTIFY, and a poll. The poll alone
would do: a wake-up that is lost costs a moment, never an event.
"""

import logging
import math
from collections.abc import Callable
from contextlib import suppress

import trio

from trio_ws import metrics
from trio_ws.background import forever
from trio_ws.database import event_log
from trio_ws.database.event_log import LogRead
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.database.sessions import Connection
from trio_ws.errors import Timeout
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.statuses import count_statuses

logger = logging.getLogger(__name__)

BATCH = 500  # events a read: some 300 KB, and a few ms in the loop between two checkpoints of a read
# After news that not everybody was notified of, poll again so soon, which is when number_events() of the
# schema will notify.
AGAIN_SECONDS = 0.01


class Tail:
    """Reads on from the end of the dispatcher's log whenever it is woken.

    Args:
        database: Where the log is.
        dispatcher: Publishes what is new in it.
        poll_seconds: How long to wait for being woken.
        alive: Called at each step, whether the database answers or not.

    Attributes:
        read_at: When the last read began that came to the log's end, on trio's clock.
        progressed_at: When a step has read last. The database may have more to read than one step does.
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
        self._pause = 0.0  # before the next step, unless something wakes it
        self._batch = BATCH  # smaller while reads take too long
        self._upto = 0.0  # the number up to which there may be events, as far as somebody said
        self._woken = trio.lowlevel.ParkingLot()
        self._looks = 0  # at the log that have begun
        self._whole_look = 0  # the last of them that came to the log's end
        self._looked = trio.lowlevel.ParkingLot()
        self.read_at = -math.inf
        self.progressed_at = -math.inf

    def wake(self, upto: float = math.inf) -> None:
        """Say that there may be new events, with numbers up to that or with none yet."""
        self._upto = max(self._upto, upto)
        self._woken.unpark_all()

    async def find_out(self, seq: float, seconds: float) -> bool:
        """Wait until the log is known up to a number or, by a look that begins after this, up to its end.

        Returns:
            Whether either is so. Only committed events are sent, so such a poll decides.
        """
        before = self._looks
        self.wake()
        with trio.move_on_after(seconds):
            while self._dispatcher.log.end.seq < seq and self._whole_look <= before:
                await self._looked.park()
        return self._dispatcher.log.end.seq >= seq or self._whole_look > before

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start from the log's end and publish what is added to it, for ever.

        What came while no server ran has no number yet. One step of it is read before the server starts: more
        would keep clients waiting, who lose nothing by it.

        Raises:
            ActionError: the log's end could not be read at the start; later outages are waited out.
        """
        start = await self._database.run(event_log.start_log, lane=Lane.AHEAD)
        self._dispatcher.log.restart(start.begin, start.end)
        with suppress(Timeout):  # later steps are smaller
            await self._step()
        task_status.started()
        await forever("event log", self._step_when_woken)

    async def _step_when_woken(self) -> float:
        self._alive()
        with trio.move_on_after(self._pause):
            # PostgreSQL notifies us of what we have numbered ourselves, too: that needs no query.
            while self._upto <= self._dispatcher.log.end.seq:
                await self._woken.park()
        self._upto = 0
        self._pause = 0.0  # a step that fails has used up what woke it, and `forever` waits before the next
        self._pause = await self._step()
        self._looked.unpark_all()
        return 0.0

    async def _step(self) -> float:
        """Publish a batch of what is new, and return how long to wait for more."""
        began = trio.current_time()
        self._looks += 1
        look, end = self._looks, self._dispatcher.log.end
        read = await self._ask(event_log.advance, end.seq)
        # Those that are too large for one answer with the numbering.
        if read.known_as == end.name and not read.events and read.end.seq > end.seq:
            read = await self._ask(event_log.read_events, end.seq)
        self.progressed_at = trio.current_time()
        self._batch = min(self._batch + 1, BATCH)  # a step that takes too long takes seconds: so slowly
        if read.known_as != end.name:  # another log, or trimmed past what we have read
            logger.warning(
                "the event log goes from %s to %s, and was at %s: starting again", read.begin, read.end, end
            )
            self._dispatcher.restart(read.begin, read.end)
            return self._poll_seconds  # were it another one each time, this would go on without a pause
        await self._publish(read)
        if read.has_more or self._dispatcher.log.end.seq < read.end.seq:
            return 0.0 if read.events else AGAIN_SECONDS
        self.read_at, self._whole_look = began, look
        return self._poll_seconds if read.is_told else min(AGAIN_SECONDS, self._poll_seconds)

    async def _ask(self, query: Callable[[Connection, int, int], LogRead], after: int) -> LogRead:
        try:
            return await self._database.run(query, after, self._batch, lane=Lane.AHEAD)
        except Timeout:
            self._batch = max(1, self._batch // 2)  # rows of many MB, or a slow machine
            raise

    async def _publish(self, read: LogRead) -> None:
        self._dispatcher.log.begin = read.begin
        # Ages by the database's clock alone, and then how long it took since by ours.
        read_at = trio.current_time()
        if read.events:
            metrics.LOG_BATCH.observe(len(read.events))
        rest = read.events
        while rest:
            count, sent = self._dispatcher.publish(rest)
            since = trio.current_time() - read_at
            for event in sent:
                age = max(0.0, read.now - event.at)  # that clock may have been set back
                metrics.LAG.observe(age + since)
            if rest := rest[count:]:
                await trio.lowlevel.checkpoint()
        count_statuses(read.events)
