"""Who may come in: the paths that lead here, the page that a browser calls from, the token that it brings."""

import ipaddress
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from trio_ws.errors import ActionError, Unauthorized
from trio_ws.settings import Settings
from trio_ws.wire.head import Head, Refusal

PATHS = ("/", "/ws")
DEFAULT_PORTS = {"http": 80, "https": 443}
SUBPROTOCOL = "trio-ws"
BEARER_SUBPROTOCOL = "bearer."  # what browsers can send: they set no header


def refuse_plain(head: Head) -> Refusal:
    """Return the response to a request for no WebSocket where there is nothing else."""
    try:
        check_place(head)
    except Refusal as refusal:
        return refusal
    return Refusal(426, "This is a WebSocket server", Upgrade="websocket", Sec_WebSocket_Version="13")


def unavailable(settings: Settings, reason: str) -> Refusal:
    """Return the response to a client that has to retry, each after a time of its own."""
    seconds = random.uniform(0, settings.retry_spread_seconds)  # noqa: S311 - hides nothing
    return Refusal(503, reason, Retry_After=str(math.ceil(seconds)))


@contextmanager
def refusing(settings: Settings) -> Iterator[None]:
    """Turn what is wrong with a token, or with checking it, into an HTTP response.

    Raises:
        Refusal: something is.
    """
    try:
        yield
    except Unauthorized as error:
        raise Refusal(401, error.message, WWW_Authenticate="Bearer") from None
    except ActionError as error:
        raise unavailable(settings, error.message) from None


def check_place(head: Head) -> None:
    """Let by what asks for something that is here, in the one way that there is.

    Raises:
        Refusal: another does.
    """
    if head.path not in PATHS:
        raise Refusal(404, f"Nothing is here; try {' or '.join(PATHS)}", given=head.path)
    if head.method != "GET":
        raise Refusal(405, "Only GET is known here", given=head.method, Allow="GET")


def check_origin(head: Head, origins: Sequence[str], *, is_open: bool) -> None:
    """Let by what is no page's, or that of a page of the same host, or of one of the origins.

    Where nobody needs a token, the same host must be this machine's name or a plain address: anybody who owns
    another name may have it lead here, and his page in a browser would do as it pleases (DNS rebinding).

    Raises:
        Refusal: another page calls.
    """
    if not (callers := head.values("origin")):
        return
    welcome = [_read_origin(origin) for origin in origins]
    has_host = not is_open or _is_no_name(head.host)
    for caller in map(_read_origin, callers):
        is_own = has_host and caller == _read_origin(f"{caller[0]}://{head.host}")
        if not is_own and caller not in welcome:
            raise Refusal(403, "Pages of this origin may not call", given=", ".join(callers))


def check_host(head: Head, origins: Sequence[str]) -> None:
    """Let by what asks for a host that nobody can have lead here but who runs it: see `check_origin`.

    For a browser says nothing of the page where that asks for what is of its own host, as it seems. A name
    without a point is in no public DNS.

    Raises:
        Refusal: it asks for another host.
    """
    is_known = any(head.host == urlsplit(origin).netloc for origin in origins)
    if not is_known and "." in head.host and not _is_no_name(head.host):
        raise Refusal(
            403,
            "Without tokens, a public name may be anybody's: call an address, or set `origins`",
            given=head.host,
        )


def _is_no_name(host: str) -> bool:
    name = ""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761: never asked for in DNS
    return True


def _read_origin(text: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port, as origins are compared: RFC 6454 section 5; of none, the text alone."""
    try:
        url = urlsplit(text)
        if url.hostname:
            return url.scheme, url.hostname, url.port or DEFAULT_PORTS.get(url.scheme)
    except ValueError:  # as for http://[
        pass
    return "", text, None


def find_token(head: Head) -> str | None:
    """Return the token that comes with the request; an empty one counts as a wrong one.

    Another scheme's is none of ours: a proxy may ask for a password of its own.
    """
    for value in head.values("authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    for name in head.items("sec-websocket-protocol"):
        if name.startswith(BEARER_SUBPROTOCOL):
            return name.removeprefix(BEARER_SUBPROTOCOL)
    return None


def choose_subprotocol(head: Head) -> str | None:
    """Return the subprotocol that is spoken, if the client knows it."""
    return SUBPROTOCOL if SUBPROTOCOL in head.items("sec-websocket-protocol") else None
