"""One connection's plain requests, one after the other, until one asks for a WebSocket or an event stream.

Connections are kept, and each wait has its deadline. A request that can't be answered ends its connection,
with a response that says why.
"""

import math
from collections.abc import Mapping

import trio

from trio_ws.http import actions, events
from trio_ws.http.actions import Actions, check_body
from trio_ws.http.origins import admit_page, answer_preflight, telling
from trio_ws.http.pages import Pages, respond
from trio_ws.http.paths import ACTIONS, EVENTS
from trio_ws.settings import Settings
from trio_ws.wire.admission import PATHS, refuse_plain
from trio_ws.wire.head import Head, Refusal
from trio_ws.wire.stream import Wire

PAGE_PAUSE_SECONDS = 0.01  # at least, between two pages on one connection


class Requests:
    """Answers them.

    Args:
        wire: The client's.
        settings: The settings in force.
        pages: What they find.
        actions: What does the actions that they ask for; None: nothing here does.
        head_seconds: Time for each head to come, and for each body; None: as the settings say.

    Attributes:
        is_stopping: Whether no more are taken.
    """

    def __init__(
        self,
        wire: Wire,
        settings: Settings,
        pages: Pages,
        actions: Actions | None = None,
        head_seconds: float | None = None,
    ) -> None:
        self.is_stopping = False
        self._wire = wire
        self._settings = settings
        self._pages = pages
        self._actions = actions
        self._head_seconds = settings.head_seconds if head_seconds is None else head_seconds
        self._waiting = self._answering = trio.CancelScope()  # for a head; what one asks
        self._stop_by = math.inf
        self._not_before = -math.inf  # the next page

    async def until_line(self) -> Head | None:
        """Answer requests until one asks for a line, and return that; None: there is no more.

        Raises:
            Refusal: a request can't be answered; nothing follows it.
        """
        while (head := await self._receive_head()) is not None:
            if self._asks_for_line(head):
                return head
            is_kept = False
            with trio.CancelScope(deadline=self._stop_by) as self._answering:
                is_kept = await self._answer(head)
            if not is_kept:
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

    def _asks_for_line(self, head: Head) -> bool:
        """Return whether something else is to answer, where there is something that does."""
        if head.asks_for_websocket or (head.path == EVENTS and head.method == "GET"):
            return True
        return head.path in (ACTIONS, EVENTS) and self._actions is None

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
        if self._actions is not None and head.path in (ACTIONS, EVENTS):
            response, is_kept = await self._act(head, self._actions)
        elif head.path in PATHS and head.method != "OPTIONS" and not self._pages.greets(head):
            raise refuse_plain(head)
        else:
            await trio.sleep_until(self._not_before)
            response, is_kept = await self._pages.answer(head)
            self._not_before = trio.current_time() + PAGE_PAUSE_SECONDS
        try:
            await self._wire.send_all(response)
        except trio.BrokenResourceError:
            return False  # it has gone, whatever it asked besides
        await trio.lowlevel.checkpoint()  # others have their turn, however fast this one asks
        return is_kept

    async def _act(self, head: Head, doer: Actions) -> tuple[bytes, bool]:
        """Return the response to a request by the protocol's section 9, and whether its connection is kept.

        Raises:
            Refusal: it can't be read, or the page that calls may not.
        """
        told = admit_page(head, doer.settings)
        with telling(told):
            return await self._act_for(head, doer, told)

    async def _act_for(self, head: Head, doer: Actions, told: Mapping[str, str]) -> tuple[bytes, bool]:
        methods = actions.METHODS if head.path == ACTIONS else events.METHODS
        if head.method not in methods:
            allowed = ", ".join(methods)
            raise Refusal(405, f"Only {allowed} are known here", given=head.method, Allow=allowed)
        if head.method == "OPTIONS":
            return respond(head, answer_preflight(methods, told), is_last=head.has_body)
        if head.method == "HEAD":
            return events.respond_to_head(told), False
        check_body(head)
        page, is_kept = await doer.answer(head, await self._receive_body(head))
        page = page._replace(headers={**page.headers, **told})
        return respond(head, page, is_last=self.is_stopping or not is_kept)

    async def _receive_body(self, head: Head) -> bytes:
        body = None
        with trio.move_on_after(self._head_seconds) as waiting:
            body = await self._wire.receive_body(head)
        if waiting.cancelled_caught:
            raise Refusal(408, "The body took too long")
        if body is None:
            raise Refusal(400, "The body ended before its end")
        return body
