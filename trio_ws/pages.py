"""Plain HTTP on the same port: whether we live, whether we serve, and what was measured.

GET and HEAD, connections that are kept, and for all else the status that says what is wrong.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import trio

from trio_ws import metrics
from trio_ws.wire.admission import PATHS, refuse_plain
from trio_ws.wire.head import Head, Refusal, encode_response
from trio_ws.wire.stream import Wire

PAGE_PAUSE_SECONDS = 0.01  # at least, between two pages on one connection
METHODS = ("GET", "HEAD")
TEXT = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """What is answered."""

    body: bytes
    content_type: str = TEXT
    status: int = 200


Makers = Mapping[str, Callable[[], Page]]


class Pages:
    """What is found, by path.

    One page is made in a turn of the event loop, however many ask: measurements take milliseconds, and who
    asks for them on a hundred connections is no more trouble to others than who asks on one.

    Args:
        makers: What makes each.
    """

    def __init__(self, makers: Makers) -> None:
        self._makers = makers
        self._turn = trio.Lock()

    async def answer(self, head: Head) -> tuple[bytes, bool]:
        """See `respond`."""
        async with self._turn:
            return respond(head, self._makers)


async def receive_handshake(
    wire: Wire, pages: Pages, head_seconds: float, waiting: trio.CancelScope
) -> Head | None:
    """Serve plain requests until one asks for a WebSocket, and return that, or None at their end.

    Args:
        wire: The client's.
        pages: What plain requests find.
        head_seconds: Time for each head to come.
        waiting: The scope that this is called in.

    Raises:
        Refusal: what is asked for is not there; nothing follows that.
    """
    not_before = trio.current_time()
    while True:
        waiting.deadline = min(waiting.deadline, trio.current_time() + head_seconds)
        head = await wire.receive_head()
        if head is None or head.asks_for_websocket:
            return head
        if head.path in PATHS:
            raise refuse_plain(head)
        await trio.sleep_until(not_before)
        response, is_kept = await pages.answer(head)
        try:
            await wire.send_all(response)
        except trio.BrokenResourceError:
            return None  # it has gone, whatever it asked besides
        if not is_kept:
            return None
        waiting.deadline = math.inf
        not_before = trio.current_time() + PAGE_PAUSE_SECONDS


def health() -> Page:
    """Say that this process lives: its event loop has just done so."""
    return Page(b"ok\n")


def readiness(trouble: Callable[[], str | None]) -> Callable[[], Page]:
    """Return a page that says whether clients should be sent here, and if not, why not."""

    def page() -> Page:
        reason = trouble()
        return Page(b"ok\n") if reason is None else Page(f"{reason}\n".encode(), status=503)

    return page


def measurements() -> Page:
    """Return what was measured, for Prometheus."""
    return Page(metrics.page(), metrics.CONTENT_TYPE)


def respond(head: Head, makers: Makers) -> tuple[bytes, bool]:
    """Return the response to a request that asks for no WebSocket, and whether its connection is kept.

    Raises:
        Refusal: there is no such page.
    """
    if (make := makers.get(head.path)) is None:
        raise Refusal(404, f"Nothing is here; try {', '.join(makers)}")
    if head.method not in METHODS:
        raise Refusal(405, "Only GET and HEAD are known here", Allow=", ".join(METHODS))
    if head.has_body:
        raise Refusal(400, "A request for a page has no body")
    page = make()
    kept = head.keeps_its_connection
    response = encode_response(
        page.status,
        page.body,
        {
            "Content-Type": page.content_type,
            "Cache-Control": "no-store",
            "Connection": "keep-alive" if kept else "close",
        },
        only_head=head.method == "HEAD",
    )
    return response, kept
