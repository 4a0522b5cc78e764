"""A follower that is behind: what it reads on from, and what may come in between while a page is read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.events.test_dispatcher import price, read_all
from tests.events.test_handover import OURS, ROOM_FOR_ALL, ROOM_FOR_ONE, Scene
from trio_ws.events.follower import RETRY_SECONDS
from trio_ws.topics import Topic

PRICES = Topic("price", "*")


@asynccontextmanager
async def reading(scene: Scene) -> AsyncIterator[None]:
    """Have it take what comes, until the block ends and nobody has anything to do."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.read)
        await wait_all_tasks_blocked()
        yield
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_replay_from_further_back_begins_there_also_while_a_page_is_being_read() -> None:
    scene = Scene(past=3, outbox_bytes=ROOM_FOR_ALL, in_memory=False)
    gate = scene.database.gate = trio.Event()
    scene.dispatcher.subscribe([OURS], scene.follower, 4)
    async with reading(scene):
        scene.dispatcher.subscribe([OURS], scene.follower, 0)
        gate.set()
    assert scene.seqs == [2, 4, 6]


async def test_a_log_that_cannot_be_read_is_asked_for_again_in_a_while_and_nothing_is_passed_over(
    autojump_clock: MockClock,
) -> None:
    scene = Scene(past=3, outbox_bytes=ROOM_FOR_ALL, in_memory=False)
    scene.database.away = True
    scene.dispatcher.subscribe([OURS], scene.follower, 0)
    await read_for_some_steps(scene)
    assert scene.database.asked == 1
    async with reading(scene):
        scene.publish()
        await trio.sleep(60)
        assert scene.follower.is_behind
        assert scene.seqs == []
        scene.database.away = False
        await trio.sleep(RETRY_SECONDS)
        scene.publish()
    assert scene.seqs == [2, 4, 6, 8, 10]
    assert scene.ends.count == 0


async def test_who_had_fallen_behind_and_asks_for_a_replay_gets_all_prices(
    autojump_clock: MockClock,
) -> None:
    scene = Scene(past=0, outbox_bytes=ROOM_FOR_ONE, in_memory=True)
    scene.dispatcher.subscribe([PRICES], scene.follower, 0)
    for _ in range(4):
        price(scene.database, scene.dispatcher, 1, "price:BTC", "price:*")
    assert scene.follower.is_behind
    scene.dispatcher.subscribe([PRICES], scene.follower, 0)
    assert await read_all(scene.follower) == [1, 1, 2, 3, 4], "what was queued, and then all"


async def test_who_falls_behind_again_after_a_replay_gets_each_prices_latest_state(
    autojump_clock: MockClock,
) -> None:
    scene = Scene(past=0, outbox_bytes=ROOM_FOR_ONE, in_memory=True)
    for _ in range(3):
        price(scene.database, scene.dispatcher, 1, "price:BTC", "price:*")
    scene.dispatcher.subscribe([PRICES], scene.follower, 0)
    assert await read_all(scene.follower) == [1, 2, 3]
    for _ in range(4):
        price(scene.database, scene.dispatcher, 1, "price:BTC", "price:*")
    assert await read_all(scene.follower) == [4, 7]


async def test_who_missed_what_was_trimmed_ends_and_reads_no_more() -> None:
    scene = Scene(past=3, outbox_bytes=ROOM_FOR_ALL, in_memory=False)
    scene.dispatcher.subscribe([OURS], scene.follower, 0)
    scene.database.trimmed = 1
    await read_for_some_steps(scene)
    assert scene.ends.count == 1
    assert scene.database.asked == 1


async def read_for_some_steps(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.read)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
