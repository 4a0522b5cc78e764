"""Deliveries: claimed from the queue, POSTed, and settled, by any number of processes on one database.

    event log ─ number_events ─→ webhook_deliveries ─ claim ─→ a task each ─ POST ─→ settle

An invoice's deliveries are claimed one after the other, in order. The queue gives each account its turn, and
each of its endpoints; one that is slow or dead takes up a few places and no more. Whatever happens to this
process, the queue has what it had not settled, so each event is delivered at least once. `trio-ws-delivery`
says which one it is. What another database has queued is held: this is a copy of it, as for a test.
"""

import contextlib
import logging
import random
import time
from collections.abc import Callable
from functools import partial

import trio

from trio_ws import metrics
from trio_ws.background import forever
from trio_ws.codec import encode_event
from trio_ws.database import webhooks
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.database.webhooks import RETRIED_AT_ONCE, Change, Delivery, Outcome, Result
from trio_ws.errors import ActionError, Timeout, Unavailable
from trio_ws.events.log import Log
from trio_ws.settings import Settings
from trio_ws.webhooks.answer import GONE, Answer
from trio_ws.webhooks.attempt import Post, Webhook, attempt

logger = logging.getLogger(__name__)

MOST = 64  # POSTs at a time, in this process
POLL_SECONDS = 2.0  # pause between claims when nothing wakes us: most that failed waits longer than that
FIGURES_SECONDS = 15.0  # between counts of what waits: as often as metrics are usually collected
REPAIR_SECONDS = 60.0  # between looks for what nothing would ever claim
REPAIRED_AT_ONCE, REPAIR_PAUSE_SECONDS = 500, 1.0  # invoices, which take some 30 ms; between these
AGAIN_SECONDS = 0.05  # between claims all the same, so that a busy log without webhooks costs little
LEASE_SECONDS = 20.0  # for a claim besides the POST's own deadline: for the database to be back
RELEASE_SECONDS = 1.0  # for giving back what was claimed, when the server stops


class Deliverer:
    """Delivers until it is cancelled.

    Args:
        database: Where the queue is.
        log: Grows when there may be something new in the queue.
        settings: The settings in force.
        post: How a POST is made.
        now: The wall clock, in Unix seconds.
        chance: Where jitter comes from.
    """

    def __init__(
        self,
        database: Database,
        log: Log,
        settings: Settings,
        post: Post,
        *,
        now: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        self._database = database
        self._log = log
        self._settings = settings
        self._post = post
        self._now = now
        self._chance = chance or random.Random(random.getrandbits(64))  # noqa: S311 - spreads, hides nothing
        self._claimed: dict[str, Delivery] = {}  # and not settled
        self._outcomes: list[Outcome] = []  # of some of these
        self._repaired: str | None = None  # the last invoice that was looked at
        self._held = 0  # when it was last counted
        self._woken = trio.Event()
        self._poll_seconds = 0.0  # at the start, there may be something due

    async def run(self) -> None:
        """Claim and deliver, for ever; sits out the database's outages."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wake_when_the_log_has_one)
                nursery.start_soon(forever, "webhook figures", self._count)
                nursery.start_soon(forever, "webhook repair", self._repair)
                await forever("webhooks", partial(self._take_turn, nursery))
        finally:
            if self._claimed:
                with trio.move_on_after(RELEASE_SECONDS, shield=True):
                    await self._release()

    async def _take_turn(self, nursery: trio.Nursery) -> float:
        """Wait until there may be something to do, note what came of deliveries, and begin what is due."""
        with trio.move_on_after(self._poll_seconds):
            await self._woken.wait()
        self._woken = trio.Event()
        self._poll_seconds = 0.0  # unless all of this is done
        late = await self._settle()
        has_more = await self._begin(nursery)
        if late is not None:
            raise late  # so that it is logged, and tried again after a pause
        self._poll_seconds = 0.0 if has_more else POLL_SECONDS
        return 0.0 if has_more else AGAIN_SECONDS

    async def _count(self) -> float:
        """Hold what another database has queued, and have the metrics and the log say how the queue is."""
        if await self._database.run(webhooks.hold, RETRIED_AT_ONCE, lane=Lane.UPKEEP):
            return 0.0
        figures = await self._database.run(webhooks.figures, lane=Lane.UPKEEP)
        if figures.held > self._held:
            logger.warning(
                "webhooks that another database has queued are held: this is a copy of it;"
                " if they are to be sent from here, `trio-ws webhooks release`",
                extra={"figures": {"held": figures.held}},
            )
        self._held = figures.held
        metrics.WEBHOOKS_WAITING.set(figures.waiting)
        metrics.WEBHOOKS_OLDEST.set(figures.oldest_seconds)
        metrics.WEBHOOKS_HELD.set(figures.held)
        metrics.WEBHOOK_ENDPOINTS_DEAD.set(figures.dead)
        return FIGURES_SECONDS

    async def _repair(self) -> float:
        """Look at some invoices whether their deliveries are claimed one day."""
        self._repaired = await self._database.run(
            webhooks.repair, self._repaired, REPAIRED_AT_ONCE, lane=Lane.UPKEEP
        )
        return REPAIR_SECONDS if self._repaired is None else REPAIR_PAUSE_SECONDS

    async def _wake_when_the_log_has_one(self) -> None:
        # A query for each event was a third of what an event without a webhook cost.
        while True:
            await self._log.next_webhook()
            self._woken.set()

    async def _begin(self, nursery: trio.Nursery) -> bool:
        """Claim what is due, and start to deliver it; return whether there is more at once."""
        if len(self._claimed) >= MOST:
            return False
        lease = self._settings.webhook_seconds + LEASE_SECONDS
        claimed = list(self._claimed.values())
        claim = await self._database.run(webhooks.claim, MOST, lease, claimed, lane=Lane.UPKEEP)
        for delivery in claim.deliveries:
            self._claimed[delivery.id] = delivery
            nursery.start_soon(self._deliver, delivery)
        return claim.has_more

    async def _deliver(self, delivery: Delivery) -> None:
        """Make one attempt, and have it noted what came of it."""
        begin = trio.current_time()
        answer = await self._attempt(delivery)
        metrics.WEBHOOK_SECONDS.observe(trio.current_time() - begin)
        outcome = self._judge(delivery, answer)
        if outcome.error is not None:
            logger.debug("webhook %s, attempt %d: %s", delivery.id, delivery.attempts, outcome.error)
        self._outcomes.append(outcome)
        self._woken.set()  # there will be room, and the invoice's next one may be due

    def _judge(self, delivery: Delivery, answer: Answer | str) -> Outcome:
        """Return what came of an attempt: of its answer, or of what went wrong without one."""
        chance = self._chance.random()
        if isinstance(answer, str):
            metrics.WEBHOOK_ANSWERS.labels("none").inc()
            return Outcome(delivery, Result.FAILED, answer, chance)
        status = answer.status
        metrics.WEBHOOK_ANSWERS.labels(f"{status // 100}xx").inc()
        if answer.is_taken:
            return Outcome(delivery, Result.DELIVERED, None, chance, status)
        if status == GONE:
            return Outcome(delivery, Result.GONE, f"answered {status}: gone, not tried again", chance, status)
        wait = answer.wait_seconds(self._now())
        return Outcome(delivery, Result.FAILED, f"answered {status}", chance, status, wait)

    async def _attempt(self, delivery: Delivery) -> Answer | str:
        """Return the answer, or what went wrong."""
        try:
            body = encode_event(delivery.event)
            webhook = Webhook(delivery.id, delivery.url, body, delivery.secrets)
            seconds, timestamp = self._settings.webhook_seconds, int(self._now())
            return await attempt(self._post, webhook, seconds=seconds, timestamp=timestamp)
        except Exception:
            figures = {"webhook": delivery.id}
            logger.exception("a webhook failed; it comes again", extra={"figures": figures})
            return "an internal error, which the server's log has"

    async def _settle(self) -> Timeout | None:
        """Note what came of deliveries. While the database is away it is kept: nothing is sent twice.

        So is what takes too long even by itself. It keeps no other waiting; its error is returned.
        """
        size, kept = MOST, 0
        keep, has_history = self._settings.webhook_retry_seconds, self._settings.webhook_history_seconds > 0
        late: Timeout | None = None
        while outcomes := self._outcomes[kept : kept + size]:
            try:
                changes = await self._database.run(
                    webhooks.settle, outcomes, keep, has_history, lane=Lane.UPKEEP
                )
            except Unavailable:
                raise
            except Exception as error:
                if len(outcomes) > 1:
                    size = len(outcomes) // 2  # so that none keeps the others waiting, nor all together
                    continue
                if isinstance(error, Timeout):
                    kept, late = kept + 1, error
                    continue
                figures = {"webhook": outcomes[0].delivery.id}
                logger.exception("settling a webhook failed; it comes again", extra={"figures": figures})
                changes = []
            del self._outcomes[kept : kept + len(outcomes)]
            for outcome in outcomes:
                id_ = outcome.delivery.id
                if self._claimed.get(id_) is outcome.delivery:  # and not a later attempt, after its lease
                    del self._claimed[id_]
                metrics.WEBHOOKS.labels(outcome.result).inc()
            for change in changes:
                _report(change)
        return late

    async def _release(self) -> None:
        """Give back what was claimed and not sent, at the end."""
        settled = {outcome.delivery.id for outcome in self._outcomes}
        self._outcomes += [
            Outcome(delivery, Result.RELEASED)
            for id_, delivery in self._claimed.items()
            if id_ not in settled
        ]
        with contextlib.suppress(ActionError):  # their leases end by themselves
            await self._settle()


def _report(change: Change) -> None:
    """Log what somebody may want to do something about."""
    figures = {"webhook": change.id, "account": change.account_id}
    match change.change:
        case "failed":
            logger.warning("a webhook has failed for good", extra={"figures": figures})
        case "dead":
            logger.warning("an endpoint of webhooks is dead: %s", change.endpoint, extra={"figures": figures})
        case "alive":
            logger.info(
                "an endpoint of webhooks is alive again: %s", change.endpoint, extra={"figures": figures}
            )
