"""Setting, reading and converting prices."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial

from msgspec import UNSET

from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.currencies import Rate, in_minor_units, rounded
from trio_ws.database import queries
from trio_ws.errors import InvalidValue, NotFound
from trio_ws.events.prices import Book
from trio_ws.messages import Converted, ConvertPrice, ListPrices, SetPrice, Success
from trio_ws.messages.fields import MAX_AMOUNT
from trio_ws.paging import Cursor

FIRST_ACCOUNT = 1  # 0002_first_account.sql makes it; whose prices are set where nobody says whose
DIGITS = 36  # as many as 18 on either side of the point: more than any currency has
OWN_PRICE_SECONDS = 1.0  # until its event comes


def list_prices(
    action: ListPrices, services: Services, session: Session
) -> Success | Callable[[], Awaitable[Success]]:
    """Read a page of prices, from memory once they are there."""
    cursor = Cursor("*", 0)
    if action.cursor is not None:
        cursor = Cursor.parse(action.cursor, r"\*|[A-Z][A-Z0-9]{2,9}")
    if (book := services.prices.at_hand) is not None:
        return _listed(book, cursor, session)
    return partial(_read_and_list, cursor, services, session)


async def _read_and_list(cursor: Cursor, services: Services, session: Session) -> Success:
    return _listed(await services.prices.read(), cursor, session)


def _listed(book: Book, cursor: Cursor, session: Session) -> Success:
    page = book.page(session.identity.account_id, cursor)
    return Success(data=page.items, next=page.next or UNSET)


async def set_price(action: SetPrice, services: Services, session: Session) -> Success:
    """Say what one of a currency costs."""
    _check(action.value, "value")
    if action.currency == action.base_currency:
        raise InvalidValue("A currency has no price in itself - at `$.base_currency`")
    if in_minor_units(action.value, action.base_currency) > MAX_AMOUNT:
        raise InvalidValue(f"Expected at most {MAX_AMOUNT} in minor units - at `$.value`")
    owner = session.identity.account_id
    account_id = FIRST_ACCOUNT if owner is None else owner
    price = await services.database.run(
        queries.set_price, account_id, action.currency, action.base_currency, action.value
    )
    services.tail.wake()
    await services.prices.wait_for(price, OWN_PRICE_SECONDS)
    return Success(data=price)


async def convert_price(action: ConvertPrice, services: Services, session: Session) -> Success:
    """Say what an amount of a currency comes to in another, by one's own prices before those of others."""
    _check(action.quote_value, "quote_value")
    rate: Rate | None
    if action.quote_currency == action.base_currency:
        now = datetime.fromtimestamp(services.now(), UTC)
        rate = Rate(Fraction(1), now.isoformat(timespec="microseconds"))
    else:
        book = await services.prices.read()
        rate = book.find_rate(action.quote_currency, action.base_currency, session.identity.account_id)
    if rate is None:
        raise NotFound(f"No price of {action.quote_currency} in {action.base_currency}")
    return Success(
        data=Converted(
            quote_currency=action.quote_currency,
            base_currency=action.base_currency,
            quote_value=action.quote_value,
            base_value=rounded(Fraction(action.quote_value) * rate.value, action.base_currency),
            timestamp=rate.since,
        )
    )


def _check(value: Decimal, name: str) -> None:
    """Raise unless it is a price or an amount, of a length that is cheap to calculate with."""
    if not (value.is_finite() and value > 0):
        raise InvalidValue(f"Expected a decimal > 0 - at `$.{name}`")
    sign_digits_exponent = value.as_tuple()
    if not -DIGITS <= value.adjusted() <= DIGITS or len(sign_digits_exponent.digits) > DIGITS:
        raise InvalidValue(f"Expected a decimal of at most {DIGITS} digits - at `$.{name}`")
