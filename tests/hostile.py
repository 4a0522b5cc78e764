"""Messages of 64 KiB that are dear to whoever reads them character by character, or says them back."""

import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

SIZE = 65536  # the default of `message_bytes`

_PING = '{"action":"ping","x":'
_CREATE = '{"action":"create_invoice","amount":1,"currency":"USD","account_id":1,'
_SET = '{"action":"set_price","currency":"BTC","base_currency":"USD","value":'
_CONVERT = '{"action":"convert_price","quote_currency":"USD","base_currency":"USD","quote_value":'
_UPDATE = '{"action":"update_invoice","uid":"x","status":'
_FOLLOW = '{"action":"subscribe",'


def _filled(begin: str, filling: str, end: str = "") -> str:
    """As many fillings as there is room for."""
    room = SIZE - len((begin + end).encode())
    return begin + filling * (room // len(filling.encode())) + end


def _resume(topics: Sequence[tuple[str, object]]) -> str:
    """As many of the topics as there is room for."""
    begin, end = '{"action":"resume","after":"x.0","topics":[', "]}"
    named: list[str] = []
    room = SIZE - len(begin + end)
    for type_, id_ in topics:
        named.append(f'{{"type":"{type_}","id":{id_}}}')
        room -= len(named[-1]) + 1
        if room < 0:
            return begin + ",".join(named[:-1]) + end
    return begin + ",".join(named) + end


_KEYS = ",".join(f'"{number:x}":0' for number in range(6000))

# Nested, in a string, or only as if it were
BRACKETS = {
    "[": _filled("", "["),
    "{": _filled("", "{"),
    '{"a":': _filled("", '{"a":'),
    "[]": _filled("", "[]"),
    "[{": _filled("", "[{"),
    "[] in JSON": _filled(_PING + "[", "[],", "[]]}"),
    "{} in JSON": _filled(_PING + "[", "{},", "{}]}"),
    "100 levels": _filled(_PING + "[", "[" * 98 + "]" * 98 + ",", "0]}"),
    "101 levels": _filled(_PING + "[", "[" * 99 + "]" * 99 + ",", "0]}"),
    "30 000 levels in JSON": _PING + "[" * 30000 + "]" * 30000 + "}",
    "101 levels and strings": _filled(_PING + "[" * 101 + '"",', '"",', '""' + "]" * 101 + "}"),
    "a string of brackets": _filled(_PING + '"', "[", '"}'),
    "brackets and escaped quotes": _filled(_PING + "[" + "[]," * 100 + '"', '[\\"', '"]}'),
    "brackets and escapes": _filled(_PING + "[" + "[]," * 100 + '"', "\\\\", '"]}'),
}
BROKEN = {
    "quotes": _filled("", '"'),
    "backslashes": _filled("", "\\"),
    "a string of backslashes": _filled('"', "\\"),
    "strings": _filled(_PING + "[", '"",'),
    "many keys": f'{{"action":"ping",{_KEYS},',
    "many request_ids": _filled("{", '"request_id":1,'),
    "many request_ids that are strings": _filled("{", '"request_id":"a",'),
    "many request_ids that are none": _filled("{", '"request_id"   '),
    "a request_id and spaces": _filled('{"request_id"', " "),
    "a request_id that never ends": _filled('{"request_id":"', "\\u0041"),
    "a request_id of surrogates": _filled('{"action":"ping","request_id":"\\ud800', "x", '"}'),
    "surrogates": _filled(_PING + '"', "\\ud800", '"}'),
    "a BOM": _filled("\ufeff" + _PING + '"', "x", '"}'),
    "NULs": _filled("", "\0"),
    "spaces": _filled("", " "),
}
FIELDS = {
    "many keys": f'{{"action":"ping",{_KEYS}}}',
    "many keys beside a wrong one": f'{{"action":"ping","request_id":1.5,{_KEYS}}}',
    "a key many times": _filled('{"action":"ping","request_id":1.5,', '"":0,', '"":1}'),
    "a request_id many times": _filled('{"action":"ping",', '"request_id":1,', '"x":1}'),
    "a long request_id": _filled('{"action":"ping","request_id":"', "x", '"}'),
    "a long request_id of escapes": _filled('{"action":"ping","request_id":"', "\\u0041", '"}'),
    "a request_id of many digits": _filled('{"action":"ping","request_id":', "9", "}"),
    "a request_id after the point": _filled('{"action":"ping","request_id":0.', "9", "}"),
    "an int": _filled(_PING, "9", "}"),
    "an exponent": _filled(_PING + "1e", "9", "}"),
    "trues": _filled(_PING + "[", "true,", "true]}"),
    "floats": _filled(_PING + "[", "1234567890.1234567890e-300,", "0]}"),
    "an unknown action": _filled('{"action":"', "x", '"}'),
    "an unknown action in other letters": _filled('{"action":"', "é", '"}'),
    "an amount": _filled('{"action":"create_invoice","currency":"USD","amount":', "9", "}"),
    "an amount of many digits and a point": _filled(
        '{"action":"create_invoice","amount":1.0,"x":', "9", ".0}"
    ),
    "an amount among many": _filled('{"action":"create_invoice","amount":1.5,"x":[', "0.00,", "0]}"),
    "an amount after the point": _filled('{"action":"create_invoice","currency":"USD","amount":1.', "0", "}"),
    "a currency": _filled('{"action":"create_invoice","amount":1,"currency":"', "A", '"}'),
    "a memo": _filled(_CREATE + '"memo":"', "é", '"}'),
    "a memo of escapes": _filled(_CREATE + '"memo":"', "\\u00e9", '"}'),
    "an idempotency_key": _filled(_CREATE + '"idempotency_key":"', "k", '"}'),
    "a webhook": _filled(_CREATE + '"webhook_url":"http://', "é", '"}'),
    "a webhook's host": _CREATE + '"webhook_url":"http://' + "é" * 1990 + '"}',
    "a webhook's labels": _CREATE + '"webhook_url":"http://' + "é." * 990 + 'e"}',
    "a webhook's path": _CREATE + '"webhook_url":"http://x/' + "é" * 1990 + '"}',
    "a webhook's address": _CREATE + '"webhook_url":"http://[' + ":" * 1980 + ']"}',
    "a value": _filled(_SET, "9", "}"),
    "a value as text": _filled(_SET + '"', "9", '"}'),
    "a value's exponent": _filled(_SET + "1e", "9", "}"),
    "a value's exponent as text": _filled(_SET + '"1e', "9", '"}'),
    "a value after the point": _filled(_CONVERT + '"0.', "9", '"}'),
    "a status": _filled(_UPDATE + '"', "A", '"}'),
    "a token": _filled('{"action":"authenticate","token":"', "a", '"}'),
    "a uid": _filled('{"action":"fetch_invoice","id":"', "urn:", '"}'),
    "a uid of dashes": _filled('{"action":"fetch_invoice","id":"{', "-", '"}'),
    "a position": _filled(_FOLLOW + '"type":"price","id":"*","after":"e.', "9", '"}'),
    "an id": _filled(_FOLLOW + '"type":"address","id":"', "\\u0001", '"}'),
    "an id of digits": _filled(_FOLLOW + '"type":"account","id":', "9", "}"),
    "a type": _filled(_FOLLOW + '"id":"1","type":"', "'", '"}'),
    "a type of escapes": _filled(_FOLLOW + '"id":"1","type":"', "\\u0001", '"}'),
}
TOPICS = {
    "invoices": _resume([("invoice", f'"{uuid.UUID(int=number)}"') for number in range(1000)]),
    "invoices that are none": _resume([("invoice", f'"{number:040}"') for number in range(1000)]),
    "prices": _resume([("price", f'"A{number:X}"') for number in range(16, 4000)]),
    "accounts": _resume([("account", number) for number in range(1, 3000)]),
    "one account": _resume([("account", 1)] * 3000),
    "addresses": _resume([("address", f'"{number:0120}"') for number in range(1000)]),
}
MESSAGES = {
    **BRACKETS,
    **BROKEN,
    **{f"field: {name}": text for name, text in FIELDS.items()},
    **{f"topics: {name}": text for name, text in TOPICS.items()},
}


def is_slow(function: Callable[[], object]) -> bool:
    """Tell whether a function takes 50 times as long as Python's own JSON for 64 KiB of numbers (2 ms)."""

    def seconds(run: Callable[[], object]) -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    # Once or twice something else may have run meanwhile.
    return all(seconds(function) > 50 * seconds(lambda: json.loads(FIELDS["floats"])) for _ in range(3))


def count_steps(function: Callable[[], object]) -> int:
    """Return how many lines of our own a function goes through."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        if "trio_ws" not in frame.f_code.co_filename:
            return None
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return steps
