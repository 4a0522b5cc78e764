"""A client that writes bytes: what no library would send, and what none would show."""

import base64
import json
import os
from typing import Any

import trio
from trio.abc import HalfCloseableStream

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


def head(path: str = "/", method: str = "GET", **headers: str) -> bytes:
    """A WebSocket's opening request; a header is left out by giving it as ""."""
    fields = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    """A frame as RFC 6455 section 5.2 lays it out; the mask is 0, so the payload can be read."""
    size = len(payload)
    mask_bit = 0x80 if masked else 0
    if size < 126:
        length = bytes([mask_bit | size])
    elif size < 65536:
        length = bytes([mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([mask_bit | 127]) + size.to_bytes(8, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + length + (bytes(4) if masked else b"") + payload


def payloads(frames: bytes) -> list[bytes]:
    """What a server's whole frames hold, each of which is text."""
    found = []
    while frames:
        assert frames[0] == 0x80 | TEXT
        size, at = frames[1], 2
        if size > 125:
            at += 2 if size == 126 else 8
            size = int.from_bytes(frames[2:at], "big")
        assert len(frames) >= at + size, "whole"
        found.append(frames[at : at + size])
        frames = frames[at + size :]
    return found


def seqs_of(frames: bytes) -> list[int]:
    """The numbers of the events that a server's frames tell of."""
    return [int(json.loads(payload)["position"].rpartition(".")[2]) for payload in payloads(frames)]


class RawClient:
    """Reads and writes frames on a stream; answers no pings, and may skip them."""

    def __init__(self, stream: HalfCloseableStream) -> None:
        self.stream = stream
        self._buffer = b""
        self.ignores_pings = False

    async def shake_hands(self, path: str = "/") -> str:
        """Open the WebSocket, and return the status line."""
        await self.stream.send_all(head(path))
        return (await self.receive_head()).partition("\r\n")[0]

    async def receive_head(self) -> str:
        """Return the head of an HTTP response."""
        while b"\r\n\r\n" not in self._buffer:
            await self._receive()
        received, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return received.decode()

    async def send(self, **fields: object) -> None:
        """Send a message."""
        await self.stream.send_all(frame(TEXT, json.dumps(fields).encode()))

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        opcode, payload = await self.receive_frame()
        assert opcode == TEXT, (opcode, payload)
        message: dict[str, Any] = json.loads(payload)
        return message

    async def receive_close(self) -> tuple[int, str]:
        """Return the code and reason of the server's close frame, answer it, and see the line end."""
        opcode, payload = await self.receive_frame()
        while self.ignores_pings and opcode == PING:
            opcode, payload = await self.receive_frame()
        assert opcode == CLOSE, (opcode, payload)
        await self.stream.send_all(frame(CLOSE, payload[:2]))
        await self.see_the_end()
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def receive_frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; a server's are whole and not masked."""
        opcode, length = await self._take(2)
        assert opcode & 0xF0 == 0x80
        assert length < 0x80
        if length > 125:
            length = int.from_bytes(await self._take(2 if length == 126 else 8), "big")
        return opcode & 0x0F, await self._take(length)

    async def receive_frames(self, received: bytes = b"") -> list[tuple[int, bytes]]:
        """Return all frames up to the server's close frame, with that, after what was received already."""
        self._buffer += received
        frames = [await self.receive_frame()]
        while frames[-1][0] != CLOSE:
            frames.append(await self.receive_frame())
        return frames

    async def see_the_end(self) -> bytes:
        """Read until the server has hung up, hang up too, and return what came before."""
        while data := await self.stream.receive_some(65536):
            self._buffer += bytes(data)
        await self.stream.aclose()
        return self._buffer

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._receive()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def _receive(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise trio.EndOfChannel(f"the line has ended after {self._buffer!r}")
        self._buffer += bytes(data)
