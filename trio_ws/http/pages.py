"""What is found by a path: whether we live, whether we serve, what was measured, what a browser shows."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import trio

from trio_ws import metrics
from trio_ws.wire.admission import PATHS
from trio_ws.wire.head import Head, Refusal, encode_response

HOME = "/"  # where clients connect, and a browser finds a page that says so
METHODS = ("GET", "HEAD", "OPTIONS")  # the last is what HAProxy asks for health with, of `/`
TEXT = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """What is answered.

    Attributes:
        body: What it holds.
        content_type: Of what kind that is.
        status: The HTTP status.
        etag: Names this content, as RFC 9110 section 8.8.3 has it; who holds it is not sent it again.
            None: it is made each time, and must not be cached.
        headers: What else the response says.
    """

    body: bytes
    content_type: str = TEXT
    status: int = 200
    etag: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})


Maker = Callable[[], Page]
Asked = Callable[[Head], Awaitable[Maker]]  # what is to be asked elsewhere first, as of the database


class Pages:
    """What is found, by path; a path that ends with a slash stands for all that begin with it.

    One page is made in a turn of the event loop, however many ask: measurements take milliseconds, and who
    asks for them on a hundred connections costs others no more than one that asks on one.

    Args:
        makers: What makes each.
        guarded: The same, for those that `admit` lets in.
        admit: Raises `Refusal` for all others.
        asked: Finds out what a page needs, which takes waiting: for many of these at once.
    """

    def __init__(
        self,
        makers: Mapping[str, Maker],
        guarded: Mapping[str, Maker] = MappingProxyType({}),
        admit: Callable[[Head], Awaitable[None]] | None = None,
        asked: Mapping[str, Asked] = MappingProxyType({}),
    ) -> None:
        self._makers = {**makers, **guarded}
        self._asked = asked
        self._known = (*self._makers, *asked)
        self._guarded = guarded
        self._admit = admit
        self._turn = trio.Lock()

    def greets(self, head: Head) -> bool:
        """Return whether this is a browser's request for the page where clients connect."""
        wants_page = "text/html" in ",".join(head.values("accept"))
        return wants_page and head.path == HOME and HOME in self._makers

    async def answer(self, head: Head) -> tuple[bytes, bool]:
        """Return the response to a request that asks for no WebSocket, and whether its connection is kept.

        Raises:
            Refusal: there is no such page, or not for that caller.
        """
        name = self._find(head)
        if self._admit is not None and name in self._guarded:
            await self._admit(head)
        maker = await self._asked[name](head) if name in self._asked else self._makers[name]
        async with self._turn:
            return respond(head, maker())

    def _find(self, head: Head) -> str:
        if head.method == "OPTIONS" and head.path in PATHS:
            return "/healthz"
        folder, slash, _ = head.path.rpartition("/")
        name = head.path if head.path in self._known else folder + slash
        if name not in self._known or (name == HOME and not self.greets(head)):
            known = ", ".join(known for known in self._known if known != HOME)
            raise Refusal(404, f"Nothing is here; try {known}", given=head.path)
        if head.method not in METHODS:
            raise Refusal(
                405, "Only GET, HEAD and OPTIONS are known here", given=head.method, Allow=", ".join(METHODS)
            )
        if head.has_body:
            raise Refusal(400, "A request for a page has no body")
        return name


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


def respond(head: Head, page: Page, *, is_last: bool = False) -> tuple[bytes, bool]:
    """Return the response to a request, and whether its connection is kept.

    Args:
        head: What was asked.
        page: What is answered.
        is_last: Whether it is not, whatever the client wants.
    """
    kept = head.keeps_its_connection and not is_last
    is_known = page.etag is not None and page.etag in head.items("if-none-match")
    headers = {
        "Content-Type": page.content_type,
        "Cache-Control": "no-store" if page.etag is None else "no-cache",
        "Connection": "keep-alive" if kept else "close",
        "X-Content-Type-Options": "nosniff",
        **page.headers,
    }
    if page.etag is not None:
        headers["ETag"] = page.etag
    if head.method == "OPTIONS":
        headers.setdefault("Allow", ", ".join(METHODS))
    response = encode_response(
        304 if is_known else page.status,
        page.body,
        headers,
        only_head=is_known or head.method in ("HEAD", "OPTIONS"),
    )
    return response, kept
