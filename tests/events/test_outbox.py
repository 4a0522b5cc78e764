"""Replies wait for room, events never do, and what is queued is bounded in bytes."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_ws.errors import CloseCode
from trio_ws.events.outbox import Outbox


class Overflows:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, code: CloseCode, reason: str) -> None:
        assert code == CloseCode.UNRESPONSIVE
        self.count += 1


def make(limit_bytes: int) -> tuple[Outbox, Overflows]:
    overflows = Overflows()
    return Outbox(limit_bytes, overflows), overflows


async def test_frames_leave_in_the_order_in_which_they_came() -> None:
    outbox, _ = make(100)
    outbox.push(b"event 1")
    await outbox.reply(b"reply")
    outbox.push(b"event 2")
    assert [await outbox.take() for _ in range(3)] == [b"event 1", b"reply", b"event 2"]


async def test_an_event_without_room_runs_over_and_is_not_queued() -> None:
    outbox, overflows = make(100)
    outbox.push(b"x" * 60)
    outbox.push(b"y" * 60)
    assert overflows.count == 1
    assert outbox.waiting_bytes == 60
    assert await outbox.take() == b"x" * 60
    outbox.close()
    with pytest.raises(trio.EndOfChannel):
        await outbox.take()


async def test_even_empty_frames_are_bounded() -> None:
    outbox, overflows = make(160)
    for _ in range(1000):
        outbox.push(b"")
    assert overflows.count == 990


async def test_a_reply_waits_for_room(autojump_clock: trio.testing.MockClock) -> None:
    outbox, overflows = make(100)
    outbox.push(b"x" * 100)
    replied = trio.Event()

    async def reply() -> None:
        await outbox.reply(b"reply")
        replied.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply)
        await wait_all_tasks_blocked()
        assert not replied.is_set()
        await outbox.take()
        await replied.wait()
    assert await outbox.take() == b"reply"
    assert outbox.waiting_bytes == overflows.count == 0


async def test_a_reply_that_waits_is_told_when_the_writer_goes() -> None:
    outbox, _ = make(100)
    outbox.push(b"x" * 100)
    with pytest.RaisesGroup(trio.BrokenResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.reply, b"reply")
            await wait_all_tasks_blocked()
            outbox.abandon()


async def test_an_event_for_a_writer_that_has_gone_is_nobodys() -> None:
    outbox, overflows = make(100)
    outbox.abandon()
    outbox.push(b"event")
    assert outbox.waiting_bytes == overflows.count == 0


async def test_what_was_queued_before_the_end_is_still_taken() -> None:
    outbox, _ = make(100)
    outbox.push(b"last")
    outbox.close()
    outbox.push(b"too late")
    assert await outbox.take() == b"last"
    with pytest.raises(trio.EndOfChannel):
        await outbox.take()
