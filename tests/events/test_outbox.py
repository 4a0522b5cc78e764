"""What can go out at once does, the rest waits in order; replies have room, events are bounded in bytes."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws.events.outbox import TOGETHER_BYTES, Outbox


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
    outbox.close()
    with pytest.raises(trio.EndOfChannel):
        await outbox.take()


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


@pytest.mark.parametrize("end", [Outbox.abandon, Outbox.close])
async def test_an_event_for_a_writer_that_has_gone_or_is_about_to_is_nobodys(
    end: Callable[[Outbox], None],
) -> None:
    kernel = Kernel(100)
    outbox = Outbox(100, kernel.send)
    end(outbox)
    assert outbox.push(b"event")
    assert outbox.waiting_bytes == 0
    assert kernel.sent == b""


async def test_it_knows_whether_there_is_something_to_take() -> None:
    outbox = Outbox(100)
    assert not outbox.has_news()
    outbox.push(b"event")
    assert outbox.has_news()
    await outbox.take()
    assert not outbox.has_news()
    outbox.close()
    assert outbox.has_news(), "the end is news too"


async def test_what_was_queued_before_the_end_is_still_taken() -> None:
    outbox = Outbox(100)
    outbox.push(b"last")
    outbox.close()
    outbox.push(b"too late")
    assert await outbox.take() == b"last"
    with pytest.raises(trio.EndOfChannel):
        await outbox.take()


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


async def test_what_can_go_out_at_once_wakes_nobody() -> None:
    kernel = Kernel(12)
    outbox = Outbox(100, kernel.send)
    assert outbox.push(b"event;")
    outbox.put(b"reply;")
    assert kernel.sent == b"event;reply;"
    assert not outbox.has_news()
    assert outbox.waiting_bytes == 0
    assert outbox.messages == 2


async def test_where_there_is_no_room_it_waits_and_all_that_follows_waits_behind_it() -> None:
    kernel = Kernel(0)
    outbox = Outbox(100, kernel.send)
    assert outbox.push(b"first;")
    kernel.room = 100
    assert outbox.push(b"second;")
    assert kernel.sent == b""
    assert await outbox.take() == b"first;second;"
    assert outbox.push(b"third;")
    assert kernel.sent == b"third;"


async def test_the_writer_is_woken_for_the_rest_of_what_went_out_in_part() -> None:
    kernel = Kernel(3)
    outbox = Outbox(100, kernel.send)
    assert outbox.push(b"event")
    assert kernel.sent == b"eve"
    assert outbox.has_news()
    assert await outbox.take() == b"", "the wire has the rest"


async def test_from_when_it_ends_on_all_waits_for_the_writer() -> None:
    kernel = Kernel(100)
    outbox = Outbox(100, kernel.send)
    outbox.hold()
    assert outbox.push(b"event")
    assert kernel.sent == b""
    assert await outbox.take() == b"event"
