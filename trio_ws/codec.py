"""Bytes to messages and back: the only decoder and the only encoder. No I/O.

Whatever a client sends, `decode` returns an action or raises a `DecodeFailure`, never anything else. Nothing
here goes through a message character by character in Python: the event loop waits meanwhile, and a message
may have 64 KiB (`scripts/bench hostile`).
"""

import re
from itertools import accumulate, islice
from typing import Any, get_args

import msgspec

from trio_ws.errors import ActionError, InvalidMessage, InvalidValue
from trio_ws.messages import Action, ConvertPrice, SetPrice
from trio_ws.messages.fields import URL_PATTERN, RequestId
from trio_ws.topics import NOTHING, Event, EventMessage

_decoder: msgspec.json.Decoder[Action] = msgspec.json.Decoder(Action)
_request_id_decoder: msgspec.json.Decoder[RequestId] = msgspec.json.Decoder(RequestId)
_encoder = msgspec.json.Encoder(decimal_format="number")
# Events are encoded here and copied out, since what the encoder returns holds on to up to twice its length: a
# client that never reads then costs 458 KB, so 347 (`scripts/bench stuck`).
_scratch = bytearray()

# Deep nesting ends in a RecursionError, what is no Unicode in a UnicodeError; neither is a MsgspecError.
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeError)

# msgspec's own limit depends on the Python: some 1 000 levels in 3.11, more in later ones.
MAX_DEPTH = 100
_TOO_DEEP = f"JSON is nested more than {MAX_DEPTH} levels deep"
# What msgspec says of a URL that is none has the whole pattern in it.
_URL_IN_WORDS = (f"`str` matching regex {URL_PATTERN!r}", "an http or https URL without user and password")
_LEVELS = bytes.maketrans(b"[]{}", bytes((1, 255, 1, 255)))  # as signed bytes: 1 and -1
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

MAX_SEARCHES = 16  # places in broken JSON where a request_id may stand; one is usual
# 64 characters are at most 128 escapes: two for each that UTF-16 writes as a surrogate pair.
_REQUEST_ID = re.compile(r'\s*:\s*("[^"\\]*(?:\\.[^"\\]*){0,128}"|-?[0-9]+)\s*[,}]', re.DOTALL)

_ACTIONS: dict[Any, type[Action]] = {type_.__struct_config__.tag: type_ for type_ in get_args(Action)}
_NOT_GIVEN = msgspec.Raw()
_FIELD_NAMES = {field.encode_name for type_ in _ACTIONS.values() for field in msgspec.structs.fields(type_)}
# Every field that some action has, whatever its value: to find out which one is wrong, and how it is spelled.
_Fields = msgspec.defstruct(
    "_Fields", [(name, msgspec.Raw, _NOT_GIVEN) for name in {"action", *_FIELD_NAMES}]
)
_fields_decoder = msgspec.json.Decoder(_Fields)

_IS_FLOAT_FOR_INT = re.compile(r"Expected `int\b.*got `float`")
MAX_WHOLE = 32  # integers with a point that are read in one message: an action has three, or one a topic
# From the first digit of a number on: from each of 60 000 digits on, a message took 38 s.
_WHOLE = re.compile(r"(?<![0-9.])([0-9]++)\.0++(?![0-9eE.])")
_DECIMAL = re.compile(rb'("?)-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\1')


class DecodeFailure(Exception):
    """A frame that holds no valid action.

    Args:
        error: What to answer.
        request_id: What the reply echoes, if it could be read.
    """

    def __init__(self, error: ActionError, request_id: RequestId | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.request_id = request_id


def decode(frame: str | bytes) -> Action:
    """Return the action that one frame holds.

    Args:
        frame: A text frame's content; binary frames are no part of the protocol.

    Raises:
        DecodeFailure: it holds none; carries `InvalidMessage` or `InvalidValue`.
    """
    if isinstance(frame, bytes):
        raise DecodeFailure(InvalidMessage("Expected a text frame, got a binary one"), None)
    try:
        action = _decode(frame)
    except _UNREADABLE as error:
        raise _explain(frame, error) from None
    if isinstance(action, SetPrice | ConvertPrice):
        _check_decimal(frame, action)
    if _is_too_deep(frame):
        raise DecodeFailure(InvalidMessage(_TOO_DEEP), action.request_id)
    return action


def _decode(frame: str) -> Action:
    try:
        return _decoder.decode(frame)
    except msgspec.ValidationError as error:
        if not _IS_FLOAT_FOR_INT.match(str(error)):
            raise
        return _decoder.decode(_write_integers(frame))


def _write_integers(frame: str) -> str:
    """Return the frame with `1000.0` written as `1000`, which to JSON is the same number."""
    masked, parts = _mask_escapes(frame), []
    quotes = begin = looked = 0
    for found in islice(_WHOLE.finditer(frame), MAX_WHOLE):
        quotes += masked.count('"', looked, looked := found.start())
        if quotes % 2 == 0:  # it stands in no string
            parts.append(frame[begin : found.end(1)])
            begin = found.end()
    return "".join(parts) + frame[begin:]


def _check_decimal(frame: str, action: SetPrice | ConvertPrice) -> None:
    """Raise unless a decimal is spelled as JSON spells numbers: Python's own reading takes more."""
    name = "value" if isinstance(action, SetPrice) else "quote_value"
    text = bytes(getattr(_fields_decoder.decode(frame), name))
    if not _DECIMAL.fullmatch(text):
        raise DecodeFailure(
            InvalidValue(f"Expected a decimal as JSON spells numbers - at `$.{name}`"), action.request_id
        )


def find_request_id(frame: str | bytes) -> RequestId | None:
    """Return the request_id of a frame without decoding it; where it stands twice, the last one counts.

    For what is not decoded, because the client sends too much, or can't be.
    """
    if isinstance(frame, bytes):
        return None
    parts = _mask_escapes(frame).split('"')
    between, strings = parts[::2], parts[1::2]
    depth = begin = 0
    found: int | None = None
    for _ in range(MAX_SEARCHES):
        try:
            place = strings.index("request_id", begin)
        except ValueError:
            break
        passed = "".join(between[begin : place + 1])
        depth += passed.count("{") + passed.count("[") - passed.count("}") - passed.count("]")
        begin = place + 1
        if depth == 1 and between[begin].lstrip().startswith(":"):
            found = place
    if found is None:
        return None
    end_of_name = len('"'.join(parts[: 2 * found + 2])) + 1
    value = _REQUEST_ID.match(frame, end_of_name)
    return _request_id(value[1]) if value else None


def encode(message: object) -> bytes:
    """Return a message, or a part of one, as JSON."""
    return _encoder.encode(message)


def encode_event(event: Event) -> bytes:
    """Return the event as the protocol spells it, with its position."""
    previous = msgspec.UNSET if event.previous == NOTHING else event.previous
    position = str(event.position)
    _encoder.encode_into(EventMessage(event.type, event.data, previous, position), _scratch)
    return bytes(_scratch)


def _is_too_deep(frame: str) -> bool:
    """Return whether a frame that is JSON has too many levels."""
    if len(frame) <= MAX_DEPTH or frame.count("[") + frame.count("{") <= MAX_DEPTH:
        return False  # nearly always, and in less than a µs
    between = "".join(_mask_escapes(frame).split('"')[::2])
    steps = memoryview(between.encode().translate(_LEVELS, _NO_BRACKETS)).cast("b")
    return max(accumulate(steps)) > MAX_DEPTH  # 23 ns each


def _mask_escapes(frame: str) -> str:
    """Return the frame with the same length, in which each quote begins or ends a string."""
    return frame.replace("\\\\", "__").replace('\\"', "__") if "\\" in frame else frame


def _explain(frame: str, error: Exception) -> DecodeFailure:
    """Find out what of a frame that would not decode is wrong: its shape, or one field's value."""
    detail = _TOO_DEEP if isinstance(error, RecursionError) else str(error).replace(*_URL_IN_WORDS)
    try:
        given: dict[str, msgspec.Raw] = msgspec.structs.asdict(_fields_decoder.decode(frame))
    except _UNREADABLE:
        return DecodeFailure(InvalidMessage(detail), find_request_id(frame))
    request_id = _request_id(given["request_id"])
    try:
        action_type = _ACTIONS[msgspec.json.decode(given["action"], type=str)]
    except (*_UNREADABLE, KeyError):
        return DecodeFailure(InvalidMessage(detail), request_id)
    required = (field.encode_name for field in msgspec.structs.fields(action_type) if field.required)
    missing = next((name for name in required if given[name] is _NOT_GIVEN), None)
    if missing is not None:
        cause: ActionError = InvalidMessage(f"Object missing required field `{missing}`")
    else:
        cause = InvalidValue(detail)
    return DecodeFailure(cause, request_id)


def _request_id(text: str | msgspec.Raw) -> RequestId | None:
    try:
        return _request_id_decoder.decode(text)
    except _UNREADABLE:
        return None
