"""Seeds play well, each the same each time; and a server that is broken on purpose is found out."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from trio_ws.actions import topics
from trio_ws.connection import Connection
from trio_ws.database import queries
from trio_ws.events import follower as follower_module
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.follower import Follower
from trio_ws.events.log import Log
from trio_ws.events.outbox import Outbox
from trio_ws.events.tail import Tail
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.testing.simulation import Scenario, imagine, play
from trio_ws.testing.simulation.timeline import Entry

SEEDS = 200  # within which each mutation must be found


def small(seed: int) -> Scenario:
    """An hour of a few clients, a fifth of a second."""
    return imagine(seed, hours=0.5, clients=20)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_breaks_each_client_is_told_all_that_it_must_be(seed: int) -> None:
    outcome = play(small(seed))
    assert outcome.violation is None
    assert outcome.events > 0


def test_without_faults_nobody_is_told_of_a_gap() -> None:
    outcome = play(imagine(1, hours=0.5, faults=(), clients=20))
    assert (outcome.violation, outcome.gaps) == (None, 0)


def test_two_runs_of_a_seed_are_the_same_to_the_byte_also_in_processes_of_their_own(checkout: Path) -> None:
    def trace_of(seed: int, hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "trio_ws", "simulate", "--seed", str(seed), "--hours", "0.3"]
        return subprocess.run(
            [*command, "--trace"],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            cwd=checkout,
        ).stdout.rpartition(b"1 seeds")[0]

    first = trace_of(3, "1")
    assert first.count(b"\n") > 100
    assert trace_of(3, "2") == first
    assert trace_of(4, "1") != first

    entries: list[Entry] = []
    scenario = imagine(3, hours=0.3)
    for _ in range(2):
        entries.clear()
        play(scenario, lambda *entry: entries.append(Entry(*entry)))
        assert "".join(f"{entry}\n" for entry in entries).encode() == first


# Broken on purpose


def lose_a_wake_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tail, "wake", lambda self, upto=0.0: None)


def number_out_of_order(patch: pytest.MonkeyPatch) -> None:
    def number_events(self: SimulatedDatabase, most: int) -> None:
        waiting = self._events[self._numbered :]
        self._events[self._numbered :] = [
            msgspec.structs.replace(event, seq=self._numbered + place)
            for place, event in enumerate(reversed(waiting), start=1)
        ]
        right(self, most)

    right: Callable[..., None] = SimulatedDatabase.answers[queries.number_events]
    patch.setitem(SimulatedDatabase.answers, queries.number_events, number_events)


def deliver_before_the_reply(patch: pytest.MonkeyPatch) -> None:
    async def reply(self: Connection, replies: list[bytes]) -> None:
        await trio.sleep(0.1)
        await right(self, replies)

    right = Connection._reply  # noqa: SLF001
    patch.setattr(Connection, "_reply", reply)


def forget_an_unsubscribe(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "unsubscribe", lambda self, topic, follower: None)


def leave_the_dead_subscribed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "unsubscribe_all", lambda self, follower: 0)


def let_an_outbox_grow(patch: pytest.MonkeyPatch) -> None:
    right = Outbox.__init__
    patch.setattr(Outbox, "__init__", lambda self, limit_bytes, *more: right(self, 10**9, *more))


def skip_the_epoch_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Log, "reaches_back_to", lambda self, position: self.first - 1 <= position.seq <= self.end.seq
    )


def skip_the_check_of_what_was_trimmed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Log, "reaches_back_to", lambda self, position: (position.epoch, 0) <= (self.end.epoch, position.seq)
    )


def resume_one_too_late(patch: pytest.MonkeyPatch) -> None:
    right = Follower.follow
    patch.setattr(Follower, "follow", lambda self, topics, after: right(self, topics, after + 1))


def forget_what_came_while_reading(patch: pytest.MonkeyPatch) -> None:
    async def read_on(self: Follower, cursor: int) -> bytes:
        frames = await right(self, cursor)
        if not self._ahead:
            self._cursor = None
        return frames

    right = Follower._read_on  # noqa: SLF001
    patch.setattr(Follower, "_read_on", read_on)


def tell_twice(patch: pytest.MonkeyPatch) -> None:
    right = Follower._read_from  # noqa: SLF001
    patch.setattr(Follower, "_read_from", lambda self, cursor: right(self, cursor - 1))


def do_not_stop(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Connection, "end", lambda self, code, reason="", *, seconds=0.0: None)


def never_look_again_after_an_outage(patch: pytest.MonkeyPatch) -> None:
    async def catch_up(self: Tail) -> bool:
        try:
            return await right(self)
        except Exception:
            await trio.sleep_forever()
            raise

    right = Tail._catch_up  # noqa: SLF001
    patch.setattr(Tail, "_catch_up", catch_up)


def drop_prices_that_nothing_replaces(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        follower_module, "_folded", lambda events: [one for one in events if one.type != "price.updated"]
    )


def say_that_nothing_was_missed(patch: pytest.MonkeyPatch) -> None:
    right = topics._follow_now  # noqa: SLF001

    def follow_now(*args: Any, **more: Any) -> Any:
        followed = right(*args, **more)
        followed.recovered = True
        return followed

    patch.setattr(topics, "_follow_now", follow_now)


MUTATIONS = [
    lose_a_wake_up,
    number_out_of_order,
    deliver_before_the_reply,
    forget_an_unsubscribe,
    leave_the_dead_subscribed,
    let_an_outbox_grow,
    skip_the_epoch_check,
    skip_the_check_of_what_was_trimmed,
    resume_one_too_late,
    forget_what_came_while_reading,
    tell_twice,
    do_not_stop,
    never_look_again_after_an_outage,
    drop_prices_that_nothing_replaces,
    say_that_nothing_was_missed,
]


@pytest.mark.logs_errors
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_server_that_is_broken_on_purpose_is_found_out(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    assert any(play(small(seed)).violation is not None for seed in range(SEEDS))
