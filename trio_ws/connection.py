"""One client: open, read, answer, write, keep alive, close.

    wire → trio-websocket → _read → inbox → _answer → outbox → _write → trio-websocket → wire
                                              the dispatcher ↗

It ends one way only: reading stops, and each stage after it runs dry, because the stage before has closed
its end of the channel. A deadline bounds how long that may take.
"""

import itertools
import logging
from typing import NamedTuple

import h11
import trio
import wsproto.utilities
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)

from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.actions.table import answer
from trio_ws.errors import ActionError, CloseCode, Unauthorized, leaves
from trio_ws.events.follower import Follower
from trio_ws.events.outbox import Outbox
from trio_ws.wire.admission import SUBPROTOCOL, find_token, is_welcome
from trio_ws.wire.stream import Wire

logger = logging.getLogger(__name__)

PATHS = ("/", "/ws")
# Messages read ahead of the one that is being answered, so that reading and answering overlap.
INBOX_MESSAGES = 8

# In how many ways trio-websocket and what is under it give up on what peers send, and when they send it.
PEER_TROUBLE = (
    ConnectionClosed,
    h11.ProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    UnicodeError,
    wsproto.utilities.ProtocolError,
)

_numbers = itertools.count(1)


class _Ending(NamedTuple):
    code: CloseCode
    reason: str


class Connection:
    """Serves one client on one stream.

    Args:
        stream: The accepted socket, or anything like it.
        services: The server's.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, services: Services) -> None:
        self.number = next(_numbers)
        self._services = services
        self._settings = services.settings
        self._wire = Wire(stream)
        self._outbox = Outbox(self._settings.outbox_bytes)
        self._follower = Follower(services.dispatcher.log, self._outbox, self._end_at_gap)
        self._session = Session(services, self._follower, self.end, self._expire_at)
        self._to_inbox, self._inbox = trio.open_memory_channel[str | bytes](INBOX_MESSAGES)
        self._ending: _Ending | None = None
        self._waiting = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._running = trio.CancelScope()

    async def run(self) -> None:
        """Serve the client until either side ends it.

        Whatever the client sends, this returns; whatever happens here, it leaves no task, no subscription
        and no socket behind.
        """
        try:
            async with trio.open_nursery() as library:  # trio-websocket's own reader lives in it
                socket = await self._open(library)
                if socket is not None:
                    library.start_soon(self._keep_alive, socket)
                    await self._converse(socket)
                    await self._close(socket)
                library.cancel_scope.cancel()
        except* PEER_TROUBLE as errors:
            trouble = ", ".join(f"{type(error).__name__}: {error}" for error in leaves(errors))
            logger.info("connection %d: trio-websocket gave up: %s", self.number, trouble)
        finally:
            self._services.dispatcher.unsubscribe_all(self._follower)
            self._session.close()
            with trio.move_on_after(self._settings.close_seconds, shield=True):
                await self._wire.hang_up()

    def end(self, code: CloseCode, reason: str = "", *, seconds: float = 0.0) -> None:
        """Begin to end the connection; the first call's code is the one that counts.

        Args:
            code: What the client is told.
            reason: The same in words.
            seconds: How long what is under way may take; 0: nothing more is written but the close frame.
        """
        self._ending = self._ending or _Ending(code, reason)
        self._waiting.cancel()
        self._reading.cancel()
        self._running.deadline = min(self._running.deadline, trio.current_time() + seconds)

    def _end_at_gap(self, code: CloseCode, reason: str) -> None:
        # What is queued is still good; what would come after it is not.
        self._services.dispatcher.unsubscribe_all(self._follower)
        self.end(code, reason, seconds=self._settings.write_seconds)

    async def _open(self, library: trio.Nursery) -> WebSocketConnection | None:
        """Return the WebSocket, or None where it did not come to one in time."""
        deadline = trio.current_time() + self._settings.head_seconds
        self._waiting.deadline = min(self._waiting.deadline, deadline)
        request: WebSocketRequest | None = None
        with self._waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_no_longer_than_the_wire)
                request = await wrap_server_stream(
                    library, self._wire, max_message_size=self._settings.message_bytes
                )
                nursery.cancel_scope.cancel()
        with trio.move_on_at(deadline):
            if request and (refusal := await self._refusal(request)):
                await request.reject(refusal)
            elif request:
                ours = SUBPROTOCOL in request.proposed_subprotocols
                return await request.accept(subprotocol=SUBPROTOCOL if ours else None)
        return None

    async def _refusal(self, request: WebSocketRequest) -> int | None:
        """Return the HTTP status that a caller is turned away with, or None for one that may come in."""
        if request.path.partition("?")[0] not in PATHS:
            return 404
        if not is_welcome(request, self._settings.origins):
            return 403
        try:
            if (token := find_token(request)) is not None:
                await self._session.authenticate(token)
        except Unauthorized:
            return 401
        except ActionError:
            return 503
        return None

    def _expire_at(self, moment: float) -> None:
        self._reading.deadline = moment

    async def _wait_no_longer_than_the_wire(self) -> None:
        await self._wire.ended.wait()  # trio-websocket would go on waiting for a request
        self._waiting.cancel()

    async def _converse(self, socket: WebSocketConnection) -> None:
        try:
            with self._running:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, socket)
                    nursery.start_soon(self._write, socket)
                    await self._answer()  # joins the two tasks
        except Exception:
            logger.exception("connection %d failed", self.number)
            self.end(CloseCode.INTERNAL_ERROR)

    async def _read(self, socket: WebSocketConnection) -> None:
        async with self._to_inbox:  # leaving says "no more" to the next stage
            with self._reading:
                try:
                    while True:
                        message = await socket.get_message()
                        if self._is_too_big(message):
                            seconds = self._settings.close_seconds
                            self.end(CloseCode.MESSAGE_TOO_BIG, "message too big", seconds=seconds)
                            return
                        await self._to_inbox.send(message)
                except (ConnectionClosed, trio.BrokenResourceError):
                    pass  # The client, or the stage after this one, has gone.
            if self._reading.cancelled_caught and self._ending is None:
                self._session.lose("the token has expired")

    def _is_too_big(self, message: str | bytes) -> bool:
        """Count bytes, where trio-websocket has counted characters."""
        size = len(message) if isinstance(message, bytes) else len(message.encode())
        return size > self._settings.message_bytes

    async def _answer(self) -> None:
        async with self._inbox:
            try:
                async for message in self._inbox:
                    await self._outbox.reply(await answer(message, self._services, self._session))
            except trio.BrokenResourceError:
                self._reading.cancel()  # Nobody writes any more, so there is nothing to read for.
        self._outbox.close()

    async def _write(self, socket: WebSocketConnection) -> None:
        try:
            while True:
                frame = await self._follower.take()
                with trio.move_on_after(self._settings.write_seconds) as writing:
                    await socket.send_message(frame.decode())
                if writing.cancelled_caught:
                    self.end(CloseCode.UNRESPONSIVE, "does not read")
        except (trio.EndOfChannel, ConnectionClosed):
            pass  # All is said, or nobody listens.
        finally:
            self._outbox.abandon()

    async def _keep_alive(self, socket: WebSocketConnection) -> None:
        try:
            while True:
                await trio.sleep(self._settings.ping_seconds)
                with trio.move_on_after(self._settings.pong_seconds) as waiting:
                    await socket.ping()
                if waiting.cancelled_caught and (self._wire.torn or not self._is_behind()):
                    self.end(CloseCode.UNRESPONSIVE, "no pong", seconds=self._settings.close_seconds)
        except ConnectionClosed:
            pass

    def _is_behind(self) -> bool:
        """Tell whether it is us who do not read: the pong may stand behind messages in the socket."""
        return self._to_inbox.statistics().tasks_waiting_send > 0

    async def _close(self, socket: WebSocketConnection) -> None:
        """Say why, if it was us who ended it."""
        if self._ending is not None:
            with trio.move_on_after(self._settings.close_seconds):
                await socket.aclose(self._ending.code, self._ending.reason)
