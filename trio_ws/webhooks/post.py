"""One POST over HTTP/1.1: to an address that was checked, following nothing, reading little.

The name is looked up once and the connection goes to an address of the answer, so that a name that leads to
another place when it is asked again gains nothing. The status decides; what comes after it is read so that
the receiver can finish, and thrown away.
"""

import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import h11
import trio

from trio_ws.endpoint import Endpoint, is_public
from trio_ws.webhooks.answer import Answer

HEAD_BYTES = 16384  # of a response; the default of h11
CONNECT_SECONDS = 3.0  # for one of several addresses, so that the next one has its turn
# At a time: a look-up that nobody answers goes on in its thread after we have given it up. Under trio's own
# limit, of 40, a few such names would hold up all others, and what else takes threads from there.
LOOKUPS = 256
ADDRESSES = 3  # that are tried
READ_BYTES = 16384
REST_SECONDS = 1.0  # for what comes after the status


class PostError(Exception):
    """There was no answer; the message says why, in a few words and without the URL."""


class Poster:
    """POSTs, wherever it is allowed to.

    Args:
        private_addresses: Whether addresses that are not public may be connected to.
        answer_bytes: How much of an answer is read.
        tls: How certificates are checked; None: as the system does.
        look_up: How names are looked up, in a thread.
    """

    def __init__(
        self,
        *,
        private_addresses: bool,
        answer_bytes: int,
        tls: ssl.SSLContext | None = None,
        look_up: Callable[..., list[Any]] = socket.getaddrinfo,
    ) -> None:
        self._private_addresses = private_addresses
        self._answer_bytes = answer_bytes
        self._look_up = look_up
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._tls = tls or ssl.create_default_context()

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send it, and return the answer; how long that may take is the caller's choice.

        Raises:
            PostError: no answer came, or none that is HTTP.
        """
        try:
            endpoint = Endpoint.parse(url)
        except ValueError as error:
            raise PostError(str(error)) from None
        stream = await self._connect(endpoint)
        try:
            return await self._converse(stream, endpoint, headers, body)
        except h11.RemoteProtocolError:
            raise PostError("no answer in HTTP") from None
        except trio.BrokenResourceError as error:
            raise PostError(_why("the connection broke", error)) from None
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self, endpoint: Endpoint) -> trio.abc.Stream:
        addresses = [
            address
            for address in await self._resolve(endpoint)
            if self._private_addresses or is_public(ipaddress.ip_address(address))
        ]
        if not addresses:
            raise PostError("the host's address is not public")
        for address in addresses[:ADDRESSES]:
            with trio.move_on_after(CONNECT_SECONDS):
                try:
                    stream = await trio.open_tcp_stream(address, endpoint.port)  # a literal: asks nobody
                except OSError:
                    continue
                if endpoint.scheme == "http":
                    return stream
                return trio.SSLStream(stream, self._tls, server_hostname=endpoint.host, https_compatible=True)
        raise PostError("can't connect")

    async def _resolve(self, endpoint: Endpoint) -> list[str]:
        """Return the host's addresses, the resolver's favourite first."""
        look_up = partial(self._look_up, endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        try:
            found = await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._lookups)
        except (OSError, UnicodeError):
            raise PostError("the host's name leads nowhere") from None
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    async def _converse(
        self, stream: trio.abc.Stream, endpoint: Endpoint, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        fields = {"host": endpoint.authority, "content-length": str(len(body)), "connection": "close"}
        request = h11.Request(
            method="POST", target=endpoint.target, headers=[*fields.items(), *headers.items()]
        )
        parts: list[h11.Event] = [request, h11.Data(data=body), h11.EndOfMessage()]
        try:
            await stream.send_all(b"".join(http.send(part) or b"" for part in parts))
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                raise
            # It may have answered before it had read all, and that is in the line.
        answer = _Reading(stream, http, self._answer_bytes)
        while not isinstance(event := await answer.next_event(), h11.Response):
            if event is None:
                raise PostError("the answer has no end")
        with trio.move_on_after(REST_SECONDS):
            try:
                while not isinstance(await answer.next_event(), h11.EndOfMessage | None):
                    pass
            except (h11.RemoteProtocolError, trio.BrokenResourceError):
                pass  # It has said what counts.
        later = [value for name, value in event.headers if name == b"retry-after"]
        return Answer(event.status_code, later[0].decode("latin-1") if later else "")


class _Reading:
    """Reads an answer as it comes, up to so many bytes."""

    def __init__(self, stream: trio.abc.Stream, http: h11.Connection, most_bytes: int) -> None:
        self._stream = stream
        self._http = http
        self._left = most_bytes

    async def next_event(self) -> h11.Event | None:
        """Return what comes next; None: that would be too much."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._left <= 0:
                return None
            received = bytes(await self._stream.receive_some(min(READ_BYTES, self._left)))
            self._left -= len(received)
            self._http.receive_data(received)
        return event if isinstance(event, h11.Event) else None


def _why(what: str, error: BaseException) -> str:
    """Say what happened, and of TLS why: its certificate is what a receiver's owner has to see to."""
    cause = error.__cause__
    return f"{what} ({cause.reason})" if isinstance(cause, ssl.SSLError) else what
