"""`trio-ws invoices`: what a running server's invoices are, and what came in for one."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from trio_ws.cli.asking import as_json_text, ask_server
from trio_ws.cli.options import AsJson
from trio_ws.cli.target import NO_TARGET, Target
from trio_ws.currencies import exponent
from trio_ws.messages.fields import Status

SHOWN = 20  # invoices that a list shows unless another limit is given


def list_invoices(
    *,
    account: Annotated[int | None, Parameter(help="Only invoices of this account.")] = None,
    status: Annotated[Status | None, Parameter(help="Only invoices with this status.")] = None,
    address: Annotated[str | None, Parameter(help="Only invoices to be paid there.")] = None,
    memo: Annotated[str | None, Parameter(help="Only invoices whose memo contains this text.")] = None,
    limit: Annotated[PositiveInt, Parameter(help="Maximum number of invoices.")] = SHOWN,
    as_json: AsJson = False,
    target: Target = NO_TARGET,
) -> None:
    """Print a line for each invoice, the newest first: uid, status, amounts, account and memo."""
    given = {"account_id": account, "status": status, "address": address, "memo": memo}
    wanted = {name: value for name, value in given.items() if value is not None}

    async def ask() -> None:
        async with target.server.connect() as server:
            shown = 0
            async for invoice in server.all("list_invoices", **wanted):
                print(as_json_text(invoice) if as_json else _line(invoice))
                shown += 1
                if shown == limit:
                    break

    ask_server(ask)


def show_invoice(
    uid: Annotated[str, Parameter(name="UID", help="As `trio-ws invoices list` shows it.")],
    /,
    *,
    as_json: AsJson = False,
    target: Target = NO_TARGET,
) -> None:
    """Print an invoice and its payments, the oldest first."""

    async def ask() -> None:
        async with target.server.connect() as server:
            invoice = await server.fetch_invoice(uid)
            payments = [payment async for payment in server.all("list_payments", uid=uid)]
        if as_json:
            print(as_json_text({**invoice, "payments": payments}))
            return
        print(_line(invoice))
        for name in ("address", "createdAt", "updatedAt", "expiresAt", "webhook_url", "redirect_url"):
            if name in invoice:
                print(f"  {name}: {invoice[name]}")
        for payment in payments:
            amount = money(payment["amount"], payment["currency"])
            print(f"  {payment['createdAt']}  {payment['status']}  {amount}  {payment['reference']}")

    ask_server(ask)


def _line(invoice: Mapping[str, Any]) -> str:
    amount = money(invoice["amount"], invoice["currency"])
    parts = [invoice["uid"], invoice["status"], amount, *_sums(invoice), f"account {invoice['account_id']}"]
    return "  ".join([*parts, *filter(None, [invoice.get("memo")])])


def state_of(invoice: Mapping[str, Any]) -> str:
    """Return where an invoice stands: its status, and what has come in."""
    return "  ".join([invoice["status"], *_sums(invoice)])


def _sums(invoice: Mapping[str, Any]) -> list[str]:
    return [
        f"{word} {money(invoice[name], invoice['currency'])}"
        for name, word in (("amount_paid", "paid"), ("amount_pending", "pending"))
        if name in invoice
    ]


def money(amount: int, currency: str) -> str:
    """Return an amount in major units, with its currency."""
    return f"{Decimal(amount).scaleb(-exponent(currency)):f} {currency}"
