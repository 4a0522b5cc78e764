"""What no server should send, for each of our clients: a table of what comes in answer to a request."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

Request = dict[str, Any]


class Close(NamedTuple):
    """End the line in good order, but with this."""

    code: int
    reason: str


class Raw(NamedTuple):
    """Bytes on the line, without a frame around them."""

    data: bytes


Sent = str | bytes | Close | Raw
Script = Callable[[Request], list[Sent]]

POSITION = {"position": "e-1.5", "recovered": True}
EVENT = '{"type":"invoice.updated","data":{"uid":"x","version":1},"previous":null,"position":"e-1.6"}'
STRANGE_IDS: list[object] = [999, [1], {}, None, "1", 1.5, True]
STRANGE_DATA: list[object] = [None, 7, "x", [], [1], {"position": 7}, {"uid": []}]
NO_STATUSES: list[object] = [None, 7, [], {}, ""]
MANY = [{"uid": f"{number}", "version": 1} for number in range(10_000)]


def reply(request: Request, **fields: object) -> str:
    """Return a reply that names its request as it should."""
    named = {"request_id": request["request_id"]} if "request_id" in request else {}
    return json.dumps({"status": "success", **named, **fields})


def error(**fields: object) -> Script:
    """Return what answers each request with an error."""
    return lambda request: [
        reply(request, **{"status": "error", "code": "unavailable", "message": "", **fields})
    ]


def data(value: object) -> Script:
    """Return what answers each request with the same data."""
    return lambda request: [reply(request, data=value)]


def messages(*sent: Sent) -> Script:
    """Return what answers each request with the same messages."""
    return lambda _: list(sent)


def followed_by(*sent: Sent) -> Script:
    """Return what begins following as it should, and goes on otherwise."""
    return lambda request: [reply(request, data=POSITION), *sent]


def event(fields: object) -> str:
    """Return an event that has other fields than it should."""
    return json.dumps(json.loads(EVENT) | fields)


def lists(page: object, next_: object) -> Script:
    """Return what says that what is followed is a list in pages, each of which is this."""

    def answer(request: Request) -> list[Sent]:
        if request["action"] == "subscribe":
            return [reply(request, data={**POSITION, "snapshot": page, "next": next_})]
        return [reply(request, data=POSITION if request["action"] == "resume" else page, next=next_)]

    return answer


FINAL = {
    "close 4401",
    "close 4999",
    "close 1009",
    "no reason to come back",
    "a key twice",
    "a frame of nonsense",  # which is closed with 1002, as is text that is no UTF-8 with 1007
    "text that is no UTF-8",
    *(f"status {status!r}" for status in NO_STATUSES),
}  # where a follower may be refused for good

SCRIPTS: dict[str, Script] = {
    "nothing": messages(),
    "null": messages("null"),
    "HTML": messages("<html>502 Bad Gateway</html>"),
    "binary": messages(b"\xff\x00"),
    "binary JSON": messages(b"{}"),
    "a string": messages('"x"'),
    "a list": messages("[]"),
    "what is too deep": messages("[" * 100_000),
    "an exponent too large": messages('{"status":"success","data":1e9999999999999999999999}'),
    "half a surrogate": messages('{"status":"\\ud800","request_id":"\\ud800"}'),
    "a key twice": messages('{"status":"success","status":7,"request_id":1,"request_id":[]}'),
    "a frame of nonsense": messages(Raw(b"\xff" * 20)),
    "text that is no UTF-8": messages(Raw(b"\x81\x02\xff\xfe")),
    "half a frame": messages(Raw(b"\x81\x7e\xff")),
    **{f"request_id {id_!r}": messages(reply({}, request_id=id_, data=POSITION)) for id_ in STRANGE_IDS},
    **{f"status {status!r}": error(status=status) for status in NO_STATUSES},
    **{f"data {value!r}": data(value) for value in STRANGE_DATA},
    **{
        f"retry_after_seconds {name}": error(retry_after_seconds=value)
        for name, value in [
            ("-1e9", -1e9),
            ("-1e400", -(10**400)),
            ("soon", "soon"),
            ("²", "²"),
            ("[]", []),
            ("{toString}", {"toString": 1}),
            ("true", True),
        ]
    },
    "no reason to come back": error(message={"toString": 1}, code=[1], detail=7),
    **{
        f"close {code} {reason}": messages(Close(code, reason))
        for code, reason in [
            (1000, ""),
            (1001, "retry_after=²"),
            (1001, "retry_after=-5"),
            (1001, "retry_after=nan"),
            (1011, "retry_after==1"),
            (1013, "\0💣"),
            (3000, "retry_after="),
            (4008, "retry_after=1.2.3"),
        ]
    },
    **{f"close {code}": messages(Close(code, "retry_after=1")) for code in (4401, 4999, 1009)},
    "a snapshot that is no list": lists({}, "c"),
    "a snapshot of nothing": lists([None], None),
    "a page that is a text": lists("x", "c"),
    "a page that is itself next": lists([], "c"),
    "a cursor that is a list": lists([], ["c"]),
    "states of nonsense": lists([{"uid": [1], "version": {}, "updatedAt": 7}], None),
    "a huge list": lists(MANY, None),
    "an event before the reply": lambda request: [EVENT, EVENT, reply(request, data=POSITION)],
    "an event and no reply": messages(EVENT),
    "a reply twice": lambda request: [reply(request, data=POSITION)] * 2,
    **{
        f"an event of {name}": followed_by(event(fields))
        for name, fields in [
            ("no type", {"type": 1}),
            ("a list", {"data": []}),
            ("no position", {"position": None}),
            ("a strange key", {"data": {"uid": {}, "id": [], "version": "x", "updatedAt": 7}}),
            ("no version", {"data": {"uid": "x"}}),
            ("a strange past", {"previous": 7}),
        ]
    },
}
