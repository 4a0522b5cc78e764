"""The WebSocket's interface, described for machines: AsyncAPI 3.0."""

from functools import cache
from typing import Any

import msgspec

import trio_ws
from trio_ws import codec, identity
from trio_ws.actions.table import ACTIONS
from trio_ws.documents.messages import (
    EVENTS,
    REQUESTS,
    close_codes,
    event,
    message,
    reply,
    reply_name,
    request,
    schemas,
)
from trio_ws.messages import Failure
from trio_ws.wire.admission import PATHS


@cache
def encoded() -> bytes:
    """Return the document as JSON."""
    return msgspec.json.format(codec.encode(document()))


def document() -> dict[str, Any]:
    """Return the document: https://www.asyncapi.com/docs/reference/specification/v3.0.0."""
    requests = {ACTIONS[type(example)].name: request(example) for example in REQUESTS}
    replies = {reply_name(row.name): reply(row.name, action) for action, row in ACTIONS.items()}
    events = {name: event(name, data) for name, data in EVENTS.items()}
    failure = {"error": message("Failure", "What any request may be answered.", Failure)}
    told = {**requests, **replies, **failure, **events}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "trio_ws",
            "version": trio_ws.__version__,
            "description": (
                "JSON text frames over WebSocket, one object a frame. Requests of a connection are answered "
                "in the order they came. Fields that are not known are ignored, by either side. An integer "
                f"is written without a point. How a connection ends: {close_codes()}; 4000 to 4399: come "
                "again, 4400 to 4999: not without a change."
            ),
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "loopback": {
                "host": "localhost:8080",
                "protocol": "ws",
                "description": "Anybody may do everything.",
            },
            "public": {
                "host": "ws.example",
                "protocol": "wss",
                "description": "Each client has a token.",
                "security": [{"$ref": "#/components/securitySchemes/bearer"}],
            },
        },
        "channels": {
            "socket": {
                "address": PATHS[0],
                "description": f"The same is at {' and '.join(PATHS[1:])}.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in told},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": {
            **{row.name: _operation(row.name, row.scope) for row in ACTIONS.values()},
            "events": {
                "action": "send",
                "channel": {"$ref": "#/channels/socket"},
                "summary": "What changes of the topics that are followed, each event once and in order.",
                "messages": [_channel_message(name) for name in events],
            },
        },
        "components": {
            "messages": told,
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": (
                        "`Authorization: Bearer TOKEN`, or in a browser the subprotocols "
                        "`trio-ws, bearer.TOKEN`, or the action `authenticate`."
                    ),
                }
            },
        },
    }


def _operation(tag: str, scope: identity.Scope | None) -> dict[str, Any]:
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/socket"},
        "summary": f"Needs the scope `{scope}`, where tokens are asked for." if scope else "Anybody may.",
        "messages": [_channel_message(tag)],
        "reply": {
            "channel": {"$ref": "#/channels/socket"},
            "messages": [_channel_message(reply_name(tag)), _channel_message("error")],
        },
    }


def _channel_message(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/socket/messages/{name}"}
