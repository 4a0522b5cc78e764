"""The wire lets only whole frames in, ends where half a frame may be out, and hangs up gently."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import (
    MockClock,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from tests import raw
from trio_ws.errors import CloseCode
from trio_ws.settings import Settings
from trio_ws.wire.frames import TURN_FRAMES
from trio_ws.wire.head import Refusal
from trio_ws.wire.stream import PROGRESS_BYTES, Wire

SETTINGS = Settings(write_seconds=15)


async def test_after_a_cancelled_send_nothing_follows(autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours, SETTINGS)
    with trio.move_on_after(1):
        await wire.send_all(b"a frame that nobody reads")
    assert not wire.gave_up, "it was not for the client that we ended it"
    with trio.fail_after(5):
        assert await wire.receive() == [], "and who reads from it learns of it"
        with pytest.raises(trio.BrokenResourceError):
            await wire.send_all(b"another")
        await wire.hang_up()
        assert trio.current_time() == 1, "nor is the client waited for"
        with pytest.raises(trio.BrokenResourceError):
            await theirs.send_all(b"x")


async def test_what_is_sent_arrives() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, SETTINGS)
    await wire.send_all(b"frame")
    assert await theirs.receive_some() == b"frame"


async def test_a_peer_that_does_not_read_is_cut_off_in_time(autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours, SETTINGS)
    with pytest.raises(trio.BrokenResourceError, match="does not read"):
        await wire.send_all(b"x")
    assert trio.current_time() == 15
    assert wire.gave_up
    assert await wire.receive() == [], "and who reads from it learns of it"
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"x")


async def test_a_peer_that_reads_slowly_gets_it_all(autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours, SETTINGS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.send_all, b"x" * 10 * PROGRESS_BYTES)
        received = 0
        while received < 10 * PROGRESS_BYTES:
            await trio.sleep(14)
            received += len(await theirs.receive_some(PROGRESS_BYTES))


async def test_a_head_is_read_and_then_frames(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, SETTINGS)
    frame = raw.frame(raw.TEXT, b"sent at once")
    await theirs.send_all(raw.head() + frame[:4])
    head = await wire.receive_head()
    assert head is not None
    assert head.path == "/"
    await theirs.send_all(frame[4:])
    assert await wire.receive() == [(raw.TEXT, "sent at once")]


async def test_a_bad_head_is_refused() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"\0")
    with pytest.raises(Refusal):
        await Wire(ours, SETTINGS).receive_head()


async def test_the_end_of_the_peer_is_the_end() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, SETTINGS)
    await theirs.send_all(raw.frame(raw.PING, b"bytes"))
    assert await wire.receive() == [(raw.PING, b"bytes")]
    await theirs.send_eof()
    assert await wire.receive() == []
    assert await Wire(ours, SETTINGS).receive_head() is None


async def test_a_broken_line_is_the_end() -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours, SETTINGS)
    await trio.aclose_forcefully(ours)
    assert await wire.receive() == []
    with pytest.raises(trio.BrokenResourceError):
        await wire.send_all(b"frame")
    await theirs.aclose()


async def test_a_violation_is_the_end_of_what_comes_and_not_of_what_goes() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, SETTINGS)
    good = raw.frame(raw.TEXT, b"{}")
    await theirs.send_all(good + raw.frame(raw.TEXT, b"\xff") + good)
    assert await wire.receive() == [(raw.TEXT, "{}")]
    assert await wire.receive() == []
    assert wire.screen.violation is not None
    assert wire.screen.violation.code == CloseCode.INVALID_TEXT
    await wire.send_all(b"a reply")
    assert await theirs.receive_some() == b"a reply"


async def test_others_have_their_turn_between_frames_that_come_at_once() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, SETTINGS)
    fragments = raw.frame(raw.TEXT, b"", fin=False) + raw.frame(0, b"", fin=False) * 100 + raw.frame(0, b"")
    await theirs.send_all(fragments * 20)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        said = 0
        while said < 20:
            said += len(await wire.receive())
        nursery.cancel_scope.cancel()
    assert turns >= 20 * 102 // TURN_FRAMES


async def test_hanging_up_lets_the_peer_read_and_go_first(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, SETTINGS)
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
        await Wire(ours, SETTINGS).hang_up()
    assert trio.current_time() == 2
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"closed")


async def test_a_socket_sends_at_once_and_gives_up_on_who_has_vanished() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with (
        listener,
        await trio.open_tcp_stream(*listener.socket.getsockname()),
        await listener.accept() as ours,
    ):
        Wire(ours, SETTINGS)
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


async def test_a_socket_that_was_reset_is_no_trouble() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        theirs = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with await listener.accept() as ours:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await theirs.aclose()
            wire = Wire(ours, SETTINGS)
            assert await wire.receive_head() is None
            await wire.hang_up()


# At once


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """The two ends of a line whose kernel holds little, so that it is full soon."""
    ours, theirs = (trio.SocketStream(end) for end in trio.socket.socketpair())
    async with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield ours, theirs


async def receive(stream: trio.SocketStream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        received += await stream.receive_some()
    return received


async def test_what_the_kernel_takes_goes_out_at_once() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        assert wire.send_now(b"frame") == 5
        assert await theirs.receive_some() == b"frame"


async def test_who_sends_is_told_how_much_the_kernel_took() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        frame = b"x" * 10**6
        taken = wire.send_now(frame)
        assert 0 < taken < len(frame)
        assert wire.send_now(b"event") == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send_all, frame[taken:] + b"pong")
            assert await receive(theirs, len(frame) + 4) == frame + b"pong"
        assert wire.send_now(b"event") == 5
        assert wire.sent_bytes == len(frame) + 9


async def test_nothing_goes_out_at_once_after_half_a_frame() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send_all, b"x" * 10**6)
            await wait_all_tasks_blocked()
            await theirs.receive_some(100_000)
            nursery.cancel_scope.cancel()
        assert wire.send_now(b"event") == 0


async def test_nothing_goes_out_at_once_on_a_line_that_is_gone() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        await theirs.aclose()
        assert wire.send_now(b"event") == 0, "which is no error here"
        with pytest.raises(trio.BrokenResourceError):
            await wire.send_all(b"event")
        await wire.hang_up()
        async with sockets() as (_, others):  # one of which may have the number that ours had
            assert wire.send_now(b"event") == 0
            with trio.move_on_after(0.01):
                assert await others.receive_some() == b"nothing"


async def test_who_was_cut_off_does_not_read_from_the_socket_that_comes_next() -> None:
    settings = Settings(write_seconds=0.01)
    async with sockets() as (ours, _):
        wire = Wire(ours, settings)
        number = ours.socket.fileno()
        with pytest.raises(trio.BrokenResourceError, match="does not read"):
            await wire.send_all(b"x" * 10**6)
        async with sockets() as ends:
            (next_one,) = [end for end in ends if end.socket.fileno() == number]
            (other,) = [end for end in ends if end is not next_one]
            await other.send_all(raw.frame(raw.TEXT, b"for another"))
            assert await wire.receive() == []
            assert await next_one.receive_some() == raw.frame(raw.TEXT, b"for another")


async def test_who_is_hung_up_on_in_the_middle_of_a_frame_gets_no_more_of_it() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        taken = wire.send_now(b"x" * 10**6)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send_all, b"y" * 10**6)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await wire.hang_up()
        received = b""
        with suppress(trio.BrokenResourceError):
            while data := await theirs.receive_some():
                received += data
        assert received == b"x" * taken
