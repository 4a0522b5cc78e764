"""Requests that have methods of their own, for whichever loop a client runs on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, get_args, overload

import msgspec
from trio_websocket import ConnectionClosed

from trio_ws.client.closing import Lost
from trio_ws.client.errors import Disconnected
from trio_ws.client.line import NO_MESSAGE, encode
from trio_ws.client.pages import Items, Page, page_of
from trio_ws.messages import (
    REPLY_DATA,
    Account,
    Authenticate,
    Authenticated,
    Call,
    CancelInvoice,
    Connected,
    Converted,
    ConvertPrice,
    CreateAccount,
    CreateInvoice,
    CreateToken,
    EndConnection,
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
    RetryWebhook,
    RevokeToken,
    SetPrice,
    Success,
    Token,
    UpdateInvoice,
    Webhook,
)

List = (
    ListInvoices
    | ListPayments
    | ListPrices
    | ListEvents
    | ListWebhooks
    | ListAccounts
    | ListTokens
    | ListConnections
)


class Requests(ABC):
    """What can be asked."""

    @abstractmethod
    async def request(self, action: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Do an action and return its whole reply.

        Raises:
            Refused: the server answered with an error, or does not let us in.
            Disconnected: no connection came about in time, or it was lost before the reply came.
            ValueError: a field can't be sent: it holds NaN, or has a name that each request has already.
        """

    async def call(self, action: str, /, **fields: object) -> Any:
        """Do an action and return its reply's data; for a reply without data, the reply.

        Of a list this is one page: `all` returns the whole list. Raises what `request` raises.
        """
        reply = await self.request(action, fields)
        return reply.get("data", reply)

    @overload
    def all(self, action: ListInvoices, /) -> Items[Invoice]: ...
    @overload
    def all(self, action: ListPayments, /) -> Items[Payment]: ...
    @overload
    def all(self, action: ListPrices, /) -> Items[Price]: ...
    @overload
    def all(self, action: ListEvents, /) -> Items[LoggedEvent]: ...
    @overload
    def all(self, action: ListWebhooks, /) -> Items[Webhook]: ...
    @overload
    def all(self, action: ListAccounts, /) -> Items[Account]: ...
    @overload
    def all(self, action: ListTokens, /) -> Items[Token]: ...
    @overload
    def all(self, action: ListConnections, /) -> Items[Connected]: ...
    @overload
    def all(self, action: str, /, **fields: object) -> Items[dict[str, Any]]: ...
    def all(self, action: str | List, /, **fields: object) -> Items[Any]:
        """Iterate over the items of a list, such as `list_invoices`: a page is read when it is come to.

        What changes meanwhile may be in it or not: to go on with each change, `watch`. `limit` is a page's.

        Args:
            action: Its name, or one of the server's own structs, whose items are structs too.
            fields: The action's, where it is a name.
        """
        if isinstance(action, str):
            return Items(lambda cursor: self._page(action, fields, cursor))
        name, asked = _asked(action)
        (type_,) = get_args(REPLY_DATA[type(action)])

        async def ask(cursor: str | None) -> Page[Any]:
            items, following = await self._page(name, asked, cursor)
            return Page(_as(list[type_], items), following)  # type: ignore[valid-type]

        return Items(ask)

    async def _page(self, action: str, fields: dict[str, object], cursor: str | None) -> Page[dict[str, Any]]:
        reply = await self.request(action, fields if cursor is None else {**fields, "cursor": cursor})
        try:
            return page_of(reply, cursor)
        except ConnectionClosed as closed:
            raise Disconnected(str(Lost.of(closed))) from None

    @overload
    async def do(self, action: CreateInvoice | FetchInvoice | CancelInvoice | UpdateInvoice) -> Invoice: ...
    @overload
    async def do(self, action: ListInvoices) -> list[Invoice]: ...
    @overload
    async def do(self, action: RecordPayment) -> Payment: ...
    @overload
    async def do(self, action: ListPayments) -> list[Payment]: ...
    @overload
    async def do(self, action: ListPrices) -> list[Price]: ...
    @overload
    async def do(self, action: SetPrice) -> Price: ...
    @overload
    async def do(self, action: ConvertPrice) -> Converted: ...
    @overload
    async def do(self, action: ListEvents) -> list[LoggedEvent]: ...
    @overload
    async def do(self, action: ListWebhooks) -> list[Webhook]: ...
    @overload
    async def do(self, action: FetchWebhook | RetryWebhook) -> Webhook: ...
    @overload
    async def do(self, action: ListAccounts) -> list[Account]: ...
    @overload
    async def do(self, action: CreateAccount | RenameAccount) -> Account: ...
    @overload
    async def do(self, action: ListTokens) -> list[Token]: ...
    @overload
    async def do(self, action: CreateToken | RevokeToken) -> Token: ...
    @overload
    async def do(self, action: ListConnections) -> list[Connected]: ...
    @overload
    async def do(self, action: EndConnection) -> Success: ...
    @overload
    async def do(self, action: FetchFigures) -> Figures: ...
    @overload
    async def do(self, action: Authenticate) -> Authenticated: ...
    @overload
    async def do(self, action: Ping) -> Pong: ...
    async def do(self, action: Call) -> Any:
        """Do an action that is one of the server's own structs, and return its reply's data as another.

        Of a list this is one page: `all` returns the whole list.

        Raises:
            Refused: as for `call`.
            Disconnected: as for `call`; or what came is not what the protocol says.
        """
        name, fields = _asked(action)
        return _as(REPLY_DATA[type(action)] or Success, await self.call(name, **fields))

    async def create_invoice(self, /, **fields: object) -> dict[str, Any]:
        """Make an invoice, and return it."""
        invoice: dict[str, Any] = await self.call("create_invoice", **fields)
        return invoice

    async def fetch_invoice(self, uid: str) -> dict[str, Any]:
        """Return an invoice."""
        invoice: dict[str, Any] = await self.call("fetch_invoice", id=uid)
        return invoice

    async def list_prices(self) -> list[dict[str, Any]]:
        """Return all prices."""
        return [price async for price in self.all("list_prices")]


def _asked(action: Call) -> tuple[str, dict[str, object]]:
    """Return the name and the fields of an action that is a struct."""
    fields = msgspec.structs.asdict(action).items()
    return str(action.__struct_config__.tag), {name: value for name, value in fields if value is not None}


def _as(type_: Any, data: object) -> Any:
    """Return a reply's data as what the protocol says."""
    try:
        return msgspec.json.decode(encode(data), type=type_)
    except msgspec.ValidationError as error:
        raise Disconnected(f"{NO_MESSAGE}: {error}") from None
