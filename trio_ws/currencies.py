"""Currencies: how many digits their smallest units have, and exact conversion by prices.

Integers, decimals and fractions; never a binary float.
"""

from collections.abc import Iterable
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


class Rates:
    """What is known of prices, by currency and base currency."""

    def __init__(self, known: Iterable[tuple[str, str, Decimal, str]]) -> None:
        """Take `(currency, base_currency, value, since)`; of several for a pair, the last counts."""
        self._rates: dict[tuple[str, str], Rate] = {}
        for currency, base, value, since in known:
            self._rates[currency, base] = Rate(Fraction(value), since)
        self._currencies = sorted({currency for pair in self._rates for currency in pair})

    def find(self, quote: str, base: str) -> Rate | None:
        """Return what one `quote` costs in `base`: directly, inversely, or through one other currency.

        A way of two steps is as old as its older one; of several ways, the latest counts.
        """
        if one := self._step(quote, base):
            return one
        ways = [
            Rate(first.value * second.value, min(first.since, second.since))
            for between in self._currencies
            if (first := self._step(quote, between)) and (second := self._step(between, base))
        ]
        return max(ways, key=lambda way: way.since, default=None)

    def _step(self, quote: str, base: str) -> Rate | None:
        if direct := self._rates.get((quote, base)):
            return direct
        if inverse := self._rates.get((base, quote)):
            return Rate(1 / inverse.value, inverse.since)
        return None
