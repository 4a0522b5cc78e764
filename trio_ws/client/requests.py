"""Requests that have methods of their own, for whichever loop a client runs on."""

from abc import ABC, abstractmethod
from typing import Any, overload

import msgspec

from trio_ws.client.errors import Disconnected
from trio_ws.client.line import NO_MESSAGE, encode
from trio_ws.messages import (
    REPLY_DATA,
    Authenticate,
    Authenticated,
    CancelInvoice,
    Converted,
    ConvertPrice,
    CreateInvoice,
    FetchInvoice,
    Invoice,
    ListInvoices,
    ListPrices,
    Ping,
    Pong,
    Price,
    SetPrice,
    UpdateInvoice,
)

# What follows is for `follow` and `watch`.
Action = (
    CreateInvoice
    | FetchInvoice
    | CancelInvoice
    | UpdateInvoice
    | ListInvoices
    | ListPrices
    | SetPrice
    | ConvertPrice
    | Authenticate
    | Ping
)


class Requests(ABC):
    """What can be asked."""

    @abstractmethod
    async def call(self, action: str, **fields: object) -> Any:
        """Do an action and return its reply's data; for a reply without data, the reply."""

    @overload
    async def do(self, action: CreateInvoice | FetchInvoice | CancelInvoice | UpdateInvoice) -> Invoice: ...
    @overload
    async def do(self, action: ListInvoices) -> list[Invoice]: ...
    @overload
    async def do(self, action: ListPrices) -> list[Price]: ...
    @overload
    async def do(self, action: SetPrice) -> Price: ...
    @overload
    async def do(self, action: ConvertPrice) -> Converted: ...
    @overload
    async def do(self, action: Authenticate) -> Authenticated: ...
    @overload
    async def do(self, action: Ping) -> Pong: ...
    async def do(self, action: Action) -> Any:
        """Do an action that is one of the server's own structs, and return its reply's data as another.

        Raises:
            Refused: as for `call`.
            Disconnected: as for `call`; or what came is not what the protocol says.
        """
        fields = msgspec.structs.asdict(action).items()
        asked = {name: value for name, value in fields if value is not None}
        data = await self.call(str(action.__struct_config__.tag), **asked)
        try:
            return msgspec.json.decode(encode(data), type=REPLY_DATA[type(action)])
        except msgspec.ValidationError as error:
            raise Disconnected(f"{NO_MESSAGE}: {error}") from None

    async def create_invoice(self, **fields: object) -> dict[str, Any]:
        """Make an invoice, and return it."""
        invoice: dict[str, Any] = await self.call("create_invoice", **fields)
        return invoice

    async def fetch_invoice(self, uid: str) -> dict[str, Any]:
        """Return an invoice."""
        invoice: dict[str, Any] = await self.call("fetch_invoice", id=uid)
        return invoice

    async def list_prices(self) -> list[dict[str, Any]]:
        """Return all prices."""
        prices: list[dict[str, Any]] = await self.call("list_prices")
        return prices
