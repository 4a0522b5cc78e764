"""The simulated line is a stream as trio's own are, and does what a network does."""

from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, check_half_closeable_stream, wait_all_tasks_blocked

from trio_ws.testing.lines import SimulatedLine, SimulatedStream


async def pair() -> tuple[SimulatedStream, SimulatedStream]:
    await trio.lowlevel.checkpoint()
    return SimulatedLine(room_bytes=100_000).ends


async def clogged_pair() -> tuple[SimulatedStream, SimulatedStream]:
    ours, theirs = SimulatedLine().ends
    for end in (ours, theirs):
        with trio.move_on_after(0):
            await end.send_all(b"x")
    return ours, theirs


async def test_it_keeps_what_trio_promises_of_streams(autojump_clock: MockClock) -> None:
    await check_half_closeable_stream(pair, clogged_pair)


async def test_bytes_come_after_the_delay_and_do_not_overtake_each_other(autojump_clock: MockClock) -> None:
    ours, theirs = (line := SimulatedLine(room_bytes=100)).ends
    line.delay = 2
    await ours.send_all(b"first ")
    line.delay = 1
    await ours.send_all(b"second")
    assert await theirs.receive_some() == b"first second"
    assert trio.current_time() == 2


async def test_who_does_not_read_is_felt_when_the_room_is_used_up(autojump_clock: MockClock) -> None:
    ours, theirs = SimulatedLine(room_bytes=10).ends
    await ours.send_all(b"x" * 10)
    with trio.move_on_after(5) as waiting:
        await ours.send_all(b"x")
    assert waiting.cancelled_caught
    assert await theirs.receive_some() == b"x" * 11, "cancelled or not, it was on its way"


async def test_what_is_held_comes_when_the_line_heals(autojump_clock: MockClock) -> None:
    ours, theirs = (line := SimulatedLine(room_bytes=10)).ends
    line.hold()
    await ours.send_all(b"x")
    await ours.send_eof()
    with trio.move_on_after(60) as waiting:
        await theirs.receive_some()
    assert waiting.cancelled_caught
    line.heal()
    assert [await theirs.receive_some(), await theirs.receive_some()] == [b"x", b""]


async def test_a_cut_is_told_to_both_ends_at_once_and_to_who_waits(autojump_clock: MockClock) -> None:
    ours, theirs = (line := SimulatedLine()).ends

    async def expect_the_end(stream: SimulatedStream) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_the_end, ours)
        nursery.start_soon(expect_the_end, theirs)
        await wait_all_tasks_blocked()
        line.cut()
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")


@given(st.binary(max_size=50), st.integers())
def test_in_whatever_pieces_the_bytes_are_the_same(data: bytes, seed: int) -> None:
    async def send_and_receive() -> bytes:
        ours, theirs = SimulatedLine(room_bytes=1000, split=Random(seed)).ends
        await ours.send_all(data)
        await ours.aclose()
        received = b""
        while piece := await theirs.receive_some(7):
            assert len(piece) <= 7
            received += piece
        return received

    assert trio.run(send_and_receive, clock=MockClock(autojump_threshold=0)) == data
