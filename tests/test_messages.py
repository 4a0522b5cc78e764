"""A topic has one spelling, however a client spells it."""

from typing import Any

import pytest

from trio_ws.errors import InvalidTopic
from trio_ws.messages import CreateInvoice
from trio_ws.topics import Position, Topic

UID = "5735e250-b53e-4ace-a025-afac1bc77ee2"


@pytest.mark.parametrize(
    ("type_", "id_", "spelling"),
    [
        ("invoice", UID.upper(), f"invoice:{UID}"),
        ("invoice", UID.replace("-", ""), f"invoice:{UID}"),
        ("invoice", "inv_123", "invoice:inv_123"),
        ("account", 1, "account:1"),
        ("account", "1", "account:1"),
        ("price", "*", "price:*"),
        ("address", "BC1q", "address:BC1q"),
    ],
)
def test_a_topic_is_spelled_as_events_spell_it(type_: str, id_: str | int, spelling: str) -> None:
    assert str(Topic.parse(type_, id_)) == spelling


def test_an_unknown_type_names_those_there_are() -> None:
    with pytest.raises(InvalidTopic) as error:
        Topic.parse("weather", "today")
    assert error.value.detail == "One of invoice, account, address, price"


def test_a_position_is_a_name_and_a_number() -> None:
    assert str(Position("4f3c9a-1", 1042)) == "4f3c9a-1.1042"


def test_a_request_s_fingerprint_is_of_what_it_says_and_of_nothing_else() -> None:
    class Later(CreateInvoice, tag="create_invoice"):  # as a later release may have it
        payer: str | None = None

    fields: dict[str, Any] = {
        "amount": 1,
        "currency": "USD",
        "account_id": 1,
        "idempotency_key": "k",
        "memo": "m",
    }
    known = CreateInvoice(**fields).fingerprint()
    assert known == CreateInvoice(**fields, request_id=7).fingerprint()
    assert known == Later(**fields).fingerprint()
    assert known != Later(**fields, payer="p").fingerprint()
    assert known != CreateInvoice(**{**fields, "memo": "M"}).fingerprint()
