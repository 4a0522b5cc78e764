"""A WebSocket: a line on which the client asks, too. It is let in, read, answered and kept alive.

    wire → _read → answers → outbox → _write → wire
                 the dispatcher ↗

Requests that need no waiting are answered by the reader.
"""

import math
import os
from collections.abc import Callable

import trio

from trio_ws.actions.services import Services
from trio_ws.actions.table import Request
from trio_ws.answers import Answers
from trio_ws.errors import CloseCode
from trio_ws.events.outbox import WAITING
from trio_ws.events.spelling import FRAMES
from trio_ws.line import Line
from trio_ws.pulse import Pulse
from trio_ws.wire.admission import check_origin, check_place, choose_subprotocol, find_token, refusing
from trio_ws.wire.frames import CLOSE, PING, PONG, Frame, encode_close, encode_frame
from trio_ws.wire.handshake import answer_handshake
from trio_ws.wire.head import Head
from trio_ws.wire.stream import Wire

# How long a client that was slow may still take for what the two kernels hold, before which it sees no ping:
# some 300 KB at 5 KB/s.
SLOW_SECONDS = 60.0

PING_BYTES = 4  # of chance, so that nobody can answer a ping that it has not read


class WebSocket(Line):
    """Serves one client that has asked for a WebSocket.

    Args:
        wire: The client's.
        services: The server's.
        pulse: Says when to ping.
        log_fields: What each log line about the client says.
        request: Returns what a message asks for; None: one of the server's actions.
    """

    KIND = "websocket"

    def __init__(
        self,
        wire: Wire,
        services: Services,
        pulse: Pulse,
        log_fields: dict[str, object],
        request: Callable[[str | bytes], Request] | None = None,
    ) -> None:
        super().__init__(wire, services, pulse, log_fields, FRAMES)
        self._request = request
        self._answers = Answers(self, self._outbox)
        self._pinged: bytes | None = None  # what it is to answer with
        self._excused_until = -math.inf  # from having answered no ping

    async def admit(self, head: Head) -> bytes:
        """Return the answer to a handshake, if the caller may come in.

        Raises:
            Refusal: it may not.
        """
        check_place(head)
        key = head.websocket_key()
        check_origin(head, self._settings.origins, is_open=self._settings.auth == "open")
        if (token := find_token(head)) is not None:
            with refusing(self._settings):
                await self._session.authenticate(token)
        return await answer_handshake(key, choose_subprotocol(head))

    def leave(self) -> None:
        """Have no part of the server know of it any more."""
        super().leave()
        del self._answers

    def request(self, text: str | bytes) -> Request:
        """Return what a message asks for."""
        if self._request is not None:
            return self._request(text)
        return Request(text, self._services, self._session)

    @property
    def _requests(self) -> int:
        return self._answers.taken

    async def _answer(self) -> None:
        await self._answers.run()

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

    def take_control(self, opcode: int, payload: bytes) -> None:
        """Answer a ping, or note the pong that is waited for."""
        if opcode == PING:
            self._outbox.control(PONG, encode_frame(PONG, payload))
        elif payload == self._pinged:
            self._end_ping(is_answered=True)

    def _keep_alive(self) -> None:
        """Ping, or find that there was no pong in time: whichever it is time for."""
        if self._pinged is None:
            self._excuse_if_slow(is_answered=False)  # the kernel holds what went before
            self._pinged = os.urandom(PING_BYTES)
            self._outbox.control(PING, encode_frame(PING, self._pinged))
            self._set_beat(self._settings.pong_seconds)
        else:
            self._end_ping(is_answered=False)

    def _end_ping(self, *, is_answered: bool) -> None:
        self._excuse_if_slow(is_answered=is_answered)
        # Where it is us who do not read, the pong may stand behind messages in the socket.
        is_excused = not self._wire.is_waited_for or trio.current_time() < self._excused_until
        if not (is_answered or is_excused):
            self.end(CloseCode.UNRESPONSIVE, "no pong", seconds=self._settings.close_seconds)
        self._pinged = None
        self._set_beat(self._settings.ping_seconds)

    def _excuse_if_slow(self, *, is_answered: bool) -> None:
        if self._takes_its_time(is_answered=is_answered):
            self._excused_until = trio.current_time() + SLOW_SECONDS

    def _takes_its_time(self, *, is_answered: bool) -> bool:
        """Return whether it reads slowly: the ping may stand behind what it has not come to yet.

        Whether it reads at all the writer finds out, in `write_seconds`.
        """
        # A pong may come before the writer knows that its ping is out.
        is_stuck = self._outbox.state is WAITING and not is_answered
        return self._follower.is_behind or self._outbox.waiting_bytes > 0 or is_stuck

    def _last_words(self) -> bytes | None:
        """Return our close frame; None: there is nobody to read one."""
        ending = self._why()
        payload = self._wire.screen.close if ending is None else encode_close(ending.code, ending.reason)
        return None if payload is None else encode_frame(CLOSE, payload)

    def _how_it_ended(self) -> str:
        # A client may close with thousands of codes, which are no names for counters.
        return "gone" if self._wire.screen.close is None else "client"

    def _figures(self) -> dict[str, object]:
        return {"requests": self._answers.taken, **super()._figures()}
