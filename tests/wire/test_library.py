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
from trio_ws.wire.library import accept
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
        await accept(nursery, wire, KEY, subprotocol)
        head = (await client.receive_head()).lower().split("\r\n")
        assert head[0] == "http/1.1 101 switching protocols"
        assert f"sec-websocket-accept: {base64.b64encode(ACCEPTED).decode().lower()}" in head
        assert ("sec-websocket-protocol: trio-ws" in head) == (subprotocol is not None)
        assert not [field for field in head if field.startswith("sec-websocket-extensions")]
        nursery.cancel_scope.cancel()


async def test_pings_are_answered_and_ours_wait_for_their_pongs(autojump_clock: MockClock) -> None:
    wire, client = line()
    async with trio.open_nursery() as nursery:
        library = await accept(nursery, wire, KEY, None)
        await client.receive_head()
        await library.show(raw.PING, b"anybody?")
        await wire.send_all(raw.frame(raw.TEXT, b"{}", masked=False))
        assert await client.receive_frame() == (raw.PONG, b"anybody?"), "before what follows"
        assert await client.receive_frame() == (raw.TEXT, b"{}")
        async with trio.open_nursery() as pinging:
            pinging.start_soon(library.ping)
            opcode, payload = await client.receive_frame()
            assert opcode == raw.PING
            await library.show(raw.PONG, b"another's")
            await wait_all_tasks_blocked()
            assert pinging.child_tasks
            await library.show(raw.PONG, payload)
        assert len(nursery.child_tasks) == 1, "its reader alone"
        nursery.cancel_scope.cancel()


async def test_at_the_end_it_sends_no_close_and_pings_no_more(autojump_clock: MockClock) -> None:
    wire, client = line()
    async with trio.open_nursery() as nursery:
        library = await accept(nursery, wire, KEY, None)
        await client.receive_head()
        library.show_the_end()
        await wait_all_tasks_blocked()
        with pytest.raises(ConnectionClosed):
            await library.ping()
    await wire.send_all(b"ours")
    assert await client.stream.receive_some() == b"ours"


async def test_a_line_that_breaks_while_it_answers_pings_is_no_trouble(autojump_clock: MockClock) -> None:
    wire, client = line()
    async with trio.open_nursery() as nursery:
        library = await accept(nursery, wire, KEY, None)
        await wire.close(b"")  # so nothing may go out any more
        for _ in range(5):
            await library.show(raw.PING, b"")
        with trio.move_on_after(1) as waiting:
            await library.ping()
        assert waiting.cancelled_caught
        await client.stream.aclose()
        nursery.cancel_scope.cancel()
