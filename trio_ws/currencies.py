"""Currencies: how many digits their smallest units have, and exact conversion by prices.

Integers, decimals and fractions; never a binary float.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from math import floor
from typing import NamedTuple

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


def find_rate(
    quote: str,
    base: str,
    rate: Callable[[str, str], Rate | None],
    neighbours: Callable[[str], Iterable[str]],
) -> Rate | None:
    """Return what one `quote` costs in `base`: directly, inversely, or through one other currency.

    A way of two steps is as old as its older one; of several ways, the latest counts.

    Args:
        quote: A currency.
        base: Another one.
        rate: What a currency costs in a base currency; None: it has no price there.
        neighbours: The currencies that one has a price in, or that have one in it.
    """

    def step(quote: str, base: str) -> Rate | None:
        if direct := rate(quote, base):
            return direct
        if inverse := rate(base, quote):
            return Rate(1 / inverse.value, inverse.since)
        return None

    if one := step(quote, base):
        return one
    ways = [
        Rate(first.value * second.value, min(first.since, second.since))
        for between in sorted({*neighbours(quote)} & {*neighbours(base)})
        if (first := step(quote, between)) and (second := step(between, base))
    ]
    return max(ways, key=lambda way: way.since, default=None)
