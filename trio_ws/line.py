"""A connection that lasts: one client that receives events, until either side ends it.

    reader → replies → outbox → writer → wire
         the dispatcher ↗

All that goes out goes through the outbox, and what the kernel has room for goes straight from there to the
wire: where nothing waits, nobody is woken.

It ends one way only: reading stops, and each stage after it runs dry, because the stage before has closed
its end of the channel. A deadline bounds how long that may take.
"""

import itertools
import logging
import math
import random
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import trio

from trio_ws import logs, metrics
from trio_ws.actions.services import Described, Outlined, Services
from trio_ws.actions.session import Session
from trio_ws.errors import CloseCode
from trio_ws.events.follower import Follower
from trio_ws.events.outbox import WAITING, Outbox
from trio_ws.events.spelling import Spelling
from trio_ws.pulse import Beat, Pulse
from trio_ws.wire.frames import Violation
from trio_ws.wire.stream import Wire

logger = logging.getLogger(__name__)

SHOWN_TOPICS = 20  # of a client in a list: it may follow thousands


class Ending(NamedTuple):
    """Why we end a line."""

    code: CloseCode
    reason: str
    retry_after: float | None = None  # in seconds


class Line(ABC):
    """Sends events to one client; a WebSocket or an event stream.

    Args:
        wire: The client's.
        services: The server's.
        pulse: Says when to show that we are there.
        log_fields: What each log line about the client says.
        spelling: How events are spelled.

    Attributes:
        KIND: What it is.
    """

    KIND: ClassVar[str]

    def __init__(
        self,
        wire: Wire,
        services: Services,
        pulse: Pulse,
        log_fields: dict[str, object],
        spelling: Spelling,
    ) -> None:
        self._wire = wire
        self._services = services
        self._settings = services.settings
        self._pulse = pulse
        self._log_fields = log_fields
        self._outbox = Outbox(self._settings.outbox_bytes, wire.send_now)
        self._follower = Follower(services.dispatcher.log, self._outbox, self._end_at_gap, spelling)
        self._opened_at = services.now()
        self._session = Session(services, self._follower, self.end, self._expire_at, log_fields)
        self._ending: Ending | None = None
        self._reading = trio.CancelScope()
        self._running = trio.CancelScope()  # until all is answered and out
        self._beat = Beat(math.inf, lambda: None)  # when to show the client that we are there

    async def run(self) -> None:
        """Serve the client until either side ends it.

        Whatever the client sends, this returns; whatever happens here, it leaves no task behind.
        """
        metrics.OPENED.inc()
        opened_at = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                self._session.await_token()
                self._set_beat(self._settings.ping_seconds)
                nursery.start_soon(self._read, name="reader")
                nursery.start_soon(self._write, name="writer")
                await self._converse()
                # Until our last words are out, and the client's have come.
                nursery.cancel_scope.deadline = trio.current_time() + self._settings.close_seconds
        finally:
            self._say_how_it_ended(trio.current_time() - opened_at)

    def leave(self) -> None:
        """Have no part of the server know of it any more; also where it has not come to run."""
        self._beat.leave()
        self._services.dispatcher.unsubscribe_all(self._follower)
        self._session.close()
        # They know us: without, we go at once, and are no garbage.
        del self._session, self._follower

    def outline(self, address: str | None) -> Outlined:
        """Return who it is.

        Args:
            address: Where the client is; None: not known.
        """
        return Outlined(self._opened_at, self._session.identity, address, self._outbox.waiting_bytes)

    def describe(self) -> Described:
        """Return how it is."""
        topics = self._follower.topics
        return Described(
            kind=self.KIND,
            topics=list(itertools.islice(topics, SHOWN_TOPICS)),
            topic_count=len(topics),
            is_catching_up=self._follower.is_behind,
            requests=self._requests,
            messages=self._outbox.messages,
        )

    @property
    def _requests(self) -> int:
        """How many requests the client has sent."""
        return 0

    @property
    def waiting_bytes(self) -> int:
        """What waits for the client to read."""
        return self._outbox.waiting_bytes

    @property
    def is_ending(self) -> bool:
        """Return whether it is being ended."""
        return self._ending is not None

    def end(
        self,
        code: CloseCode,
        reason: str = "",
        *,
        seconds: float = 0.0,
        retry_after: float | None = None,
    ) -> None:
        """Begin to end it; the first call's code is the one that counts.

        Args:
            code: What the client is told.
            reason: The same in words.
            seconds: How long what is under way may take; 0: nothing more is written but the last words.
            retry_after: In how many seconds the client is to come back; None: nobody says.
        """
        self._ending = self._ending or Ending(code, reason, retry_after)
        if seconds <= 0:
            self._outbox.close(self._last_words())
        self._reading.cancel()
        self._running.deadline = min(self._running.deadline, trio.current_time() + seconds)

    def send_away(self, code: CloseCode, seconds: float) -> None:
        """Begin to end it, and say when to come back: spread, so that not all clients do at once.

        Args:
            code: What the client is told.
            seconds: How long what is under way may take.
        """
        wait = random.uniform(0, self._services.settings.retry_spread_seconds)  # noqa: S311 - hides nothing
        self.end(code, f"retry_after={wait:.1f}", seconds=seconds, retry_after=wait)

    def fail(self, error: Exception) -> None:
        """End for a bug, which is this connection's alone."""
        with logs.of(self._log_fields):  # whichever task runs this
            logger.error("the connection failed", exc_info=error)
        metrics.BUGS.inc()
        self.end(CloseCode.INTERNAL_ERROR)

    def stop_reading(self) -> None:
        """Read no more: nobody writes."""
        self._reading.cancel()

    @abstractmethod
    async def _read(self) -> None:
        """Take what the client says until that is over; then see that `_running` ends in time."""

    @abstractmethod
    async def _answer(self) -> None:
        """Return once the client asks no more, and all that it asked is answered."""

    @abstractmethod
    def _keep_alive(self) -> None:
        """Show the client that we are there; it is time for that."""

    @abstractmethod
    def _last_words(self) -> bytes | None:
        """Return what goes out last; None: there is nobody to read it."""

    @abstractmethod
    def _how_it_ended(self) -> str:
        """Return the same in a word that counters know."""

    def _why(self) -> Ending | Violation | None:
        """Return why we end it; None: the client did, or has just gone."""
        return self._ending or self._wire.screen.violation

    async def _converse(self) -> None:
        """Answer, and then close, once all of it is out or no time is left."""
        try:
            with self._running:
                await self._answer()
                self._services.dispatcher.unsubscribe_all(self._follower)
                await self._outbox.past(WAITING)
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self.fail(error)
        self._outbox.close(self._last_words())

    async def _write(self) -> None:
        try:
            while True:
                self._outbox.written()
                await self._wire.send_all(await self._follower.take())
        except trio.EndOfChannel:
            pass  # All is said.
        except trio.BrokenResourceError:
            self._reading.cancel()  # Nobody listens: there is nothing to read for.
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self.fail(error)
        finally:
            self._outbox.abandon()

    def _end_at_gap(self) -> None:
        # What is queued is still good; what would come after it is not.
        self._services.dispatcher.unsubscribe_all(self._follower)
        self.send_away(CloseCode.LOG_LOST, self._settings.write_seconds)

    def _expire_at(self, moment: float) -> None:
        self._reading.deadline = moment

    def _set_beat(self, seconds: float) -> None:
        self._beat.leave()
        self._beat = self._pulse.beat(seconds, self._on_beat)

    def _on_beat(self) -> None:
        try:
            self._keep_alive()
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self.fail(error)

    def _figures(self) -> dict[str, object]:
        """Return what is worth a log line once it is over."""
        return {"messages": self._outbox.messages, "bytes": self._wire.sent_bytes}

    def _say_how_it_ended(self, seconds: float) -> None:
        ending, how = self._why(), self._how_it_ended()
        how = how if ending is None else str(int(ending.code))
        how = "slow" if self._wire.gave_up else how
        metrics.CLOSED.labels(how).inc()
        figures = {"seconds": round(seconds, 3), **self._figures()}
        logger.info("ended: %s %s", how, "" if ending is None else ending.reason, extra={"figures": figures})
