"""Beats, from one task, each at its time."""

from collections.abc import Callable

import trio
from trio.testing import MockClock

from trio_ws.pulse import Pulse


async def test_a_beat_comes_after_its_time_and_once(autojump_clock: MockClock) -> None:
    pulse, seen = Pulse(), Seen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        pulse.beat(20, seen.note("a"))
        await trio.sleep(50)
        assert seen.all == [(20, "a")]
        pulse.beat(20, seen.note("b"))
        await trio.sleep(50)
        assert seen.all == [(20, "a"), (70, "b")]
        nursery.cancel_scope.cancel()


async def test_beats_come_in_the_order_of_their_times_whoever_was_first(autojump_clock: MockClock) -> None:
    pulse, seen = Pulse(), Seen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        pulse.beat(20, seen.note("slow"))
        pulse.beat(20, seen.note("as slow"))
        await trio.sleep(1)
        pulse.beat(5, seen.note("quick"))  # as after a reload of the settings
        await trio.sleep(50)
        assert seen.all[0] == (6, "quick")
        assert sorted(seen.all[1:]) == [(20, "as slow"), (20, "slow")]
        nursery.cancel_scope.cancel()


async def test_a_beat_that_was_left_comes_not(autojump_clock: MockClock) -> None:
    pulse, seen = Pulse(), Seen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        beat = pulse.beat(20, seen.note("left"))
        await trio.sleep(10)
        beat.leave()
        await trio.sleep(100)
        assert seen.all == []
        nursery.cancel_scope.cancel()


async def test_what_begins_before_the_pulse_runs_comes_too(autojump_clock: MockClock) -> None:
    pulse, seen = Pulse(), Seen()
    pulse.beat(20, seen.note("early"))
    with trio.move_on_after(60):
        await trio.sleep(5)
        await pulse.run()
    assert seen.all == [(20, "early")]


class Seen:
    """What has come, and when."""

    def __init__(self) -> None:
        self.all: list[tuple[float, str]] = []

    def note(self, name: str) -> Callable[[], None]:
        return lambda: self.all.append((trio.current_time(), name))
