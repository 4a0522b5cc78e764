"""What can go out at once does, the rest waits in order; replies have room, events are bounded in bytes."""

import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests import raw
from trio_ws.events.outbox import CLEAR, CLOSED, DEAD, TOGETHER_BYTES, WAITING, Outbox, State
from trio_ws.settings import Settings
from trio_ws.wire.frames import encode_frame
from trio_ws.wire.stream import Wire

BYE = raw.frame(raw.CLOSE, b"\x03\xe9", masked=False)


async def test_frames_leave_in_the_order_in_which_they_came_and_together() -> None:
    outbox = Outbox(100)
    outbox.push(b"event 1;")
    outbox.put(b"reply;")
    outbox.push(b"event 2;")
    assert await outbox.take() == b"event 1;reply;event 2;"
    assert outbox.waiting_bytes == 0


async def test_no_more_leaves_together_than_it_may_forget_to_count() -> None:
    outbox = Outbox(10**6)
    for _ in range(100):
        outbox.push(b"x" * 1000)
    taken = len(await outbox.take())
    assert TOGETHER_BYTES <= taken < TOGETHER_BYTES + 1000
    assert outbox.waiting_bytes == 100_000 - taken


async def test_an_event_without_room_is_not_queued() -> None:
    outbox = Outbox(100)
    assert outbox.push(b"x" * 60)
    assert not outbox.push(b"y" * 60)
    assert outbox.waiting_bytes == 60
    assert await outbox.take() == b"x" * 60


@pytest.mark.parametrize("limit_bytes", [1, 100])
async def test_one_event_always_finds_room(limit_bytes: int) -> None:
    outbox = Outbox(limit_bytes)
    assert outbox.push(b"x" * 1000)
    assert not outbox.push(b"y")


async def test_what_fills_it_to_the_last_byte_has_room(autojump_clock: MockClock) -> None:
    outbox = Outbox(100)
    assert outbox.push(b"x" * 60)
    assert outbox.push(b"y" * 40)
    assert not outbox.push(b"z")
    with trio.fail_after(1):
        await outbox.room()


async def test_a_reply_is_queued_at_once_and_the_next_one_waits_for_room(autojump_clock: MockClock) -> None:
    outbox = Outbox(100)
    outbox.push(b"x" * 100)
    outbox.put(b"reply")
    assert outbox.waiting_bytes == 105
    has_room = trio.Event()

    async def wait_for_room() -> None:
        await outbox.room()
        has_room.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_room)
        await wait_all_tasks_blocked()
        assert not has_room.is_set()
        assert await outbox.take() == b"x" * 100 + b"reply"
        with trio.fail_after(1):
            await has_room.wait()
    assert outbox.waiting_bytes == 0


async def test_what_the_writer_waits_for_is_counted_before_it_is_taken() -> None:
    outbox = Outbox(100)
    counted: list[int] = []

    async def take() -> None:
        await outbox.take()
        counted.append(outbox.waiting_bytes)

    for _ in range(20):  # trio throws a coin for which of the two goes on first
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            outbox.put(b"reply")
    assert counted == [0] * 20


async def test_who_waits_for_room_is_let_go_when_the_writer_goes(autojump_clock: MockClock) -> None:
    outbox = Outbox(100)
    outbox.put(b"x" * 101)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.room)
            await wait_all_tasks_blocked()
            outbox.abandon()
    with pytest.raises(trio.BrokenResourceError):
        outbox.put(b"the next one")


@pytest.mark.parametrize("end", [Outbox.abandon, lambda outbox: outbox.close(None)])
async def test_an_event_for_a_writer_that_has_gone_or_is_about_to_is_nobodys(
    end: Callable[[Outbox], None],
) -> None:
    kernel = Kernel(100)
    outbox = clear(kernel)
    end(outbox)
    assert outbox.push(b"event")
    outbox.control(raw.PING, encode_frame(raw.PING, b""))
    with pytest.raises(trio.BrokenResourceError):
        outbox.put(b"reply")
    assert (outbox.waiting_bytes, outbox.messages) == (0, 0)
    assert kernel.sent == b""


async def test_it_knows_whether_there_is_something_to_take() -> None:
    outbox = Outbox(100)
    assert not outbox.has_news()
    outbox.push(b"event")
    assert outbox.has_news()
    await outbox.take()
    assert not outbox.has_news()
    outbox.control(raw.PING, encode_frame(raw.PING, b""))
    assert outbox.has_news()
    await outbox.take()
    outbox.close(None)
    assert outbox.has_news(), "the end is news too"


async def test_its_writer_can_be_woken_for_nothing() -> None:
    outbox = Outbox(100)
    outbox.wake()
    assert await outbox.take() == b""
    outbox.abandon()
    outbox.wake()


# At once


class Kernel:
    """Takes as much as it has room for, as a wire does."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent = b""

    def send(self, frames: bytes) -> int:
        taken = min(self.room, len(frames))
        self.sent += frames[:taken]
        self.room -= taken
        return taken


def clear(kernel: Kernel, limit_bytes: int = 100) -> Outbox:
    """An outbox whose writer has just begun."""
    outbox = Outbox(limit_bytes, kernel.send)
    outbox.written()
    return outbox


async def test_what_can_go_out_at_once_wakes_nobody() -> None:
    kernel = Kernel(12)
    outbox = clear(kernel)
    assert outbox.push(b"event;")
    outbox.put(b"reply;")
    assert kernel.sent == b"event;reply;"
    assert not outbox.has_news()
    assert outbox.state is CLEAR
    assert outbox.messages == 2


async def test_nothing_goes_out_at_once_before_its_writer_has_begun() -> None:
    kernel = Kernel(100)
    outbox = Outbox(100, kernel.send)
    outbox.put(b"early;")
    outbox.close(encode_frame(raw.CLOSE, b"\x03\xe9"))
    assert kernel.sent == b"", "the handshake's answer may be half out"
    outbox.written()
    assert await outbox.take() == BYE


async def test_where_there_is_no_room_it_waits_and_all_that_follows_waits_behind_it() -> None:
    kernel = Kernel(0)
    outbox = clear(kernel)
    assert outbox.push(b"first;")
    kernel.room = 100
    assert outbox.push(b"second;")
    assert kernel.sent == b""
    assert await outbox.take() == b"first;second;"
    assert outbox.push(b"third;")
    assert kernel.sent == b"", "those before are on their way"
    outbox.written()
    assert await outbox.take() == b"third;"
    outbox.written()
    assert outbox.push(b"fourth;")
    assert kernel.sent == b"fourth;"


async def test_the_rest_of_a_frame_goes_before_all_others() -> None:
    kernel = Kernel(3)
    outbox = clear(kernel)
    assert outbox.push(b"event;")
    assert kernel.sent == b"eve"
    outbox.put(b"reply;")
    outbox.control(raw.PING, encode_frame(raw.PING, b""))
    assert await outbox.take() == b"nt;" + PING + b"reply;"


async def test_once_the_rest_of_a_frame_is_taken_nothing_waits() -> None:
    outbox = clear(Kernel(3))
    assert outbox.push(b"event;")
    outbox.put(b"reply;")
    assert await outbox.take() == b"nt;reply;"
    outbox.written()
    assert outbox.waiting_bytes == 0


PING, PONG = (raw.frame(opcode, b"", masked=False) for opcode in (raw.PING, raw.PONG))


async def test_pings_and_pongs_go_before_all_that_waits() -> None:
    kernel = Kernel(4)
    outbox = clear(kernel)
    outbox.control(raw.PONG, encode_frame(raw.PONG, b""))
    assert kernel.sent == PONG
    outbox.put(b"reply;")
    outbox.push(b"event;")
    outbox.control(raw.PONG, encode_frame(raw.PONG, b""))
    assert await outbox.take() == b"ply;" + PONG + b"event;"
    outbox.written()
    outbox.control(raw.PING, encode_frame(raw.PING, b""))
    assert await outbox.take() == PING, "and alone"


async def test_of_pings_that_nobody_reads_the_answers_to_the_newest_is_answered() -> None:
    outbox = clear(Kernel(0))
    for number in range(1000):
        outbox.control(raw.PONG, encode_frame(raw.PONG, b"%d" % number))
    outbox.control(raw.PING, encode_frame(raw.PING, b"ours"))
    assert await outbox.take() == b"".join(
        raw.frame(opcode, payload, masked=False)
        for opcode, payload in ((raw.PONG, b"999"), (raw.PING, b"ours"))
    )
    outbox.written()
    while outbox.has_news():
        assert await outbox.take() == b""


# Ends


@pytest.mark.parametrize("room", [0, 2, 4, 100])
async def test_a_close_frame_goes_behind_what_is_half_out_and_nothing_behind_it(room: int) -> None:
    kernel = Kernel(room)
    outbox = clear(kernel)
    outbox.put(b"reply;")
    outbox.push(b"event;")
    outbox.control(raw.PING, encode_frame(raw.PING, b""))
    expected = kernel.sent + b"reply;"[room:] if 0 < room < 6 else kernel.sent
    outbox.close(encode_frame(raw.CLOSE, b"\x03\xe9"))
    outbox.close(encode_frame(raw.CLOSE, b"\x03\xe8"))
    outbox.push(b"event;")
    outbox.control(raw.PONG, encode_frame(raw.PONG, b""))
    written = b""
    with suppress(trio.EndOfChannel):
        while True:
            written += await outbox.take()
            outbox.written()
    assert outbox.state is CLOSED
    assert outbox.waiting_bytes == 0
    assert kernel.sent + written == expected + BYE


async def test_a_close_frame_goes_out_at_once_where_nothing_waits() -> None:
    kernel = Kernel(100)
    outbox = clear(kernel)
    outbox.close(encode_frame(raw.CLOSE, b"\x03\xe9"))
    assert kernel.sent == BYE
    assert await outbox.take() == b""
    with pytest.raises(trio.EndOfChannel):
        await outbox.take()


async def test_what_was_being_handed_to_the_writer_as_it_closed_is_dropped_too() -> None:
    outbox = clear(Kernel(0))
    taken: list[bytes] = []

    async def take() -> None:
        taken.append(await outbox.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        outbox.push(b"event")
        outbox.close(encode_frame(raw.CLOSE, b"\x03\xe9"))
    assert taken == [BYE]
    assert outbox.waiting_bytes == 0


@pytest.mark.parametrize("state", [WAITING, CLOSED])
async def test_that_all_is_out_or_the_writer_gone_can_be_waited_for(
    state: State, autojump_clock: MockClock
) -> None:
    outbox = clear(Kernel(0))
    outbox.put(b"reply")
    if state is CLOSED:
        outbox.close(encode_frame(raw.CLOSE, b""))
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.past, state)
            await wait_all_tasks_blocked()
            await outbox.take()
            await wait_all_tasks_blocked()
            assert nursery.child_tasks, "it is only on its way"
            outbox.written()
            if state is CLOSED:
                await wait_all_tasks_blocked()
                assert nursery.child_tasks
                outbox.abandon()
    assert outbox.state is (DEAD if state is CLOSED else CLEAR)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_frames_stay_whole_and_in_order_whatever_comes_and_however_it_is_read(data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.tuples(st.sampled_from(["event", "reply", "ping", "read"]), sizes)))
    how_it_ends = data.draw(st.sampled_from(["at once", "when all is out"]))

    async def play() -> None:
        ours, theirs = (trio.SocketStream(end) for end in trio.socket.socketpair())
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        wire = Wire(ours, Settings())
        outbox = Outbox(100_000, wire.send_now)
        put: list[tuple[int, bytes]] = []
        client = raw.RawClient(theirs)

        async def write() -> None:
            with suppress(trio.EndOfChannel):
                while True:
                    outbox.written()
                    await wire.send_all(await outbox.take())
            await ours.aclose()

        async with ours, theirs, trio.open_nursery() as nursery:
            nursery.start_soon(write)
            received = b""
            for number, (step, size) in enumerate(steps):
                payload = b"%05d %s " % (number, step.encode()) + b"x" * (0 if step == "ping" else size)
                if step == "read":
                    with trio.move_on_after(0.001):
                        received += await theirs.receive_some(size + 1)
                elif step == "ping":
                    outbox.control(raw.PING, encode_frame(raw.PING, payload))
                    put.append((raw.PING, payload))
                elif step == "reply":
                    outbox.put(encode_frame(raw.TEXT, payload))
                    put.append((raw.TEXT, payload))
                elif outbox.push(encode_frame(raw.TEXT, payload)):
                    put.append((raw.TEXT, payload))
            if how_it_ends == "at once":
                outbox.close(encode_frame(raw.CLOSE, b"\x03\xe9"))
            else:
                nursery.start_soon(close_when_all_is_out, outbox)
            frames = await client.receive_frames(received)
        assert frames.pop() == (raw.CLOSE, b"\x03\xe9")
        messages = [frame for frame in frames if frame[0] == raw.TEXT]
        expected = [frame for frame in put if frame[0] == raw.TEXT]
        assert messages == (expected if how_it_ends != "at once" else expected[: len(messages)])
        pings = [frame for frame in frames if frame[0] == raw.PING]
        assert pings == sorted(set(pings))
        assert set(pings) <= set(put)

    trio.run(play)


async def close_when_all_is_out(outbox: Outbox) -> None:
    await outbox.past(WAITING)
    outbox.close(encode_frame(raw.CLOSE, b"\x03\xe9"))


sizes = st.one_of(st.integers(0, 100), st.integers(0, 200_000))
