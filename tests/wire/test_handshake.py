"""The answer to a handshake is RFC 6455's, and says what was agreed on and nothing else."""

import base64
import hashlib

import pytest

from trio_ws.wire.handshake import answer_handshake

KEYS = [base64.b64encode(bytes([number]) * 16).decode() for number in range(3)]


@pytest.mark.parametrize("subprotocol", [None, "trio-ws"])
@pytest.mark.parametrize("key", KEYS)
async def test_a_handshake_is_answered(key: str, subprotocol: str | None) -> None:
    accepted = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # noqa: S324
    response = await answer_handshake(key, subprotocol)
    head, end, rest = response.decode().partition("\r\n\r\n")
    lines = head.lower().split("\r\n")
    assert (end, rest) == ("\r\n\r\n", "")
    assert lines[0] == "http/1.1 101 switching protocols"
    assert f"sec-websocket-accept: {base64.b64encode(accepted).decode().lower()}" in lines
    assert ("sec-websocket-protocol: trio-ws" in lines) == (subprotocol is not None)
    assert not [field for field in lines if field.startswith("sec-websocket-extensions")]
