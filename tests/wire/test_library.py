"""What trio-websocket is shown it bears, and what it says goes out through the wire."""

import base64
import hashlib

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from tests import raw
from tests.raw import RawClient
from trio_ws.settings import Settings
from trio_ws.wire import library
from trio_ws.wire.stream import Wire

KEY = base64.b64encode(bytes(16)).decode()
ACCEPTED = hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # noqa: S324


def line() -> tuple[Wire, RawClient]:
    ours, theirs = memory_stream_pair()
    return Wire(ours, Settings()), RawClient(theirs)


@pytest.mark.parametrize("subprotocol", [None, "trio-ws"])
async def test_a_handshake_is_answered(subprotocol: str | None) -> None:
    wire, client = line()
    async with trio.open_nursery() as nursery:
        socket = await library.accept(nursery, wire, KEY, subprotocol)
        head = (await client.receive_head()).lower().split("\r\n")
        assert head[0] == "http/1.1 101 switching protocols"
        assert f"sec-websocket-accept: {base64.b64encode(ACCEPTED).decode().lower()}" in head
        assert ("sec-websocket-protocol: trio-ws" in head) == (subprotocol is not None)
        assert not [field for field in head if field.startswith("sec-websocket-extensions")]
        assert socket.subprotocol == subprotocol
        nursery.cancel_scope.cancel()


async def test_messages_come_and_pings_are_answered(autojump_clock: MockClock) -> None:
    wire, client = line()
    async with trio.open_nursery() as nursery:
        await client.stream.send_all(raw.frame(raw.PING, b"early"))  # before it is accepted
        socket = await library.accept(nursery, wire, KEY, None)
        await client.receive_head()
        assert await client.receive_frame() == (raw.PONG, b"early")
        await client.stream.send_all(raw.frame(raw.TEXT, "é".encode()) + raw.frame(raw.BINARY, b"\xff"))
        assert [await socket.get_message(), await socket.get_message()] == ["é", b"\xff"]
        nursery.start_soon(socket.ping)
        opcode, payload = await client.receive_frame()
        assert opcode == raw.PING
        await client.stream.send_all(raw.frame(raw.PONG, payload))
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1, "its reader alone"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "last", [b"", raw.frame(raw.CLOSE, b""), raw.frame(raw.TEXT, b"\xff")], ids=["end", "close", "violation"]
)
async def test_however_it_ends_the_library_hands_over_what_came_before_and_sends_no_close(
    last: bytes,
) -> None:
    wire, client = line()
    async with trio.open_nursery() as nursery:
        socket = await library.accept(nursery, wire, KEY, None)
        await client.receive_head()
        await client.stream.send_all(raw.frame(raw.TEXT, b"1") + raw.frame(raw.TEXT, b"2") + last)
        await client.stream.send_eof()
        assert [await socket.get_message(), await socket.get_message()] == ["1", "2"]
        with pytest.raises(ConnectionClosed):
            await socket.get_message()
        with pytest.raises(ConnectionClosed):
            await socket.ping()
    await wire.send_all(b"ours")
    assert await client.stream.receive_some() == b"ours"


async def test_a_line_that_breaks_while_it_answers_pings_is_no_trouble(autojump_clock: MockClock) -> None:
    wire, client = line()
    async with trio.open_nursery() as nursery:
        socket = await library.accept(nursery, wire, KEY, None)
        await wire.close(b"")  # so nothing may go out any more
        await client.stream.send_all(raw.frame(raw.PING, b"") * 5 + raw.frame(raw.TEXT, b"after"))
        assert await socket.get_message() == "after"
        with trio.move_on_after(1) as waiting:
            await socket.ping()
        assert waiting.cancelled_caught
        await client.stream.aclose()


async def test_a_message_may_be_longer_than_the_library_would_take() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, Settings(message_bytes=None))
    async with trio.open_nursery() as nursery:
        socket = await library.accept(nursery, wire, KEY, None)
        await theirs.send_all(raw.frame(raw.TEXT, b"x" * 3_000_000))
        assert len(await socket.get_message()) == 3_000_000
        nursery.cancel_scope.cancel()
