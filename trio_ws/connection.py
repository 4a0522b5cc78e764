"""One client: open, read, answer, write, keep alive, close.

    wire → _read → answers → outbox → _write → wire
                 the dispatcher ↗

Where nothing waits, nobody is woken: what can be answered at once is answered by who reads it, and what the
kernel has room for goes straight from the outbox to the wire. Pings and pongs are trio-websocket's.

It ends one way only: reading stops, and each stage after it runs dry, because the stage before has closed
its end of the channel. A deadline bounds how long that may take.
"""

import itertools
import logging
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import trio
from trio_websocket import ConnectionClosed

from trio_ws import logs, metrics
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.actions.table import Request
from trio_ws.answers import Answers, is_message
from trio_ws.errors import CloseCode
from trio_ws.events.follower import Follower
from trio_ws.events.outbox import Outbox
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
from trio_ws.wire.frames import CLOSE, Frame, encode_close
from trio_ws.wire.head import Head, Refusal
from trio_ws.wire.library import Library, accept
from trio_ws.wire.stream import Wire

logger = logging.getLogger(__name__)

# How long a client that was slow may still take for what the two kernels hold, before which it sees no ping:
# some 300 KB at 5 KB/s.
SLOW_SECONDS = 60.0

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
        self._answers = Answers(self._outbox, self._request, self._is_ending, self._fail, self._stop_reading)
        self._ending: _Ending | None = None
        self._waiting = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._running = trio.CancelScope()  # once there is one, the nursery's own
        self._opened_at = 0.0
        self._nursery: trio.Nursery
        self._library: Library
        self._beat: Beat
        self._excused_until = -math.inf  # from having answered no ping

    async def run(self) -> None:
        """Serve the client until either side ends it.

        Whatever the client sends, this returns; whatever happens here, it leaves no task, no subscription
        and no socket behind.
        """
        logs.fields.set(self._log_fields)
        try:
            async with trio.open_nursery() as nursery:  # pings are answered in it
                library = await self._open(nursery)
                if library is not None:
                    metrics.OPENED.inc()
                    self._opened_at = trio.current_time()
                    self._session.await_token()
                    nursery.start_soon(self._read, library, name="reader")
                    self._nursery, self._library = nursery, library
                    self._waiting = self._reading  # the one that it waited in is done with
                    with self._pulse.beat(self._settings.ping_seconds, self._start_ping) as self._beat:
                        await self._converse()
                        await self._close()
                nursery.cancel_scope.cancel()
        finally:
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
        self._outbox.hold()
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

    async def _open(self, nursery: trio.Nursery) -> Library | None:
        """Return what trio-websocket does for the WebSocket, or None where it did not come to one in time."""
        head = key = refusal = None
        with self._waiting:
            try:
                head = await receive_handshake(
                    self._wire, self._services.pages, self._settings.head_seconds, self._waiting
                )
                if head is not None:
                    key = await self._admit(head)
            except Refusal as reason:
                refusal = reason
        deadline = self._waiting.deadline
        if head is not None and self._ending is not None:
            refusal = unavailable(self._settings, "The server is stopping")
        elif self._waiting.cancelled_caught and self._ending is None and self._wire.has_begun_head:
            refusal = Refusal(408, "The request took too long")
            deadline += self._settings.close_seconds
        with trio.move_on_at(deadline):
            if refusal is not None:
                await self._refuse(refusal)
            elif head is not None and key is not None:
                return await accept(nursery, self._wire, key, choose_subprotocol(head))
        return None

    async def _admit(self, head: Head) -> str:
        """Return the handshake's key, if the caller may come in.

        Raises:
            Refusal: it may not.
        """
        check_place(head)
        key = head.websocket_key()
        check_origin(head, self._settings.origins, is_open=self._settings.auth == "open")
        if self._locate(head) is not None:
            raise unavailable(self._settings, "No more connections are taken from there")
        if (token := find_token(head)) is not None:
            with refusing(self._settings):
                await self._session.authenticate(token)
        return key

    async def _refuse(self, refusal: Refusal) -> None:
        logger.debug("refused with %d: %s", refusal.status, refusal.reason)
        metrics.REFUSED.labels(refusal.status).inc()
        await self._wire.refuse(refusal)

    def _expire_at(self, moment: float) -> None:
        self._reading.deadline = moment

    async def _converse(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = self._running.deadline
                self._running = nursery.cancel_scope
                nursery.start_soon(self._write, name="writer")
                await self._answers.run()
                self._outbox.close()
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self._fail(error)

    def _is_ending(self) -> bool:
        return self._ending is not None

    def _stop_reading(self) -> None:
        self._reading.cancel()

    def _fail(self, error: Exception) -> None:
        with logs.of(self._log_fields):  # whoever's task it is
            logger.error("the connection failed", exc_info=error)
        metrics.BUGS.inc()
        self.end(CloseCode.INTERNAL_ERROR)

    async def _read(self, library: Library) -> None:
        try:
            self._wire.listen(self._services.ear, self._answers.take)
            try:
                with self._reading:
                    while said := await self._wire.receive():
                        await self._take(said, library)
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
                await self._take([frame for frame in said if frame[0] > CLOSE], library)
                await self._wire.pause_in_flood(said)
            library.show_the_end()
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self._fail(error)

    async def _take(self, said: list[Frame], library: Library) -> None:
        """Have all be answered, in the order in which it came, and wait until there is room for more."""
        while said := said[self._answers.take(said) :]:
            opcode, content = said[0]
            if isinstance(content, bytes) and not is_message(opcode, content):
                await library.show(opcode, content)
                del said[0]
            else:
                await self._answers.room()
        if not self._answers.has_room:
            await self._answers.room()

    def _request(self, text: str | bytes) -> Request:
        """Return what a message asks for; a test server has another."""
        return Request(text, self._services, self._session)

    async def _write(self) -> None:
        try:
            while True:
                await self._wire.send_all(await self._follower.take())
        except trio.EndOfChannel:
            pass  # All is said.
        except trio.BrokenResourceError:
            # Nobody listens, or half a ping is out that was given up: there is nothing to read for.
            self._reading.cancel()
        finally:
            self._outbox.abandon()

    def _start_ping(self) -> None:
        self._nursery.start_soon(self._ping, name="ping")

    async def _ping(self) -> None:
        try:
            with trio.move_on_after(self._settings.pong_seconds) as waiting:
                await self._library.ping()
        except ConnectionClosed:
            return
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self._fail(error)
            return
        if self._takes_its_time():
            self._excused_until = trio.current_time() + SLOW_SECONDS
        excused = self._is_behind() or trio.current_time() < self._excused_until
        if waiting.cancelled_caught and not excused:
            self.end(CloseCode.UNRESPONSIVE, "no pong", seconds=self._settings.close_seconds)
        self._beat.again()

    def _is_behind(self) -> bool:
        """Tell whether it is us who do not read: the pong may stand behind messages in the socket."""
        return not self._wire.torn and not self._wire.is_waited_for

    def _takes_its_time(self) -> bool:
        """Tell whether it reads slowly: the ping may stand behind what it has not come to yet.

        Whether it reads at all the writer finds out, in `write_seconds`.
        """
        return self._follower.is_behind or self._outbox.waiting_bytes > 0 or self._wire.is_sending

    async def _close(self) -> None:
        """Say why it ends: by our will, by a violation, or as the client closed; or it has just gone."""
        screen = self._wire.screen
        ending = self._ending
        if ending is None and screen.violation is not None:
            ending = _Ending(screen.violation.code, screen.violation.reason)
        payload = screen.close if ending is None else encode_close(ending.code, ending.reason)
        if payload is not None:
            with trio.move_on_after(self._settings.close_seconds):
                await self._wire.close(payload)
        # A client may close with thousands of codes, which are no names for counters.
        how = ("gone" if payload is None else "client") if ending is None else str(int(ending.code))
        how = "slow" if self._wire.gave_up else how
        metrics.CLOSED.labels(how).inc()
        self._say_how_it_ended(how, "" if ending is None else ending.reason)

    def _say_how_it_ended(self, how: str, reason: str) -> None:
        figures = {
            "seconds": round(trio.current_time() - self._opened_at, 3),
            "requests": self._answers.taken,
            "messages": self._outbox.messages,
            "bytes": self._wire.sent_bytes,
        }
        logger.info("ended: %s %s", how, reason, extra={"figures": figures})
