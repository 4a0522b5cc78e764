"""Seeds play well, each the same each time; and a server that is broken on purpose is found out."""

import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import msgspec
import pytest
import trio

from tests.requirements import SLOW
from trio_ws import server
from trio_ws.actions import topics
from trio_ws.cli.main import app
from trio_ws.cli.simulating import simulate
from trio_ws.codec import encode_event
from trio_ws.connection import Connection
from trio_ws.database import batches, event_log, queries
from trio_ws.errors import ActionError, StartupError
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.follower import Follower
from trio_ws.events.log import Log
from trio_ws.events.outbox import Outbox
from trio_ws.events.prices import Prices
from trio_ws.events.tail import Tail
from trio_ws.identity import Identity
from trio_ws.messages import CreateInvoice, Event, Subscribed, Success
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.testing.simulation import Scenario, imagine, play, shrink
from trio_ws.testing.simulation.scenario import FAULTS, Step
from trio_ws.testing.simulation.timeline import Entry, draw
from trio_ws.testing.world import World

SEEDS = 200  # within which each mutation must be found


def small(seed: int) -> Scenario:
    """An hour of a few clients, a fifth of a second."""
    return imagine(seed, hours=0.5, clients=20)


@pytest.mark.parametrize("seed", range(8))
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


def test_what_was_just_trimmed_may_still_be_told_from_memory() -> None:
    steps = (
        Step(195.068, "follow", 2, value="invoice"),
        Step(241.093, "insert", value="address"),
        Step(267.799, "create", 16, value="soon"),
        Step(1212.968, "create", 14),
        Step(1351.455, "update", value="memo"),
        Step(1363.404, "trim"),
        Step(1370.118, "hang_up", 2),
    )
    settings = {"poll_seconds": 10.0, "expiry_seconds": 10.0}
    assert play(Scenario(1, 1400.0, 20, 1, settings, 0, splits=False, steps=steps)).violation is None


def test_who_interrupts_it_gets_no_traceback_of_all_that_ran() -> None:
    def interrupt(at: float, _: str, __: str) -> None:
        if at > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # which the command line knows, and no group of it
        play(small(1), interrupt)
    assert play(small(1)).violation is None


# Broken on purpose


def lose_a_wake_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tail, "wake", lambda self, upto=0.0: None)


def number_out_of_order(patch: pytest.MonkeyPatch) -> None:
    def number_events(self: SimulatedDatabase, most: int) -> None:
        events, numbered = self._log.events, self.numbered
        waiting = events[numbered:]
        events[numbered:] = [
            msgspec.structs.replace(event, seq=numbered + place)
            for place, event in enumerate(reversed(waiting), start=1)
        ]
        right(self, most)

    right: Callable[..., None] = SimulatedDatabase.answers[event_log.number_events]
    patch.setitem(SimulatedDatabase.answers, event_log.number_events, number_events)


def deliver_before_the_reply(patch: pytest.MonkeyPatch) -> None:
    def put(self: Outbox, frames: bytes, count: int = 1) -> None:
        async def put_later() -> None:
            await trio.sleep(0.1)
            with suppress(trio.BrokenResourceError):
                right(self, frames, count)

        trio.lowlevel.spawn_system_task(put_later)

    right = Outbox.put
    patch.setattr(Outbox, "put", put)


def forget_an_unsubscribe(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "unsubscribe", lambda self, topic, follower: None)


def leave_the_dead_subscribed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "unsubscribe_all", lambda self, follower: 0)


def let_an_outbox_grow(patch: pytest.MonkeyPatch) -> None:
    right = Outbox.__init__
    patch.setattr(Outbox, "__init__", lambda self, limit_bytes, *more: right(self, 10**9, *more))


def skip_the_check_of_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Log, "remembers", lambda self, position: self.begin.seq <= position.seq <= self.end.seq)


def skip_the_check_of_what_was_trimmed(patch: pytest.MonkeyPatch) -> None:
    right = Log.remembers
    patch.setattr(
        Log, "remembers", lambda self, position: position.seq < self.begin.seq or right(self, position)
    )


def resume_one_too_late(patch: pytest.MonkeyPatch) -> None:
    right = Follower.follow
    patch.setattr(Follower, "follow", lambda self, topics, after: right(self, topics, after + 1))


def tell_twice(patch: pytest.MonkeyPatch) -> None:
    right = Follower._read_from  # noqa: SLF001
    patch.setattr(Follower, "_read_from", lambda self, cursor: right(self, cursor - 1))


def do_not_stop(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Connection, "end", lambda self, code, reason="", *, seconds=0.0: None)


def never_look_again_after_an_outage(patch: pytest.MonkeyPatch) -> None:
    async def step(self: Tail) -> float:
        try:
            return await right(self)
        except ActionError:
            return math.inf

    right = Tail._step  # noqa: SLF001
    patch.setattr(Tail, "_step", step)


def drop_prices_that_nothing_replaces(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "trio_ws.events.chunks._folded", lambda events: [one for one in events if one.type != "price.updated"]
    )


def say_that_nothing_was_missed(patch: pytest.MonkeyPatch) -> None:
    def success(*, message: str, data: Any = msgspec.UNSET) -> Success:
        if isinstance(data, Subscribed):
            data.recovered = True
        return Success(message=message, data=data)

    patch.setattr(topics, "Success", success)


def fail_where_it_stops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("trio_ws.server._Server.drain", lambda self: 1 / 0)


def expire_nothing(patch: pytest.MonkeyPatch) -> None:
    async def expire(*_: Any) -> None:
        await trio.sleep_forever()

    patch.setattr(server, "expire_invoices", expire)


def leave_out_what_was_before(patch: pytest.MonkeyPatch) -> None:
    def encode(event: Event) -> bytes:
        return encode_event(msgspec.structs.replace(event, previous=None))

    patch.setattr("trio_ws.events.chunks.encode_event", encode)


def forget_keys(patch: pytest.MonkeyPatch) -> None:
    def create(self: SimulatedDatabase, action: CreateInvoice) -> Any:
        return right(self, msgspec.structs.replace(action, idempotency_key=None))

    right: Callable[..., Any] = SimulatedDatabase.answers[queries.create_invoice]
    patch.setitem(SimulatedDatabase.answers, queries.create_invoice, create)


def make_it_another_account_s(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Identity, "account_for", lambda self, account_id: 1)


def fetch_another(patch: pytest.MonkeyPatch) -> None:
    def fetch(self: SimulatedDatabase, uid: UUID, owner: int | None) -> Any:
        return right(self, self.uids[0] if self.has_invoice(uid) else uid, owner)

    right: Callable[..., Any] = SimulatedDatabase.answers[queries.fetch_invoice]
    patch.setitem(SimulatedDatabase.answers, queries.fetch_invoice, fetch)


def find_nothing(patch: pytest.MonkeyPatch) -> None:
    def fetch(self: SimulatedDatabase, _: UUID, owner: int | None) -> Any:
        return right(self, UUID(int=0), owner)

    right: Callable[..., Any] = SimulatedDatabase.answers[queries.fetch_invoice]
    patch.setitem(SimulatedDatabase.answers, queries.fetch_invoice, fetch)


def say_that_it_was_cancelled(patch: pytest.MonkeyPatch) -> None:
    def change(self: SimulatedDatabase, uid: UUID, _: str, owner: int | None) -> Any:
        return right(self, uid, owner)

    right: Callable[..., Any] = SimulatedDatabase.answers[queries.fetch_invoice]
    patch.setitem(SimulatedDatabase.answers, queries.change_status, change)


def confuse_the_answers_of_a_batch(patch: pytest.MonkeyPatch) -> None:
    def settle(done: Any) -> None:
        right(list(zip([ticket for ticket, _ in done], [outcome for _, outcome in done][::-1], strict=True)))

    right = vars(batches)["_settle"]
    patch.setattr(batches, "_settle", settle)


def stop_without_a_word_on_when_to_come_back(patch: pytest.MonkeyPatch) -> None:
    right = Connection.end
    patch.setattr(Connection, "end", lambda self, code, reason="", **more: right(self, code, "", **more))


def keep_prices_as_they_were(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Prices, "on_event", lambda self, event: None)


def keep_prices_of_a_log_that_was_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Prices, "on_lost_log", lambda self: None)


def never_end(patch: pytest.MonkeyPatch) -> None:
    async def stop(_: World) -> None:
        await trio.sleep_forever()

    patch.setattr(World, "stop", stop)


MUTATIONS = [
    fail_where_it_stops,
    lose_a_wake_up,
    number_out_of_order,
    deliver_before_the_reply,
    forget_an_unsubscribe,
    leave_the_dead_subscribed,
    let_an_outbox_grow,
    skip_the_check_of_names,
    skip_the_check_of_what_was_trimmed,
    resume_one_too_late,
    tell_twice,
    do_not_stop,
    never_look_again_after_an_outage,
    drop_prices_that_nothing_replaces,
    say_that_nothing_was_missed,
    expire_nothing,
    leave_out_what_was_before,
    forget_keys,
    make_it_another_account_s,
    fetch_another,
    find_nothing,
    say_that_it_was_cancelled,
    confuse_the_answers_of_a_batch,
    stop_without_a_word_on_when_to_come_back,
    keep_prices_as_they_were,
    keep_prices_of_a_log_that_was_lost,
    never_end,
]


# Those that few seeds find, and one that did: it is tried first, for the others take half a minute.
LAST_FOUND_BY: dict[Callable[[pytest.MonkeyPatch], None], int] = {
    let_an_outbox_grow: 23,
    drop_prices_that_nothing_replaces: 15,
    tell_twice: 5,
    keep_prices_of_a_log_that_was_lost: 5,
    resume_one_too_late: 18,
}


# Those that take five to eight seconds each.
TAKE_LONG = {
    number_out_of_order,
    keep_prices_of_a_log_that_was_lost,
    never_look_again_after_an_outage,
    deliver_before_the_reply,
    fail_where_it_stops,
    confuse_the_answers_of_a_batch,
}


@pytest.mark.logs_errors
@pytest.mark.parametrize(
    "mutate",
    [pytest.param(one, id=one.__name__, marks=[SLOW] if one in TAKE_LONG else []) for one in MUTATIONS],
)
def test_a_server_that_is_broken_on_purpose_is_found_out(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    seeds = [LAST_FOUND_BY.get(mutate, 0), *range(SEEDS)]
    assert any(play(small(seed)).violation is not None for seed in seeds)


# Shrinking, a picture, and the shell


def test_what_fails_is_shrunk_to_the_steps_that_matter() -> None:
    scenario = imagine(1, hours=1)
    cuts = [step for step in scenario.steps if step.what == "cut"][:2]
    assert len(cuts) == 2

    def fails(shorter: Scenario) -> bool:
        return set(cuts) <= set(shorter.steps)

    shrunk = shrink(scenario, fails, most_runs=10_000)
    assert shrunk.steps == tuple(cuts)
    assert fails(shrunk)
    assert len(shrink(scenario, fails, most_runs=5).steps) > 2, "it stops in time"


def test_a_broken_server_is_found_and_shrunk_and_replayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_an_unsubscribe(monkeypatch)
    saved, plot = tmp_path / "scenario.json", tmp_path / "run.svg"
    with pytest.raises(SystemExit) as exited:
        simulate(seeds=SEEDS, hours=0.25, clients=10, save=saved, plot=plot)
    assert exited.value.code == 1
    said = capsys.readouterr().out
    assert "was not asked for" in said
    assert "unfollow" in said
    shrunk = msgspec.json.decode(saved.read_bytes(), type=Scenario)
    assert len(shrunk.steps) <= 12
    ElementTree.fromstring(plot.read_text())  # noqa: S314 - it is ours
    with pytest.raises(SystemExit):
        simulate(replay=saved)
    monkeypatch.undo()
    simulate(replay=saved)
    assert capsys.readouterr().out.endswith("each once, in order, whole and in time\n")


def test_a_picture_has_a_lane_for_each_who_acts_and_a_bar_for_each_fault() -> None:
    scenario = imagine(1, hours=0.3, clients=5)
    entries: list[Entry] = []
    outcome = play(scenario, lambda *entry: entries.append(Entry(*entry)))
    picture = draw(scenario, entries, outcome.violation)
    ElementTree.fromstring(picture)  # noqa: S314 - it is ours
    assert {f">client {number}</text>" in picture for number in range(5)} == {True}
    assert picture.count('class="fault"') == sum(step.seconds > 0 for step in scenario.steps)
    assert "all is well" in picture


@pytest.mark.parametrize("faults", [*FAULTS, "none"])
def test_faults_can_be_chosen(faults: Any, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(seeds=1, hours=0.2, clients=5, faults=[faults])
    assert capsys.readouterr().out.startswith("1 seeds, 1 client-hours")


def test_no_option_says_no_faults_and_means_all(capsys: pytest.CaptureFixture[str]) -> None:
    app(["simulate", "--help"], exit_on_error=False)
    assert "--empty-faults" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clients": "many"}, "can't read .*: Expected `int`"),
        ({"servers": 0}, "it takes a client and a server"),
        ({"steps": [{"at": 1, "what": "dance"}]}, "there is no step 'dance'"),
        ({"steps": [{"at": 1, "what": "cut", "number": 9}]}, "cut 9 is about one of 5"),
        ({"steps": [{"at": 1, "what": "kill", "number": -1}]}, "kill -1 is about one of"),
    ],
)
def test_a_file_that_is_no_scenario_is_said(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    scenario = msgspec.to_builtins(imagine(1, hours=0.1, clients=5)) | changes
    (tmp_path / "other").write_bytes(msgspec.json.encode(scenario))
    with pytest.raises(StartupError, match=said):
        simulate(replay=tmp_path / "other")
