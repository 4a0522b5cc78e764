"""Currencies: how many digits their smallest units have, and exact conversion by prices.

Integers, decimals and fractions; never a binary float.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from itertools import chain, islice
from math import floor
from typing import NamedTuple, Protocol

# ISO 4217, and what is usual for others; all else has 2. `currency_exponent` of the schema says the same.
_BY_EXPONENT = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
    6: "USDC USDT TRX",
    8: "BCH BTC DOGE LTC",
    12: "XMR",
    18: "BNB DAI ETH",
}
EXPONENTS = {currency: digits for digits, names in _BY_EXPONENT.items() for currency in names.split()}


def exponent(currency: str) -> int:
    """Return how many digits a currency has after the point."""
    return EXPONENTS.get(currency, 2)


def in_minor_units(value: Decimal | Fraction, currency: str) -> int:
    """Return an amount in major units as an integer of the smallest ones; halves go up, as in PostgreSQL."""
    scale: int = 10 ** exponent(currency)
    return floor(Fraction(value) * scale + Fraction(1, 2))


def rounded(value: Decimal | Fraction, currency: str) -> Decimal:
    """Return an amount in major units to the currency's smallest one."""
    # Made of text: arithmetic would round to the context's precision.
    return Decimal(f"{in_minor_units(value, currency)}E-{exponent(currency)}")


class Rate(NamedTuple):
    """What one of a currency costs in another, and since when: RFC 3339 in UTC, which sorts as text."""

    value: Fraction
    since: str


class Price(Protocol):
    """What somebody said that one of a currency costs in another."""

    @property
    def value(self) -> Decimal | Fraction: ...  # noqa: D102 - as in Rate
    @property
    def since(self) -> str: ...  # noqa: D102


WAYS = 1000  # that are compared for one conversion, and as many through one's own prices: 2 ms each at most


def find_rate(
    quote: str,
    base: str,
    price: Callable[[str, str], Price | None],
    others: Iterable[tuple[str, str]],
    own: Iterable[str] = (),
) -> Rate | None:
    """Return what one `quote` costs in `base`: directly, inversely, or through one other currency.

    A way of two steps is as old as its older one. Of several ways the latest counts; of those that are
    equally late, the one through the first currency by name. Only the way that counts is calculated.

    Args:
        quote: A currency.
        base: Another one.
        price: What a currency costs in a base currency; None: it has no price there.
        others: The currencies that have prices with one of the two, each after the time of the latest such
            price; the latest first. WAYS of them are tried.
        own: Those with which the account itself has prices. WAYS of them are tried apart from the others, so
            that nobody else's prices keep one's own from being found.
    """

    def rate(quote: str, base: str) -> Rate | None:
        if direct := price(quote, base):
            return Rate(Fraction(direct.value), direct.since)
        if inverse := price(base, quote):
            return Rate(1 / Fraction(inverse.value), inverse.since)
        return None

    if one := rate(quote, base):
        return one
    since, through = "", ""
    for latest, between in chain(((None, one) for one in islice(own, WAYS)), islice(others, WAYS)):
        if latest is not None and latest < since:
            break  # no way from here on is later
        first = price(quote, between) or price(between, quote)
        second = price(between, base) or price(base, between)
        if first and second:
            older = min(first.since, second.since)
            if not through or older > since or (older == since and between < through):
                since, through = older, between
    if through and (start := rate(quote, through)) and (end := rate(through, base)):
        return Rate(start.value * end.value, since)
    return None
