"""The wire knows when the peer has gone and when half a frame is out, and hangs up gently."""

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from trio_ws.wire.stream import Wire


async def test_a_cancelled_send_tears_the_wire(autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours)
    with trio.move_on_after(1):
        await wire.send_all(b"a frame that nobody reads")
    assert wire.torn
    with pytest.raises(trio.BrokenResourceError):
        await wire.send_all(b"another")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.hang_up)
        assert await theirs.receive_some() in (b"", b"a frame that nobody reads")


async def test_whole_sends_leave_it_whole() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours)
    await wire.send_all(b"frame")
    assert not wire.torn
    assert await theirs.receive_some() == b"frame"


async def test_the_end_of_the_peer_is_known() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours)
    await theirs.send_all(b"bytes")
    assert await wire.receive_some() == b"bytes"
    assert not wire.ended.is_set()
    await theirs.send_eof()
    assert await wire.receive_some() == b""
    assert wire.ended.is_set()


async def test_a_broken_line_is_known() -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours)
    await trio.aclose_forcefully(ours)
    with pytest.raises(trio.ClosedResourceError):
        await wire.receive_some()
    assert wire.ended.is_set()
    await theirs.aclose()


async def test_the_library_closing_it_leaves_the_socket_to_hang_up(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours)
    await wire.aclose()
    assert wire.ended.is_set()
    await theirs.send_all(b"still open")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.hang_up)
        assert await theirs.receive_some() == b""
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1, "it reads on until the peer hangs up too"
        await theirs.send_all(b"more")
        await theirs.send_eof()


async def test_hanging_up_can_be_cut_short(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    with trio.move_on_after(2):
        await Wire(ours).hang_up()
    assert trio.current_time() == 2
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"closed")
