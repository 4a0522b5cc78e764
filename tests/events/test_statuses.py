"""Invoices are counted by the status that they get, whatever else an event holds."""

import pytest
from msgspec import Raw

from trio_ws import metrics
from trio_ws.events.statuses import count_statuses
from trio_ws.topics import Event

ROW = b'{"id": 1, "memo": "\\"status\\": \\"paid\\"", "status" : "expired", "version": 2}'


def counted(type_: str, previous: bytes, data: bytes = ROW) -> dict[str, float]:
    """What one event adds, by status."""
    before = _counts()
    count_statuses([Event(1, type_, ("account:1",), Raw(data), Raw(previous))])
    return {status: count - before.get(status, 0) for status, count in _counts().items()}


def _counts() -> dict[str, float]:
    families = metrics.REGISTRY.collect()
    samples = [one for family in families if family.name == "trio_ws_invoices" for one in family.samples]
    return {one.labels["status"]: one.value for one in samples}


async def test_a_new_status_is_counted() -> None:  # in trio, for some figures ask it
    assert counted("invoice.created", b"null")["expired"] == 1
    assert counted("invoice.updated", b'{"status" : "unpaid"}')["expired"] == 1


@pytest.mark.parametrize(
    ("type_", "previous", "data"),
    [
        ("invoice.updated", b'{"memo": "status"}', ROW),
        ("invoice.updated", b'{"memo": "{\\"status\\": \\"unpaid\\"}"}', ROW),
        ("payment.created", b'{"status": "pending"}', ROW),
        ("price.updated", b'{"status": "x"}', ROW),
        ("invoice.created", b"null", b'{"id": 1}'),
        ("invoice.created", b"null", b'{"status": 7}'),
        ("invoice.updated", b"null", ROW),
        ("invoice.updated", b'{"status": ', ROW),
    ],
)
async def test_nothing_else_is_and_no_event_stops_the_log(type_: str, previous: bytes, data: bytes) -> None:
    assert not any(counted(type_, previous, data).values())
