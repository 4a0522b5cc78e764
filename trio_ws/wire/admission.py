"""What a request head says about who calls: a token, and the page that a browser calls from."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from trio_websocket import WebSocketRequest

SUBPROTOCOL = "trio-ws"
BEARER_SUBPROTOCOL = "bearer."  # what browsers can send: they set no header


def find_token(request: WebSocketRequest) -> str | None:
    """Return the token that comes with the request; a header that holds none counts as a wrong one."""
    for value in _values(request, b"authorization"):
        scheme, _, token = value.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    for name in request.proposed_subprotocols:
        if name.startswith(BEARER_SUBPROTOCOL):
            return name.removeprefix(BEARER_SUBPROTOCOL)
    return None


def is_welcome(request: WebSocketRequest, origins: Sequence[str]) -> bool:
    """Tell whether the page that calls, if one does, is of the same host, or one of the origins."""
    host = request._event.host  # noqa: SLF001 - it is taken out of the headers, and has no public name
    return all(
        origin in origins or urlsplit(origin).netloc.lower() == host.lower()
        for origin in _values(request, b"origin")
    )


def _values(request: WebSocketRequest, name: bytes) -> list[str]:
    return [value.decode("latin-1") for found, value in request.headers if found.lower() == name]
