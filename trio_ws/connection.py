"""One client: open, read, answer, write, keep alive, close.

    wire → trio-websocket → _read → inbox → _answer → outbox → _write → wire
                                              the dispatcher ↗

It ends one way only: reading stops, and each stage after it runs dry, because the stage before has closed
its end of the channel. A deadline bounds how long that may take.
"""

import itertools
import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trio_ws import logs, metrics
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.actions.table import answer
from trio_ws.errors import ActionError, CloseCode, Unauthorized
from trio_ws.events.follower import Follower
from trio_ws.events.outbox import Outbox
from trio_ws.pages import receive_handshake
from trio_ws.wire import library
from trio_ws.wire.admission import (
    check_origin,
    check_place,
    choose_subprotocol,
    find_token,
    unavailable,
)
from trio_ws.wire.frames import TEXT, encode_close, encode_frame
from trio_ws.wire.head import Head, Refusal
from trio_ws.wire.stream import Wire

logger = logging.getLogger(__name__)

# Messages read ahead of the one that is being answered, so that reading and answering overlap.
INBOX_MESSAGES = 8
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
        locate: Called with the head of who comes in; returns the limit on its address, if that is reached.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        services: Services,
        locate: Callable[[Head], str | None] = lambda _: None,
    ) -> None:
        self.number = next(_numbers)
        self._services = services
        self._locate = locate
        self._settings = services.settings
        self._wire = Wire(stream, services.settings)
        self._outbox = Outbox(self._settings.outbox_bytes, self._wire.send_now)
        self._follower = Follower(services.dispatcher.log, self._outbox, self._end_at_gap)
        self._session = Session(services, self._follower, self.end, self._expire_at)
        self._session.log_fields["connection"] = self.number
        self._to_inbox, self._inbox = trio.open_memory_channel[str | bytes](INBOX_MESSAGES)
        self._ending: _Ending | None = None
        self._waiting = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._running = trio.CancelScope()
        self._opened_at = 0.0
        self._requests = 0  # for the log

    async def run(self) -> None:
        """Serve the client until either side ends it.

        Whatever the client sends, this returns; whatever happens here, it leaves no task, no subscription
        and no socket behind.
        """
        logs.fields.set(self._session.log_fields)
        try:
            async with trio.open_nursery() as nursery:  # trio-websocket's own reader lives in it
                socket = await self._open(nursery)
                if socket is not None:
                    metrics.OPENED.inc()
                    self._opened_at = trio.current_time()
                    nursery.start_soon(self._keep_alive, socket)
                    await self._converse(socket)
                    await self._close()
                nursery.cancel_scope.cancel()
        finally:
            self._services.dispatcher.unsubscribe_all(self._follower)
            self._session.close()
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

    def _end_at_gap(self, code: CloseCode, reason: str) -> None:
        # What is queued is still good; what would come after it is not.
        self._services.dispatcher.unsubscribe_all(self._follower)
        self.end(code, reason, seconds=self._settings.write_seconds)

    async def _open(self, nursery: trio.Nursery) -> WebSocketConnection | None:
        """Return the WebSocket, or None where it did not come to one in time."""
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
                return await library.accept(nursery, self._wire, key, choose_subprotocol(head))
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
        try:
            if (token := find_token(head)) is not None:
                await self._session.authenticate(token)
        except Unauthorized as error:
            raise Refusal(401, error.message, WWW_Authenticate="Bearer") from None
        except ActionError as error:
            raise unavailable(self._settings, error.message) from None
        return key

    async def _refuse(self, refusal: Refusal) -> None:
        logger.debug("refused with %d: %s", refusal.status, refusal.reason)
        metrics.REFUSED.labels(refusal.status).inc()
        await self._wire.refuse(refusal)

    def _expire_at(self, moment: float) -> None:
        self._reading.deadline = moment

    async def _converse(self, socket: WebSocketConnection) -> None:
        try:
            with self._running:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, socket)
                    nursery.start_soon(self._write)
                    await self._answer()  # joins the two tasks
        except Exception:
            logger.exception("the connection failed")
            metrics.BUGS.inc()
            self.end(CloseCode.INTERNAL_ERROR)

    async def _read(self, socket: WebSocketConnection) -> None:
        async with self._to_inbox:  # leaving says "no more" to the next stage
            with self._reading:
                try:
                    while True:
                        await self._to_inbox.send(await socket.get_message())
                except (ConnectionClosed, trio.BrokenResourceError):
                    pass  # The client, or the stage after this one, has gone.
            if self._reading.cancelled_caught and self._ending is None:
                self._session.lose("the token has expired")
        # What it asked before it left, or broke something, is answered still, if it reads.
        patience = trio.current_time() + self._settings.drain_seconds
        self._running.deadline = min(self._running.deadline, patience)

    async def _answer(self) -> None:
        async with self._inbox:
            try:
                async for message in self._inbox:
                    self._requests += 1
                    self._outbox.put(await self._respond(message))
                    await self._outbox.room()
            except trio.BrokenResourceError:
                self._reading.cancel()  # Nobody writes any more, so there is nothing to read for.
        self._outbox.close()

    async def _respond(self, message: str | bytes) -> bytes:
        """Return the frame that answers a message; a test server has another."""
        return encode_frame(TEXT, await answer(message, self._services, self._session))

    async def _write(self) -> None:
        try:
            while True:
                await self._wire.send_all(await self._follower.take())
        except (trio.EndOfChannel, trio.BrokenResourceError):
            pass  # All is said, or nobody listens.
        finally:
            self._outbox.abandon()

    async def _keep_alive(self, socket: WebSocketConnection) -> None:
        excused_until = -math.inf
        try:
            while True:
                await trio.sleep(self._settings.ping_seconds)
                with trio.move_on_after(self._settings.pong_seconds) as waiting:
                    await socket.ping()
                if self._takes_its_time():
                    excused_until = trio.current_time() + SLOW_SECONDS
                excused = self._is_behind() or trio.current_time() < excused_until
                if waiting.cancelled_caught and not excused:
                    self.end(CloseCode.UNRESPONSIVE, "no pong", seconds=self._settings.close_seconds)
        except ConnectionClosed:
            pass

    def _is_behind(self) -> bool:
        """Tell whether it is us who do not read: the pong may stand behind messages in the socket."""
        return not self._wire.torn and self._to_inbox.statistics().tasks_waiting_send > 0

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
            "requests": self._requests,
            "messages": self._outbox.messages,
            "bytes": self._wire.sent_bytes,
        }
        logger.info("ended: %s %s", how, reason, extra={"figures": figures})
