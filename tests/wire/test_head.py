"""A request head is read as far as it may go, and what is wrong with it has a status and a sentence."""

import http.client
import io
import re
import time
from collections.abc import Callable

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import raw
from trio_ws.wire.admission import check_origin, check_place, choose_subprotocol, find_token, refuse_plain
from trio_ws.wire.head import MAX_LINES, READ_HEADERS, READ_PREFIX, Head, HeadReader, Refusal

on_any_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(data: bytes, chunk: int = 10**9, limit: int | None = 8192) -> Head | None:
    """Read a head in chunks."""
    reader = HeadReader(limit)
    for start in range(0, len(data), chunk):
        if (head := reader.feed(data[start : start + chunk])) is not None:
            return head
    return None


def admit(data: bytes) -> str:
    """Do with a whole head what a connection does, but for tokens."""
    head = read(data)
    assert head is not None
    if not head.asks_for_websocket:
        raise refuse_plain(head)
    check_place(head)
    key = head.websocket_key()
    check_origin(head, ["https://shop.example"], is_open=False)
    return key


@pytest.mark.parametrize("chunk", [1, 2, 50, 10**9])
def test_a_good_head_is_read_in_any_chunks(chunk: int) -> None:
    head = read(raw.head("/ws?x=1", Origin="http://localhost"), chunk)
    assert head is not None
    assert (head.method, head.target, head.path, head.version) == ("GET", "/ws?x=1", "/ws", "1.1")
    assert head.values("host") == ["localhost"]
    assert head.asks_for_websocket


def test_what_follows_a_head_is_kept() -> None:
    reader = HeadReader(8192)
    assert reader.feed(raw.head() + b"\x81\x80") is not None
    assert reader.rest == b"\x81\x80"
    short = raw.head()
    reader = HeadReader(len(short))
    assert reader.feed(short + b"x" * 100_000) is not None, "only the head counts"
    assert reader.rest == b"x" * 100_000


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 10**9])
def test_only_the_head_s_own_lines_are_counted(chunk: int) -> None:
    longest = raw.head().replace(b"Host", b"X:\r\n" * (MAX_LINES - 7) + b"Host")
    assert longest.count(b"\n") == MAX_LINES
    assert read(longest + b"\n" * 1000, chunk) is not None
    with pytest.raises(Refusal) as refused:
        read(b"X" + longest.replace(b"Host", b"X:\r\nHost"), chunk)
    assert refused.value.status == 431


BYTES = [bytes([byte]) for byte in b"\0\t\n\v\f\r !/:A\x1c\x7f\x85\xe9"]
REQUEST_LINES = [
    *[b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"A * HTTP/2.0\n", b"GET  / HTTP/1.1\r\n", b"GET /\r\n"],
    *[b"GET /\xe9 HTTP/1.1\r\n", b"G/T / HTTP/1.1\r\n", b"GET / HTTP/1.1 \r\n", b"GET / http/1.1\r\n"],
]
LINES = [
    *[b"X: a b\t\xe9\r\n", b"X:\t a \n", b"X:\r\n", b"Upgrade: \xe9\r\n", b"Sec-WebSocket-Key: \x85\r\n"],
    *[
        b"X\r\n",
        b"X :a\r\n",
        b" X: a\r\n",
        b"\tX\r\n",
        b":\r\n",
        b"\xe9: a\r\n",
        b"X/Y: a\r\n",
        b"X: a\r\r\n",
    ],
    *[b"X: a\fb\r\n", b"X: a\v\r\n", b"X:\0\r\n", b"X: a\rb\r\n"],
    *[b"HOST:\r\n", b"Connection: close\r\n", b"Cookie: \x1ca\x85\r\n", b"Transfer-Encoding: chunked\r\n"],
    *[b"Transfer-Encoding:\r\n", b"Transfer-Encoding: x\r\n", b"Content-Length: 0\r\n"],
    *[b"Content-Length: 5\r\n", b"Content-Length:\r\n", b"Content-Length: +0\r\n"],
]


def splice(head: bytes, place: int, piece: bytes) -> bytes:
    """Put a piece into a head."""
    return head[: place % len(head)] + piece + head[place % len(head) :]


def refuse_body(head: Head | None) -> Head | None:
    """Do what whoever reads a head does with one of a request that has a body."""
    if head is not None and head.has_body:
        raise Refusal(400, "a body")
    return head


def read_by_h11(data: bytes) -> Head | None:
    """Read a head with h11, and refuse what we refuse besides."""
    http = h11.Connection(h11.SERVER)
    data = re.sub(rb"\A\r?\n", b"", data)  # RFC 9112 section 2.2: one empty line before it means nothing
    http.receive_data(data)
    try:
        request = http.next_event()
    except h11.RemoteProtocolError:
        raise Refusal(400, "h11 refuses it") from None
    if not isinstance(request, h11.Request):
        if re.match(rb"[^\n]*[^ -~\r\n]|[^\n]*\r[^\n]", data):
            raise Refusal(400, "no request line, which need not be whole for that")
        return None
    head = data.removesuffix(http.trailing_data[0])
    if re.search(rb"\n[ \t]", head) or len(re.findall(rb"(?im)^content-length:", head)) > 1:
        raise Refusal(400, "a line that goes on in the next, or two lengths, equal or not")
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        is_read = name.decode() in READ_HEADERS or name.startswith(READ_PREFIX.encode())
        if is_read and not value.isascii():
            raise Refusal(400, "not ASCII")
        headers.setdefault(name.decode(), []).append(value.decode("latin-1"))
    return Head(request.method.decode(), request.target.decode(), request.http_version.decode(), headers)


def compare(data: bytes, chunk: int = 10**9) -> None:
    """See that a head is read, or refused, as h11 does it."""
    try:
        theirs = refuse_body(read_by_h11(data))
    except Refusal:
        with pytest.raises(Refusal):
            refuse_body(read(data, chunk))
    else:
        assert refuse_body(read(data, chunk)) == theirs


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_read_as_h11_reads_it(line: bytes) -> None:
    for first in REQUEST_LINES:
        compare(first + b"Host: a\r\n" + line + b"\r\n")


@pytest.mark.parametrize("number", range(256))
def test_a_byte_is_read_as_h11_reads_it(number: int) -> None:
    for place in range(len(head := b"GET / HTTP/1.1\r\nHost: a\r\nX: a b\r\n\r\n") - 2):
        compare(splice(head, place, bytes([number])))


heads = st.tuples(
    st.sampled_from(REQUEST_LINES),
    st.sampled_from([b"Host: a\r\n", b"", b"Host: a\r\nHost: a\r\n"]),
    st.lists(st.sampled_from(LINES), max_size=3).map(b"".join),
    st.sampled_from([b"\r\n", b"\n", b"", b"\r\n\t", b"\r\nX: a\r\n\r\n"]),
).map(b"".join)


@settings(on_any_machine, max_examples=500)
@given(
    st.one_of(heads, st.builds(splice, heads, st.integers(0, 200), st.sampled_from(BYTES))),
    st.sampled_from([1, 7, 10**9]),
)
def test_a_head_is_read_as_h11_reads_it(data: bytes, chunk: int) -> None:
    compare(data, chunk)


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"\x80", b"GE\xff", b"\r\nGET /\0", b"GET / HTTP/1.1\rX"])
def test_what_no_head_begins_with_is_refused_before_a_line_is_whole(data: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read(data)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "data", [b"\r", b"\r\n", b"\n", b"\r\nG", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n\xff"]
)
def test_what_a_head_may_begin_with_is_waited_for(data: bytes) -> None:
    assert read(data) is None


def test_an_absolute_target_says_which_host_is_called() -> None:
    head = read(raw.head("http://localhost:81/ws?a=http://x/", Host="evil.example"))
    assert head is not None
    assert (head.host, head.path) == ("localhost:81", "/ws")
    head = read(raw.head("/ws?a=http://x/", Host="evil.example"))
    assert head is not None
    assert (head.host, head.path) == ("evil.example", "/ws")


def test_no_head_takes_longer_than_its_length() -> None:
    for byte in (b" ", b"\t", b"x", b":", b"\r"):
        with pytest.raises(Refusal):
            read(b"GET / HTTP/1.1\r\nHost: x\r\nX:" + byte * 1_000_000 + b"\0\r\n\r\n", limit=None)


@pytest.mark.parametrize("begin", [b"", b"\r\n", b"GET /", b"GET http://"])
def test_a_first_line_that_comes_byte_by_byte_takes_no_longer_than_another(begin: bytes) -> None:
    size = 32 * 1024

    def seconds(data: bytes) -> float:
        start = time.perf_counter()
        assert read(data, 1, limit=None) is None
        return time.perf_counter() - start

    usual = b"GET / HTTP/1.1\r\nX: " + b"x" * size
    # It was 27 times as long. Once or twice something else may have run meanwhile.
    assert any(seconds(begin + b"x" * size) < 8 * seconds(usual) for _ in range(3))


@pytest.mark.parametrize("data", [b"GET /\0", b"\r\nGET /\xff", b"GET / HTTP/1.1\rX", b"\r\r", b"\n\n\0"])
def test_what_no_head_goes_on_with_is_refused_wherever_it_was_cut(data: bytes) -> None:
    for chunk in range(1, len(data) + 1):
        with pytest.raises(Refusal) as refused:
            read(data, chunk)
        assert refused.value.status == 400


@pytest.mark.parametrize(
    "sent",
    [
        raw.head(),
        raw.head("/ws"),
        raw.head("http://localhost/ws?x=1"),
        raw.head("WS://localhost"),
        b"\r\n" + raw.head(),
        raw.head(Origin="https://SHOP.example:443"),
        raw.head(Connection="keep-alive, Upgrade", Upgrade="WebSocket"),
        raw.head(Origin="https://shop.example"),
        raw.head(Origin="http://LOCALHOST"),
        raw.head(Cookie="größe=1", X_Name="\xff"),
        raw.head(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"),
        raw.head(Content_Length="0"),
    ],
)
def test_a_good_handshake_comes_in(sent: bytes) -> None:
    assert len(admit(sent)) == 24


REFUSED = {
    "not HTTP": (400, b"hello\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)),
    "no Host": (400, raw.head(Host="")),
    "two Hosts": (400, raw.head().replace(b"Host", b"Host: other\r\nHost")),
    "a header that is none": (400, raw.head().replace(b"Host", b"no header\r\nHost")),
    "HTTP/1.0": (400, raw.head().replace(b"HTTP/1.1", b"HTTP/1.0")),
    "Host that is not ASCII": (400, raw.head(Host="\xe9")),
    "Connection that is not ASCII": (400, raw.head(Connection="Upgrade, \xe9")),
    "protocol that is not ASCII": (400, raw.head(Sec_WebSocket_Protocol="\xe9")),
    "extension that is not ASCII": (400, raw.head(Sec_WebSocket_Extensions="\xe9")),
    "token that is not ASCII": (400, raw.head(Authorization="Bearer \xe9")),
    "Origin that is not ASCII": (400, raw.head(Origin="http://\xe9")),
    "no Upgrade, but a key": (400, raw.head(Upgrade="")),
    "no Connection: Upgrade": (400, raw.head(Connection="keep-alive")),
    "no version": (400, raw.head(Sec_WebSocket_Version="")),
    "no key": (400, raw.head(Sec_WebSocket_Key="")),
    "a key that is too short": (400, raw.head(Sec_WebSocket_Key="c2hvcnQ=")),
    "a key that is no base64": (400, raw.head(Sec_WebSocket_Key="!" * 24)),
    "two keys": (400, raw.head().replace(b"Host", b"Sec-WebSocket-Key: eA==\r\nHost")),
    "a body": (400, raw.head(Content_Length="5")),
    "a body in chunks": (400, raw.head(Transfer_Encoding="chunked")),
    "another origin": (403, raw.head(Origin="https://evil.example")),
    "an origin that is none": (403, raw.head(Origin="http://[")),
    "another path": (404, raw.head("/elsewhere")),
    "a URL in a path": (404, raw.head("/http://localhost")),
    "a path before a URL": (404, raw.head("/wshttp://localhost")),
    "a URL of something else": (404, raw.head("ftp://localhost/")),
    "another method": (405, raw.head(method="POST")),
    "an older version": (426, raw.head(Sec_WebSocket_Version="8")),
    "a plain GET": (426, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a plain GET in HTTP/1.0": (426, b"GET / HTTP/1.0\r\n\r\n"),
    "a plain GET elsewhere": (404, b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a plain POST": (405, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"),
    "a long head": (431, raw.head(X="x" * 8192)),
    "a head of many lines": (431, raw.head().replace(b"Host", b"X:\r\n" * 96 + b"Host")),
    "a header in many lines": (431, raw.head().replace(b"Host", b"X: x\r\n" + b" x\r\n" * 95 + b"Host")),
    "a list of many items": (431, raw.head(Connection="Upgrade, " + "x, " * 99)),
    "a list of nothing": (431, raw.head(Sec_WebSocket_Version="13" + "," * 100)),
    "a long head that never ends": (431, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_has_a_status_and_a_sentence(name: str) -> None:
    status, sent = REFUSED[name]
    with pytest.raises(Refusal) as refused:
        admit(sent)
    assert refused.value.status == status
    response = parse(refused.value.encode())
    assert response.status == status
    assert response.getheader("Connection") == "close"
    assert response.read().decode().strip() == refused.value.reason != ""
    if status == 426:
        assert response.getheader("Sec-WebSocket-Version") == "13"
    if status == 405:
        assert response.getheader("Allow") == "GET"


def parse(response: bytes) -> http.client.HTTPResponse:
    """The response as another library reads it."""

    class Sock:
        makefile: Callable[..., io.BytesIO] = staticmethod(lambda *_, **__: io.BytesIO(response))

    parsed = http.client.HTTPResponse(Sock())  # type: ignore[arg-type]
    parsed.begin()
    return parsed


@pytest.mark.parametrize("chunk", [1, 100, 10**9])
def test_a_head_may_be_as_long_as_the_limit_and_no_longer(chunk: int) -> None:
    sent = raw.head()
    assert read(sent, chunk, limit=len(sent)) is not None
    with pytest.raises(Refusal) as refused:
        read(sent, chunk, limit=len(sent) - 1)
    assert refused.value.status == 431


def test_the_limit_can_be_lifted() -> None:
    assert read(raw.head(X="x" * 1_000_000), limit=None) is not None


def test_tokens_and_subprotocols() -> None:
    head = read(raw.head(Authorization="bearer  abc", Sec_WebSocket_Protocol="trio-ws, bearer.def"))
    assert head is not None
    assert find_token(head) == "abc"
    assert choose_subprotocol(head) == "trio-ws"
    head = read(raw.head(Sec_WebSocket_Protocol="soap, bearer.def"))
    assert head is not None
    assert find_token(head) == "def"
    assert choose_subprotocol(head) is None


@on_any_machine
@given(
    st.one_of(
        st.binary(max_size=300),
        st.tuples(st.binary(max_size=50), st.integers(0, 200)).map(
            lambda cut: raw.head()[: cut[1]] + cut[0] + raw.head()[cut[1] :]
        ),
    ),
    st.integers(1, 50),
)
def test_anything_in_any_chunks_is_a_head_or_refused(data: bytes, chunk: int) -> None:
    try:
        head = read(data, chunk, limit=400)
        if head is not None and head.asks_for_websocket:
            head.websocket_key()
            check_origin(head, [], is_open=chunk % 2 == 0)
            find_token(head)
    except Refusal as reason:
        refusal = reason
    else:
        return
    assert refusal.status in (400, 403, 426, 431)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.receive_data(refusal.encode())
    assert isinstance(client.next_event(), h11.Response)
