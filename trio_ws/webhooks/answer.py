"""What an answer to a webhook asks for: nothing more, another attempt, a pause before it, or none at all."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

GONE = 410  # RFC 9110, 15.5.11: likely for good
LONGEST_WAIT_SECONDS = 86400.0  # that a receiver can ask for: it, too, makes mistakes, and others wait behind
_DIGITS = re.compile(r"[0-9]{1,10}")
_DATE_CHARACTERS = 40  # RFC 9110, 5.6.7: an HTTP date has 29, its obsolete forms up to 33


class Answer(NamedTuple):
    """An answer.

    Attributes:
        status: Its status.
        retry_after: The header of that name, as it came; empty: there was none.
    """

    status: int
    retry_after: str = ""

    @property
    def is_taken(self) -> bool:
        """Whether the webhook is delivered."""
        return 200 <= self.status < 300  # noqa: PLR2004 - RFC 9110, 15.3

    def wait_seconds(self, now: float) -> float:
        """Return the least pause that it asks for; 0: none, or what it says is neither seconds nor a date.

        Args:
            now: The wall clock, in Unix seconds.
        """
        text = self.retry_after.strip()
        if _DIGITS.fullmatch(text):
            return min(float(text), LONGEST_WAIT_SECONDS)
        if not text.endswith("GMT") or len(text) > _DATE_CHARACTERS:
            return 0.0
        try:
            until = parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):  # TypeError, IndexError: of older Pythons
            return 0.0
        return min(max(until - now, 0.0), LONGEST_WAIT_SECONDS)
