"""The messages of the protocol as structs: what clients send, and what they get."""

from collections.abc import Mapping
from typing import Any

from trio_ws.messages.managing import (
    Account,
    Connected,
    CreateAccount,
    CreateToken,
    EndConnection,
    FetchFigures,
    FetchWebhook,
    Figures,
    ListAccounts,
    ListConnections,
    ListEvents,
    ListTokens,
    ListWebhooks,
    LoggedEvent,
    RenameAccount,
    RetryWebhook,
    RevokeToken,
    Token,
    Webhook,
)
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
    "Account",
    "Action",
    "Authenticate",
    "Authenticated",
    "Call",
    "CancelInvoice",
    "Connected",
    "ConvertPrice",
    "Converted",
    "CreateAccount",
    "CreateInvoice",
    "CreateToken",
    "EndConnection",
    "Failure",
    "FetchFigures",
    "FetchInvoice",
    "FetchWebhook",
    "Figures",
    "Invoice",
    "ListAccounts",
    "ListConnections",
    "ListEvents",
    "ListInvoices",
    "ListPayments",
    "ListPrices",
    "ListTokens",
    "ListWebhooks",
    "LoggedEvent",
    "Payment",
    "Ping",
    "Pong",
    "Price",
    "RecordPayment",
    "RenameAccount",
    "Reply",
    "Resume",
    "RetryWebhook",
    "RevokeToken",
    "SetPrice",
    "Subscribe",
    "Subscribed",
    "Success",
    "Token",
    "Unsubscribe",
    "UnsubscribeAll",
    "UpdateInvoice",
    "WantedTopic",
    "Webhook",
]

# What a request may ask that changes nothing of what the connection follows.
Call = (
    CreateInvoice
    | FetchInvoice
    | CancelInvoice
    | UpdateInvoice
    | ListInvoices
    | RecordPayment
    | ListPayments
    | ListPrices
    | SetPrice
    | ConvertPrice
    | ListEvents
    | ListWebhooks
    | FetchWebhook
    | RetryWebhook
    | ListAccounts
    | CreateAccount
    | RenameAccount
    | ListTokens
    | CreateToken
    | RevokeToken
    | ListConnections
    | EndConnection
    | FetchFigures
    | Authenticate
    | Ping
)
Action = Subscribe | Resume | Unsubscribe | UnsubscribeAll | Call

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
    ListEvents: list[LoggedEvent],
    ListWebhooks: list[Webhook],
    FetchWebhook: Webhook,
    RetryWebhook: Webhook,
    ListAccounts: list[Account],
    CreateAccount: Account,
    RenameAccount: Account,
    ListTokens: list[Token],
    CreateToken: Token,
    RevokeToken: Token,
    ListConnections: list[Connected],
    EndConnection: None,
    FetchFigures: Figures,
    Authenticate: Authenticated,
    Ping: Pong,  # the reply itself
}
