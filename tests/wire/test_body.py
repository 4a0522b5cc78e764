"""A request's body has one length, whoever reads it, and what comes behind it is the next request."""

import itertools
import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ws.wire.body import CHUNK_LINE_BYTES, BodyReader
from trio_ws.wire.head import Head, HeadReader, Refusal

LIMIT = 1000
CHUNKED = "Transfer-Encoding: chunked"
NEXT = b"POST /actions HTTP/1.1\r\nHost: x\r\n\r\n"


def head_of(*fields: str, version: str = "1.1") -> Head:
    """A head that came with these header lines."""
    lines = [f"POST /actions HTTP/{version}", "Host: x", *fields, "", ""]
    head = HeadReader(None).feed("\r\n".join(lines).encode("latin-1"))
    assert head is not None
    return head


def read(
    head: Head, pieces: Sequence[bytes], limit: int | None = LIMIT, chunks: int | None = 10
) -> tuple[bytes | None, bytes]:
    """The body that comes in these pieces, and what came behind it; None: it is not whole."""
    reader = BodyReader(head, limit, chunks)
    for number, piece in enumerate([b"", *pieces]):  # what came with the head is nothing, mostly
        if (body := reader.feed(piece)) is not None:
            return body, reader.rest + b"".join([b"", *pieces][number + 1 :])
    return None, b""


def refused(head: Head, data: bytes = b"", limit: int | None = LIMIT) -> int:
    """The status with which a body is refused."""
    with pytest.raises(Refusal) as refusal:
        read(head, [data], limit)
    return refusal.value.status


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The data in pieces."""
    bounds = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(bounds) if begin < end]


def chunked(parts: Sequence[bytes], *, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A body in chunks."""
    chunks = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts if part]
    return b"".join([*chunks, b"0", extension, b"\r\n", trailers, b"\r\n"])


def test_a_request_that_says_nothing_of_a_body_has_an_empty_one() -> None:
    assert read(head_of(), [NEXT]) == (b"", NEXT)


@given(st.binary(max_size=60), st.binary(max_size=40), st.lists(st.integers(0, 100), max_size=8))
def test_however_bytes_of_a_known_length_come_they_are_the_same_body_and_the_same_rest(
    body: bytes, rest: bytes, places: list[int]
) -> None:
    head = head_of(f"Content-Length: {len(body)}")
    assert read(head, cut(body + rest, places)) == (body, rest)


@given(
    st.lists(st.binary(max_size=20), max_size=8),
    st.binary(max_size=40),
    st.lists(st.integers(0, 300), max_size=20),
    st.sampled_from([b"", b";x", b";x=1;y"]),
    st.sampled_from([b"", b"X: 1\r\n", b"Content-Length: 7\r\nX: 2\r\n"]),
)
@example([b"abc"], b"", list(range(40)), b"", b"")
@example([b"\r\n0\r\n\r\n"], NEXT, list(range(60)), b"", b"X: 1\r\n")
def test_however_chunks_come_they_are_the_same_body_and_the_same_rest(
    parts: list[bytes], rest: bytes, places: list[int], extension: bytes, trailers: bytes
) -> None:
    sent = chunked(parts, extension=extension, trailers=trailers)
    assert read(head_of(CHUNKED), cut(sent + rest, places)) == (b"".join(parts), rest)
    assert read(head_of(CHUNKED), cut(sent[:-1], places)) == (None, b""), "it is not whole"


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8))
@example(b"0\r\n\r\n", [])
@example(b"3\r\nabcX\n0\r\n\r\n", [])
def test_whatever_chunks_are_said_to_be_they_are_read_or_refused(sent: bytes, places: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            return read(head_of(CHUNKED), pieces)
        except Refusal as refusal:
            return refusal.status

    found = outcome([sent])
    assert found in (400, 413) or isinstance(found, tuple)
    assert outcome(cut(sent, places)) == found


# How long it is


@pytest.mark.parametrize(
    "length",
    [
        "+5",
        "-5",
        "0x5",
        "5, 5",
        "5,5",
        "5 5",
        "5.0",
        "5e0",
        "",
        "\xb2",
        "five",
        "9" * 19,
        "9" * 4000,
        "5\x1c",
        "\u0665",
    ],
)
def test_a_length_is_digits_or_nobody_can_tell_it(length: str) -> None:
    if length.isascii():
        assert refused(head_of(f"Content-Length: {length}"), b"hello") == 400
    else:
        with pytest.raises(Refusal):
            head_of(f"Content-Length: {length.encode().decode('latin-1')}")


def test_two_lengths_are_one_too_many_also_where_they_are_the_same() -> None:
    assert refused(head_of("Content-Length: 5", "Content-Length: 5"), b"hello") == 400
    assert refused(head_of("Content-Length: 5", "content-length: 6"), b"hello") == 400


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("coding", ["chunked", "identity", "", "x"])
def test_a_length_beside_a_coding_is_refused(coding: str, order: int) -> None:
    fields = ["Content-Length: 5", f"Transfer-Encoding: {coding}"][::order]
    assert refused(head_of(*fields), b"0\r\n\r\n") == 400


@pytest.mark.parametrize(
    "coding",
    [
        "gzip",
        "identity",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked;q=1",
        "",
        "\x1cchunked",
    ],
)
def test_no_coding_is_known_but_chunks(coding: str) -> None:
    assert refused(head_of(f"Transfer-Encoding: {coding}"), b"0\r\n\r\n") == 501


def test_chunks_over_two_lines_of_the_header_are_refused() -> None:
    assert refused(head_of(CHUNKED, CHUNKED), b"0\r\n\r\n") == 501


@pytest.mark.parametrize("coding", ["Chunked", "CHUNKED", "\tchunked ", ",chunked,"])
def test_chunked_is_known_however_it_is_spelled(coding: str) -> None:
    assert read(head_of(f"Transfer-Encoding: {coding}"), [b"0\r\n\r\n"]) == (b"", b"")


def test_http_1_0_knows_no_chunks() -> None:
    assert refused(head_of(CHUNKED, version="1.0"), b"0\r\n\r\n") == 400


# How long it may be


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert read(head_of(f"Content-Length: {LIMIT}"), [bytes(LIMIT)]) == (bytes(LIMIT), b"")
    assert refused(head_of(f"Content-Length: {LIMIT + 1}")) == 413, "before any of it has come"
    assert read(head_of(CHUNKED), [chunked([bytes(LIMIT)])]) == (bytes(LIMIT), b"")
    assert refused(head_of(CHUNKED), chunked([bytes(LIMIT), b"x"])) == 413
    assert read(head_of(f"Content-Length: {LIMIT + 1}"), [bytes(LIMIT + 1)], None)[0] == bytes(LIMIT + 1)


def test_a_chunk_that_is_said_to_be_huge_is_refused_once_too_much_of_it_has_come() -> None:
    huge = b"f" * 20 + b"\r\n"
    assert read(head_of(CHUNKED), [huge + bytes(LIMIT)]) == (None, b"")
    assert refused(head_of(CHUNKED), huge + bytes(LIMIT + 1)) == 413


def test_thousands_of_chunks_of_one_byte_are_refused() -> None:
    assert read(head_of(CHUNKED), [chunked([b"x"] * 10)]) == (b"x" * 10, b"")
    assert refused(head_of(CHUNKED), chunked([b"x"] * 11)) == 413
    assert read(head_of(CHUNKED), [chunked([b"x"] * 900)], chunks=None) == (b"x" * 900, b"")


@pytest.mark.parametrize("begin", [b"", b"3;", b"0\r\nX: "])
def test_no_line_of_a_chunk_and_no_trailer_is_read_without_end(begin: bytes) -> None:
    reader = BodyReader(head_of(CHUNKED), None, None)
    with pytest.raises(Refusal) as refusal:
        reader.feed(begin + b"1" * (CHUNK_LINE_BYTES + 1))
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "sent",
    [
        *(
            b"-1\r\nx\r\n0\r\n\r\n",
            b"+1\r\nx\r\n0\r\n\r\n",
            b"0x1\r\nx\r\n0\r\n\r\n",
            b"x\r\n",
            b"\r\n",
            b" 1\r\nx\r\n",
        ),
        *(
            b"1\nx\n0\n\n\r\n",
            b"1\r\nxy\r\n0\r\n\r\n",
            b"1\r\nx0\r\n\r\n",
            b"1\r\nx\n0\r\n\r\n",
            b"1\r\nx\r\r0\r\n\r\n",
        ),
        *(
            b"f" * 21 + b"\r\n",
            b"1_0\r\n" + bytes(16) + b"\r\n0\r\n\r\n",
            b"1,\r\nx\r\n",
            b"0\r\nX : 1\r\n\r\n",
        ),
        *(
            b"0\r\n folded: 1\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nX: 1\rY: 2\r\n\r\n",
            b"0\r\nX: \0\r\n\r\n",
        ),
    ],
)
def test_chunks_that_two_programs_could_read_in_two_ways_are_refused(sent: bytes) -> None:
    assert refused(head_of(CHUNKED), sent) == 400


# Heads that hide a length


@pytest.mark.parametrize(
    "lines",
    [
        *(
            b"Content-Length : 5",
            b"Content-Length\t: 5",
            b" Content-Length: 5",
            b"X: 1\r\n Content-Length: 5",
        ),
        *(b"X: 1\rContent-Length: 5", b"Content-Length: 5\r", b"Content-Length: 5\0", b"Content-Length\0: 5"),
        *(
            b"X: 1\r\n\tTransfer-Encoding: chunked",
            b"Transfer-Encoding\x0b: chunked",
            b"Transfer-Encoding: \x0bchunked",
        ),
        *(
            b"Transfer-Encoding:\xa0chunked",
            b"Content-Length: 5\xc2\xa0",
            b"Content\xadLength: 5",
            b"Content-Length",
        ),
    ],
)
def test_a_head_that_two_programs_could_read_in_two_ways_is_refused(lines: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        HeadReader(None).feed(b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % lines)
    assert refusal.value.status == 400


def test_what_is_said_of_it_is_a_sentence() -> None:
    with pytest.raises(Refusal) as refusal:
        read(head_of(CHUNKED), [b"nonsense\r\n"])
    assert re.fullmatch("[A-Z][A-Za-z' ]+", refusal.value.reason)
