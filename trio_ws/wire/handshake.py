"""The answer to an opening handshake, as trio-websocket writes it, by its public names.

It is shown a head that we have written ourselves, with the one field of the client's that it needs: never the
client's own, which can end the process of who trusts it with them. What follows the handshake is ours.
"""

from collections.abc import Iterable
from typing import cast

import trio
from trio_websocket import WebSocketConnection, WebSocketRequest
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request
from wsproto.utilities import generate_accept_token

from trio_ws.wire.head import WEBSOCKET_VERSION

_EXAMPLE = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
_examples: dict[str | None, bytes] = {}  # what accepts it, by the subprotocol


async def learn_answers(subprotocols: Iterable[str | None]) -> None:
    """Ask the library for each subprotocol, so that the first client is answered as all others are."""
    for subprotocol in subprotocols:
        _examples[subprotocol] = await _ask(_EXAMPLE, subprotocol)


async def answer_handshake(key: str, subprotocol: str | None) -> bytes:
    """Return the response that accepts a handshake.

    The library is asked once for each subprotocol, for nothing but the key's answer differs: to ask it each
    time took a third of what a client costs until it is connected.

    Args:
        key: From the client's head.
        subprotocol: The one that is spoken, if any: of the few that we know.
    """
    if subprotocol not in _examples:
        await learn_answers([subprotocol])
    return _examples[subprotocol].replace(_accepted(_EXAMPLE), _accepted(key))


def _accepted(key: str) -> bytes:
    return generate_accept_token(key.encode("ascii"))


async def _ask(key: str, subprotocol: str | None) -> bytes:
    protocol = WSConnection(ConnectionType.SERVER)
    protocol.receive_data(_encode_head(key, subprotocol))
    (request,) = protocol.events()
    paper = _Paper()
    socket = WebSocketConnection(paper, protocol)
    await WebSocketRequest(socket, cast(Request, request)).accept(subprotocol=subprotocol)
    return paper.written


def _encode_head(key: str, subprotocol: str | None) -> bytes:
    lines = [
        "GET / HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Version: {WEBSOCKET_VERSION}",
        f"Sec-WebSocket-Key: {key}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class _Paper(trio.abc.Stream):
    """Where the library writes. It is never asked to read.

    Attributes:
        written: What it wrote.
    """

    def __init__(self) -> None:
        self.written = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.written += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - there is nothing
        await trio.lowlevel.checkpoint()
        return b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
