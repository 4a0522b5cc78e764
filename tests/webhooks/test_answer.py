"""What receivers ask for in an answer is understood, and what makes no sense is ignored."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.webhooks.answer import LONGEST_WAIT_SECONDS, Answer

NOW = 1735571686.0


def waits(text: str) -> float:
    return Answer(503, text).wait_seconds(NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("120", 120.0), (" 7 ", 7.0), ("0", 0.0), ("9999999999", LONGEST_WAIT_SECONDS)),
        *((text, 0.0) for text in ("", "-5", "1e3", "1.5", "٣", "9" * 11, "soon", "GMT", "inf", "x" * 9999)),
        *((text, 0.0) for text in ("Mon, 32 Foo 2024 99:99:99 GMT", "Mon, 30 Dec 2024 15:14:46 +0100")),
        ("Mon, 30 Dec 2024 15:16:46 GMT", 120.0),
        ("Monday, 30-Dec-24 15:16:46 GMT", 120.0),
        ("Mon, 30 Dec 2024 15:14:00 GMT", 0.0),
        ("Fri, 30 Dec 9999 15:14:00 GMT", LONGEST_WAIT_SECONDS),
    ],
)
def test_a_pause_is_so_many_seconds_or_until_a_date_and_a_day_at_most(text: str, seconds: float) -> None:
    assert waits(text) == seconds


@given(st.integers(1, 86400))
def test_a_date_is_understood(seconds: int) -> None:
    until = datetime.fromtimestamp(NOW + seconds, UTC)
    assert waits(format_datetime(until, usegmt=True)) == seconds


@given(st.text(max_size=40) | st.text(max_size=36).map(lambda text: f"{text} GMT"))
def test_whatever_stands_there_the_pause_is_bounded(text: str) -> None:
    assert 0.0 <= waits(text) <= LONGEST_WAIT_SECONDS
