"""A scenario, played: servers, clients, and whatever happens to them, in simulated time."""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import trio
from prometheus_client import Gauge
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws import metrics
from trio_ws.database import tokens
from trio_ws.errors import leaves
from trio_ws.identity import Scope
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.testing.ear import SimulatedEar
from trio_ws.testing.gateway import SimulatedGateway
from trio_ws.testing.simulation.actors import Actors
from trio_ws.testing.simulation.chance import seeded
from trio_ws.testing.simulation.client import Client
from trio_ws.testing.simulation.credentials import Token
from trio_ws.testing.simulation.deliveries import Deliveries
from trio_ws.testing.simulation.scenario import ACCOUNTS, Scenario
from trio_ws.testing.simulation.truth import Truth, View, Violation
from trio_ws.testing.world import World, simulated_server
from trio_ws.wire.ear import Deaf

# At the end, when all is well again: the last servers start, clients come back and catch up.
SETTLE_SECONDS = 120.0
AFTER_TROUBLE_SECONDS = 40.0  # whoever was cut off in it comes back, and catches up

ENDING_SECONDS = 60.0  # for servers that have no client: many times what they need
LEAVING_SECONDS = 5.0  # for servers to notice that all clients have gone
LOOK_SECONDS = 10.0
LOOK_AT_MEMORY_SECONDS = 1.0
LOOK_FOR_TOKENS_SECONDS = 2.0  # a server asks more often which of those that it holds have ended
SLACK_BYTES = 4000  # beyond an outbox's limit: an event, or replies, that always find room

Trace = Callable[[float, str, str], None]


class Outcome(NamedTuple):
    """What came of a run.

    Args:
        violation: What went wrong; None: nothing.
        events: How many events clients were told.
        gaps: How often a client was told that something may be missing.
    """

    violation: str | None
    events: int
    gaps: int


class Run:
    """One run; made by `play`."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario = scenario
        self.database = SimulatedDatabase(scenario.seed)
        self.database.answer_seconds = scenario.answer_seconds
        for _ in range(ACCOUNTS - 1):
            self.database.create_account()
        self.truth = Truth(self.database)
        self.gateways = [SimulatedGateway(self.database) for _ in range(scenario.servers)]
        self.worlds: list[World] = []
        self.shared_tokens: dict[tuple[int | None, tuple[Scope, ...]], Token] = {}
        self.revoked: dict[int, None] = {}  # tokens, by their number, that operators have asked to revoke
        self.troubled_until = -math.inf
        self.was_restored = False
        self._has_lost_prices = False
        self.price_losses = 0
        self.clients = [Client(self, number) for number in range(scenario.clients)]
        self.deliveries = Deliveries(self)
        self.nursery: trio.Nursery
        self._ending: trio.CancelScope
        self._trace = trace
        self._actors = Actors(self)

    @property
    def after_trouble_seconds(self) -> float:
        """How long trouble is felt that is over."""
        return AFTER_TROUBLE_SECONDS + self.worlds[0].settings.poll_seconds

    def say(self, who: str, what: str) -> None:
        """Note what happens."""
        self._trace(trio.current_time(), who, what)

    def trouble(self, seconds: float) -> None:
        """Excuse everybody for a while."""
        self.troubled_until = max(self.troubled_until, trio.current_time() + seconds)

    @property
    def are_prices_unsure(self) -> bool:
        """Return whether some were lost or deleted, and servers may not know of it yet."""
        is_calm = trio.current_time() > self.troubled_until + self.after_trouble_seconds
        self._has_lost_prices = self._has_lost_prices and not is_calm
        return self._has_lost_prices

    def lose_prices(self) -> None:
        """Note that some are there no more."""
        self.trouble(0.0)
        self._has_lost_prices = True
        self.price_losses += 1

    def lose_log(self) -> None:
        """Keep the log that is about to be lost, in part or in its order."""
        self.was_restored = True
        self.truth.keep()
        self.lose_prices()

    def move(self, database: SimulatedDatabase) -> None:
        """Have all servers and programs go on with another database, whose log counts from now on."""
        self.lose_log()
        self.database = self.truth.database = database
        for gateway in self.gateways:
            gateway.move(database)

    def check_absence(self, uid: str, account: int | None) -> None:
        """Raise unless an invoice that a client was told is not there is not, or is another account's."""
        if not self.database.has_invoice(UUID(uid)):
            return
        invoice = msgspec.json.decode(self.database.invoice(UUID(uid)), type=_Invoice)
        if account in (None, invoice.account_id):
            raise Violation(f"invoice {uid} was not found, and is there")

    def check_page(self, ids: Sequence[int], before: int, account: int | None) -> None:
        """Raise where a page of a list, the newest first, lacks an invoice that was there."""
        for uid in self.database.uids:
            row = msgspec.json.decode(self.database.invoice(uid), type=_Invoice)
            if account in (None, row.account_id) and ids[-1] < row.id < before and row.id not in ids:
                raise Violation(f"invoice {row.id} is left out of a list, from {before} to {ids[-1]}")

    def check_invoice(self, uid: str, told: bytes, view: View) -> None:
        """Raise unless a client was told what an invoice is or was."""
        invoice = msgspec.json.decode(told, type=_Invoice)
        if invoice.uid != uid:
            raise Violation(f"invoice {uid} was asked for, and {told!r} told")
        if not self.database.has_invoice(UUID(invoice.uid)):
            if not self.was_restored:
                raise Violation(f"an invoice was fetched that is not there: {told!r}")
            return
        if view.row(told) != told:
            raise Violation(f"a customer is shown {told!r}")
        now = view.row(bytes(self.database.invoice(UUID(invoice.uid))))
        if (
            msgspec.json.decode(now, type=_Invoice).version == invoice.version
            and now != told
            and not self.truth.was(told, view)
        ):
            raise Violation(f"an invoice is {now!r}, and was fetched as {told!r}")

    async def live(self) -> None:
        """Play the scenario to its end."""
        with trio.CancelScope() as self._ending:
            await self._play_and_end()
        if self._ending.cancelled_caught:
            raise Violation("a server does not end")

    async def _play_and_end(self) -> None:
        async with AsyncExitStack() as servers:
            for gateway in self.gateways:
                self.worlds.append(await servers.enter_async_context(self._server(gateway)))
            tasks = await _count_tasks()
            async with trio.open_nursery() as self.nursery:
                for client in self.clients:
                    self.nursery.start_soon(client.live)
                self.nursery.start_soon(self._watch_memory)
                self.nursery.start_soon(self.deliveries.watch)
                await self._play()
                await self._settle()
                self.nursery.cancel_scope.cancel()
            await trio.sleep(LEAVING_SECONDS)
            await self._check_what_is_left(tasks)
            self._ending.deadline = trio.current_time() + ENDING_SECONDS

    async def _check_what_is_left(self, tasks: int) -> None:
        """Raise where servers that have no client any more have anything of one.

        Args:
            tasks: How many there were before the first client.
        """
        held: dict[object, None] = {}

        def look(query: object, many: Sequence[tuple[Any, ...]]) -> float:
            if query is tokens.find_ended:
                held.update(dict.fromkeys(identity for (identities,) in many for identity in identities))
            return 0.0

        self.database.costs.append(look)
        await trio.sleep(LOOK_FOR_TOKENS_SECONDS)
        lines = [line for world in self.worlds for line in world.network.lines if not line.is_left]
        for what, left in (
            ("connections", _value(metrics.CONNECTIONS)),
            ("subscriptions", _value(metrics.SUBSCRIPTIONS)),
            ("tokens", len(held)),
            ("lines", len(lines)),
            ("tasks", await _count_tasks() - tasks),
        ):
            if left:
                raise Violation(f"{left:.0f} {what} are left, and no client")

    def _server(self, gateway: SimulatedGateway) -> AbstractAsyncContextManager[World]:
        ear = SimulatedEar if self.scenario.has_ear else Deaf
        return simulated_server(gateway, self.deliveries, ear=ear, **self.scenario.settings)

    async def _play(self) -> None:
        for world in self.worlds:
            world.network.room_bytes = self.scenario.room_bytes
            world.network.split = Random(self.scenario.seed) if self.scenario.splits else None
        async with trio.open_nursery() as steps:
            for step in self.scenario.steps:
                await trio.sleep_until(step.at)
                self.say("", str(step))
                own = Random(f"{self.scenario.seed} {step}")  # whatever other steps there are
                steps.start_soon(getattr(self._actors, step.what), step, own)
            await trio.sleep_until(self.scenario.seconds)

    async def _watch_memory(self) -> None:
        """See that no more waits for a client than may: of the server that started last."""
        most = self.worlds[0].settings.outbox_bytes + SLACK_BYTES
        while True:
            await trio.sleep(LOOK_AT_MEMORY_SECONDS)
            if (waiting := _value(metrics.OUTBOX_MOST)) > most:
                raise Violation(f"{waiting:.0f} bytes wait for a client")

    async def _settle(self) -> None:
        """Wait until all is well again, and look whether it is."""
        self.say("", "settles")
        for client in self.clients:
            client.paused_until = 0.0
        self.deliveries.get_well()
        await trio.sleep(SETTLE_SECONDS)
        for client in self.clients:
            client.asking.list_prices()
        self.database.webhooks.hurry()  # those of who failed for long come in an hour, perhaps
        answered = -1
        while answered < self.deliveries.answered:  # of one invoice thousands may wait, one for the other
            answered = self.deliveries.answered
            await trio.sleep(LOOK_SECONDS)
        self.deliveries.check_at_the_end()
        self.truth.check_what_is_stored()
        for client in self.clients:
            try:
                client.check_at_the_end()
            except Violation as violation:
                raise Violation(f"{client.name}: {violation}") from None


async def _count_tasks() -> int:
    """Return how many tasks there are, once each waits for something."""
    await wait_all_tasks_blocked()
    return trio.lowlevel.current_statistics().tasks_living


def _value(gauge: Gauge) -> float:
    return float(next(iter(next(iter(gauge.collect())).samples)).value)


class _Invoice(msgspec.Struct):
    id: int
    uid: str
    version: int
    account_id: int | None = None  # not for customers


class _Errors(logging.Handler):
    """Whatever the server logs as an error is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or self.format(record)


def play(scenario: Scenario, trace: Trace = lambda *_: None) -> Outcome:
    """Play a scenario, and return what came of it: each time the same.

    Args:
        scenario: What is to happen.
        trace: Called with what happens: when, in seconds, to whom, and what.
    """
    logger, errors = logging.getLogger("trio_ws"), _Errors()
    logger.addHandler(errors)
    violation: str | None = None
    is_interrupted = False
    run: Run | None = None

    async def live() -> None:
        nonlocal run
        run = Run(scenario, trace)
        await run.live()

    try:
        with seeded(scenario.seed):
            trio.run(live, clock=MockClock(autojump_threshold=0))
    except* Violation as found:
        violation = str(leaves(found)[0])
    except* Exception as bugs:  # noqa: BLE001 - whatever it is, a server failed of it, and a seed says how
        violation = violation or f"a server failed: {leaves(bugs)[0]!r}"
    except* KeyboardInterrupt:
        is_interrupted = True
    finally:
        logger.removeHandler(errors)
    if is_interrupted:
        raise KeyboardInterrupt  # by itself, as `main` expects it, and not in a group of those who had to end
    if violation is None and errors.first is not None:
        violation = f"the server logged an error: {errors.first}"
    assert run is not None  # noqa: S101 - it was made first
    readers = [client.following.reader for client in run.clients]
    return Outcome(
        violation, sum(reader.events for reader in readers), sum(reader.gaps for reader in readers)
    )
