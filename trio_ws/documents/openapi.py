"""The same interface over plain HTTP, described for machines: OpenAPI 3.1."""

from functools import cache
from typing import Any

import msgspec

import trio_ws
from trio_ws import codec
from trio_ws.actions.table import ACTIONS
from trio_ws.documents.messages import (
    EVENTS,
    POSITION,
    REQUESTS,
    UID,
    event,
    reference,
    reference_to,
    reply,
    request,
    schemas,
)
from trio_ws.http import paths
from trio_ws.http.actions import JSON, STATUSES
from trio_ws.http.events import CONTENT_TYPE
from trio_ws.topics import TOPIC_TYPES

_TEXT = "text/plain"
_TOPIC = f"^({'|'.join(TOPIC_TYPES)}):"
_REFUSED = {
    "408": "The request did not come in time.",
    "413": "The body is longer than `message_bytes`.",
    "415": "The body is no JSON, or encoded.",
}
_WORDS = {
    400: "The action is none, or has a value that can't be.",
    401: "There is no token, or none that is good.",
    403: "The token does not allow it, or the page's origin may not call.",
    404: "There is nothing of that name.",
    409: "It stands in a way that does not allow it.",
    422: "The idempotency key stands for another request.",
    429: "Too many requests.",
    500: "A bug; the server's log has it.",
    503: "The database can't be reached, or the server is stopping.",
    504: "The database took too long, and what was asked of it has been undone.",
}


@cache
def encoded() -> bytes:
    """Return the document as JSON."""
    return msgspec.json.format(codec.encode(document()))


def document() -> dict[str, Any]:
    """Return the document: https://spec.openapis.org/oas/v3.1.1.html."""
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "trio_ws",
            "version": trio_ws.__version__,
            "summary": "A server for invoices, payments and prices that notifies of each change.",
            "description": (
                "The actions of the WebSocket, one a request, and its events as a stream. Fields that are "
                "not known are ignored, by either side. What each error's code means stands at its schema."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [
            {"url": "http://localhost:8080", "description": "Anybody may do everything."},
            {"url": "https://ws.example", "description": "Each client has a token."},
        ],
        "security": [{}, {"bearer": []}],
        "paths": {
            paths.ACTIONS: {"post": _actions()},
            paths.EVENTS: {"get": _events()},
        },
        "components": {
            "schemas": _schemas(),
            "responses": _failures(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _actions() -> dict[str, Any]:
    all_rows = {ACTIONS[type(example)]: example for example in REQUESTS}
    rows = {row: example for row, example in all_rows.items() if not row.of_line}
    asked = {row.name: request(example) for row, example in rows.items()}
    answered = {row.name: reply(row.name, row.action) for row in rows}
    return {
        "operationId": "act",
        "summary": "Do one action.",
        "description": "Requests of one connection are answered in the order in which they come.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The field `idempotency_key` of `create_invoice`.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 128},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {
                        "oneOf": [reference(row.action) for row in rows],
                        "discriminator": {
                            "propertyName": "action",
                            "mapping": {row.name: reference(row.action)["$ref"] for row in rows},
                        },
                    },
                    "examples": _examples(asked),
                }
            },
        },
        "responses": {
            "200": {
                "description": "It was done.",
                "content": {
                    JSON: {
                        "schema": {"anyOf": [_payload(one) for one in answered.values()]},
                        "examples": _examples(answered),
                    }
                },
            },
            **{str(status): _reference_to_response(status) for status in sorted(set(STATUSES.values()))},
            **{status: _refusal(words) for status, words in _REFUSED.items()},
        },
    }


def _events() -> dict[str, Any]:
    def parameter(name: str, words: str, schema: dict[str, Any], where: str = "query") -> dict[str, Any]:
        return {"name": name, "in": where, "description": words, "schema": schema}

    position = reference_to("Position")
    topics = {
        **parameter(
            "topic",
            "What to follow, as TYPE:ID, once for each topic.",
            {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "pattern": _TOPIC},
            },
        ),
        "required": True,
        "explode": True,
        "example": [f"invoice:{UID}", "account:1"],
    }
    told = "\n\n".join(f"`{name}`: {event(name, data)['summary']}" for name, data in EVENTS.items())
    return {
        "operationId": "follow",
        "summary": "Follow topics, as an event stream.",
        "description": (
            "The first event is `subscribed`, with what `resume` replies. Then each change is an event: `id` "
            "is its position, `event` its type, `data` what a WebSocket is told. `gap` says that something "
            "may have been missed, `end` why the stream ends. A comment comes each `ping_seconds`."
        ),
        "parameters": [
            topics,
            parameter("after", "Events after this position are sent first.", position),
            parameter("snapshot", "Whether each topic's state is sent first.", {"type": "boolean"}),
            parameter("Last-Event-ID", "The same as `after`, and goes before it.", position, "header"),
        ],
        "responses": {
            "200": {
                "description": f"The stream goes on until either side ends it.\n\n{told}",
                "content": {CONTENT_TYPE: {"schema": {"type": "string"}, "example": _stream()}},
            },
            **{str(status): _reference_to_response(status) for status in (400, 401, 403, 429, 500, 503, 504)},
        },
    }


def _stream() -> str:
    data = msgspec.json.encode({"type": "invoice.created", "position": POSITION}).decode()
    return f"id: {POSITION}\nevent: invoice.created\ndata: {data}\n\n"


def _schemas() -> dict[str, Any]:
    found = dict(schemas())
    for name, data in EVENTS.items():
        payload = event(name, data)["payload"]
        found[payload["title"]] = payload
    for action, row in ACTIONS.items():
        payload = reply(row.name, action)["payload"]
        if "title" in payload and not row.of_line:
            found[payload["title"]] = payload
    return found


def _payload(described: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = described["payload"]
    return reference_to(payload["title"]) if "title" in payload else payload


def _examples(described: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        name: {"summary": one["summary"], "value": one["examples"][0]["payload"]}
        for name, one in described.items()
    }


def _failures() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in sorted(set(STATUSES.values())):
        codes = ", ".join(f"`{code}`" for code, of_code in STATUSES.items() if of_code == status)
        found[f"Status{status}"] = {
            "description": f"{_WORDS[status]} Code: {codes}.",
            "content": {JSON: {"schema": reference_to("Failure")}},
        }
        if status in (429, 503, 504):
            found[f"Status{status}"]["headers"] = {
                "Retry-After": {
                    "description": "In how many seconds to try again.",
                    "schema": {"type": "integer"},
                }
            }
    return found


def _reference_to_response(status: int) -> dict[str, str]:
    return {"$ref": f"#/components/responses/Status{status}"}


def _refusal(words: str) -> dict[str, Any]:
    return {"description": words, "content": {_TEXT: {"schema": {"type": "string"}}}}
