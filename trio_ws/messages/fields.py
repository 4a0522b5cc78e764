"""What the fields of messages may hold: types that decoding checks, the same as the schema's."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

# The largest integer that a JavaScript client reads exactly: Number.MAX_SAFE_INTEGER.
MAX_AMOUNT = 2**53 - 1
MAX_BIGINT = 2**63 - 1  # the largest value of PostgreSQL's bigint
CURRENCY_PATTERN = r"^[A-Z][A-Z0-9]{2,9}\Z"  # ISO 4217's three letters, and tickers such as USDT

Amount = Annotated[int, Meta(ge=1, le=MAX_AMOUNT)]
AccountId = Annotated[int, Meta(ge=1, le=MAX_BIGINT)]
Currency = Annotated[str, Meta(pattern=CURRENCY_PATTERN)]
RequestId = Annotated[str, Meta(max_length=64)] | int
# JSON allows U+0000 in a string, PostgreSQL's text does not.
Memo = Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00]*\Z")]
SearchText = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]+\Z")]
Word = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+\Z")]
# A host that can be one, a port from 1 to 65535 or none, no user and password: as is_url() of the schema.
URL_PATTERN = (
    r"^https?://"
    r"(?:[^\x00-,./:-@\[-^`{-\x7f]+(?:\.[^\x00-,./:-@\[-^`{-\x7f]+)*\.?"
    r"|\[[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\])"
    r"(?::(?:0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?"
    r"(?:[/?#][^\x00-\x20\x7f]*)?\Z"
)
Url = Annotated[str, Meta(max_length=2000, pattern=URL_PATTERN)]
Status = Literal["unpaid", "confirming", "paid", "expired", "cancelled"]
PaymentStatus = Literal["pending", "settled", "failed"]
PaymentAmount = Annotated[int, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
Reference = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
MAX_EXPIRY_SECONDS = 366 * 86400


class Asked(Struct, tag_field="action", kw_only=True):
    """A request. The reply repeats its `request_id`, if it has one."""

    request_id: RequestId | None = None
