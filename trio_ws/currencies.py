"""Currencies: how many digits their smallest units have, and exact conversion by prices.

EXPONENTS is the one table of them. `currency_exponent` of the schema and `/currencies.js` say the same, and
tests compare them. Integers, decimals and fractions; never a binary float.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from itertools import chain, islice
from math import floor
from typing import NamedTuple, Protocol

# ISO 4217, list one as its maintenance agency, SIX, published it on 2026-01-01. What it gives no digits, as
# XAU and XXX, is not here. The last six were on it until lately, and may be in what is stored.
_ISO_4217 = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF "
    "CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD "
    "GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL "
    "MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR "
    "PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP "
    "TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG "
    "ANG BGN CUC HRK SLL ZWL",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
# Coins have the smallest unit that their own network counts in: satoshi and its like (8), piconero (XMR),
# lamport (SOL), nanoton (TON), nAVAX, planck (DOT), stroop (XLM), drop (XRP), lovelace (ADA), uatom (ATOM),
# sun (TRX); the contracts of USDC, USDT and EURC have 6 digits. Where that unit is 10^-18, the largest
# amount, 2^53 - 1 of them, is 0.009. So Ethereum's and its like are counted in gwei (up to 9 007 199), DAI
# in 10^-6 as other dollars, and SHIB, of which a dollar is some 100 000, in hundredths.
_COINS = {
    2: "SHIB",
    6: "ADA ATOM DAI EURC TRX USDC USDT XRP",
    7: "XLM",
    8: "BCH BTC DASH DOGE LTC ZEC",
    9: "AVAX BNB ETC ETH LINK MATIC POL SOL TON",
    10: "DOT",
    12: "XMR",
    # What was stored before 0017_currencies.sql, and is no whole number of the units above.
    18: "BNB18 DAI18 ETH18",
}
EXPONENTS = {
    currency: digits
    for table in (_ISO_4217, _COINS)
    for digits, names in table.items()
    for currency in names.split()
}
UNKNOWN_EXPONENT = 2  # as most of ISO 4217
CONVERTED_DIGITS = 18  # of an amount in a currency whose digits are unknown: no coin in use has more


def exponent(currency: str) -> int:
    """Return how many digits a currency has after the point."""
    return EXPONENTS.get(currency, UNKNOWN_EXPONENT)


def in_minor_units(value: Decimal | Fraction, currency: str) -> int:
    """Return an amount in major units as an integer of the smallest ones; halves go up, as in PostgreSQL."""
    return _in_units(value, exponent(currency))


def rounded(value: Decimal | Fraction, currency: str) -> Decimal:
    """Return an amount in major units to the currency's smallest one.

    Where nobody knows that one, two digits would make 0.01 of 0.006667. So it has as many as it needs then,
    up to CONVERTED_DIGITS.
    """
    digits = EXPONENTS.get(currency, CONVERTED_DIGITS)
    units = _in_units(value, digits)
    if currency not in EXPONENTS:
        while digits and units % 10 == 0:
            units, digits = units // 10, digits - 1
    # Made of text: arithmetic would round to the context's precision.
    return Decimal(f"{units}E-{digits}")


def _in_units(value: Decimal | Fraction, digits: int) -> int:
    scale: int = 10**digits
    return floor(Fraction(value) * scale + Fraction(1, 2))


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
