"""From a URL to an open WebSocket, after as many tries as it takes."""

import contextlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from trio_ws.client.closing import pauses
from trio_ws.client.errors import Disconnected, Refused, bounded_seconds
from trio_ws.errors import leaves

logger = logging.getLogger(__name__)

OPEN_SECONDS = 10.0  # for the line and its handshake
CLOSE_SECONDS = 1.0
MESSAGE_BYTES = 16 * 2**20  # a page is 128 KiB; older servers send lists in one piece
NOT_OPENED = (OSError, HandshakeError, ConnectionClosed, trio.BrokenResourceError)
IN_TARGETS = (
    "/?:@!$&'()*+,;=~%[]"  # RFC 3986 section 3.3 and 3.4, and what is written percent-encoded already
)
FINAL_STATUSES = (400, 401, 403, 404, 405, 426, 431)  # not again without a change

Stream = trio.abc.HalfCloseableStream
OpenStream = Callable[[], Awaitable[Stream]]
Opened = tuple[WebSocketConnection, Stream]


class Address(NamedTuple):
    """Where the server is, how to get there, and what to say at the door."""

    host: str
    target: str
    headers: list[tuple[bytes, bytes]]
    open_stream: OpenStream
    is_patient: bool

    @classmethod
    def of(
        cls,
        url: str,
        token: str | None = None,
        open_stream: OpenStream | None = None,
        *,
        ca: str | None = None,
        is_patient: bool = True,
    ) -> "Address":
        """Take a URL apart; the rest is as for `connect`.

        Raises:
            ValueError: it is no `ws://` or `wss://` URL, or no token can look so.
        """
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise ValueError("the token holds a space, a line break or another character that none can")

        try:
            parts = urlsplit(url)
            host = (
                (parts.hostname or "").encode("idna").decode()
            )  # as a resolver knows it; ASCII stays as it is
            target = quote(parts.path or "/", IN_TARGETS) + (
                parts.query and f"?{quote(parts.query, IN_TARGETS)}"
            )
            port = parts.port or (443 if parts.scheme == "wss" else 80)
        except ValueError as error:  # of which UnicodeError is one
            raise ValueError(f"{url!r} is no ws:// or wss:// URL: {error}") from None
        if parts.scheme not in ("ws", "wss") or not re.fullmatch("[!-~]+", host):
            raise ValueError(f"{url!r} is no ws:// or wss:// URL")
        try:
            trusted = ssl.create_default_context(cafile=ca) if parts.scheme == "wss" else None
        except OSError as error:
            raise ValueError(f"{ca} holds no certificates that can be trusted: {error}") from None

        async def open_socket() -> Stream:
            socket = await trio.open_tcp_stream(host, port)
            if trusted is None:
                return socket
            encrypted: Any = trio.SSLStream(socket, trusted, server_hostname=host)
            try:
                await encrypted.do_handshake()  # here, where its error is seen
            except BaseException:
                await trio.aclose_forcefully(socket)
                raise
            return encrypted  # type: ignore[no-any-return] # a Stream; it lacks send_eof, which nobody calls

        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        said = f"[{host}]" if ":" in host else host
        said += f":{parts.port}" if parts.port else ""
        return cls(said, target, headers, open_stream or open_socket, is_patient)


@asynccontextmanager
async def open_patiently(address: Address) -> AsyncIterator[WebSocketConnection]:
    """Yield an open WebSocket, after as many tries as it takes; or one, where there is no patience.

    Raises:
        Refused: the server will not have us, however often we try.
        Disconnected: the one try failed; the message says why.
    """
    for number, pause in enumerate(pauses()):
        opened: Opened | str = ""  # or why not
        least_pause = 0.0
        # Once, where somebody may see it; after that it is no news.
        say = logger.info if number else logger.warning
        try:
            async with open_nursery() as nursery:
                opened = await _open(address, nursery)
                if not isinstance(opened, str):
                    socket, stream = opened
                    try:
                        yield socket
                    finally:
                        with trio.move_on_after(CLOSE_SECONDS, shield=True):
                            await socket.aclose()
                        await trio.aclose_forcefully(stream)  # which a socket that was lost leaves open
        except* ConnectionRejected as errors:
            (rejected,) = leaves(errors)
            assert isinstance(rejected, ConnectionRejected)  # noqa: S101 - it is what was caught
            status = rejected.status_code
            if status in FINAL_STATUSES:
                code = "unauthorized" if status == HTTPStatus.UNAUTHORIZED else "forbidden"
                message = f"The server turned us away: {status} {HTTPStatus(status).phrase}"
                raise Refused({"message": message, "code": code}) from None
            opened, least_pause = (
                f"it turns us away for now, with HTTP status {status}",
                _retry_after(rejected),
            )
        if not isinstance(opened, str):
            return
        if not address.is_patient:
            raise Disconnected(f"can't connect to {address.host}: {opened}")
        say("can't connect to %s: %s; trying on", address.host, opened)
        await trio.sleep(pause + least_pause)


@asynccontextmanager
async def open_nursery() -> AsyncIterator[trio.Nursery]:
    """Yield a nursery that ends with the block, and lets the block's error out as it was raised."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001 - through the nursery it would come as a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _retry_after(rejected: ConnectionRejected) -> float:
    """Return how long the server wants to be left alone, in seconds."""
    headers = {name.lower(): value for name, value in rejected.headers}
    return bounded_seconds(headers.get(b"retry-after", b"").decode("ascii", "replace"))


class _Careful(NamedTuple):
    """A nursery for trio-websocket's reader, which fails for some of what a server may send.

    It does for a ping that comes while we close. Whoever uses the line finds it lost then.
    """

    nursery: trio.Nursery

    def start_soon(self, read: Callable[[], Awaitable[None]]) -> None:
        self.nursery.start_soon(self._run, read)

    async def _run(self, read: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(ProtocolError, ConnectionClosed):
            await read()


async def _open(address: Address, nursery: trio.Nursery) -> Opened | str:
    """Return an open WebSocket and its stream, or why there is none."""
    try:
        with trio.fail_after(OPEN_SECONDS):
            stream: Any = await address.open_stream()
            try:
                socket = await wrap_client_stream(
                    _Careful(nursery),  # type: ignore[arg-type] # all that it does with it
                    stream,
                    address.host,
                    address.target,
                    extra_headers=address.headers,
                    max_message_size=MESSAGE_BYTES,
                )
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return socket, stream
    except trio.TooSlowError:
        return f"no answer within {OPEN_SECONDS:.0f} s"
    except NOT_OPENED as error:
        return _reason(error)


def _reason(error: BaseException) -> str:
    """Say what went wrong: trio has the reasons of the network and of TLS as causes."""
    cause = leaves(error.__cause__ or error)[0]
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    return str(cause) or type(cause).__name__
