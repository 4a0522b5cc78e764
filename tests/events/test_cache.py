"""What of the event log is in memory, and that what it counts is what it takes."""

import json
import tracemalloc
import uuid

import msgspec

from trio_ws.database.event_log import LogRead
from trio_ws.events.cache import Page, Recent
from trio_ws.events.spelling import FRAMES

COUNT = 256


def read_of(count: int) -> bytes:
    """What the database says of so many new invoices, each as short as they are."""
    events = []
    for seq in range(1, count + 1):
        uid = str(uuid.UUID(int=seq))
        at = "2026-11-28T21:00:00.000000Z"
        data = {"id": seq, "uid": uid, "amount": 1000, "currency": "USD", "status": "unpaid", "account_id": 1}
        data |= {"createdAt": at, "updatedAt": at, "expiresAt": at, "version": 1}
        events.append(
            [seq, "invoice.created", ["account:1", f"invoice:{uid}"], data, {}, seq / 8, "01234567"]
        )
    return json.dumps([["", 0], ["01234567", count], None, events]).encode()


def test_a_page_takes_what_it_counts_once_it_is_searched_and_all_of_it_is_framed() -> None:
    answer = read_of(COUNT)
    msgspec.json.decode(answer, type=LogRead)  # so that what is made once, for all, is there
    tracemalloc.start()
    try:
        page = Page(
            msgspec.json.decode(bytes(bytearray(answer)), type=LogRead).events
        )  # they hold on to the answer
        page.find(["account:1"], 0, COUNT)
        for event in page.events:
            FRAMES.spell(event)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * page.size < taken <= page.size


def test_what_was_used_longest_ago_goes_first() -> None:
    kept = Recent[str, int](limit_bytes=20)
    kept.keep("a", 1, 10)
    kept.keep("b", 2, 10)
    kept.get("a")
    kept.keep("c", 3, 10)
    assert [kept.get(key) for key in "abc"] == [1, None, 3]


def test_one_is_kept_however_large_it_is() -> None:
    kept = Recent[str, int](limit_bytes=20)
    kept.keep("a", 1, 10)
    kept.keep("b", 2, 100)
    assert (kept.get("a"), kept.get("b")) == (None, 2)
