"""A request's body: how long it says to be, and its bytes as they come. No I/O.

What two programs could read in two ways is refused, as that smuggles requests past a proxy: RFC 9112 section
6.3. Chunks are h11's to read; of a known length there is nothing to read but bytes, which would take it
150 µs, as long as all the rest of a small request.
"""

import re

import h11

from trio_ws.wire.head import Head, Refusal

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK_LINE_BYTES = 4096  # with its extensions, which nobody sends; also of all trailers together


class BodyReader:
    """Collects a body.

    Args:
        head: What came before it.
        limit_bytes: How long it may be; None: any length.
        limit_chunks: How many chunks it may come in; None: any number.

    Attributes:
        rest: What came behind it.

    Raises:
        Refusal: it is too long, or nobody can tell how long it is.
    """

    def __init__(self, head: Head, limit_bytes: int | None, limit_chunks: int | None) -> None:
        self.rest = b""
        self._limit_bytes = limit_bytes
        self._limit_chunks = limit_chunks
        self._come = bytearray()
        self._chunks = 0
        self._length = 0
        self._chunked: h11.Connection | None = None
        if "transfer-encoding" in head.headers:
            self._chunked = _read_chunks(head)
        elif "content-length" in head.headers:
            self._length = _read_length(head)
        if limit_bytes is not None and self._length > limit_bytes:
            raise self._too_long()

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes as they come, and return the body once it is whole.

        Raises:
            Refusal: it is too long, or its chunks can't be read.
        """
        if self._chunked is not None:
            return self._feed_chunks(self._chunked, data)
        self._come += data
        if len(self._come) < self._length:
            return None
        self.rest = bytes(self._come[self._length :])
        return bytes(self._come[: self._length])

    def _feed_chunks(self, connection: h11.Connection, data: bytes) -> bytes | None:
        try:
            if data:  # to h11, none is the end
                connection.receive_data(data)
            while (event := connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.EndOfMessage):
                    self.rest = connection.trailing_data[0]
                    return bytes(self._come)
                assert isinstance(event, h11.Data)  # noqa: S101 - there is nothing else in a body
                self._come += event.data
                self._chunks += event.chunk_start
                if self._limit_bytes is not None and len(self._come) > self._limit_bytes:
                    raise self._too_long()
                if self._limit_chunks is not None and self._chunks > self._limit_chunks:
                    raise Refusal(413, f"The body has over {self._limit_chunks} chunks")
        except h11.RemoteProtocolError as error:
            raise Refusal(400, "The body's chunks can't be read", given=error) from None
        return None

    def _too_long(self) -> Refusal:
        return Refusal(413, f"The body has over {self._limit_bytes} bytes")


def _read_chunks(head: Head) -> h11.Connection:
    if "content-length" in head.headers or head.version != "1.1":
        raise Refusal(400, "A body has either a length or, in HTTP/1.1, chunks")
    if head.tokens("transfer-encoding") != ["chunked"]:
        raise Refusal(501, "Only `Transfer-Encoding: chunked` is known here")
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=CHUNK_LINE_BYTES)
    connection.receive_data(_CHUNKED_HEAD)
    connection.next_event()
    return connection


def _read_length(head: Head) -> int:
    lengths = head.values("content-length")
    if len(lengths) != 1 or not _LENGTH.match(lengths[0]):
        raise Refusal(400, "Expected one Content-Length, in digits")
    return int(lengths[0])
