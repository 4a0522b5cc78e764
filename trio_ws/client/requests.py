"""Requests that have methods of their own, for whichever loop a client runs on."""

from abc import ABC, abstractmethod
from typing import Any


class Requests(ABC):
    """What can be asked."""

    @abstractmethod
    async def call(self, action: str, **fields: object) -> Any:
        """Do an action and return its reply's data; for a reply without data, the reply."""

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
