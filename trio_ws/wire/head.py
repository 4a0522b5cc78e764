"""The request head: what a caller says before all else, read and judged before anybody acts on it. No I/O.

h11 parses it. What it lets through and what it does not say is checked here, so that whoever is refused gets
an HTTP status, and a sentence that says why.
"""

import base64
import binascii
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import h11

WEBSOCKET_VERSION = "13"
KEY_BYTES = 16  # RFC 6455 section 4.1

# Lines of a head, and items of a header that is a list. A browser sends some 20 lines and a proxy adds 10;
# Apache allows 100. Each costs 4 µs, and 32 KiB would hold 8 000.
MAX_LINES = MAX_ITEMS = 100
_BLANK_LINE = re.compile(rb"\n\r?\n")

# The headers that mean something to us; in no other does it matter what they hold.
READ_HEADERS = frozenset({b"authorization", b"connection", b"host", b"origin", b"upgrade"})
READ_PREFIX = b"sec-websocket-"


class Refusal(Exception):
    """A request is turned away.

    Args:
        status: The HTTP status.
        reason: Why, in a sentence for the client's developer.
        headers: What else the response says; `_` stands for `-`.
    """

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def encode(self, *, only_head: bool = False) -> bytes:
        """Return the response; nothing follows it on its connection."""
        headers = {"Content-Type": "text/plain", "Connection": "close", **self.headers}
        body = f"{self.reason}\n".encode("ascii")
        return encode_response(self.status, body, headers, only_head=only_head)


def encode_response(
    status: int, body: bytes, headers: Mapping[str, str], *, only_head: bool = False
) -> bytes:
    """Return a whole HTTP response; to HEAD, without the body that it tells of."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (b"" if only_head else body)


class Head(NamedTuple):
    """A request head that has come whole.

    Attributes:
        method: As the caller wrote it: GET.
        target: What it asks for: a path, and what may stand after it.
        version: Of HTTP: 1.1.
        headers: Names, in small letters, and values; those that we read are ASCII.
    """

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def asks_for_websocket(self) -> bool:
        """Whether it is meant as a WebSocket's opening handshake, good or not."""
        return "websocket" in self.tokens("upgrade") or bool(self.values("sec-websocket-key"))

    @property
    def has_body(self) -> bool:
        """Whether more follows than the head."""
        return bool(self.tokens("transfer-encoding")) or self.values("content-length") not in ([], ["0"])

    @property
    def keeps_its_connection(self) -> bool:
        """Whether another request may follow: RFC 9112 section 9.3."""
        return self.version == "1.1" and "close" not in self.tokens("connection")

    def values(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for found, value in self.headers if found == name]

    def items(self, name: str) -> list[str]:
        """Return the items of a header that is a list, over all its lines.

        Raises:
            Refusal: there are too many.
        """
        values = self.values(name)
        if sum(value.count(",") for value in values) >= MAX_ITEMS:
            raise Refusal(431, f"A header has over {MAX_ITEMS} items")
        return [item.strip() for value in values for item in value.split(",") if item.strip()]

    def tokens(self, name: str) -> list[str]:
        """Return the same in small letters, for a header that knows no others."""
        return [item.lower() for item in self.items(name)]

    def websocket_key(self) -> str:
        """Return the key of an opening handshake that is all right: RFC 6455 section 4.2.1.

        Raises:
            Refusal: it is not.
        """
        keys = self.values("sec-websocket-key")
        if self.version != "1.1":
            raise Refusal(400, "A WebSocket opens with HTTP/1.1")
        if "websocket" not in self.tokens("upgrade") or "upgrade" not in self.tokens("connection"):
            raise Refusal(
                400, "Expected `Upgrade: websocket` and `Connection: Upgrade`: does a proxy drop them?"
            )
        if self.has_body:
            raise Refusal(400, "A WebSocket opens without a body")
        if not (versions := self.items("sec-websocket-version")):
            raise Refusal(400, "Expected Sec-WebSocket-Version")
        if versions != [WEBSOCKET_VERSION]:
            raise Refusal(426, "Only version 13 is spoken here", Sec_WebSocket_Version=WEBSOCKET_VERSION)
        if len(keys) != 1 or not _is_key(keys[0]):
            raise Refusal(400, "Expected one Sec-WebSocket-Key: 16 bytes in base64")
        return keys[0]


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False


class HeadReader:
    """Collects a head.

    Args:
        limit_bytes: How long it may be; None: any length.

    Attributes:
        rest: What came behind it.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self.rest = b""
        self._lines = 0
        self._end = b""  # of what has come
        self._room = math.inf if limit_bytes is None else limit_bytes
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limit_bytes or 2**31)

    def feed(self, data: bytes) -> Head | None:
        """Take bytes as they come, and return the head once it is whole.

        Raises:
            Refusal: it is no HTTP, or too long, or says what can't be understood.
        """
        taken = data if len(data) <= self._room else data[: int(self._room)]
        self._room -= len(taken)
        if self._count_lines(taken) > MAX_LINES:
            raise Refusal(431, f"The request head has over {MAX_LINES} lines")
        self._http.receive_data(taken)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError:
            raise Refusal(400, "This is no request head that can be read") from None
        if isinstance(event, h11.Request):
            self.rest = self._http.trailing_data[0] + data[len(taken) :]
            return _understand(event)
        if not self._room:
            raise Refusal(431, "The request head is too long")
        return None

    def _count_lines(self, taken: bytes) -> int:
        """Return how many lines have come of the head alone."""
        there = self._end + taken  # the blank line that ends it may come in pieces
        blank = _BLANK_LINE.search(there)
        self._lines += there.count(b"\n", len(self._end), blank.end() if blank else len(there))
        self._end = there[-2:]
        return self._lines


def _understand(request: h11.Request) -> Head:
    for name, value in request.headers:
        if (name in READ_HEADERS or name.startswith(READ_PREFIX)) and not value.isascii():
            raise Refusal(400, f"Expected ASCII in {name.decode()}")
    return Head(
        request.method.decode(),
        request.target.decode(),
        request.http_version.decode(),
        [(name.decode(), value.decode("latin-1")) for name, value in request.headers],
    )
