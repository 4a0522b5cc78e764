"""The request head: what a caller says before all else, read and judged before anybody acts on it. No I/O.

It is parsed here, as strictly as h11 does, which takes seven times as long: that was a quarter of what a
client cost until it was connected. A refused client gets an HTTP status, and a sentence that says why.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

WEBSOCKET_VERSION = "13"
KEY_BYTES = 16  # RFC 6455 section 4.1

# Lines of a head, and items of a header that is a list. A browser sends some 20 lines and a proxy adds 10;
# Apache allows 100.
MAX_LINES = MAX_ITEMS = 100

# RFC 9112 sections 2 to 5. A line may end without CR, and none goes on in the next one. What was matched once
# is not tried another way (`++`, `*+`), so that nothing takes longer than its length.
_TCHARS = r"[-!#$%&'*+.^_`|~0-9A-Za-z]++"
_FIELD = rf"({_TCHARS}):([^\0\n\v\f\r]*+)\r?\n"
_FIELDS = re.compile(_FIELD)
_HEAD = re.compile(rf"(?:\r?\n)?({_TCHARS}) ([!-~]++) HTTP/([0-9]\.[0-9])\r?\n((?:{_FIELD})*)\r?\n")
_BLANK_LINE = re.compile(rb"\n\r?\n")
# How each head begins, as far as it has come. TLS does not, and other binary data: it would wait for us.
_BEGINNING = re.compile(rb"(?:\r?\n)?(?:[!-~][ -~]*+\r?(?:\n|\Z)|\Z)|\r\Z")
# The same of a first line that has begun well, from its last byte on: a line of 32 KiB that came byte by byte
# and was read from its beginning each time took 2 s.
_GOING_ON = re.compile(rb"[ -~]*+\r?(?:\n|\Z)")
# A target as a proxy is asked, with the host that then counts: section 3.2.2 of RFC 9112.
_ABSOLUTE = re.compile(r"\A(?:https?|wss?)://([^/?#@]+)", re.IGNORECASE)

# The headers that mean something to us; in no other does it matter what they hold.
READ_HEADERS = frozenset(
    {"authorization", "connection", "host", "origin", "upgrade", "expect", "idempotency-key", "last-event-id"}
    | {"content-encoding", "content-length", "content-type", "transfer-encoding"}
)
READ_PREFIX = "sec-websocket-"


class Refusal(Exception):
    """A request is turned away.

    Args:
        status: The HTTP status.
        reason: Why, in a sentence for the client's developer.
        given: What did not fit, for the log; never a token.
        json: The body, where it is for a program; None: the sentence.
        headers: What else the response says; `_` stands for `-`.
    """

    def __init__(
        self, status: int, reason: str, *, given: object = None, json: bytes | None = None, **headers: str
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.given = given
        self.json = json
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def encode(self, *, only_head: bool = False) -> bytes:
        """Return the response; nothing follows it on its connection."""
        kind = "text/plain" if self.json is None else "application/json"
        headers = {"Content-Type": kind, "Connection": "close", **self.headers}
        body = f"{self.reason}\n".encode("ascii") if self.json is None else self.json
        return encode_response(self.status, body, headers, only_head=only_head)


def encode_response(
    status: int, body: bytes, headers: Mapping[str, str], *, only_head: bool = False
) -> bytes:
    """Return a whole HTTP response; to HEAD, without its body."""
    head = encode_head(status, {"Content-Length": str(len(body)), **headers})
    return head if only_head else head + body


def encode_head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return a response's head."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class Head(NamedTuple):
    """A request head that has come whole.

    Attributes:
        method: As the caller wrote it: GET.
        target: What it asks for: a path, and what may stand after it.
        version: Of HTTP: 1.1.
        headers: Values, by names in small letters; those that we read are ASCII.
    """

    method: str
    target: str
    version: str
    headers: dict[str, list[str]]

    @property
    def path(self) -> str:
        """The target without its query, and without a host."""
        return _ABSOLUTE.sub("", self.target).partition("?")[0] or "/"

    @property
    def query(self) -> str:
        """What stands after its path."""
        return self.target.partition("?")[2]

    @property
    def host(self) -> str:
        """Which of our names is called, and where its port is told, that."""
        absolute = _ABSOLUTE.match(self.target)
        return absolute[1] if absolute else "".join(self.values("host"))

    @property
    def asks_for_websocket(self) -> bool:
        """Whether it is meant as a WebSocket's opening handshake, good or not."""
        return "sec-websocket-key" in self.headers or "websocket" in self.tokens("upgrade")

    @property
    def has_body(self) -> bool:
        """Whether more may follow than the head: whatever is said of that but that it is nothing."""
        return bool(self.values("transfer-encoding")) or self.values("content-length") not in ([], ["0"])

    @property
    def awaits_continue(self) -> bool:
        """Whether its body may be held back until we say that we want it: RFC 9110 section 10.1.1."""
        return self.version == "1.1" and "100-continue" in self.tokens("expect")

    @property
    def keeps_its_connection(self) -> bool:
        """Whether another request may follow: RFC 9112 section 9.3."""
        return self.version == "1.1" and "close" not in self.tokens("connection")

    def values(self, name: str) -> list[str]:
        """Return the values of a header."""
        return self.headers.get(name, [])

    def items(self, name: str) -> list[str]:
        """Return the items of a header that is a list, over all its lines.

        Raises:
            Refusal: there are too many.
        """
        if name not in self.headers:
            return []
        items = ",".join(self.values(name)).split(",")
        if len(items) > MAX_ITEMS:
            raise Refusal(431, f"A header has over {MAX_ITEMS} items", given=name)
        # Of what RFC 9110 section 5.6.3 calls space; Python's own has `\x1c`, too, and hides it in a coding.
        return [stripped for item in items if (stripped := item.strip(" \t"))]

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
            raise Refusal(400, "A WebSocket opens with HTTP/1.1", given=f"HTTP/{self.version}")
        if "websocket" not in self.tokens("upgrade") or "upgrade" not in self.tokens("connection"):
            raise Refusal(
                400,
                "Expected `Upgrade: websocket` and `Connection: Upgrade`: does a proxy drop them?",
                given=", ".join(
                    f"{name}: {value}" for name in ("upgrade", "connection") for value in self.values(name)
                ),
            )
        if self.has_body:
            raise Refusal(400, "A WebSocket opens without a body")
        if not (versions := self.items("sec-websocket-version")):
            raise Refusal(400, "Expected Sec-WebSocket-Version")
        if versions != [WEBSOCKET_VERSION]:
            raise Refusal(
                426,
                "Only version 13 is spoken here",
                given=", ".join(versions),
                Sec_WebSocket_Version=WEBSOCKET_VERSION,
            )
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
        self._limit_bytes = limit_bytes
        self._come = bytearray()
        self._lines = 0
        self._is_begun = False  # with the first character of the first line
        self._is_text = False  # the first line came whole, and is

    def feed(self, data: bytes) -> Head | None:
        """Take bytes as they come, and return the head once it is whole.

        Raises:
            Refusal: it is no HTTP, or too long, or says what can't be understood.
        """
        known = len(self._come)
        self._come += data
        blank = _BLANK_LINE.search(self._come, max(0, known - 2))  # it may come in pieces
        size = blank.end() if blank else len(self._come)
        if self._limit_bytes is not None and size + (not blank) > self._limit_bytes:
            raise Refusal(431, "The request head is too long", given=f"over {self._limit_bytes} bytes")
        self._lines += self._come.count(b"\n", known, size)
        if self._lines > MAX_LINES:
            raise Refusal(431, f"The request head has over {MAX_LINES} lines")
        if not blank and self._may_become_a_head(known):
            return None
        self.rest = bytes(self._come[size:])
        return _parse(self._come[:size].decode("latin-1"))

    def _may_become_a_head(self, known: int) -> bool:
        """Return whether the first line is text as far as it has come, and read each byte once."""
        if self._is_text:
            return True
        begin = known - 1 if self._is_begun else 0
        if (match := (_GOING_ON if self._is_begun else _BEGINNING).match(self._come, begin)) is None:
            return False
        line = match[0].lstrip(b"\r\n")
        self._is_begun = self._is_begun or bool(line)
        self._is_text = self._is_begun and match[0].endswith(b"\n")
        return True


def _parse(text: str) -> Head:
    if (match := _HEAD.fullmatch(text)) is None:
        raise Refusal(400, "This is no request head that can be read")
    method, target, version, fields, *_ = match.groups()
    headers: dict[str, list[str]] = {}
    for name, value in _FIELDS.findall(fields):
        headers.setdefault(name.lower(), []).append(value.strip(" \t"))
    if (hosts := len(headers.get("host", []))) > 1 or (not hosts and version == "1.1"):
        raise Refusal(400, "Expected one Host")  # RFC 9112 section 3.2
    if not text.isascii():
        for name, values in headers.items():
            if (name in READ_HEADERS or name.startswith(READ_PREFIX)) and not "".join(values).isascii():
                raise Refusal(400, f"Expected ASCII in {name}")
    return Head(method, target, version, headers)
