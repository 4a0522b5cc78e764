"""The wire lets only whole frames in and out, knows when half a frame is out, and hangs up gently."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from trio.testing import (
    MockClock,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from tests import raw
from trio_ws.errors import CloseCode
from trio_ws.settings import Settings
from trio_ws.wire.frames import TURN_FRAMES, encode_frame
from trio_ws.wire.head import Refusal
from trio_ws.wire.stream import PROGRESS_BYTES, Wire

SETTINGS = Settings(write_seconds=15)


async def test_a_cancelled_send_tears_the_wire(autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours, SETTINGS)
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
    wire = Wire(ours, SETTINGS)
    await wire.send_all(b"frame")
    assert not wire.torn
    assert await theirs.receive_some() == b"frame"


async def test_sends_of_two_tasks_do_not_mix(autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours, SETTINGS)
    frames = [bytes([number]) * 3 * PROGRESS_BYTES for number in range(3)]
    async with trio.open_nursery() as nursery:
        for frame in frames:
            nursery.start_soon(wire.send_all, frame)
        received = b""
        while len(received) < 9 * PROGRESS_BYTES:
            received += bytes(await theirs.receive_some())
    assert (
        sorted(received[at : at + 3 * PROGRESS_BYTES] for at in (0, 3 * PROGRESS_BYTES, 6 * PROGRESS_BYTES))
        == frames
    )


async def test_a_peer_that_does_not_read_is_cut_off_in_time(autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()
    wire = Wire(ours, SETTINGS)
    with pytest.raises(trio.BrokenResourceError, match="does not read"):
        await wire.send_all(b"x")
    assert trio.current_time() == 15
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
    assert not wire.torn


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


async def test_nothing_follows_our_close() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, SETTINGS)
    await wire.close(b"\x03\xe9bye")
    with pytest.raises(trio.BrokenResourceError):
        await wire.send_all(b"a pong")
    await wire.close(b"\x03\xe8")
    assert await theirs.receive_some() == b"\x88\x05\x03\xe9bye"


async def test_hanging_up_lets_the_peer_close_first_and_go_first(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours, SETTINGS)
    await wire.close(b"\x03\xe9")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.hang_up)
        await theirs.receive_some()
        await theirs.send_all(raw.frame(raw.TEXT, b"sent before the close came"))
        with trio.move_on_after(1) as waiting:
            await theirs.receive_some()
        assert waiting.cancelled_caught, "no end before its close"
        await theirs.send_all(raw.frame(raw.CLOSE, b"\x03\xe9"))
        assert await theirs.receive_some() == b""
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1, "it reads on until the peer hangs up too"
        await theirs.send_all(b"more")
        await theirs.send_eof()


async def test_hanging_up_without_a_close_waits_for_none(autojump_clock: MockClock) -> None:
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
        assert not wire.is_sending
        assert await theirs.receive_some() == b"frame"


async def test_the_rest_of_a_frame_goes_out_before_anything_else() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        frame = b"x" * 10**6
        taken = wire.send_now(frame)
        assert 0 < taken < len(frame)
        assert wire.is_sending
        assert wire.send_now(b"event") == 0, "it has to wait its turn"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send_all, b"pong")
            assert await receive(theirs, len(frame) + 4) == frame + b"pong"
        assert not wire.is_sending
        assert wire.send_now(b"event") == 5


async def test_nothing_goes_out_at_once_while_something_is_on_its_way() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send_all, b"x" * 10**6)
            await wait_all_tasks_blocked()
            await theirs.receive_some(100_000)
            assert wire.send_now(b"event") == 0
            nursery.cancel_scope.cancel()
        assert wire.torn
        assert wire.send_now(b"event") == 0, "nor after half a frame"


async def test_nothing_goes_out_at_once_after_our_close_or_on_a_line_that_is_gone() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        await wire.close(b"\x03\xe9")
        assert wire.send_now(b"event") == 0
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


async def test_nothing_overtakes_at_once_what_waits_for_its_turn() -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        frame = b"x" * 10**6
        wire.send_now(frame)

        async def send_pong() -> None:
            await wire.send_all(b"pong")
            assert wire.send_now(b"second event") == 0, "the first has its turn, and did not come to it yet"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_pong)
            await wait_all_tasks_blocked()
            nursery.start_soon(wire.send_all, b"first event")
            await wait_all_tasks_blocked()
            assert await receive(theirs, len(frame) + 15) == frame + b"pongfirst event"
        assert wire.send_now(b"third event") == 11


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


async def test_who_is_hung_up_on_in_the_middle_of_a_frame_gets_no_more_of_it(
    autojump_clock: MockClock,
) -> None:
    async with sockets() as (ours, theirs):
        wire = Wire(ours, SETTINGS)
        taken = wire.send_now(b"x" * 10**6)
        await wire.hang_up()
        received = b""
        with suppress(trio.BrokenResourceError):
            while data := await theirs.receive_some():
                received += data
        assert received == b"x" * taken


@given(st.data())
@hypothesis_settings(deadline=None, max_examples=50)
def test_frames_stay_whole_and_in_order_however_they_are_sent(data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.tuples(st.sampled_from(["now", "all", "read"]), sizes), max_size=30))

    async def play() -> None:
        sent: dict[str, list[bytes]] = {"now": [], "all": []}
        received = b""
        async with sockets() as (ours, theirs), trio.open_nursery() as nursery:
            wire = Wire(ours, SETTINGS)
            for number, (step, size) in enumerate(steps):
                frame = encode_frame(raw.TEXT, b"%05d %s " % (number, step.encode()) + b"x" * size)
                if step == "all":
                    sent["all"].append(frame)
                    nursery.start_soon(wire.send_all, frame)
                elif step == "now":
                    if wire.send_now(frame):
                        sent["now"].append(frame)
                else:
                    with trio.move_on_after(0.001):
                        received += await theirs.receive_some(size + 1)
            nursery.start_soon(wire.send_all, b"")
            await wait_all_tasks_blocked()
            whole = sum(map(len, sent["now"] + sent["all"]))
            received += await receive(theirs, whole - len(received)) if whole > len(received) else b""
        assert len(received) == whole
        payloads = raw.payloads(received)
        for step, frames in sent.items():
            of_step = [payload for payload in payloads if payload[6:9] == step.encode()]
            expected = [raw.payloads(frame)[0] for frame in frames]
            assert (of_step if step == "now" else sorted(of_step)) == expected

    trio.run(play)


sizes = st.one_of(st.integers(0, 100), st.integers(0, 200_000))
