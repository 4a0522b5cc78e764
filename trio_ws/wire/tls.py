"""TLS streams, which readers and writers use like any other stream."""

import logging
import ssl
from contextlib import suppress
from typing import Any, cast

import trio

from trio_ws.wire.head import Refusal

logger = logging.getLogger(__name__)

Stream = trio.abc.HalfCloseableStream

# The response to clients that speak plain HTTP, of which OpenSSL knows GET, HEAD, POST and PUT.
PLAIN_HTTP = Refusal(400, "This port speaks TLS: call it by https:// or wss://").encode()


def make_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return what TLS needs to know: TLS 1.2 and later, as Python thinks best.

    Args:
        certificate: File of the certificate and the chain behind it, as PEM.
        key: File of its key; None: it is in the same file.

    Raises:
        OSError: the files can't be read, or are no certificate and its key, or the key is encrypted.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key, _refuse_encrypted_key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Have TLS go by this certificate from now on.

    Raises:
        OSError: see `make_context`; the context stays as it was.
    """
    make_context(certificate, key)  # else a key that is no good would leave a certificate without one
    context.load_cert_chain(certificate, key, _refuse_encrypted_key)


def _refuse_encrypted_key() -> str:
    """Ask for no passphrase, which OpenSSL would do on the terminal, and everything would wait for it."""
    raise OSError("its key is encrypted, and nobody is asked for the passphrase of a server: decrypt it")


class TlsStream(Stream):
    """One line.

    Attributes:
        transport: The socket under it.
    """

    def __init__(self, transport: Stream, context: ssl.SSLContext) -> None:
        self.transport = transport
        self._context = _Context(context)
        # Many clients hang up without TLS's goodbye, which tells nothing that a close frame has not told.
        self._tls = trio.SSLStream(
            transport, cast("ssl.SSLContext", self._context), server_side=True, https_compatible=True
        )
        self._is_open: bool | None = None  # None: hands were not shaken yet
        self._has_said_goodbye = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio; the first call shakes hands."""
        await self._shake_hands()
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See trio."""
        await self._tls.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See trio; the first call shakes hands. After our goodbye, what comes only shows that more comes."""
        if self._has_said_goodbye:
            return await self.transport.receive_some(max_bytes)
        await self._shake_hands()
        return await self._tls.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Say goodbye as TLS does, where it was spoken, and go on with what is under it."""
        if self._is_open is not False:
            await self._tls.unwrap()
        self._has_said_goodbye = True
        await self.transport.send_eof()

    async def aclose(self) -> None:
        """See trio."""
        await trio.aclose_forcefully(self.transport)

    async def _shake_hands(self) -> None:
        if self._is_open:
            return
        try:
            await self._tls.do_handshake()
        except trio.BrokenResourceError as error:
            broken = error
        else:
            self._is_open = True
            return
        self._is_open = False
        if isinstance(broken.__cause__, ssl.SSLError):
            await self._say_why(broken.__cause__)
        raise broken

    async def _say_why(self, error: ssl.SSLError) -> None:
        """Say why the handshake failed, to the client and in the log."""
        if isinstance(error, ssl.SSLEOFError):
            return  # It has gone: many only try whether the port is open.
        logger.info("a TLS handshake failed: %s", error.reason, extra={"repeats": True})
        alert = self._context.outgoing.read()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.transport.send_all(PLAIN_HTTP if error.reason == "HTTP_REQUEST" else alert)


class _Context:
    """The context as trio uses it. It keeps what is to be sent: trio drops the alert of a failed handshake.

    Attributes:
        outgoing: What OpenSSL has to send.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.outgoing = ssl.MemoryBIO()

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext.wrap_bio`."""
        self.outgoing = outgoing
        return self._context.wrap_bio(incoming, outgoing, **options)


def socket_of(stream: trio.abc.Stream) -> trio.SocketStream | None:
    """Return the socket that a line goes over, under TLS or not; None: it goes over something else."""
    transport = stream.transport if isinstance(stream, TlsStream) else stream
    return transport if isinstance(transport, trio.SocketStream) else None


class TlsListener(trio.abc.Listener[Stream]):
    """Accepts streams, and puts TLS on them. The reader performs the handshake later: that takes waiting.

    Attributes:
        transport: What listens under it.
    """

    def __init__(self, transport: trio.abc.Listener[Stream], context: ssl.SSLContext) -> None:
        self.transport = transport
        self._context = context

    async def accept(self) -> Stream:
        """See trio."""
        return TlsStream(await self.transport.accept(), self._context)

    async def aclose(self) -> None:
        """See trio."""
        await self.transport.aclose()
