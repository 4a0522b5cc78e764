"""One client: open, read, answer, write, keep alive, close.

    wire → _read → answers → outbox → _write → wire
                 the dispatcher ↗

Where nothing waits, nobody is woken: what can be answered at once is answered by who reads it, and what the
kernel has room for goes straight from the outbox to the wire. All that goes out goes through the outbox.

It ends one way only: reading stops, and each stage after it runs dry, because the stage before has closed
its end of the channel. A deadline bounds how long that may take.
"""

import itertools
import logging
import math
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import trio

from trio_ws import logs, metrics
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.actions.table import Request
from trio_ws.answers import Answers
from trio_ws.errors import CloseCode
from trio_ws.events.follower import Follower
from trio_ws.events.outbox import WAITING, Outbox
from trio_ws.pages import receive_handshake
from trio_ws.pulse import Beat, Pulse
from trio_ws.wire.admission import (
    check_origin,
    check_place,
    choose_subprotocol,
    find_token,
    refusing,
    unavailable,
)
from trio_ws.wire.frames import CLOSE, PING, PONG, Frame, Violation, encode_close
from trio_ws.wire.handshake import answer_handshake
from trio_ws.wire.head import Head, Refusal
from trio_ws.wire.stream import Wire

logger = logging.getLogger(__name__)

# How long a client that was slow may still take for what the two kernels hold, before which it sees no ping:
# some 300 KB at 5 KB/s.
SLOW_SECONDS = 60.0

PING_BYTES = 4  # of chance, so that nobody can answer a ping that it has not read

_numbers = itertools.count(1)


class _Ending(NamedTuple):
    code: CloseCode
    reason: str


class Connection:
    """Serves one client on one stream.

    Args:
        stream: The accepted socket, or anything like it.
        services: The server's.
        pulse: Says when to ping.
        locate: Called with the head of who comes in; returns the limit on its address, if that is reached.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        services: Services,
        pulse: Pulse,
        locate: Callable[[Head], str | None] = lambda _: None,
    ) -> None:
        self.number = next(_numbers)
        self._services = services
        self._pulse = pulse
        self._locate = locate
        self._settings = services.settings
        self._wire = Wire(stream, services.settings)
        self._outbox = Outbox(self._settings.outbox_bytes, self._wire.send_now)
        self._follower = Follower(services.dispatcher.log, self._outbox, self._end_at_gap)
        self._session = Session(services, self._follower, self.end, self._expire_at)
        self._log_fields = self._session.log_fields
        self._log_fields["connection"] = self.number
        self._answers = Answers(self, self._outbox)
        self._ending: _Ending | None = None
        self._waiting = trio.CancelScope(deadline=trio.current_time() + self._settings.head_seconds)
        self._reading = trio.CancelScope()
        self._running = trio.CancelScope()  # until all is answered and out
        self._opened_at: float | None = None
        self._beat = Beat(math.inf, lambda: None)  # when to ping next, or to have a pong
        self._pinged: bytes | None = None  # what it is to answer with
        self._excused_until = -math.inf  # from having answered no ping

    async def run(self) -> None:
        """Serve the client until either side ends it.

        Whatever the client sends, this returns; whatever happens here, it leaves no task, no subscription
        and no socket behind.
        """
        self._log_fields.update(logs.fields.get({}))
        logs.fields.set(self._log_fields)
        try:
            async with trio.open_nursery() as nursery:
                if await self._open():
                    metrics.OPENED.inc()
                    self._opened_at = trio.current_time()
                    self._session.await_token()
                    self._waiting = self._reading  # the one that it waited in is done with
                    self._set_beat(self._settings.ping_seconds)
                    nursery.start_soon(self._read, name="reader")
                    nursery.start_soon(self._write, name="writer")
                    await self._converse()
                    # Until our close frame is out, and the client's has come.
                    nursery.cancel_scope.deadline = trio.current_time() + self._settings.close_seconds
        finally:
            self._beat.leave()
            if self._opened_at is not None:
                self._say_how_it_ended(trio.current_time() - self._opened_at)
            self._services.dispatcher.unsubscribe_all(self._follower)
            self._session.close()
            # They know us: without, we go at once, and are no garbage.
            del self._session, self._follower, self._answers
            patience = trio.current_time() + self._settings.close_seconds
            # Shielded, for it has to be done, but no longer than who ends us has time for.
            with trio.CancelScope(deadline=min(patience, trio.current_effective_deadline()), shield=True):
                await self._wire.hang_up()

    @property
    def waiting_bytes(self) -> int:
        """What waits for the client to read."""
        return self._outbox.waiting_bytes

    def end(self, code: CloseCode, reason: str = "", *, seconds: float = 0.0) -> None:
        """Begin to end the connection; the first call's code is the one that counts.

        Args:
            code: What the client is told.
            reason: The same in words.
            seconds: How long what is under way may take; 0: nothing more is written but the close frame.
        """
        self._ending = self._ending or _Ending(code, reason)
        if seconds <= 0:
            self._outbox.close(self._last_words())
        self._waiting.cancel()
        self._reading.cancel()
        self._running.deadline = min(self._running.deadline, trio.current_time() + seconds)

    def send_away(self, code: CloseCode, seconds: float) -> None:
        """Begin to end the connection, and say when to reconnect: spread, so that not all clients do at once.

        Args:
            code: What the client is told.
            seconds: How long what is under way may take.
        """
        wait = random.uniform(0, self._services.settings.retry_spread_seconds)  # noqa: S311 - hides nothing
        self.end(code, f"retry_after={wait:.1f}", seconds=seconds)

    def _end_at_gap(self) -> None:
        # What is queued is still good; what would come after it is not.
        self._services.dispatcher.unsubscribe_all(self._follower)
        self.send_away(CloseCode.LOG_LOST, self._settings.write_seconds)

    async def _open(self) -> bool:
        """Tell whether it has come to a WebSocket, and in time."""
        head = answer = refusal = None
        with self._waiting:
            try:
                head = await receive_handshake(
                    self._wire, self._services.pages, self._settings.head_seconds, self._waiting
                )
                if head is not None:
                    answer = await self._admit(head)
            except Refusal as reason:
                refusal = reason
        deadline = self._waiting.deadline
        if head is not None and self._ending is not None:
            refusal = unavailable(self._settings, "The server is stopping")
        elif self._waiting.cancelled_caught and self._ending is None and self._wire.has_begun_head:
            refusal = Refusal(408, "The request took too long")
            deadline += self._settings.close_seconds
        if refusal is not None:
            await self._refuse(refusal, deadline)
        elif answer is not None:
            with suppress(trio.BrokenResourceError):
                await self._wire.send_all(answer, by=deadline)
                return True
        return False

    async def _admit(self, head: Head) -> bytes:
        """Return the answer to a handshake, if the caller may come in.

        Raises:
            Refusal: it may not.
        """
        if self._locate(head) is not None:
            raise unavailable(self._settings, "No more connections are taken from there")
        check_place(head)
        key = head.websocket_key()
        check_origin(head, self._settings.origins, is_open=self._settings.auth == "open")
        if (token := find_token(head)) is not None:
            with refusing(self._settings):
                await self._session.authenticate(token)
        return await answer_handshake(key, choose_subprotocol(head))

    async def _refuse(self, refusal: Refusal, by: float) -> None:
        metrics.REFUSED.labels(refusal.status).inc()
        await self._wire.refuse(refusal, by=by)

    def _expire_at(self, moment: float) -> None:
        self._reading.deadline = moment

    async def _converse(self) -> None:
        """Answer, and then close, once all of it is out or no time is left."""
        try:
            with self._running:
                await self._answers.run()
                self._services.dispatcher.unsubscribe_all(self._follower)
                await self._outbox.past(WAITING)
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self.fail(error)
        self._outbox.close(self._last_words())

    @property
    def is_ending(self) -> bool:
        """Tell whether it is being ended."""
        return self._ending is not None

    def stop_reading(self) -> None:
        """Read no more: nobody writes."""
        self._reading.cancel()

    def fail(self, error: Exception) -> None:
        """End for a bug, which is this connection's alone."""
        with logs.of(self._log_fields):  # whoever's task it is
            logger.error("the connection failed", exc_info=error)
        metrics.BUGS.inc()
        self.end(CloseCode.INTERNAL_ERROR)

    async def _read(self) -> None:
        try:
            self._wire.listen(self._services.ear, self._answers.take)
            try:
                with self._reading:
                    while said := await self._wire.receive():
                        await self._take(said)
            finally:
                self._wire.listen_no_more()
                self._answers.close()
            if trio.current_time() >= self._reading.deadline and self._ending is None:
                self._session.run_out()
            # What it asked before it left, or broke something, is answered still, if it reads.
            patience = trio.current_time() + self._settings.drain_seconds
            self._running.deadline = min(self._running.deadline, patience)
            # Some clients do not read while they send, and would wait for us as we for them.
            while said := await self._wire.receive():
                for opcode, content in said:
                    if isinstance(content, bytes) and opcode > CLOSE:
                        self.take_control(opcode, content)
                await self._wire.pause_in_flood(said)
            self._beat.leave()  # no pong will come
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self.fail(error)

    async def _take(self, said: list[Frame]) -> None:
        """Have all be answered, in the order in which it came, and wait until there is room for more."""
        while said := said[self._answers.take(said) :]:
            await self._answers.room()
        if not self._answers.has_room:
            await self._answers.room()

    def request(self, text: str | bytes) -> Request:
        """Return what a message asks for; a test server has another."""
        return Request(text, self._services, self._session)

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

    def take_control(self, opcode: int, payload: bytes) -> None:
        """Answer a ping, or note the pong that is waited for."""
        if opcode == PING:
            self._outbox.control(PONG, payload)
        elif payload == self._pinged:
            self._end_ping(is_answered=True)

    def _keep_alive(self) -> None:
        """Ping, or find that there was no pong in time: whichever it is time for."""
        try:
            if self._pinged is None:
                self._excuse_if_slow(is_answered=False)  # the kernel holds what went before
                self._pinged = os.urandom(PING_BYTES)
                self._outbox.control(PING, self._pinged)
                self._set_beat(self._settings.pong_seconds)
            else:
                self._end_ping(is_answered=False)
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self.fail(error)

    def _end_ping(self, *, is_answered: bool) -> None:
        self._excuse_if_slow(is_answered=is_answered)
        # Where it is us who do not read, the pong may stand behind messages in the socket.
        is_excused = not self._wire.is_waited_for or trio.current_time() < self._excused_until
        if not (is_answered or is_excused):
            self.end(CloseCode.UNRESPONSIVE, "no pong", seconds=self._settings.close_seconds)
        self._pinged = None
        self._set_beat(self._settings.ping_seconds)

    def _set_beat(self, seconds: float) -> None:
        self._beat.leave()
        self._beat = self._pulse.beat(seconds, self._keep_alive)

    def _excuse_if_slow(self, *, is_answered: bool) -> None:
        if self._takes_its_time(is_answered=is_answered):
            self._excused_until = trio.current_time() + SLOW_SECONDS

    def _takes_its_time(self, *, is_answered: bool) -> bool:
        """Tell whether it reads slowly: the ping may stand behind what it has not come to yet.

        Whether it reads at all the writer finds out, in `write_seconds`.
        """
        # A pong may come before the writer knows that its ping is out.
        is_stuck = self._outbox.state is WAITING and not is_answered
        return self._follower.is_behind or self._outbox.waiting_bytes > 0 or is_stuck

    def _why(self) -> _Ending | Violation | None:
        """Return why we end it; None: the client did, or has just gone."""
        return self._ending or self._wire.screen.violation

    def _last_words(self) -> bytes | None:
        """Return what our close frame says; None: there is nobody to read one."""
        ending = self._why()
        return self._wire.screen.close if ending is None else encode_close(ending.code, ending.reason)

    def _say_how_it_ended(self, seconds: float) -> None:
        ending = self._why()
        # A client may close with thousands of codes, which are no names for counters.
        how = "gone" if self._wire.screen.close is None else "client"
        how = how if ending is None else str(int(ending.code))
        how = "slow" if self._wire.gave_up else how
        metrics.CLOSED.labels(how).inc()
        figures = {
            "seconds": round(seconds, 3),
            "requests": self._answers.taken,
            "messages": self._outbox.messages,
            "bytes": self._wire.sent_bytes,
        }
        logger.info("ended: %s %s", how, "" if ending is None else ending.reason, extra={"figures": figures})
