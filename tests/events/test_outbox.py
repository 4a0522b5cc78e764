"""Replies wait for room, events never do, and what is queued is bounded in bytes."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws.events.outbox import Outbox


async def test_frames_leave_in_the_order_in_which_they_came() -> None:
    outbox = Outbox(100)
    outbox.push(b"event 1")
    await outbox.reply(b"reply")
    outbox.push(b"event 2")
    assert [await outbox.take() for _ in range(3)] == [b"event 1", b"reply", b"event 2"]


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
    await outbox.take()
    with trio.fail_after(1):
        await outbox.reply(b"z" * 60)


async def test_even_empty_frames_are_bounded() -> None:
    outbox = Outbox(160)
    assert [outbox.push(b"") for _ in range(1000)].count(True) == 10


async def test_a_reply_is_queued_at_once_and_waits_for_room_after(
    autojump_clock: MockClock,
) -> None:
    outbox = Outbox(100)
    outbox.push(b"x" * 100)
    replied = trio.Event()

    async def reply() -> None:
        await outbox.reply(b"reply")
        replied.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply)
        await wait_all_tasks_blocked()
        assert not replied.is_set()
        assert outbox.waiting_bytes == 105
        await outbox.take()
        with trio.fail_after(1):
            await replied.wait()
    assert await outbox.take() == b"reply"
    assert outbox.waiting_bytes == 0


async def test_a_reply_that_the_writer_waits_for_is_counted_before_it_is_taken() -> None:
    outbox = Outbox(100)
    counted: list[int] = []

    async def take() -> None:
        await outbox.take()
        counted.append(outbox.waiting_bytes)

    for _ in range(20):  # trio throws a coin for which of the two goes on first
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            await outbox.reply(b"reply")
    assert counted == [0] * 20


async def test_a_long_reply_waits_until_enough_was_taken(autojump_clock: MockClock) -> None:
    outbox = Outbox(100)
    for _ in range(4):
        outbox.push(b"x" * 25)
    left: list[int] = []

    async def reply() -> None:
        await outbox.reply(b"y" * 70)
        left.append(outbox.waiting_bytes)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply)
        for _ in range(4):
            await wait_all_tasks_blocked()
            await outbox.take()
    assert left == [95]


async def test_a_reply_that_waits_is_let_go_when_the_writer_goes(autojump_clock: MockClock) -> None:
    outbox = Outbox(100)
    outbox.push(b"x" * 100)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.reply, b"reply")
            await wait_all_tasks_blocked()
            outbox.abandon()
    with pytest.raises(trio.BrokenResourceError):
        await outbox.reply(b"the next one")


async def test_an_event_for_a_writer_that_has_gone_is_nobodys() -> None:
    outbox = Outbox(100)
    outbox.abandon()
    assert outbox.push(b"event")
    assert outbox.waiting_bytes == 0


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
