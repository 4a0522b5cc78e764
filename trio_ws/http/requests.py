"""One connection's plain requests, one after the other, until one asks for a line.

Connections are kept, and each wait has its deadline; what can't be answered ends them, and is told why.
"""

import math

import trio

from trio_ws.http.pages import Pages
from trio_ws.wire.admission import PATHS, refuse_plain
from trio_ws.wire.head import Head, Refusal
from trio_ws.wire.stream import Wire

PAGE_PAUSE_SECONDS = 0.01  # at least, between two pages on one connection


class Requests:
    """Answers them.

    Args:
        wire: The client's.
        pages: What they find.
        head_seconds: Time for each head to come.

    Attributes:
        is_stopping: Whether no more are taken.
    """

    def __init__(self, wire: Wire, pages: Pages, head_seconds: float) -> None:
        self.is_stopping = False
        self._wire = wire
        self._pages = pages
        self._head_seconds = head_seconds
        self._waiting = self._answering = trio.CancelScope()  # for a head; what one asks
        self._stop_by = math.inf

    async def until_line(self) -> Head | None:
        """Answer requests until one asks for a line, and return that; None: there is no more.

        Raises:
            Refusal: a request can't be answered; nothing follows it.
        """
        not_before = trio.current_time()
        while (head := await self._receive_head()) is not None:
            if head.asks_for_websocket:
                return head
            if head.path in PATHS and head.method != "OPTIONS":
                raise refuse_plain(head)
            with trio.CancelScope(deadline=self._stop_by) as self._answering:
                await trio.sleep_until(not_before)
                if await self._answer(head):
                    not_before = trio.current_time() + PAGE_PAUSE_SECONDS
                    continue
            break
        return None

    @property
    def head_deadline(self) -> float:
        """When the last head had to be there, on trio's clock."""
        return self._waiting.deadline

    def stop(self, seconds: float) -> None:
        """Take no more; what is under way may take so long."""
        self.is_stopping = True
        self._waiting.cancel()
        self._stop_by = self._answering.deadline = trio.current_time() + seconds

    async def _receive_head(self) -> Head | None:
        with trio.CancelScope(deadline=trio.current_time() + self._head_seconds) as self._waiting:
            if self.is_stopping:
                return None
            return await self._wire.receive_head()
        if self._wire.has_begun_head and not self.is_stopping:
            raise Refusal(408, "The request took too long")
        return None

    async def _answer(self, head: Head) -> bool:
        """Answer a request, and tell whether another one may follow."""
        response, is_kept = await self._pages.answer(head)
        try:
            await self._wire.send_all(response)
        except trio.BrokenResourceError:
            return False  # it has gone, whatever it asked besides
        return is_kept
