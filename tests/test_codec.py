"""Whatever a client sends decodes to an action, or fails with what to answer, and never anything else."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw, structs

from tests import hostile
from trio_ws import codec
from trio_ws.errors import InvalidMessage, InvalidValue
from trio_ws.messages import (
    Action,
    CreateInvoice,
    Ping,
    RecordPayment,
    Resume,
    SetPrice,
    Subscribe,
    WantedTopic,
)
from trio_ws.topics import Event

unicode = st.characters(exclude_categories=["Cs"])  # surrogates are no characters, and no JSON
readable_values = st.none() | st.booleans() | st.integers() | st.text(unicode, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
names = ["action", "request_id", "type", "id", "amount", "currency", "account_id", "memo", "after"]
tags = [type_.__struct_config__.tag for type_ in get_args(Action)]
messages = st.dictionaries(st.sampled_from(names), json_values | st.sampled_from(tags))


def decode_or_fail(frame: str | bytes) -> object:
    try:
        return codec.decode(frame)
    except codec.DecodeFailure as failure:
        assert failure.error.code in ("invalid_message", "invalid_value")  # noqa: PT017 - nothing else may come
        return failure


@given(st.text())
@example('{"action":"ping","request_id":"\ud800"}')
@example("[" * 100_000)
def test_any_text_is_an_action_or_a_failure(frame: str) -> None:
    decode_or_fail(frame)


@given(st.builds(json.dumps, messages))
def test_any_object_is_an_action_or_a_failure(frame: str) -> None:
    decode_or_fail(frame)


@given(
    st.dictionaries(st.sampled_from(names), readable_values | st.sampled_from(tags)),
    st.text(unicode, max_size=64) | st.integers(-(2**63), 2**63),
)
def test_a_request_id_that_can_be_read_is_kept(fields: dict[str, object], request_id: str | int) -> None:
    outcome = decode_or_fail(json.dumps({**fields, "request_id": request_id}))
    assert outcome.request_id == request_id  # type: ignore[attr-defined] # both kinds have it


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        ('{"action":"create_invoice","amount":0}', InvalidMessage),
        ('{"action":"create_invoice","amount":0,"currency":"USD","account_id":1}', InvalidValue),
        ('{"action":"ping","request_id":1.5}', InvalidValue),
        ('{"action":"dance","request_id":1.5}', InvalidMessage),
    ],
)
def test_a_missing_field_is_told_from_a_bad_value(frame: str, error: type[Exception]) -> None:
    with pytest.raises(codec.DecodeFailure) as failure:
        codec.decode(frame)
    assert type(failure.value.error) is error


@pytest.mark.parametrize(
    ("frame", "request_id"),
    [
        ('{"action":"ping","request_id":7,"x":' + "[" * 1000 + "]" * 1000 + "}", 7),
        ('{"request_id" : "a\\"b" , "x":NaN}', 'a"b'),
        ('{"x":"\\ud800","request_id":-3}', -3),
        ('{"request_id":1,"request_id":2,"x":}', 2),
        ('{"x":{"request_id":1},"y":NaN}', None),
        ('{"x":"request_id","y":NaN}', None),
        ('{"request_id":1.5,"y":NaN}', None),
        ('{"request_id":7', None),
        ('[{"request_id":7}]', None),
        ('{"request_id":"' + "x" * 65 + '"}', None),
    ],
)
def test_a_request_id_is_read_from_what_is_no_json_where_it_can_be(
    frame: str, request_id: str | int | None
) -> None:
    with pytest.raises(codec.DecodeFailure) as failure:
        codec.decode(frame)
    assert failure.value.request_id == request_id


@pytest.mark.parametrize(
    ("frame", "request_id"),
    [
        ('{"request_id":1,"x":{"request_id":2},"y":[{"request_id":3}]}', 1),
        ('{"x":"\\\\","request_id":"\\"","y":"\\\\\\""}', '"'),
        ('{"x":"\\"request_id\\":1","request_id":2}', 2),
        ('{"request_id":"' + "\\ud83d\\ude00" * 64 + '"}', "\U0001f600" * 64),
        ('{"x":"request_id","request_id":5}', 5),
        ('{"x":["request_id"],"request_id":5}', 5),
        ("{}" * 1000 + '{"request_id":5}', 5),
        ('{"request_id":1' + ',"request_id":{"request_id":2}' * 1000 + "}", None),
    ],
)
def test_a_request_id_is_found_without_decoding(frame: str, request_id: str | int | None) -> None:
    assert codec.find_request_id(frame) == request_id


@given(
    fields=messages,
    request_id=st.text(unicode, max_size=64) | st.integers(-(2**63), 2**63),
    is_ascii=st.booleans(),
)
@example(fields={"request_id": {"request_id": 2}}, request_id=1, is_ascii=False)
def test_whatever_stands_beside_it_the_same_request_id_is_found(
    fields: dict[str, Any], request_id: str | int, *, is_ascii: bool
) -> None:
    frame = json.dumps({"x": fields, **fields, "request_id": request_id}, ensure_ascii=is_ascii)
    assert codec.find_request_id(frame) == request_id


def test_a_binary_frame_has_no_request_id() -> None:
    assert codec.find_request_id(b'{"request_id":1}') is None


@pytest.mark.parametrize("read", [decode_or_fail, codec.find_request_id])
@pytest.mark.parametrize("name", hostile.MESSAGES)
def test_no_message_is_gone_through_character_by_character(name: str, read: Callable[[str], object]) -> None:
    assert len(hostile.MESSAGES[name].encode()) <= hostile.SIZE
    assert hostile.count_steps(lambda: read(hostile.MESSAGES[name])) <= 250
    assert not hostile.is_slow(lambda: read(hostile.MESSAGES[name])), (
        "nor by a pattern that tries again and again"
    )


def depth_of(text: str) -> int:
    """What Python's own JSON says."""

    def depth(value: object) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    return depth(json.loads(text))


brackets = st.recursive(
    st.text('[]{}"\\,: é', max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('[{"\\', max_size=2), inner, max_size=3)
    ),
)


@given(brackets, st.integers(80, 110))
def test_depth_is_what_it_is_whatever_stands_in_strings(value: object, levels: int) -> None:
    text = json.dumps({"action": "ping", "x": [value] * 30, "y": 0}).replace(
        "0}", "[" * levels + "]" * levels + "}"
    )
    outcome = decode_or_fail(text)
    assert isinstance(outcome, codec.DecodeFailure) == (depth_of(text) > codec.MAX_DEPTH)


@pytest.mark.parametrize(("depth", "fails"), [(codec.MAX_DEPTH, False), (codec.MAX_DEPTH + 1, True)])
def test_json_may_be_nested_so_deep_and_no_deeper(depth: int, *, fails: bool) -> None:
    text = '"[[' + "[{" * 100 + '\\"["'
    nested = "[" * (depth - 1) + text + "]" * (depth - 1)
    outcome = decode_or_fail(f'{{"action":"ping","x":{nested}}}')
    assert isinstance(outcome, codec.DecodeFailure) == fails


def test_the_last_of_two_equal_fields_counts() -> None:
    action = codec.decode('{"action":"ping","request_id":1,"request_id":2}')
    assert isinstance(action, Ping)
    assert action.request_id == 2


def test_an_event_carries_its_data_as_it_is() -> None:
    event = Event(7, "invoice.updated", ("invoice:a",), Raw(b'{"z":1,"a":1.50}'), Raw(b'{"z":0}'), name="e-1")
    assert codec.encode_event(event) == (
        b'{"type":"invoice.updated","data":{"z":1,"a":1.50},"previous":{"z":0},"position":"e-1.7"}'
    )


@pytest.mark.parametrize(
    ("frame", "action"),
    [
        (
            '{"action":"create_invoice","amount":1000.0,"currency":"USD","account_id":2.00,"memo":"5.0\\"6.0"}',
            CreateInvoice(amount=1000, currency="USD", account_id=2, memo='5.0"6.0'),
        ),
        (
            '{"action":"subscribe","type":"account","id":1.0,"request_id":7.0}',
            Subscribe(type="account", id=1, request_id=7),
        ),
        (
            '{"action":"resume","after":"a.1","topics":[{"type":"account","id":-1.0}]}',
            Resume(after="a.1", topics=[WantedTopic(type="account", id=-1)]),
        ),
    ],
)
def test_an_integer_may_be_written_with_zeros_behind_the_point(frame: str, action: Action) -> None:
    assert codec.decode(frame) == action


@pytest.mark.parametrize("amount", ["1000.5", "1.0e3", "1.00000001", '"1000"', "1e3", "true"])
def test_what_is_written_otherwise_is_no_integer(amount: str) -> None:
    with pytest.raises(codec.DecodeFailure) as failure:
        codec.decode(f'{{"action":"create_invoice","amount":{amount},"currency":"USD","request_id":"r"}}')
    assert isinstance(failure.value.error, InvalidValue)
    assert failure.value.request_id == "r"


@pytest.mark.parametrize("type_", get_args(Action))
def test_each_field_that_may_be_left_out_may_be_null(type_: type[Any]) -> None:
    values: dict[Any, object] = {int: 1, Decimal: 1}
    given = {
        field.encode_name: values.get(getattr(field.type, "__origin__", field.type), "USD")
        for field in structs.fields(type_)
        if field.required
    }
    lists = {"topics": [], "scopes": ["read"]}
    given |= {name: value for name, value in lists.items() if name in given}
    if "status" in given:
        given["status"] = "settled" if type_ is RecordPayment else "paid"
    nulls = {field.encode_name: None for field in structs.fields(type_) if not field.required}
    assert nulls
    tag = type_.__struct_config__.tag
    assert codec.decode(json.dumps({"action": tag, **given, **nulls})) == codec.decode(
        json.dumps({"action": tag, **given})
    )


@pytest.mark.parametrize("value", ["12", "0.5", "1e2", "1E+2", "-3"])
def test_a_decimal_may_stand_in_quotes(value: str) -> None:
    for text in (value, f'"{value}"'):
        action = codec.decode(
            f'{{"action":"set_price","currency":"BTC","base_currency":"USD","value":{text}}}'
        )
        assert isinstance(action, SetPrice)
        assert action.value == Decimal(value)


@pytest.mark.parametrize(
    "value", ["1_000", "١٢", " 12", "+1", "01", ".5", "5.", "Infinity", "NaN", "0x1", ""]
)
@pytest.mark.parametrize("action", ["set_price", "convert_price"])
def test_a_decimal_that_json_would_not_spell_so_is_none(action: str, value: str) -> None:
    name = "value" if action == "set_price" else "quote_value"
    frame = {
        "action": action,
        "base_currency": "USD",
        "currency": "BTC",
        "quote_currency": "BTC",
        name: value,
        "request_id": 3,
    }
    with pytest.raises(codec.DecodeFailure) as failure:
        codec.decode(json.dumps(frame))
    assert isinstance(failure.value.error, InvalidValue)
    assert failure.value.request_id == 3
