"""`trio-ws trigger`: plays what may happen to an invoice, by the actions of a running server.

A story is a table's row: steps, one after the other. So a developer sees each event that a payment can cause,
and a new story needs no code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

import trio
from cyclopts import Parameter
from cyclopts.validators import Number

from trio_ws import client
from trio_ws.cli.asking import Account, account_of, as_json_text, ask_server
from trio_ws.cli.invoices import money, state_of
from trio_ws.cli.options import AsJson
from trio_ws.cli.printing import while_read
from trio_ws.cli.target import NO_TARGET, Target
from trio_ws.cli.words import suggest, with_list
from trio_ws.errors import StartupError
from trio_ws.settings import SettingsError

EXPIRES_SECONDS = 1.0  # of an invoice that is to expire: long enough for it to be seen before
PATIENCE_SECONDS = 30.0  # for it to expire: a server polls each 0.5 s by default
LEAST_AMOUNT = 2  # so that half of it is something

Invoice = Mapping[str, Any]


class Step(Protocol):
    """What happens to an invoice."""

    def said(self, invoice: Invoice) -> str:
        """Return what happens, in words."""

    async def play(self, server: client.Client, invoice: Invoice) -> None:
        """Have it happen."""


@dataclass(frozen=True)
class Pay:
    """Money moves, or what is known of it changes: `record_payment`.

    Attributes:
        percent: How much of the invoice's amount; below 0: it goes back to the customer.
        status: The payment's.
        reference: What names the payment.
    """

    percent: int
    status: str
    reference: str = "test-1"

    def _amount(self, invoice: Invoice) -> int:
        return int(invoice["amount"]) * self.percent // 100

    def said(self, invoice: Invoice) -> str:
        """Return what happens, in words."""
        return f"payment {self.reference}: {money(self._amount(invoice), invoice['currency'])} {self.status}"

    async def play(self, server: client.Client, invoice: Invoice) -> None:
        """Have it happen."""
        fields = {"reference": self.reference, "status": self.status, "amount": self._amount(invoice)}
        await server.call("record_payment", uid=invoice["uid"], **fields)


@dataclass(frozen=True)
class Cancel:
    """The merchant cancels it: `cancel_invoice`."""

    def said(self, _: Invoice) -> str:
        """Return what happens, in words."""
        return "cancelled by the merchant"

    async def play(self, server: client.Client, invoice: Invoice) -> None:
        """Have it happen."""
        await server.call("cancel_invoice", uid=invoice["uid"])


@dataclass(frozen=True)
class Expire:
    """Its time passes."""

    def said(self, _: Invoice) -> str:
        """Return what happens, in words."""
        return "its time has passed"

    async def play(self, server: client.Client, invoice: Invoice) -> None:
        """Wait until the server has seen it."""
        with trio.move_on_after(EXPIRES_SECONDS + PATIENCE_SECONDS):
            async with server.watch("invoice", invoice["uid"]) as states:
                async for state in states:
                    if state["status"] == "expired":
                        return
        raise StartupError(f"the server did not expire {invoice['uid']} within {PATIENCE_SECONDS:.0f} s")


class Story(NamedTuple):
    """What happens to an invoice after it was made, and what that comes to, in a line."""

    about: str
    steps: tuple[Step, ...]

    @property
    def made_with(self) -> Mapping[str, object]:
        """Fields that its invoice needs."""
        return {"expires_in_seconds": EXPIRES_SECONDS} if Expire() in self.steps else {}


def _paid(percent: int, reference: str = "test-1") -> tuple[Step, ...]:
    return Pay(percent, "pending", reference), Pay(percent, "settled", reference)


STORIES = {
    "paid": Story("All of it comes: pending, then settled.", _paid(100)),
    "underpaid": Story("Half of it comes, and it stays unpaid.", _paid(50)),
    "overpaid": Story("Half as much again comes.", _paid(150)),
    "twice": Story("It is paid, and then once more.", (*_paid(100), *_paid(100, "test-2"))),
    "failed": Story("All of it is pending, and fails.", (Pay(100, "pending"), Pay(100, "failed"))),
    "refunded": Story("It is paid, and all goes back.", (*_paid(100), Pay(-100, "settled", "refund-1"))),
    "late": Story("It expires, and then all of it comes.", (Expire(), *_paid(100))),
    "expired": Story("Nobody pays in time.", (Expire(),)),
    "cancelled": Story("The merchant cancels it.", (Cancel(),)),
}


_ABOUT = {name: story.about for name, story in STORIES.items()}


@with_list("Stories", _ABOUT)
def trigger(
    name: Annotated[str, Parameter(name="NAME", help="Which story.", completer=lambda _: _ABOUT)],
    /,
    *,
    amount: Annotated[
        int, Parameter(validator=Number(gte=LEAST_AMOUNT), help="Amount, in the currency's smallest unit.")
    ] = 1000,
    currency: Annotated[str, Parameter(help="Currency of the invoice.")] = "USD",
    account: Account = None,
    webhook_url: Annotated[str | None, Parameter(help="Where the server POSTs its events.")] = None,
    as_json: AsJson = False,
    target: Target = NO_TARGET,
) -> None:
    """Play what may happen to an invoice, on a new one, through a running server.

    It prints each step as it happens, and what the invoice is then. Followers and webhooks are notified as of
    any other invoice. A token needs the scopes `write` and `process`.
    """
    if name not in STORIES:
        raise SettingsError(f"there is no story {name!r}{suggest(name, STORIES, 'stories')}")
    story = STORIES[name]
    server = target.server
    given = {
        "amount": amount,
        "currency": currency,
        "webhook_url": webhook_url,
        "memo": f"trio-ws trigger {name}",
        **story.made_with,
    }

    async def play() -> None:
        async with server.connect() as connected:
            number = await account_of(connected, server, account)
            invoice = await connected.create_invoice(account_id=number, **given)
            _show(f"invoice {invoice['uid']}: {money(amount, currency)}", invoice, as_json=as_json)
            for step in story.steps:
                await step.play(connected, invoice)
                invoice = await connected.fetch_invoice(invoice["uid"])
                _show(step.said(invoice), invoice, as_json=as_json)

    ask_server(play)


def _show(step: str, invoice: Invoice, *, as_json: bool) -> None:
    with while_read():
        text = as_json_text({"step": step, "invoice": invoice}) if as_json else f"{step}  {state_of(invoice)}"
        print(text, flush=True)
