"""Who acts in a run: clients, another program, and whoever breaks things. A step names a method here."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import trio

from trio_ws.database import event_log
from trio_ws.database.lanes import Lane
from trio_ws.errors import ActionError
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.testing.refusals import CheckViolation, NoData
from trio_ws.testing.simulation.client import PROMPT_SECONDS, Client
from trio_ws.testing.simulation.deliveries import CROWD_URLS
from trio_ws.testing.simulation.following import CROWD
from trio_ws.testing.simulation.scenario import ACCOUNTS, CURRENCIES, GOOD_URLS, URLS, WEBHOOK_STATES, Step
from trio_ws.testing.simulation.truth import Violation
from trio_ws.testing.work import Locks, Work
from trio_ws.testing.world import World
from trio_ws.webhooks.post import PostError

if TYPE_CHECKING:
    from trio_ws.testing.simulation.run import Run

T = TypeVar("T")

STUCK_SECONDS = 20.0  # beyond what it may take: a server that has not ended by then is waited for no more
RESTART_SECONDS = 1.0  # until a server is started again that could not
BULK = 5000  # changes in one transaction
MANY = 1200  # events that come while a server is cut off: more than it reads in two steps
HELD = 5  # invoices that are made in one that stays open
CRAWL_SECONDS = 60.0  # which the log has for what takes CRAWL_WORK_SECONDS, tries that are too large included
CRAWL_WORK_SECONDS = 3.0
BURST, BURST_SECONDS = 100, 8.0  # changes of few invoices, soon after each other
TOLD_OF_CROWD = 10
TOGETHER = 3  # fetches that a client asks for at once
MEMOS = {"memo": 0, "long memo": 980}  # how long, besides some digits: up to as much as may be
HOOKED = 3  # invoices with a webhook where a receiver begins to fail
DAWDLES = (2.0, 8.0, 15.0)  # seconds; a POST has 10
OPERATORS = 0.7  # of those that try to manage something
MERCHANTS = 0.3  # of the customers that are active, those that authenticate
RECENT = 12  # of all invoices, those that steps are about
REFERENCES = 3  # of an invoice's payments that other programs record: so one is recorded again


class Actors:
    """What the steps of a scenario call, each with the step and with chance that is its own.

    Args:
        run: The run.
    """

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._suffered: Counter[tuple[object, str]] = Counter()  # what is suffered now, by whom
        self._hindrances = 0  # to numbering that have begun
        self._failing: Counter[str] = Counter()  # how often each URL is made to fail now

    # Clients

    async def create(self, step: Step, own: Random) -> None:
        """Have a client make an invoice."""
        self._client(step).asking.create(own.randint(1, ACCOUNTS), step.value)

    async def fetch(self, step: Step, own: Random) -> None:
        """Have a client fetch some invoices at once."""
        for _ in range(TOGETHER):
            self._client(step).asking.fetch(self._some_invoice(own))

    async def cancel(self, step: Step, own: Random) -> None:
        """Have a client cancel an invoice."""
        self._client(step).asking.cancel(self._some_invoice(own))

    async def change_status(self, step: Step, own: Random) -> None:
        """Have a client say what became of an invoice."""
        self._client(step).asking.change_status(self._some_invoice(own), step.value)

    async def list_invoices(self, step: Step, _: Random) -> None:
        """Have a client read some pages of invoices, and ask for another account's."""
        self._client(step).asking.list_others_invoices()
        self._client(step).asking.list_invoices()

    async def pay(self, step: Step, own: Random) -> None:
        """Have a client record a payment, early or late, and read all that were recorded."""
        self._client(step).asking.pay(self._some_invoice(own), step.value, own)

    async def say_price(self, step: Step, own: Random) -> None:
        """Have a client say what a currency costs, and ask what some of it comes to."""
        self._client(step).asking.set_price(step.value, own.randint(1, 10**6) / 100)
        self._client(step).asking.convert(step.value)

    async def convert(self, step: Step, _: Random) -> None:
        """Have a client ask what some of a currency comes to."""
        self._client(step).asking.convert(step.value)

    async def ask_many(self, step: Step, own: Random) -> None:
        """Have a client send many requests in one piece."""
        self._client(step).asking.ask_many(list(self._run.database.newest(RECENT)), own)

    async def follow(self, step: Step, own: Random) -> None:
        """Have a client follow a topic: from now on, from a snapshot on, or from an older position on."""
        client, (topic, _, how) = self._client(step), step.value.partition(" ")
        topic = self._topic(topic, client, own)
        client.following.follow(topic, how, own)
        if how:  # others write while it is read what was before
            await trio.sleep(own.uniform(0, self._run.scenario.answer_seconds))
            self._write_about(topic)

    async def follow_crowd(self, step: Step, own: Random) -> None:
        """Have a client follow many topics at once, and something happen to some of them."""
        self._client(step).following.follow_crowd()
        await trio.sleep(PROMPT_SECONDS)
        for number in own.sample(range(CROWD), k=TOLD_OF_CROWD):
            self._write_about(f"address:many-{number}")

    async def unfollow(self, step: Step, own: Random) -> None:
        """Have a client follow one of its topics no more."""
        self._client(step).following.unfollow(own)

    async def ask_nonsense(self, step: Step, _: Random) -> None:
        """Have a client send what is no request."""
        self._client(step).asking.nonsense()

    async def authenticate(self, step: Step, _: Random) -> None:
        """Have a client bring another token."""
        self._client(step).credentials.authenticate(step.value)

    async def revoke(self, step: Step, _: Random) -> None:
        """Have a client's token be good no more."""
        self._client(step).credentials.revoke()

    async def shop(self, step: Step, own: Random) -> None:
        """Have a customer fetch an invoice and follow it, and perhaps be a merchant from now on."""
        if (client := self._one(step, own, lambda one: one.credentials.comes_without)) is None:
            return
        uid = self._some_invoice(own)
        client.following.follow(topic := f"invoice:{uid}", step.value, own)
        if own.random() < MERCHANTS:
            client.credentials.authenticate(own.choice(["", "5", "60", "blind", "wrong"]))
        else:
            client.asking.fetch(uid)
        await trio.sleep(own.uniform(0, self._run.scenario.answer_seconds))
        self._write_about(topic)

    async def list_events(self, step: Step, own: Random) -> None:
        """Have a client read what has happened to an invoice."""
        self._client(step).managing.list_events(self._some_invoice(own), int(step.value))

    async def manage_webhooks(self, step: Step, own: Random) -> None:
        """Have a client list webhooks, read one that has come, or have it be sent again."""
        managing, ids = self._client(step).managing, self._run.deliveries.newest(RECENT)
        match step.value:
            case "fetch" if ids:
                managing.fetch_webhook(own.choice(ids))
            case "retry" if ids:
                managing.retry_webhook(own.choice(ids))
            case "invoice":
                managing.list_webhooks(self._some_invoice(own), None, own.choice([1, 5, 50]))
            case state if state in WEBHOOK_STATES:
                managing.list_webhooks(None, state or None, own.choice([1, 5, 50]))

    async def manage(self, step: Step, own: Random) -> None:
        """Have an operator manage accounts, tokens or connections; perhaps another tries to."""
        is_operator = own.random() < OPERATORS
        client = self._one(step, own, lambda one: one.credentials.is_operator) if is_operator else None
        managing, other = (client or self._client(step)).managing, own.choice(self._run.clients)
        match step.value:
            case "accounts":
                managing.list_accounts()
            case "connections":
                managing.list_connections()
            case "end":
                managing.list_connections(own)
            case "create_token":
                managing.create_token(other, own.choice([None, 3.0, 60.0]))
            case "revoke_token":
                managing.revoke_token(other)

    async def break_rules(self, step: Step, _: Random) -> None:
        """Have a client send what breaks the protocol."""
        self._client(step).break_rules(step.value)

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
        fields: dict[str, object] = {}
        if step.value == "address":
            fields["address"] = own.choice(["here", f"many-{own.randrange(CROWD)}"])
        if step.value == "soon":
            fields["expires_in_seconds"] = own.randint(1, 100)
        elif step.value == "webhook":
            fields["webhook_url"] = own.choice(URLS)
        account = own.randint(1, ACCOUNTS)
        self._insert(account, **fields)

    async def update(self, step: Step, own: Random) -> None:
        """Change an invoice."""
        changes = {"status": step.value}
        if step.value in MEMOS:
            changes = {"memo": str(own.random()) + "x" * MEMOS[step.value]}
        with suppress(CheckViolation, NoData):  # from where it is; where there is none
            self._run.database.update_invoice(self._some_invoice(own), **changes)

    async def burst(self, _: Step, own: Random) -> None:
        """Change some invoices and a price often, while some clients read nothing."""
        self._run.trouble(BURST_SECONDS)
        for client in own.sample(self._run.clients, k=len(self._run.clients) // 5):
            client.pause(BURST_SECONDS)
        uids = [self._some_invoice(own) for _ in range(3)]
        for number in range(BURST):
            with suppress(CheckViolation, NoData):
                self._run.database.update_invoice(own.choice(uids), memo="x" * own.randint(1, 200))
            if number % 10 == 0:
                self._run.database.set_price("ETH", Decimal(own.randint(1, 10**6)) / 100)
            await trio.sleep(own.choice([0, 0, 0, 0.02]))

    async def take_money(self, step: Step, own: Random) -> None:
        """Record a payment, or what became of one: too little, too much, twice, or backwards."""
        with suppress(CheckViolation, NoData):
            self._run.database.record_payment(
                self._some_invoice(own),
                reference=f"tx-{own.randrange(REFERENCES)}",
                amount=own.choice([-1, 1, 1, 5, 20]),
                status=step.value,
            )

    async def set_price(self, step: Step, own: Random) -> None:
        """Change a price."""
        self._run.database.set_price(step.value, Decimal(own.randint(1, 10**6)) / 100)

    async def delete_price(self, step: Step, _: Random) -> None:
        """Delete a price."""
        if self._run.database.has_price(step.value):
            self._run.lose_prices()
            self._run.database.delete_price(step.value)

    async def bulk(self, step: Step, own: Random) -> None:
        """Change thousands of rows in one transaction: many invoices, or a few rows again and again."""
        self._write(own, BULK, step.value)

    async def hold_open(self, step: Step, own: Random) -> None:
        """Keep a transaction open: others wait for its rows, or for the log, and its events come late."""
        database, until = self._run.database, trio.current_time() + step.seconds
        held = database.newest(RECENT // 2)
        locks = Locks(database, until, held, log=step.value == "log")
        if step.value == "log":
            self._hinder(step.seconds)
        began = trio.current_time()
        database.costs.append(locks)
        database.stuck.update(held)
        await trio.sleep(step.seconds)
        database.costs.remove(locks)
        database.stuck.difference_update(held)
        self._run.trouble(0.0)  # it wrote long ago
        database.written_at = began
        for uid in held:
            with suppress(NoData):
                database.update_invoice(uid, memo=f"held {own.random()}")
        if database is self._run.database:
            self._write(own, HELD, "invoices")
        database.written_at = None

    def _insert(self, account: int, **fields: object) -> UUID:
        return self._run.database.create_invoice(amount=1, currency="EUR", account_id=account, **fields)

    def _write_about(self, topic: str) -> None:
        """Change something that a topic is about."""
        database, (kind, _, which) = self._run.database, topic.partition(":")
        if kind == "account":
            self._insert(int(which))
        elif kind == "address":
            self._insert(1, address=which)
        elif kind == "price":
            database.set_price(CURRENCIES[0] if which == "*" else which, Decimal(1))
        else:
            with suppress(CheckViolation, NoData):
                database.update_invoice(UUID(which), memo="while it is read")

    def _write(self, own: Random, many: int, what: str) -> None:
        """Change rows, all of them at one moment."""
        database, uids = self._run.database, self._run.database.newest(RECENT)
        for number in range(many):
            if what == "prices":
                database.set_price(own.choice(CURRENCIES), Decimal(own.randint(1, 10**6)) / 100)
            elif what == "versions" and uids:
                with suppress(CheckViolation):
                    database.update_invoice(own.choice(uids), memo=f"version {number}")
            else:
                self._insert(own.randint(1, ACCOUNTS))

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

    async def crawl(self, step: Step, own: Random) -> None:
        """Have each row and KB take its time, while many rows come: what asks for much gets nothing."""
        database, work = self._run.database, Work(self._run.database, float(step.value))
        seconds = max(step.seconds, CRAWL_SECONDS)
        self._run.trouble(seconds)
        is_hindered, hindrances = any(self._suffered.values()), self._hindrances
        database.costs.append(work)
        self._write(own, round(CRAWL_WORK_SECONDS / float(step.value)), "invoices")
        due = len(database.written)
        await trio.sleep(seconds)
        database.costs.remove(work)
        if not is_hindered and hindrances == self._hindrances and database.numbered < due:
            raise Violation(f"event {database.numbered + 1} has no number after {seconds:.1f} s")

    async def _suffer(self, name: str, seconds: float, value: float | bool = True) -> None:  # noqa: FBT001, FBT002
        """Set an attribute of the database for a while."""
        await self._set(self._run.database, name, seconds, value)

    async def _set(self, whose: object, name: str, seconds: float, value: object = True) -> None:  # noqa: FBT002
        """Set an attribute for a while; of two at once the later one ends it."""
        self._hinder(seconds)
        self._suffered[whose, name] += 1
        setattr(whose, name, value)
        await trio.sleep(seconds)
        self._suffered[whose, name] -= 1
        if not self._suffered[whose, name]:
            setattr(whose, name, type(value)())

    def _hinder(self, seconds: float) -> None:
        """Excuse everybody for a while, and also that events wait for their numbers."""
        self._run.trouble(seconds)
        self._hindrances += 1

    async def trim(self, _: Step, __: Random) -> None:
        """Forget the older half of the log."""
        self._run.trouble(0.0)
        database = self._run.database
        database.trim(max(database.first - 1, database.numbered // 2))

    async def restore(self, step: Step, own: Random) -> None:
        """Lose the last events, as a restored backup has; perhaps others take their numbers at once."""
        before = self._run.database.numbered
        self._lose(before * 9 // 10)
        if step.value:
            self._write(own, 1 + before - self._run.database.numbered, "invoices")
            self._number()

    async def fail_over(self, step: Step, own: Random) -> None:
        """Have a standby take over: a whole one, or one that lacks the last events, or their numbers.

        It goes on before anybody looks.
        """
        database, last = self._run.database, own.choice([1, 3])
        before = max(0, database.numbered - last)
        if step.value == "without numbers":
            self._run.lose_log()
            database.unnumber(before)
        elif step.value == "without events":
            self._lose(before)
        for _ in range(own.randint(0, 2 * last)):
            await self.insert(step, own)
        self._number()
        await self.away(step, own)

    async def clone(self, step: Step, own: Random) -> None:
        """Have a copy take over that goes on by itself, and then the first one again, which went on, too."""
        self._number()
        first = self._run.database
        copy = first.copy(first.numbered)
        copy.away = copy.lose_answers = copy.lose_wakes = False  # what the first one suffers is not its own
        copy.delay, copy.costs = 0.0, []
        copy.stuck.clear()
        copy.webhooks.origin = own.choice(["original", "copy"])  # of the same server's files, or of a dump
        await self._move(copy, own)
        await trio.sleep(step.seconds)
        if self._run.database is copy:  # else one that was made of it took over
            await self._move(first, own)

    async def _move(self, database: SimulatedDatabase, own: Random) -> None:
        self._hinder(0.0)
        self._run.move(database)
        self._write(own, 3, "invoices")
        await trio.lowlevel.checkpoint()

    def _lose(self, seq: int) -> None:
        self._hinder(0.0)
        self._run.lose_log()
        self._run.database.restore(seq)

    def _number(self) -> None:
        """Number events before a server does."""
        database = self._run.database
        database.answers[event_log.number_events](database, len(database.written))

    # Servers

    async def kill(self, step: Step, _: Random) -> None:
        """Kill a server, and start it again after a while."""
        await self._end(step, kill=True)

    async def stop(self, step: Step, _: Random) -> None:
        """Have a server drain, and start it again after a while."""
        await self._end(step, kill=False)

    async def reload(self, step: Step, own: Random) -> None:
        """Have a server read its settings again: others are in force for connections that come."""
        self._world(step).reload(outbox_bytes=own.choice([1000, 2000]), ping_seconds=300.0)

    async def trickle(self, step: Step, own: Random) -> None:
        """Have a server's kernel take a part of what is sent, now more and now less, on all lines."""
        network = self._world(step).network
        network.trickle(own)
        await trio.sleep(step.seconds)
        network.trickle(None)

    async def cut_off(self, step: Step, own: Random) -> None:
        """Cut a server alone off from the database; others go on, and perhaps trim the log beyond it."""
        gateway, database = self._run.gateways[step.number], self._run.database
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._set, gateway, "is_cut", step.seconds)
            await trio.sleep(step.seconds / 2)
            self._write(own, MANY if step.value == "many" else 3, "invoices")
            self._number()
            upto = self._run.database.numbered
            await trio.sleep(step.seconds / 3)  # others have read it by then, mostly
            if step.value == "trim" and database is self._run.database:
                database.trim(max(database.first - 1, min(upto, database.numbered)))

    async def descriptors(self, step: Step, _: Random) -> None:
        """Have a server find no descriptor: nobody gets in, and it can open no session."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._set, self._world(step).network, "lacks_descriptors", step.seconds)
            nursery.start_soon(self._set, self._run.gateways[step.number], "lacks_descriptors", step.seconds)

    async def sessions(self, step: Step, _: Random) -> None:
        """End all sessions of a server; for some of its work PostgreSQL has none left for a while."""
        gateway = self._run.gateways[step.number]
        refused = frozenset(Lane) if step.value == "all" else frozenset({Lane[step.value]})
        gateway.end_sessions()
        await self._set(gateway, "refused", step.seconds, refused)

    # Receivers of webhooks

    async def refuse(self, step: Step, own: Random) -> None:
        """Have a URL answer 500 for a while."""
        await self._fail(step, own, self._run.deliveries.answers, 500)

    async def break_posts(self, step: Step, own: Random) -> None:
        """Have the line to a URL break for a while, before it answers."""
        await self._fail(step, own, self._run.deliveries.answers, PostError("the connection broke"))

    async def dawdle(self, step: Step, own: Random) -> None:
        """Have a URL take its time for a while, perhaps more than it has."""
        await self._fail(step, own, self._run.deliveries.seconds, own.choice(DAWDLES))

    async def crowd(self, _: Step, own: Random) -> None:
        """Have an account have hundreds of webhooks for slow endpoints, and others one each, soon after."""
        account = own.randint(1, ACCOUNTS)
        for url in CROWD_URLS:
            for _number in range(2):
                self._insert(account, webhook_url=url)
        await trio.sleep(1.0)  # then it has all places that it gets
        for other in range(1, ACCOUNTS + 1):
            self._insert(other, webhook_url=own.choice(GOOD_URLS))

    async def _fail(self, step: Step, own: Random, how: dict[str, T], value: T) -> None:
        """Have a URL be so for a while, and get some webhooks; of two at once the later one ends it."""
        url = step.value
        self._failing[url] += 1
        how[url] = value
        uids = [self._insert(own.randint(1, ACCOUNTS), webhook_url=url) for _ in range(HOOKED)]
        await trio.sleep(step.seconds / 2)
        for uid in uids:
            with suppress(CheckViolation, NoData):
                self._run.database.update_invoice(uid, memo=str(own.random()))
        await trio.sleep(step.seconds / 2)
        self._failing[url] -= 1
        if not self._failing[url]:
            self._run.deliveries.heal(url)

    async def _end(self, step: Step, *, kill: bool) -> None:
        world = self._world(step)
        self._hinder(step.seconds + world.settings.drain_seconds)
        began = trio.current_time()
        most = world.settings.drain_seconds
        with trio.move_on_after(most + STUCK_SECONDS):
            if world.is_running:
                await (world.kill() if kill else world.stop())
        if self._run.database.delay or self._run.database.costs:
            most += (
                world.settings.statement_seconds
            )  # for one in its thread when time is up, which is waited for
        if trio.current_time() - began > most:
            raise Violation(f"server {step.number} took {trio.current_time() - began:.1f} s to end, or more")
        await trio.sleep(step.seconds)
        while not world.is_running:
            try:
                await world.start()
            except* ActionError:  # the database is away
                await trio.sleep(RESTART_SECONDS)

    def _world(self, step: Step) -> World:
        return self._run.worlds[step.number]

    def _one(self, step: Step, own: Random, is_one: Callable[[Client], bool]) -> Client | None:
        """Return the step's client, if it is one of those, or else any of them; None: there is none."""
        if is_one(client := self._client(step)):
            return client
        others = [one for one in self._run.clients if is_one(one)]
        return own.choice(others) if others else None

    def _client(self, step: Step) -> Client:
        return self._run.clients[step.number]

    def _some_invoice(self, own: Random) -> UUID:
        known = self._run.database.newest(RECENT)
        return own.choice(known) if known else UUID(int=0)

    def _topic(self, topic: str, client: Client, own: Random) -> str:
        match topic:
            case "invoice":
                return f"invoice:{self._some_invoice(own)}"
            case "address":
                return "address:here"
            case "account:own":
                return f"account:{client.credentials.account or ACCOUNTS}"
        return topic
