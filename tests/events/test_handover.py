"""From a replay to live delivery, and back behind when there is no room, at every step where it can happen.

Publishing waits for nothing, so it happens between two steps of the reading task and nowhere else. Each run
publishes at other steps; together they are all interleavings of a reader and of the events that arrive.
"""

import itertools
from collections.abc import Callable, Sequence

import pytest
import trio
from msgspec import Raw
from trio.testing import MockClock

from tests.events.test_dispatcher import NAME, Ends, LogInMemory
from tests.raw import seqs_of
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.follower import Follower
from trio_ws.events.log import Log
from trio_ws.events.outbox import Outbox
from trio_ws.topics import Event, Position, Topic

OURS, OTHER = Topic("account", "1"), Topic("account", "2")
ROOM_FOR_ALL, ROOM_FOR_ONE = 10_000, 1
ARRIVING = 3
MOST_STEPS = 16  # the longest replay below takes fewer; what is due at later ones comes when all is quiet


class AtSteps(trio.abc.Instrument):
    """Calls `act` before those steps of a task."""

    def __init__(self, steps: Sequence[int], act: Callable[[], None]) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.left = list(steps)
        self.taken = 0
        self.act = act

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.act_for(self.taken)
            self.taken += 1

    def act_for(self, step: int) -> None:
        while self.left[:1] == [step]:
            self.left.pop(0)
            self.act()


class Scene:
    """A log with a past, and a follower of it."""

    def __init__(self, past: int, outbox_bytes: int, *, in_memory: bool) -> None:
        self.database = LogInMemory()
        self.log = Log(self.database, memory_bytes=10**6)
        self.log.restart(Position(NAME, 0), Position(NAME, 0))
        self.dispatcher = Dispatcher(self.log)
        self.ends = Ends()
        self.follower = Follower(self.log, Outbox(outbox_bytes), self.ends)
        self.seqs: list[int] = []
        for _ in range(past):
            self.publish()
        if not in_memory:
            self.log.restart(self.log.begin, self.log.end)

    def publish(self) -> None:
        """Publish one event that is nobody's, and one of ours."""
        for topic in (OTHER, OURS):
            event = Event(self.log.end.seq + 1, "invoice.updated", (str(topic),), Raw(b"{}"), name=NAME)
            self.database.events.append(event)
            self.dispatcher.publish([event])

    async def read(self) -> None:
        while True:
            self.seqs += seqs_of(await self.follower.take())
            await trio.lowlevel.checkpoint()  # here a connection's writer sends it


def play(steps: Sequence[int], after: int, outbox_bytes: int, *, in_memory: bool) -> tuple[Scene, int]:
    """Read while an event arrives at each of those steps; return what came, and how many were in time."""
    scene = Scene(past=3, outbox_bytes=outbox_bytes, in_memory=in_memory)
    arrivals = AtSteps(steps, scene.publish)
    in_time = 0

    async def read() -> None:
        arrivals.task = trio.lowlevel.current_task()
        await scene.read()

    async def main() -> None:
        nonlocal in_time
        scene.dispatcher.subscribe([OURS], scene.follower, after)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)  # of virtual time: until nobody has anything to do any more
            in_time = len(steps) - len(arrivals.left)
            while arrivals.left:  # the others come when all is quiet, and again at the steps after that
                arrivals.act_for(arrivals.left[0])
                await trio.sleep(1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0), instruments=[arrivals])
    return scene, in_time


@pytest.mark.parametrize("outbox_bytes", [ROOM_FOR_ALL, ROOM_FOR_ONE])
@pytest.mark.parametrize("in_memory", [True, False], ids=["from memory", "from the database"])
@pytest.mark.parametrize("after", [0, 3, 6], ids=["whole replay", "half a replay", "live"])
def test_each_event_comes_once_and_in_order_whenever_it_arrives(
    outbox_bytes: int,
    in_memory: bool,  # noqa: FBT001
    after: int,
) -> None:
    latest = 0
    for steps in itertools.combinations_with_replacement(range(MOST_STEPS), ARRIVING):
        scene, in_time = play(steps, after, outbox_bytes, in_memory=in_memory)
        assert scene.seqs == [seq for seq in range(2, 2 * (3 + ARRIVING) + 1, 2) if seq > after], steps
        assert scene.ends.count == 0
        assert not scene.follower.is_behind
        if in_time == ARRIVING:
            latest = max(latest, steps[-1])
    assert latest < MOST_STEPS - 1, "there are later steps than were tried"
    assert latest > 0 or after == 6, "events arrive while it reads"
