"""Deliveries: claimed from the queue, POSTed, and settled, by any number of processes on one database.

    event log ─ number_events ─→ webhook_deliveries ─ claim ─→ a task each ─ POST ─→ finish, or put off

An invoice's deliveries are claimed one after the other, in order. A receiver that is slow or away takes up a
few places and no more. Whatever happens to this process, the queue has what it had not settled, so each event
is delivered at least once; `trio-ws-delivery` says which one it is.
"""

import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar, TypeVarTuple

import trio

from trio_ws.background import forever
from trio_ws.codec import encode_event
from trio_ws.database import webhooks
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.database.queries import Connection
from trio_ws.database.webhooks import Delivery
from trio_ws.errors import ActionError
from trio_ws.events.log import Log
from trio_ws.messages import Position
from trio_ws.settings import Settings
from trio_ws.webhooks import signature
from trio_ws.webhooks.post import PostError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]  # URL, headers, body; the answer's status

MOST = 64  # POSTs at a time, in this process
EACH = 4  # of them to one endpoint, by all processes together
LOOK_SECONDS = (
    2.0  # pause between looks at the queue when nothing wakes us: who failed waits longer than that
)
AGAIN_SECONDS = 0.05  # between looks all the same, so that a busy log without webhooks costs little
LEASE_SECONDS = 20.0  # for a claim besides the POST's own deadline: for the database to be back
OUTAGE_SECONDS = 0.5  # pause while the database is away
RELEASE_SECONDS = 1.0  # for giving back what was claimed, when the server stops
PAUSE_SECONDS = (2.0, 3600.0)  # before the second attempt at most, and before any
ERROR_CHARACTERS = 200


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
        self._claimed: set[int] = set()
        self._woken = trio.Event()
        self._poll_seconds = 0.0  # at the start, there may be something due

    async def run(self) -> None:
        """Claim and deliver, for ever; sits out the database's outages."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wake_when_the_log_has_one)
                await forever("webhooks", partial(self._deliver_what_is_due, nursery))
        finally:
            if self._claimed:
                with trio.move_on_after(RELEASE_SECONDS, shield=True):
                    await self._release()

    async def _deliver_what_is_due(self, nursery: trio.Nursery) -> float:
        """Wait until something may be due, and start to deliver it."""
        with trio.move_on_after(self._poll_seconds):
            await self._woken.wait()
        self._woken = trio.Event()
        self._poll_seconds = LOOK_SECONDS
        for delivery in await self._claim():
            self._claimed.add(delivery.event.seq)
            nursery.start_soon(self._deliver, delivery)
        return AGAIN_SECONDS

    async def _wake_when_the_log_has_one(self) -> None:
        # A look for each event was a third of what an event without a webhook cost.
        while True:
            await self._log.next_webhook()
            self._woken.set()

    async def _claim(self) -> list[Delivery]:
        room = MOST - len(self._claimed)
        lease = self._settings.webhook_seconds + LEASE_SECONDS
        if not room:
            return []
        return await self._database.run(webhooks.claim, room, EACH, lease, lane=Lane.UPKEEP)

    async def _deliver(self, delivery: Delivery) -> None:
        """Make one attempt, and note what came of it."""
        seq = delivery.event.seq
        error = await self._attempt(delivery)
        try:
            if error is None:
                await self._settle(webhooks.finish, seq)
            else:
                pause, most = self._pause(delivery.attempts), self._settings.webhook_retry_seconds
                logger.debug("webhook %d, attempt %d: %s", seq, delivery.attempts, error)
                if await self._settle(webhooks.put_off, delivery, error, pause, most):
                    figures = {"webhook": seq, "account": delivery.account_id}
                    logger.warning("a webhook was given up", extra={"figures": figures})
        except Exception:
            logger.exception("settling a webhook failed; it comes again", extra={"figures": {"webhook": seq}})
        self._claimed.discard(seq)
        self._woken.set()  # there is room, and the invoice's next one may be due

    async def _attempt(self, delivery: Delivery) -> str | None:
        """Return what went wrong; None: nothing."""
        seconds = self._settings.webhook_seconds
        try:
            body = encode_event(delivery.event, delivery.epoch)
            headers = {
                "content-type": "application/json",
                "user-agent": "trio-ws",
                "trio-ws-delivery": str(Position(delivery.epoch, delivery.event.seq)),
                signature.HEADER: signature.sign(body, int(self._now()), delivery.secrets),
            }
            with trio.fail_after(seconds):
                status = await self._post(delivery.url, headers, body)
        except PostError as error:
            return str(error)[:ERROR_CHARACTERS]
        except trio.TooSlowError:
            return f"no answer in {seconds:g} s"
        except Exception:
            figures = {"webhook": delivery.event.seq}
            logger.exception("a webhook failed; it comes again", extra={"figures": figures})
            return "an internal error, which the server's log has"
        return None if 200 <= status < 300 else f"answered {status}"  # noqa: PLR2004 - RFC 9110, 15.3

    def _pause(self, attempts: int) -> float:
        """Return how long to wait after so many attempts: exponential, with full jitter."""
        first, longest = PAUSE_SECONDS
        return self._chance.uniform(0, min(longest, first * 2.0 ** min(attempts - 1, 32)))

    async def _settle(self, query: Callable[[Connection, *Arguments], T], *args: *Arguments) -> T:
        """Note it as soon as the database takes it, so that nothing is delivered twice for an outage."""
        while True:
            try:
                return await self._database.run(query, *args, lane=Lane.UPKEEP)
            except ActionError:
                await trio.sleep(OUTAGE_SECONDS)

    async def _release(self) -> None:
        with contextlib.suppress(ActionError):  # their leases end by themselves
            await self._database.run(webhooks.release, list(self._claimed), lane=Lane.UPKEEP)
