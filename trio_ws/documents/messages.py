"""Each message and each part of one, described for machines: from the structs that decode and encode it.

What the structs do not say is said here: which data a reply carries, an example of each message, and where
what is on the wire differs from what msgspec knows of it. A test sends and receives all that is described.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

from trio_ws import codec, errors, messages
from trio_ws.actions.table import ACTIONS
from trio_ws.database.webhook_lists import STATES
from trio_ws.messages import (
    REPLY_DATA,
    Account,
    Authenticate,
    Authenticated,
    CancelInvoice,
    Connected,
    Converted,
    ConvertPrice,
    CreateAccount,
    CreateInvoice,
    CreateToken,
    EndConnection,
    Failure,
    FetchFigures,
    FetchInvoice,
    FetchWebhook,
    Figures,
    Invoice,
    ListAccounts,
    ListConnections,
    ListEvents,
    ListInvoices,
    ListPayments,
    ListPrices,
    ListTokens,
    ListWebhooks,
    LoggedEvent,
    Payment,
    Ping,
    Pong,
    Price,
    RecordPayment,
    RenameAccount,
    Resume,
    RetryWebhook,
    RevokeToken,
    SetPrice,
    Subscribe,
    Subscribed,
    Token,
    Unsubscribe,
    UnsubscribeAll,
    UpdateInvoice,
    WantedTopic,
    Webhook,
)
from trio_ws.messages.fields import PaymentStatus, Status
from trio_ws.topics import TOPIC_TYPES

Schema = dict[str, Any]

EVENTS: Mapping[str, type] = {
    "invoice.created": Invoice,
    "invoice.updated": Invoice,
    "payment.created": Payment,
    "payment.updated": Payment,
    "price.updated": Price,
}

UID = "5735e250-b53e-4ace-a025-afac1bc77ee2"
_WHEN = "2024-12-30T15:14:46.085243+00:00"
POSITION = "b07d22e5.1042"
_TOKEN = "trio_ws_ZcJiTEcrREyAcE0G_RXK5Xh5DA3kRZ6zJb4mUaVKbOk"  # noqa: S105 - of no account anywhere
_TIMES = {"createdAt": _WHEN, "updatedAt": _WHEN}
_INVOICE = {"id": 123, "uid": UID, "amount": 1000, "currency": "USD", "status": "unpaid", "account_id": 1}
_INVOICE |= {**_TIMES, "version": 1}
_PAYMENT = {"id": 7, "invoice": UID, "reference": "bank-2024-12-30-0017", "amount": 1000, "currency": "USD"}
_PAYMENT |= {"status": "settled", "account_id": 1, **_TIMES, "version": 1}
_PRICE = {"id": 1, "currency": "BTC", "amount": 4300000, "account_id": 1}
_PRICE |= {**_TIMES, "base_currency": "USD", "value": 43000.0}
_DELIVERY = "0d1c3b62-4c5f-4d0b-9a52-6f2f6f1c7f57"
_WEBHOOK = {"id": _DELIVERY, "account_id": 1, "invoice": UID, "type": "invoice.updated"}
_WEBHOOK |= {"endpoint": "https://shop.example", "state": "failed", "attempts": 9, "status": 503}
_WEBHOOK |= {"error": "answered 503", "queuedAt": _WHEN, "endedAt": _WHEN}
_ACCOUNT = {"id": 1, "name": "Tea House", "createdAt": _WHEN}
_TOKEN_SHOWN = {"id": 3, "account_id": 1, "scopes": ["read", "write"], "createdAt": _WHEN}
REQUESTS: tuple[messages.Action, ...] = (
    Subscribe(type="invoice", id=UID),
    Resume(after=POSITION, topics=[WantedTopic("account", 1), WantedTopic("price", "*")]),
    Unsubscribe(type="invoice", id=UID),
    UnsubscribeAll(),
    CreateInvoice(amount=1000, currency="USD", account_id=1),
    FetchInvoice(id=UID),
    CancelInvoice(uid=UID),
    UpdateInvoice(uid=UID, status="confirming"),
    ListInvoices(account_id=1, status="unpaid", limit=20),
    RecordPayment(uid=UID, reference="bank-2024-12-30-0017", amount=1000, status="settled"),
    ListPayments(uid=UID),
    ListPrices(),
    SetPrice(currency="BTC", base_currency="USD", value=Decimal("43000.00")),
    ConvertPrice(quote_currency="BTC", base_currency="USD", quote_value=Decimal(1)),
    ListEvents(uid=UID),
    ListWebhooks(account_id=1, state="failed"),
    FetchWebhook(id=_DELIVERY),
    RetryWebhook(id=_DELIVERY),
    ListAccounts(),
    CreateAccount(name="Tea House"),
    RenameAccount(account_id=1, name="Tea House"),
    ListTokens(account_id=1),
    CreateToken(account_id=1, scopes=["read", "write"], expires_in_seconds=86400),
    RevokeToken(id=3),
    ListConnections(account_id=1),
    EndConnection(id="4711-17"),
    FetchFigures(),
    Authenticate(token=_TOKEN),
    Ping(),
)
_DATA: Mapping[Any, Any] = {
    Subscribed: {"position": POSITION, "recovered": True},
    Invoice: _INVOICE,
    list[Invoice]: [_INVOICE],
    Payment: _PAYMENT,
    list[Payment]: [_PAYMENT],
    list[Price]: [_PRICE],
    Price: _PRICE,
    Converted: {
        "quote_currency": "BTC",
        "base_currency": "USD",
        "quote_value": 1,
        "base_value": 43000.0,
        "timestamp": _WHEN,
    },
    list[LoggedEvent]: [{"type": "invoice.created", "data": _INVOICE, "position": POSITION}],
    Webhook: _WEBHOOK,
    list[Webhook]: [_WEBHOOK],
    Account: _ACCOUNT,
    list[Account]: [_ACCOUNT],
    Token: _TOKEN_SHOWN,
    list[Token]: [_TOKEN_SHOWN],
    list[Connected]: [
        {
            "id": "4711-17",
            "kind": "websocket",
            "address": "192.0.2.7",
            "account_id": 1,
            "token_id": 3,
            "scopes": ["read", "write"],
            "openedAt": _WHEN,
            "topics": ["account:1"],
            "topic_count": 1,
            "waiting_bytes": 0,
            "is_catching_up": False,
            "requests": 12,
            "messages": 40,
        }
    ],
    Figures: {"version": "0.2.0", "processes": [4711], "missing": 0, "values": {"trio_ws_connections": 1}},
    Authenticated: {"account_id": 1, "scopes": ["read", "write"], "expiresAt": None},
}
_MESSAGES: Mapping[type, str] = {EndConnection: "Closing connection 4711-17"}

_DECIMAL = {"type": "string", "format": "decimal"}  # msgspec's, whatever it is told to write
_NUMBER_OR_TEXT = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$"}]
}
_TIME_FIELDS = (
    *("createdAt", "updatedAt", "expiresAt", "revokedAt", "openedAt"),
    *("queuedAt", "nextAttemptAt", "endedAt", "timestamp"),
)
_ARGUMENT = re.compile(r"^    (\w+): (.+?)(?=^    \w|\Z)", re.MULTILINE | re.DOTALL)


def request(example: Struct) -> dict[str, Any]:
    """Return the description of a request, which looks like this."""
    action = type(example)
    asked = {name: value for name, value in plain(example).items() if value is not None}
    asked.pop("snapshot", None)
    return {
        "name": ACTIONS[action].name,
        "summary": prose(action),
        "payload": reference(action),
        "examples": [{"payload": asked}],
    }


def reply(tag: str, action: type) -> dict[str, Any]:
    """Return the description of an action's reply."""
    data = REPLY_DATA[action]
    if data is Pong:
        return message("Pong", prose(Pong), Pong, Pong(timestamp=1735571686))
    example: dict[str, Any] = {"status": "success"}
    payload: Schema = {
        "title": f"{action.__name__}Reply",
        "type": "object",
        "properties": {
            "status": {"const": "success"},
            "message": {"type": "string"},
            "request_id": reference_to("RequestId"),
        },
        "required": ["status"],
    }
    if data is None:
        example["message"] = _MESSAGES.get(action, "Unsubscribed from 3 topics")
    else:
        payload["properties"]["data"] = _schema_of(data)
        payload["required"].append("data")
        example["data"] = _DATA[data]
    if get_origin(data) is list:
        payload["properties"]["next"] = {
            "type": "string",
            "description": "The cursor of the next page.",
        }
    return {
        "name": reply_name(tag),
        "summary": f"The reply to `{tag}`.",
        "payload": payload,
        "examples": [{"payload": example}],
    }


def event(name: str, data: type) -> dict[str, Any]:
    """Return the description of an event with data of that type."""
    title = "".join(word.capitalize() for word in name.split("."))
    payload = {
        "title": title,
        "type": "object",
        "properties": {
            "type": {"const": name},
            "data": reference(data),
            "previous": {
                "title": f"{title}Previous",
                "type": "object",
                "description": "The changed fields' old values; a new row has none.",
            },
            "position": reference_to("Position"),
        },
        "required": ["type", "data", "position"],
    }
    example: dict[str, Any] = {"type": name, "data": _DATA[data]}
    if name == "invoice.updated":
        example["data"] = {**_INVOICE, "status": "confirming", "version": 2}
        example["previous"] = {"status": "unpaid"}
    return {
        "name": name,
        "summary": "A change that committed; `data` is the whole new state.",
        "payload": payload,
        "examples": [{"payload": {**example, "position": POSITION}}],
    }


def message(name: str, summary: str, type_: type, example: Struct | None = None) -> dict[str, Any]:
    """Return the description of a message of that type."""
    examples = {} if example is None else {"examples": [{"payload": plain(example)}]}
    return {"name": name, "summary": summary, "payload": reference(type_), **examples}


# Schemas


@cache
def schemas() -> dict[str, Schema]:
    """Return the schema of each struct, by its name."""
    data = [type_ for type_ in REPLY_DATA.values() if type_ is not None]
    _, known = msgspec.json.schema_components(
        [*ACTIONS, *data, Failure], ref_template="#/components/schemas/{name}"
    )
    found = {name: _as_on_the_wire(name, schema) for name, schema in known.items()}
    for name in ("Subscribe", "Resume", "Unsubscribe"):
        topic = found[name if name != "Resume" else "WantedTopic"]["properties"]
        topic["type"] = {"enum": list(TOPIC_TYPES), "description": "Of what kind the topic is."}
    found["Invoice"]["properties"]["status"] = {"enum": list(get_args(Status))}
    found["Webhook"]["properties"]["state"] = {"enum": [*STATES]}
    found["Webhook"]["properties"]["body"] = {
        **reference(LoggedEvent),
        "description": "What is sent; of one webhook only, not in lists.",
    }
    found["Figures"]["properties"]["values"]["title"] = "FiguresValues"
    found["LoggedEvent"]["properties"] |= {
        "type": {"enum": [name for name in EVENTS if name != "price.updated"]},
        "data": {
            "description": "The whole new state.",
            "anyOf": [reference(Invoice), reference(Payment)],
        },
        "previous": {
            "title": "LoggedEventPrevious",
            "type": "object",
            "description": "The changed fields' old values; a new row has none.",
        },
        "position": reference_to("Position"),
    }
    found["Connected"]["properties"]["kind"] = {"enum": ["websocket", "event_stream"]}
    found["Payment"]["properties"]["status"] = {"enum": list(get_args(PaymentStatus))}
    found["Failure"]["properties"]["code"] = {
        "enum": sorted(codes()),
        "description": "; ".join(f"{code}: {prose}" for code, prose in sorted(codes().items())),
    }
    found["Subscribed"]["properties"]["snapshot"] = {
        "description": "The topic's state as of `position`: an invoice, null where there is none, or a list.",
        "anyOf": [
            reference(Invoice),
            {"type": "null"},
            {"type": "array", "items": {"anyOf": [reference(Invoice), reference(Price)]}},
        ],
    }
    found["Position"] = {
        "title": "Position",
        "type": "string",
        "description": "A place in the event log; opaque to clients.",
    }
    found["RequestId"] = {
        "title": "RequestId",
        "description": "That of the request, if it had one.",
        "anyOf": [{"type": "string", "maxLength": 64}, {"type": "integer"}],
    }
    return found


def _as_on_the_wire(name: str, schema: Schema) -> Schema:
    """Say of one struct what msgspec does not know, and in the words of its docstring what each field is."""
    type_ = getattr(messages, name)
    arguments = fields_in_words(type_)
    properties: dict[str, Schema] = {}
    for field, found in schema.get("properties", {}).items():
        known = found
        if found == _DECIMAL:
            known = _NUMBER_OR_TEXT if type_ in ACTIONS else {"type": "number"}
        elif field in _TIME_FIELDS and found.get("type") != "integer":
            known = {"type": ["string", "null"] if "anyOf" in found else "string", "format": "date-time"}
        properties[field] = {**known, **({"description": arguments[field]} if field in arguments else {})}
    named: Schema = _portable({**schema, "description": prose(type_), "properties": properties})
    return named


def _portable(schema: Any) -> Any:
    r"""Return a schema whose patterns are ECMA 262's: there `$` means what Python spells `\Z`."""
    if isinstance(schema, dict):
        return {
            name: value.replace(r"\Z", "$") if name == "pattern" else _portable(value)
            for name, value in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


def _schema_of(type_: Any) -> Schema:
    if items := get_args(type_):
        return {"type": "array", "items": reference(items[0])}
    return reference(type_)


def reference(type_: type) -> Schema:
    """Return where a struct's schema stands."""
    return reference_to(type_.__name__)


def reference_to(name: str) -> Schema:
    """Return where the schema of that name stands."""
    return {"$ref": f"#/components/schemas/{name}"}


# Words


def reply_name(tag: str) -> str:
    """Return what the reply to an action is called."""
    return f"{tag}.reply"


def prose(type_: type) -> str:
    """Return a docstring's first paragraph, as one line."""
    return " ".join((type_.__doc__ or "").partition("\n\n")[0].split())


def fields_in_words(type_: type) -> dict[str, str]:
    """Return what a docstring says of each field."""
    section = (type_.__doc__ or "").partition("Args:\n")[2]
    indented = re.sub(r"^    ", "", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in _ARGUMENT.findall(indented)}


def codes() -> dict[str, str]:
    """Return what each error's code means."""
    kinds: Iterable[type[errors.ActionError]] = errors.ActionError.__subclasses__()
    return {kind.code: prose(kind) for kind in kinds} | {"internal": "A bug; the log has it."}


def close_codes() -> str:
    """Return the codes with which we close, and their names."""
    return ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in errors.CloseCode)


def plain(value: Any) -> Any:
    """Return a struct as it is read from the wire."""
    return msgspec.json.decode(codec.encode(value))
