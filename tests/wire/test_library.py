"""What trio-websocket is shown it bears, and what it says goes out through the wire."""

import base64
import gc
import hashlib
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from tests import raw
from tests.raw import RawClient
from trio_ws.settings import Settings
from trio_ws.wire.library import SPEAKER, accept
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
        assert not nursery.child_tasks


async def test_a_pong_goes_out_whole_though_who_has_shown_the_ping_waits_no_longer() -> None:
    ours, theirs = lockstep_stream_pair()
    wire, client = Wire(ours, Settings()), RawClient(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_head)
        library = await accept(nursery, wire, KEY, None)
        with trio.CancelScope() as waiting:
            waiting.cancel()
            await library.show(raw.PING, b"anybody?")
        await wait_all_tasks_blocked()
        nursery.start_soon(wire.send_all, raw.frame(raw.TEXT, b"{}", masked=False))
        assert await client.receive_frame() == (raw.PONG, b"anybody?")
        assert await client.receive_frame() == (raw.TEXT, b"{}")


async def test_at_the_end_it_pings_no_more() -> None:
    wire, client = line()
    async with trio.open_nursery() as nursery:
        library = await accept(nursery, wire, KEY, None)
        await client.receive_head()
        library.show_the_end()
        with pytest.raises(ConnectionClosed):
            await library.ping()
    await wire.send_all(b"ours")
    assert await client.stream.receive_some() == b"ours"


async def test_of_an_idle_client_it_keeps_what_answers_pings_and_no_more() -> None:
    """Where this fails after an update, look through what `_slim` takes off, and what else there is now."""
    wire, _ = line()
    async with trio.open_nursery() as nursery:
        library = await accept(nursery, wire, KEY, None)
        kept = {type(one) for one in _reachable(library, without=[wire, nursery, SPEAKER])}
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in kept if kind.__module__ != "builtins"}
    assert names == {
        "collections.OrderedDict",  # of pings
        "contextlib.nullcontext",
        "trio_websocket._impl.WebSocketConnection",
        "trio_ws.wire.library.Library",
        "trio_ws.wire.library._LibraryStream",
    }


def _reachable(first: object, without: list[object]) -> list[object]:
    """What an object holds, however far away; no classes, modules and functions."""
    shared = (type, ModuleType, FunctionType, BuiltinFunctionType)
    found = {id(first): first}
    seen = {id(one) for one in without}
    waiting = [first]
    while waiting:
        for one in gc.get_referents(waiting.pop()):
            if id(one) not in found and id(one) not in seen and not isinstance(one, (*shared, Enum)):
                found[id(one)] = one
                waiting.append(one)
    return list(found.values())


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
