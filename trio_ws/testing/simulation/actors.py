"""Who acts in a run: clients, another program, and whoever breaks things. A step names a method here."""

from collections import Counter
from contextlib import suppress
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID

import trio

from trio_ws.database import event_log
from trio_ws.errors import ActionError
from trio_ws.testing.refusals import CheckViolation, NoData
from trio_ws.testing.simulation.client import Client
from trio_ws.testing.simulation.scenario import ACCOUNTS, Step
from trio_ws.testing.simulation.truth import Violation

if TYPE_CHECKING:
    from trio_ws.testing.simulation.run import Run

STUCK_SECONDS = 20.0  # beyond `drain_seconds`: a server that has not ended by then is waited for no more
RESTART_SECONDS = 1.0  # until a server is started again that could not
BURST, BURST_SECONDS = 100, 8.0  # changes of few invoices, soon after each other
TOGETHER = 3  # fetches that a client asks for at once
RECENT = 12  # of all invoices, those that steps are about


class Actors:
    """What the steps of a scenario call, each with the step and with chance that is its own.

    Args:
        run: The run.
    """

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._suffered: Counter[str] = Counter()

    # Clients

    async def create(self, step: Step, own: Random) -> None:
        """Have a client make an invoice."""
        self._client(step).create(own.randint(1, ACCOUNTS), step.value)

    async def fetch(self, step: Step, own: Random) -> None:
        """Have a client fetch some invoices at once."""
        for _ in range(TOGETHER):
            self._client(step).fetch(self._some_invoice(own))

    async def cancel(self, step: Step, own: Random) -> None:
        """Have a client cancel an invoice."""
        self._client(step).cancel(self._some_invoice(own))

    async def follow(self, step: Step, own: Random) -> None:
        """Have a client follow a topic."""
        self._client(step).follow(self._topic(step, own))

    async def unfollow(self, step: Step, own: Random) -> None:
        """Have a client follow one of its topics no more."""
        self._client(step).unfollow(own)

    async def ask_nonsense(self, step: Step, _: Random) -> None:
        """Have a client send what is no request."""
        self._client(step).ask_nonsense()

    async def pause(self, step: Step, _: Random) -> None:
        """Have a client read nothing for a while."""
        self._client(step).pause(step.seconds)

    async def leave(self, step: Step, _: Random) -> None:
        """Have a client close its line; it comes back."""
        self._client(step).leave()

    async def hang_up(self, step: Step, _: Random) -> None:
        """Have a client lose its line, at its own end alone."""
        if (line := self._client(step).line) is not None:
            await trio.aclose_forcefully(line.ends[0])

    async def vanish(self, step: Step, _: Random) -> None:
        """Have a client lose its line without anybody being told; the server has to find out."""
        self._client(step).trouble(0.0)
        self._client(step).vanish()

    # The network

    async def cut(self, step: Step, _: Random) -> None:
        """Break a client's line."""
        if (line := self._client(step).line) is not None:
            line.cut()

    async def hold(self, step: Step, _: Random) -> None:
        """Let nothing arrive on a client's line for a while."""
        client = self._client(step)
        client.trouble(step.seconds)
        if (line := client.line) is not None:
            line.hold()
            await trio.sleep(step.seconds)
            if line is client.line:  # else it has vanished
                line.heal()

    async def delay(self, step: Step, _: Random) -> None:
        """Have everything arrive late on a client's line for a while."""
        client, delay = self._client(step), float(step.value)
        client.trouble(step.seconds + delay)
        if (line := client.line) is not None:
            line.delay = delay
            await trio.sleep(step.seconds)
            line.delay = 0.0

    # Another program

    async def insert(self, step: Step, own: Random) -> None:
        """Insert an invoice."""
        fields: dict[str, object] = {"address": "here"} if step.value == "address" else {}
        if step.value == "soon":
            fields["expires_in_seconds"] = own.randint(1, 100)
        account = own.randint(1, ACCOUNTS)
        self._run.database.create_invoice(amount=1, currency="EUR", account_id=account, **fields)

    async def update(self, step: Step, own: Random) -> None:
        """Change an invoice."""
        changes = {"memo": str(own.random())} if step.value == "memo" else {"status": step.value}
        with suppress(CheckViolation, NoData):  # from where it is; where there is none
            self._run.database.update_invoice(self._some_invoice(own), **changes)

    async def burst(self, _: Step, own: Random) -> None:
        """Change some invoices and a price often, while some clients read nothing."""
        self._run.trouble(BURST_SECONDS)
        for client in own.sample(self._run.clients, k=len(self._run.clients) // 5):
            client.pause(BURST_SECONDS)
        uids = [self._some_invoice(own) for _ in range(3)]
        for number in range(BURST):
            with suppress(NoData):
                self._run.database.update_invoice(own.choice(uids), memo="x" * own.randint(1, 200))
            if number % 10 == 0:
                self._run.database.set_price("ETH", Decimal(own.randint(1, 10**6)) / 100)
            await trio.sleep(own.choice([0, 0, 0, 0.02]))

    async def set_price(self, step: Step, own: Random) -> None:
        """Change a price."""
        self._run.database.set_price(step.value, Decimal(own.randint(1, 10**6)) / 100)

    async def delete_price(self, step: Step, _: Random) -> None:
        """Delete a price."""
        if self._run.database.has_price(step.value):
            self._run.database.delete_price(step.value)

    # The database

    async def away(self, step: Step, _: Random) -> None:
        """Have the database fail for a while."""
        await self._suffer("away", step.seconds)

    async def deaf(self, step: Step, _: Random) -> None:
        """Have notifications be lost for a while."""
        await self._suffer("lose_wakes", step.seconds)

    async def lose_answers(self, step: Step, _: Random) -> None:
        """Have the database do what it is asked, and fail before it says so, for a while."""
        await self._suffer("lose_answers", step.seconds)

    async def slow(self, step: Step, _: Random) -> None:
        """Have the database take its time for a while."""
        await self._suffer("delay", step.seconds, float(step.value))

    async def _suffer(self, name: str, seconds: float, value: float | bool = True) -> None:  # noqa: FBT001, FBT002
        """Set an attribute of the database for a while; of two at once the later one ends it."""
        self._run.trouble(seconds)
        self._suffered[name] += 1
        setattr(self._run.database, name, value)
        await trio.sleep(seconds)
        self._suffered[name] -= 1
        if not self._suffered[name]:
            setattr(self._run.database, name, type(value)())

    async def trim(self, _: Step, __: Random) -> None:
        """Forget the older half of the log."""
        self._run.trouble(0.0)
        self._run.database.trim(self._run.database.numbered // 2)

    async def restore(self, _: Step, __: Random) -> None:
        """Lose the last events, as a restored backup has."""
        self._run.trouble(0.0)
        self._run.was_restored = True
        self._run.truth.keep()
        self._run.database.restore(self._run.database.numbered * 9 // 10)

    async def fail_over(self, step: Step, own: Random) -> None:
        """Have a standby take over that lacks the last events, or none, and goes on before anybody looks."""
        database, lost = self._run.database, own.choice([0, 0, 1, 3])
        if lost:
            self._run.was_restored = True
            self._run.truth.keep()
            database.restore(max(0, database.numbered - lost))
        for _ in range(own.randint(0, 2 * lost)):
            await self.insert(step, own)
        database.answers[event_log.number_events](database, database.numbered)
        await self.away(step, own)

    # Servers

    async def kill(self, step: Step, _: Random) -> None:
        """Kill a server, and start it again after a while."""
        await self._end(step, kill=True)

    async def stop(self, step: Step, _: Random) -> None:
        """Have a server drain, and start it again after a while."""
        await self._end(step, kill=False)

    async def _end(self, step: Step, *, kill: bool) -> None:
        world = self._run.worlds[step.number]
        self._run.trouble(step.seconds + world.settings.drain_seconds)
        began = trio.current_time()
        with trio.move_on_after(world.settings.drain_seconds + STUCK_SECONDS):
            if world.is_running:
                await (world.kill() if kill else world.stop())
        if trio.current_time() - began > world.settings.drain_seconds:
            raise Violation(f"server {step.number} took {trio.current_time() - began:.1f} s to end, or more")
        await trio.sleep(step.seconds)
        while not world.is_running:
            try:
                await world.start()
            except* ActionError:  # the database is away
                await trio.sleep(RESTART_SECONDS)

    def _client(self, step: Step) -> Client:
        return self._run.clients[step.number]

    def _some_invoice(self, own: Random) -> UUID:
        known = self._run.database.newest(RECENT)
        return own.choice(known) if known else UUID(int=0)

    def _topic(self, step: Step, own: Random) -> str:
        if step.value == "invoice":
            return f"invoice:{self._some_invoice(own)}"
        return "address:here" if step.value == "address" else step.value
