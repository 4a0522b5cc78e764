"""Feed a screen anything: screened bytes, or a violation that carries a close code, never anything else."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any

import pytest
import wsproto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage

from tests import raw
from trio_ws.errors import CloseCode
from trio_ws.limits import Bucket
from trio_ws.wire.frames import TURN_FRAMES, Frame, Screen, encode_close, encode_frame, unmask

on_any_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def screen(
    message_bytes: int | None = 1000,
    message_fragments: int | None = 8,
    control: int | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> Screen:
    return Screen(message_bytes, message_fragments, Bucket(control, control), clock)


def feed(screened: Screen, data: bytes, chunk: int = 10**9) -> bytes:
    """Feed in chunks, and return all that was said, each in one frame."""
    return feed_chunks(screened, (data[start : start + chunk] for start in range(0, len(data), chunk)))


def feed_chunks(screened: Screen, chunks: Iterable[bytes]) -> bytes:
    said = (frame for chunk in chunks for frame in feed_to_its_end(screened, chunk))
    return b"".join(
        raw.frame(opcode, content.encode() if isinstance(content, str) else content)
        for opcode, content in said
    )


def feed_to_its_end(screened: Screen, chunk: bytes) -> Iterator[Frame]:
    yield from screened.feed(chunk)
    while screened.has_more:
        yield from screened.feed(b"")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 10**9])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_a_whole_message_is_passed_on_as_it_came(size: int, chunk: int) -> None:
    screened = screen(message_bytes=None)
    frame = raw.frame(raw.TEXT, b"x" * size) + raw.frame(raw.BINARY, b"\xff" * size)
    assert feed(screened, frame, chunk) == frame
    assert not screened.has_ended


def test_nothing_of_a_message_is_passed_on_before_it_is_whole() -> None:
    screened = screen()
    frame = raw.frame(raw.TEXT, b"hello")
    assert feed(screened, frame[:-1]) == b""
    assert feed(screened, frame[-1:]) == frame


def test_fragments_are_passed_on_as_one_message_and_what_came_between_them_before_it() -> None:
    screened = screen()
    text = "¢€𐍈".encode()  # cut in the middle of letters
    ping = raw.frame(raw.PING, b"between")
    first = raw.frame(raw.TEXT, text[:1], fin=False) + ping + raw.frame(0, b"", fin=False)
    assert feed(screened, first) == ping
    assert feed(screened, raw.frame(0, text[1:4], fin=False)) == b""
    assert feed(screened, raw.frame(0, text[4:])) == raw.frame(raw.TEXT, text)


PROTOCOL, TEXT, SIZE, FLOOD = (
    CloseCode.PROTOCOL_ERROR,
    CloseCode.INVALID_TEXT,
    CloseCode.MESSAGE_TOO_BIG,
    CloseCode.RATE_LIMITED,
)
BEGUN = raw.frame(raw.TEXT, b"x", fin=False)
VIOLATIONS = {
    "no mask": (PROTOCOL, raw.frame(raw.TEXT, b"{}", masked=False)),
    "reserved bit": (PROTOCOL, b"\xc1\x80" + bytes(4)),
    "unknown opcode": (PROTOCOL, raw.frame(0x3, b"")),
    "unknown control opcode": (PROTOCOL, raw.frame(0xB, b"")),
    "long ping": (PROTOCOL, raw.frame(raw.PING, b"x" * 126)),
    "ping in fragments": (PROTOCOL, raw.frame(raw.PING, b"", fin=False)),
    "continuation of nothing": (PROTOCOL, raw.frame(0, b"")),
    "message in a message": (PROTOCOL, BEGUN + raw.frame(raw.TEXT, b"")),
    "long way to say 125": (PROTOCOL, b"\x81\xfe\x00\x7d"),
    "long way to say 65535": (PROTOCOL, b"\x81\xff" + (65535).to_bytes(8, "big")),
    "length over 63 bits": (PROTOCOL, b"\x81\xff" + (1 << 63).to_bytes(8, "big")),
    "close without half its code": (PROTOCOL, raw.frame(raw.CLOSE, b"\x03")),
    "close with no status": (PROTOCOL, raw.frame(raw.CLOSE, (1005).to_bytes(2, "big"))),
    "close with a reserved code": (PROTOCOL, raw.frame(raw.CLOSE, (1016).to_bytes(2, "big"))),
    "close beyond all codes": (PROTOCOL, raw.frame(raw.CLOSE, (5000).to_bytes(2, "big"))),
    "close for a bad reason": (TEXT, raw.frame(raw.CLOSE, b"\x03\xe8\xff")),
    "bad text": (TEXT, raw.frame(raw.TEXT, b"\xff")),
    "surrogate": (TEXT, raw.frame(raw.TEXT, b"\xed\xa0\x80")),
    "half a letter": (TEXT, raw.frame(raw.TEXT, b"\xc3")),
    "bad text in a fragment": (TEXT, raw.frame(raw.TEXT, b"\xff", fin=False)),
    "half a letter at the end": (TEXT, raw.frame(raw.TEXT, b"\xc3", fin=False) + raw.frame(0, b"")),
    "long message, known by its header": (SIZE, raw.frame(raw.TEXT, b"x" * 1001)[:8]),
    "endless message, known by its header": (SIZE, b"\x82\xff" + (1 << 62).to_bytes(8, "big")),
    "long message in letters of two bytes": (SIZE, raw.frame(raw.TEXT, "é".encode() * 501)),
    "long message in fragments": (SIZE, BEGUN + raw.frame(0, b"x" * 1000)),
    "many fragments": (SIZE, BEGUN + raw.frame(0, b"x", fin=False) * 8),
    "many empty fragments": (SIZE, BEGUN + raw.frame(0, b"", fin=False) * 8),
    "many pings": (FLOOD, raw.frame(raw.PING, b"") * 21),
    "many pongs nobody asked for": (FLOOD, raw.frame(raw.PONG, b"") * 21),
}


@pytest.mark.parametrize("chunk", [1, 3, 10**9])
@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_carries_its_code_and_ends_it_all(name: str, chunk: int) -> None:
    code, broken = VIOLATIONS[name]
    good = raw.frame(raw.TEXT, b"good")
    screened = screen(control=20)
    passed = feed(screened, good + broken + good, chunk)
    assert passed.startswith(good), "what came before it counts"
    assert good not in passed[len(good) :], "and what came after it does not"
    assert screened.violation is not None
    assert screened.violation.code == code
    assert screened.close is None
    assert feed(screened, good) == b""
    assert not attrgetter("_partial")(screened), "and nothing is kept"


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0" + b"x" * 123])
def test_a_close_ends_it_too(payload: bytes) -> None:
    screened = screen()
    good = raw.frame(raw.TEXT, b"good")
    assert feed(screened, good + raw.frame(raw.CLOSE, payload) + good) == good
    assert screened.close == payload
    assert screened.violation is None
    assert feed(screened, good) == b""


def test_limits_end_where_they_say() -> None:
    screened = screen(message_bytes=10, message_fragments=2, control=3)
    for _ in range(5):  # each message is counted anew
        assert feed(screened, raw.frame(raw.TEXT, b"x" * 10))
        assert feed(screened, raw.frame(raw.TEXT, b"x" * 5, fin=False) + raw.frame(0, b"x" * 5))
    assert feed(screened, raw.frame(raw.PING, b"") * 3)
    assert not screened.has_ended


def test_pings_may_go_on_at_their_rate() -> None:
    ticks = itertools.count()
    screened = screen(control=20, clock=lambda: next(ticks) / 20)
    for _ in range(1000):
        assert screened.feed(raw.frame(raw.PING, b""))
    assert not screened.has_ended


def test_limits_can_be_lifted() -> None:
    screened = screen(None, None, None)
    fragments = BEGUN + raw.frame(0, b"x" * 1000, fin=False) * 1000 + raw.frame(0, b"")
    assert len(feed(screened, fragments)) > 1_000_000
    assert feed(screened, raw.frame(raw.PING, b"") * 1000)


EMPTY = raw.frame(raw.TEXT, b"", fin=False) + raw.frame(0, b"", fin=False) * 126 + raw.frame(0, b"")
SHORT = raw.frame(raw.TEXT, b"x")


@pytest.mark.parametrize(("piece", "frames"), [(EMPTY, 128), (SHORT, 1)], ids=["fragments", "messages"])
def test_of_what_comes_at_once_a_turn_takes_so_many_frames_and_no_more(piece: bytes, frames: int) -> None:
    screened = screen(message_fragments=128)
    messages = 2000 // frames
    said = screened.feed(piece * messages + SHORT[:3])
    assert len(said) == TURN_FRAMES // frames
    assert screened.has_more
    turns = 1
    while screened.has_more:
        said += screened.feed(b"")
        turns += 1
    assert len(said) == messages
    assert turns == -(-messages * frames // TURN_FRAMES)
    assert screened.feed(SHORT[3:]) == [(raw.TEXT, "x")], "a frame that was not whole goes on"
    assert not screened.has_more


# Against another implementation


def events_of(frames: bytes) -> list[Event]:
    """What wsproto makes of them; a message is one event, at its end."""
    connection = Connection(wsproto.ConnectionType.SERVER)
    connection.receive_data(frames)
    events: list[Event] = []
    parts: list[Any] = []
    for event in connection.events():
        if not isinstance(event, Message):
            events.append(event)
            continue
        parts.append(event.data)
        if event.message_finished:
            events.append(type(event)(parts[0][:0].join(parts)))
            parts.clear()
    return events


payloads = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode))
keys = st.one_of(st.just(bytes(4)), st.binary(min_size=4, max_size=4))


def masked(opcode: int, payload: bytes, key: bytes, *, fin: bool = True) -> bytes:
    frame = raw.frame(opcode, payload, fin=fin)
    at = len(frame) - len(payload)
    return frame[: at - 4] + key + unmask(key, payload)


@st.composite
def good_streams(draw: Callable[..., Any]) -> bytes:
    """Messages in one frame or several, with pings and pongs between."""
    frames = []
    control = st.tuples(st.sampled_from([raw.PING, raw.PONG]), st.binary(max_size=125), keys)
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            opcode, whole = raw.TEXT, draw(st.text(max_size=200)).encode()
        else:
            opcode, whole = raw.BINARY, draw(st.binary(max_size=300))
        cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        places = [0, *cuts, len(whole)]
        for number, (start, end) in enumerate(itertools.pairwise(places)):
            fin = number == len(cuts)
            frames.append(masked(opcode if number == 0 else 0, whole[start:end], draw(keys), fin=fin))
            frames += [masked(*one) for one in draw(st.lists(control, max_size=1))]
    return b"".join(frames)


def chunked(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:end] for start, end in itertools.pairwise(places))


@on_any_machine
@given(good_streams(), st.lists(st.integers(0, 10**6), max_size=20))
def test_a_good_stream_means_to_wsproto_what_it_meant_before(stream: bytes, cuts: list[int]) -> None:
    screened = screen(None, None, None)
    passed = feed_chunks(screened, chunked(stream, cuts))
    assert not screened.has_ended
    assert messages(events_of(passed)) == messages(events_of(stream))


def messages(events: list[Event]) -> tuple[list[Event], list[Event]]:
    """Messages and control frames, each in their order: a ping may overtake the message that it stood in."""
    controls: list[Event] = [event for event in events if isinstance(event, Ping | Pong)]
    return [event for event in events if event not in controls], controls


almost_frames = st.builds(
    lambda first, opcode, payload, key, cut: bytes([first | opcode]) + masked(opcode, payload, key)[1:cut],
    st.sampled_from([0x00, 0x80, 0x80, 0x80, 0xC0]),
    st.sampled_from([0, 1, 2, 8, 9, 10, 3]),
    payloads,
    keys,
    st.one_of(st.none(), st.integers(1, 400)),
)
anything = st.one_of(st.binary(max_size=500), st.lists(almost_frames, max_size=8).map(b"".join))


@on_any_machine
@given(anything, st.lists(st.integers(0, 10**6), max_size=20))
def test_anything_in_any_chunks_is_screened_or_is_a_violation_and_wsproto_minds_none_of_it(
    data: bytes, cuts: list[int]
) -> None:
    whole, cut = screen(control=20), screen(control=20)
    passed = feed(whole, data)
    assert feed_chunks(cut, chunked(data, cuts)) == passed
    assert str(cut.violation) == str(whole.violation)
    assert cut.close == whole.close
    events = events_of(passed)
    assert not any(isinstance(event, CloseConnection) for event in events)
    faults = {event.code for event in events_of(data) if isinstance(event, CloseConnection)}
    # It looks into a frame that is not whole yet, and finds bad text there; we do when it is whole.
    assert whole.has_ended or not faults - {TEXT}, "what wsproto finds fault with, we do"


@on_any_machine
@given(st.binary(min_size=4, max_size=4), st.binary(max_size=300))
def test_unmasking_is_xor_with_the_key_repeated(key: bytes, data: bytes) -> None:
    assert unmask(key, data) == bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_encoding_is_understood_by_another_implementation(size: int) -> None:
    client = Connection(wsproto.ConnectionType.CLIENT)
    client.receive_data(encode_frame(raw.TEXT, b"x" * size) + encode_frame(raw.BINARY, b"x" * size))
    (text, binary) = client.events()
    assert text == TextMessage("x" * size)
    assert binary == BytesMessage(b"x" * size)


def test_a_reason_that_is_too_long_is_cut_between_letters() -> None:
    payload = encode_close(CloseCode.INTERNAL_ERROR, "é" * 100)
    assert len(payload) == 124
    assert payload[2:].decode() == "é" * 61
