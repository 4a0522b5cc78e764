"""The messages of the protocol as structs: what clients send, and what they get."""

from collections.abc import Mapping
from typing import Any

from trio_ws.messages.replies import (
    Authenticated,
    Converted,
    Failure,
    Invoice,
    Payment,
    Pong,
    Price,
    Reply,
    Subscribed,
    Success,
)
from trio_ws.messages.requests import (
    Authenticate,
    CancelInvoice,
    ConvertPrice,
    CreateInvoice,
    FetchInvoice,
    ListInvoices,
    ListPayments,
    ListPrices,
    Ping,
    RecordPayment,
    Resume,
    SetPrice,
    Subscribe,
    Unsubscribe,
    UnsubscribeAll,
    UpdateInvoice,
    WantedTopic,
)

__all__ = [
    "REPLY_DATA",
    "Action",
    "Authenticate",
    "Authenticated",
    "CancelInvoice",
    "ConvertPrice",
    "Converted",
    "CreateInvoice",
    "Failure",
    "FetchInvoice",
    "Invoice",
    "ListInvoices",
    "ListPayments",
    "ListPrices",
    "Payment",
    "Ping",
    "Pong",
    "Price",
    "RecordPayment",
    "Reply",
    "Resume",
    "SetPrice",
    "Subscribe",
    "Subscribed",
    "Success",
    "Unsubscribe",
    "UnsubscribeAll",
    "UpdateInvoice",
    "WantedTopic",
]

Action = (
    Subscribe
    | Resume
    | Unsubscribe
    | UnsubscribeAll
    | CreateInvoice
    | FetchInvoice
    | CancelInvoice
    | UpdateInvoice
    | ListInvoices
    | RecordPayment
    | ListPayments
    | ListPrices
    | SetPrice
    | ConvertPrice
    | Authenticate
    | Ping
)

# What the data of an action's reply is; None: it has none.
REPLY_DATA: Mapping[type, Any] = {
    Subscribe: Subscribed,
    Resume: Subscribed,
    Unsubscribe: None,
    UnsubscribeAll: None,
    CreateInvoice: Invoice,
    FetchInvoice: Invoice,
    CancelInvoice: Invoice,
    UpdateInvoice: Invoice,
    ListInvoices: list[Invoice],
    RecordPayment: Payment,
    ListPayments: list[Payment],
    ListPrices: list[Price],
    SetPrice: Price,
    ConvertPrice: Converted,
    Authenticate: Authenticated,
    Ping: Pong,  # the reply itself
}
