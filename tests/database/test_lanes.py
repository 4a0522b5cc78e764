"""The places in the lanes, and those that are held for sessions that were cut."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws import metrics
from trio_ws.database.lanes import SINGLE, Cut, Lane, Lanes, Place
from trio_ws.errors import Outage

CUT = Cut(1, None, 0.0)


async def take(lanes: Lanes, lane: Lane) -> Place:
    place = lanes.place(lane)
    await place.acquire_on_behalf_of(None)
    return place


def leave(place: Place, *, cut: bool = False) -> None:
    place.cut = CUT if cut else None
    place.release_on_behalf_of(None)


async def is_full(lanes: Lanes, lane: Lane) -> bool:
    """Tell whether who comes now has to wait."""
    place = lanes.place(lane)
    is_in = trio.Event()

    async def come() -> None:
        await place.acquire_on_behalf_of(None)
        is_in.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    if is_in.is_set():
        leave(place)
    return not is_in.is_set()


@pytest.mark.parametrize("lane", SINGLE)
async def test_a_place_is_held_until_its_session_has_gone(lane: Lane) -> None:
    lanes = Lanes(2)
    place = await take(lanes, lane)
    assert await is_full(lanes, lane)
    leave(place, cut=True)
    with pytest.raises(Outage, match="stuck"):
        await take(lanes, lane)
    lanes.free([place])
    assert not await is_full(lanes, lane)


async def test_whoever_finds_another_place_need_not_care() -> None:
    lanes = Lanes(2)
    leave(await take(lanes, Lane.CLIENTS), cut=True)
    place = await take(lanes, Lane.CLIENTS)
    assert await is_full(lanes, Lane.CLIENTS)
    leave(place, cut=True)
    with pytest.raises(Outage):
        await take(lanes, Lane.CLIENTS)
    assert metrics.figures()["trio_ws_database_sessions_stuck"] == 2


async def test_a_list_takes_its_place_among_the_clients_requests_too() -> None:
    lanes = Lanes(2)
    leave(await take(lanes, Lane.LISTS), cut=True)
    with pytest.raises(Outage):
        await take(lanes, Lane.LISTS)
    leave(await take(lanes, Lane.CLIENTS), cut=True)
    with pytest.raises(Outage):
        await take(lanes, Lane.CLIENTS)
    lanes.free(list(lanes.stuck))
    assert not await is_full(lanes, Lane.LISTS)
    assert metrics.figures()["trio_ws_database_sessions_stuck"] == 0


async def test_a_list_that_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    lanes = Lanes(1)
    place = await take(lanes, Lane.CLIENTS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, lanes, Lane.LISTS)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    leave(place)
    assert not await is_full(lanes, Lane.LISTS)


async def test_how_long_a_query_waits_for_a_connection_is_measured_by_lane(autojump_clock: MockClock) -> None:
    def waited(part: str) -> float:
        name = f"trio_ws_database_pool_wait_seconds_{part}"
        return metrics.REGISTRY.get_sample_value(name, {"lane": "clients"}) or 0.0

    lanes = Lanes(1)
    count, seconds = waited("count"), waited("sum")
    place = await take(lanes, Lane.CLIENTS)
    assert (waited("count"), waited("sum")) == (count + 1, seconds)
    with trio.move_on_after(2):
        await take(lanes, Lane.CLIENTS)
    assert (waited("count"), waited("sum")) == (count + 2, seconds + 2), "in vain, too"
    leave(place)
