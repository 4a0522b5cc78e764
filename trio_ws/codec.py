"""Bytes to messages and back: the only decoder and the only encoder. No I/O.

Whatever a client sends, `decode` returns an action or raises an `ActionError`, never anything else.
"""

import re
from typing import Any, get_args

import msgspec

from trio_ws.errors import ActionError, InvalidMessage, InvalidValue
from trio_ws.messages import Action, Event, EventMessage, Position, RequestId

_decoder: msgspec.json.Decoder[Action] = msgspec.json.Decoder(Action)
_lenient_decoder: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_request_id_decoder: msgspec.json.Decoder[RequestId] = msgspec.json.Decoder(RequestId)
_encoder = msgspec.json.Encoder(decimal_format="number")
# Events are encoded here and copied out, since what the encoder returns holds on to up to twice its length: a
# client that never reads then costs 458 KB, so 347 (`scripts/bench stuck`).
_scratch = bytearray()

# Deep nesting ends in a RecursionError, what is no Unicode in a UnicodeError; neither is a MsgspecError.
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeError)

# Where msgspec itself gives up depends on the Python: at some 1 000 levels in 3.11, later in 3.13.
MAX_DEPTH = 100
_REQUEST_ID = re.compile(r'\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9]+)\s*[,}]', re.DOTALL)
_BRACKETS_AND_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)

_ACTIONS: dict[Any, type[Action]] = {type_.__struct_config__.tag: type_ for type_ in get_args(Action)}


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
    if _is_too_deep(frame):
        error = InvalidMessage(f"JSON is nested more than {MAX_DEPTH} levels deep")
        raise DecodeFailure(error, _request_id_of(frame))
    try:
        return _decoder.decode(frame)
    except _UNREADABLE as error:
        raise _explain(frame, error) from None


def encode(message: object) -> bytes:
    """Return a message, or a part of one, as JSON."""
    return _encoder.encode(message)


def encode_event(event: Event, epoch: str) -> bytes:
    """Return the event as the protocol tells it, with its position."""
    previous = msgspec.UNSET if event.previous is None else event.previous
    position = str(Position(epoch, event.seq))
    _encoder.encode_into(EventMessage(event.type, event.data, previous, position), _scratch)
    return bytes(_scratch)


def _is_too_deep(frame: str) -> bool:
    if frame.count("[") + frame.count("{") <= MAX_DEPTH:
        return False  # nearly always, and in less than a µs
    depth = 0
    for part in _BRACKETS_AND_STRINGS.findall(frame):
        depth += (part in "[{") - (part in "]}")
        if depth > MAX_DEPTH:
            return True
    return False


def _explain(frame: str, error: Exception) -> DecodeFailure:
    """Find out what of a frame that would not decode is wrong: its shape, or one field's value."""
    detail = str(error)
    try:
        fields = _lenient_decoder.decode(frame)
        action_type = _ACTIONS[msgspec.json.decode(fields["action"], type=str)]
    except (*_UNREADABLE, KeyError):
        return DecodeFailure(InvalidMessage(detail), _request_id_of(frame))
    required = (field.encode_name for field in msgspec.structs.fields(action_type) if field.required)
    missing = next((name for name in required if name not in fields), None)
    if missing is not None:
        cause: ActionError = InvalidMessage(f"Object missing required field `{missing}`")
    else:
        cause = InvalidValue(detail)
    return DecodeFailure(cause, _request_id_of(frame))


def _request_id_of(frame: str) -> RequestId | None:
    """Find the request_id of a frame that would not decode, so without decoding it; the last one counts."""
    found: RequestId | None = None
    depth = 0
    for part in _BRACKETS_AND_STRINGS.finditer(frame):
        depth += (part[0] in "[{") - (part[0] in "]}")
        if depth == 1 and part[0] == '"request_id"':
            value = _REQUEST_ID.match(frame, part.end())
            try:
                found = _request_id_decoder.decode(value[1]) if value else None
            except _UNREADABLE:
                found = None
    return found
