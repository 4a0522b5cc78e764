"""What a client asks for besides following: invoices, payments, prices; and whether the replies are so."""

from collections.abc import Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import trio

from trio_ws.identity import Scope
from trio_ws.testing.simulation.scenario import ACCOUNTS, CURRENCIES, URLS
from trio_ws.testing.simulation.truth import Told, Violation
from trio_ws.topics import Event

if TYPE_CHECKING:
    from trio_ws.testing.simulation.client import Client

RETRY_SECONDS = 3.0
ASKED = ("amount", "currency", "account_id")  # what an invoice is over does not change
LONG_MEMO = 950  # characters beside its key: with it, nearly as long as a memo may be
PAGES, PAGE = 3, 100  # of invoices, that it reads one after the other


class _Invoice(msgspec.Struct):
    id: int
    uid: str
    status: str
    amount: int
    currency: str
    account_id: int | None = None  # not for customers


class _Payment(msgspec.Struct):
    id: int
    invoice: str
    reference: str
    amount: int
    status: str
    account_id: int


class _Price(msgspec.Struct):
    id: int
    currency: str
    base_currency: str
    account_id: int
    updated_at: str = msgspec.field(name="updatedAt")


class _Converted(msgspec.Struct):
    timestamp: str
    base_value: float


class Asking:
    """The invoices and prices of one client.

    Args:
        client: Who asks.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._run = client.run
        self._unsure: dict[str, dict[str, object]] = {}  # creates without an answer, by their key
        self._made: dict[str, str] = {}  # uids by key
        self._prices: bytes | None = None  # as they were told last
        self._rates: dict[str, str] = {}  # by currency, how old a price may be that this line is told
        self._losses = 0  # of prices, when that was so

    def begin(self) -> None:
        """Ask again for what was not answered, on a new line."""
        self._rates.clear()
        for key in self._unsure:
            self._create(key, self._unsure[key])
        self.list_prices()  # so that the server has them in memory, and has to keep them right

    def on_event(self, event: Event) -> None:
        """Note that it was told of an event."""
        if event.type == "price.updated" and self._client.credentials.account is None:
            price = msgspec.json.decode(event.data, type=_Price)
            self._note_rate(price.currency, price.updated_at)

    def check_at_the_end(self) -> None:
        """Raise unless all is made, and all prices are as they are."""
        if self._unsure and self._client.credentials.allow("write"):
            raise Violation(f"{next(iter(self._unsure))} was never made")
        if self._client.credentials.allow("read"):
            self._check_prices()

    # Invoices

    def nonsense(self) -> None:
        """Send what is no request, and one that its token does not allow."""
        self._client.ask("ask_nonsense", fields={"action": "dance"}, must="invalid_message")
        if (account := self._client.credentials.account) is not None:
            fields = {"amount": 1, "currency": "USD", "account_id": account % ACCOUNTS + 1}
            self._client.ask("create_invoice", "for another", fields, must="forbidden")
        self._client.following.follow_too_much()

    def create(self, account: int, value: str) -> None:
        """Make an invoice, and see that it is made once, however often that takes asking."""
        client = self._client
        account = client.credentials.account or account
        key = f"{client.name}.{next(client.numbers)}".replace(" ", "-")
        # By its memo it is known in the log, so that what was made twice is found there.
        memo = key + " x" * (LONG_MEMO // 2) if value == "long" else key
        fields: dict[str, object] = {
            "amount": account,
            "currency": "USD",
            "account_id": account,
            "memo": memo,
        }
        if value == "soon":
            fields["expires_in_seconds"] = 2 * account
        elif value == "webhook":
            fields["webhook_url"] = URLS[account % len(URLS)]
        if client.credentials.allow("write"):
            self._unsure[key] = fields
        self._create(key, fields)

    def _create(self, key: str, fields: Mapping[str, object]) -> None:
        self._client.ask(
            "create",
            key,
            {"action": "create_invoice", "idempotency_key": key, **fields},
            scope="write",
            done=partial(self._created, key),
            again=partial(self._run.nursery.start_soon, self._create_later, key),
        )

    async def _create_later(self, key: str) -> None:
        await trio.sleep(RETRY_SECONDS)
        if key in self._unsure:
            self._create(key, self._unsure[key])

    def _created(self, key: str, told: Told) -> None:
        invoice, wanted = self._own(told), self._unsure.pop(key, None)
        self._check_invoice(invoice.uid, told)
        if wanted is not None and any(getattr(invoice, name) != wanted[name] for name in ASKED):
            raise Violation(f"{key} was asked for as {wanted}, and made as {invoice}")
        if self._made.setdefault(key, invoice.uid) != invoice.uid and not self._run.was_restored:
            raise Violation(f"{key} made two invoices: {self._made[key]} and {invoice.uid}")

    def fetch(self, uid: UUID) -> None:
        """Fetch an invoice."""
        self._client.ask(
            "fetch",
            str(uid),
            {"action": "fetch_invoice", "id": str(uid)},
            scope="read",
            for_customers=True,
            may={"not_found"},
            done=partial(self._fetched, str(uid)),
            refused=partial(self.not_found, str(uid)),
        )

    def _fetched(self, uid: str, told: Told) -> None:
        self._own(told)
        self._check_invoice(uid, told)

    def not_found(self, uid: str, told: Told) -> None:
        """Raise where an invoice is there that was not found."""
        is_excused = self._run.was_restored and self._client.is_troubled_since(0)
        if told.code == "not_found" and not is_excused:
            self._run.check_absence(uid, self._client.credentials.account)

    def cancel(self, uid: UUID) -> None:
        """Cancel an invoice."""
        self._change("cancel", str(uid), "cancelled", {"action": "cancel_invoice"}, scope="write")

    def change_status(self, uid: UUID, status: str) -> None:
        """Say what became of an invoice."""
        fields = {"action": "update_invoice", "status": status}
        self._change("change_status", str(uid), status, fields, scope="process")

    def _change(
        self, what: str, uid: str, status: str, fields: Mapping[str, object], *, scope: Scope
    ) -> None:
        self._client.ask(
            what,
            uid,
            {**fields, "uid": uid},
            scope=scope,
            may={"not_found", "conflict"},
            done=partial(self._changed, uid, status),
            refused=partial(self.not_found, uid),
        )

    def _changed(self, uid: str, status: str, told: Told) -> None:
        invoice = self._own(told)
        if (invoice.uid, invoice.status) != (uid, status):
            raise Violation(f"{uid} was to be {status}, and the reply is {invoice}")
        self._check_invoice(uid, told)

    def pay(self, uid: UUID, status: str, own: Random) -> None:
        """Record a payment, which nothing but its invoice's absence refuses."""
        reference = f"{self._client.name} {next(self._client.numbers)}"
        fields = {"reference": reference, "amount": own.choice([-1, 1, 5, 20]), "status": status}
        self._client.ask(
            "record_payment",
            reference,
            {"uid": str(uid), **fields},
            scope="process",
            may={"not_found"},
            done=partial(self._paid, str(uid), fields),
            refused=partial(self.not_found, str(uid)),
        )

    def _paid(self, uid: str, fields: Mapping[str, object], told: Told) -> None:
        payment = self._check_payment(uid, bytes(told.data))
        if any(getattr(payment, name) != value for name, value in fields.items()):
            raise Violation(f"{fields} was paid, and the reply is {payment}")
        self._client.ask(
            "list_payments",
            uid,
            {"uid": uid},
            scope="read",
            may={"not_found"},
            done=partial(self._payments_listed, uid, payment.id),
            refused=partial(self.not_found, uid),
        )

    def _payments_listed(self, uid: str, paid: int, told: Told) -> None:
        listed = msgspec.json.decode(told.data, type=list[msgspec.Raw])
        ids = [self._check_payment(uid, bytes(payment)).id for payment in listed]
        is_whole = told.next is None and not self._run.was_restored
        if ids != sorted(ids) or (is_whole and paid not in ids):
            raise Violation(f"payments {ids} of {uid} are listed, and {paid} is one of them")

    def _check_payment(self, uid: str, told: bytes) -> _Payment:
        """Return a payment, which has to be as an event said."""
        payment = msgspec.json.decode(told, type=_Payment)
        if self._client.credentials.account not in (None, payment.account_id) or payment.invoice != uid:
            raise Violation(f"of {uid} it is told another's payment: {told!r}")
        if not self._run.truth.was_said(told):
            raise Violation(f"a payment was never {told!r}")
        return payment

    def list_others_invoices(self) -> None:
        """Ask for another account's invoices, as a token may not."""
        if (own := self._client.credentials.account) is not None:
            fields = {"action": "list_invoices", "account_id": own % ACCOUNTS + 1}
            self._client.ask("list_others_invoices", fields=fields, must="forbidden")

    def list_invoices(self, cursor: str | None = None, before: int | None = None, page: int = 1) -> None:
        """Read some pages of invoices."""
        self._client.ask(
            "list_invoices",
            cursor or "",
            {"cursor": cursor, "limit": PAGE},
            scope="read",
            done=partial(self._listed, before, page),
        )

    def _listed(self, before: int | None, page: int, told: Told) -> None:
        begin, ids = before, list[int]()
        for invoice in msgspec.json.decode(told.data, type=list[msgspec.Raw]):
            shown = self._check_own(bytes(invoice))
            if before is not None and shown.id >= before:
                raise Violation(f"invoice {shown.id} is listed after {before}")
            before = shown.id
            ids.append(before)
            self._run.check_invoice(shown.uid, bytes(invoice), self._client.credentials.view)
        if ids and not (self._run.was_restored and self._client.is_troubled_since(0)):
            self._run.check_page(ids, begin or ids[0], self._client.credentials.account)
        if told.next is not None and page < PAGES:
            self.list_invoices(told.next, before, page + 1)

    def _check_invoice(self, uid: str, told: Told) -> None:
        self._run.check_invoice(uid, bytes(told.data), self._client.credentials.view)

    def _own(self, told: Told) -> _Invoice:
        return self._check_own(bytes(told.data))

    def _check_own(self, told: bytes) -> _Invoice:
        """Return an invoice that it may see."""
        invoice = msgspec.json.decode(told, type=_Invoice)
        if self._client.credentials.account not in (None, invoice.account_id):
            raise Violation(f"it is told another account's invoice: {told!r}")
        return invoice

    # Prices

    def list_prices(self) -> None:
        """Ask for all prices."""
        self._prices = None
        self._client.ask("list_prices", scope="read", done=self._list_prices)

    def _list_prices(self, told: Told) -> None:
        self._prices = bytes(told.data)
        if self._client.credentials.account is None:
            for price in msgspec.json.decode(told.data, type=list[_Price]):
                self._check_rate(price.currency, price.updated_at)

    def set_price(self, currency: str, value: float) -> None:
        """Say what a currency costs."""
        self._client.ask(
            "set_price",
            currency,
            {"currency": currency, "base_currency": "USD", "value": value},
            scope="process",
            done=partial(self._price_set, currency),
        )

    def _price_set(self, currency: str, told: Told) -> None:
        price = msgspec.json.decode(told.data, type=_Price)
        if price.currency != currency or self._client.credentials.account not in (None, price.account_id):
            raise Violation(f"a price of {currency} was set, and the reply is {price}")
        if not self._client.is_troubled_since(0):
            self._note_rate(currency, price.updated_at)

    def convert(self, currency: str) -> None:
        """Ask what some of a currency comes to."""
        self._client.ask(
            "convert",
            currency,
            {"action": "convert_price", "quote_currency": currency, "base_currency": "USD", "quote_value": 1},
            scope="read",
            may={"not_found"},
            done=partial(self._converted, currency),
        )

    def _converted(self, currency: str, told: Told) -> None:
        converted = msgspec.json.decode(told.data, type=_Converted)
        self._check_rate(currency, converted.timestamp)
        if not self._run.truth.had_price(currency, round(converted.base_value * 100), converted.timestamp):
            raise Violation(f"1 {currency} never came to {converted}")

    def _note_rate(self, currency: str, since: str) -> None:
        if not self._run.are_prices_unsure:
            self._rates[currency] = max(since, self._rates.get(currency, since))

    def _check_rate(self, currency: str, since: str) -> None:
        """Raise if a price is older than one that this line was told of."""
        if self._losses != self._run.price_losses:
            self._rates.clear()
            self._losses = self._run.price_losses
        is_late = self._run.price_losses and self._client.is_troubled_since(0)
        if self._run.are_prices_unsure or is_late:  # what is told now may be lost already
            return
        if since < self._rates.get(currency, since):
            raise Violation(f"a price of {currency} went back from {self._rates[currency]} to {since}")
        self._rates[currency] = since

    def _check_prices(self) -> None:
        """Raise unless it was told its own prices, and the latest of each pair."""
        account = self._client.credentials.account
        latest: dict[tuple[str, str], tuple[str, bytes]] = {}
        expected: dict[bytes, None] = {}
        for price in map(bytes, self._run.database.prices):
            shown = msgspec.json.decode(price, type=_Price)
            if account == shown.account_id:
                expected[price] = None
            pair, this = (shown.currency, shown.base_currency), (shown.updated_at, price)
            latest[pair] = max(this, latest.get(pair, this))
        expected |= dict.fromkeys(price for _, price in latest.values())
        told = None if self._prices is None else msgspec.json.decode(self._prices, type=list[msgspec.Raw])
        if told is None or sorted(map(bytes, told)) != sorted(expected):
            raise Violation(f"prices are {list(expected)}, and were told as {self._prices!r}")

    # Many things in one piece

    def ask_many(self, uids: list[UUID], own: Random) -> None:
        """Send many requests in one piece."""
        with self._client.together():
            for _ in range(own.randint(10, 60)):
                match own.randrange(7):
                    case 0:
                        self.convert(own.choice(CURRENCIES))
                    case 1:
                        self.create(own.randint(1, 3), "")
                    case 2:
                        self._client.ask("ping")
                    case 3:
                        self.nonsense()
                    case _ if uids:
                        self.fetch(own.choice(uids))
