"""A client in a run: it follows, asks, comes back, and compares what it is told with what is true."""

import itertools
import math
from collections import deque
from random import Random
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import msgspec
import trio

from trio_ws.errors import CloseCode, leaves
from trio_ws.messages import Position
from trio_ws.testing.database import EPOCH
from trio_ws.testing.lines import SimulatedLine, SimulatedStream
from trio_ws.testing.simulation import plain
from trio_ws.testing.simulation.scenario import URLS
from trio_ws.testing.simulation.truth import Reader, Told, Violation

if TYPE_CHECKING:
    from trio_ws.testing.simulation.run import Run

ANSWER_SECONDS = 5.0  # RELIABILITY: a request is answered within it, whatever the database does
PROMPT_SECONDS = 1.0  # in calm times an event is told within it
RETRY_SECONDS = 3.0
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 20.0  # before a client calls again, and after each failure longer
NORMAL = 1000  # RFC 6455 section 7.4.1
GOOD_ENDS = {NORMAL, CloseCode.GOING_AWAY}
SPREAD_ENDS = {CloseCode.GOING_AWAY, CloseCode.LOG_LOST}
ENDS_IN_TROUBLE = {CloseCode.UNRESPONSIVE, CloseCode.LOG_LOST}
WORTH_A_RETRY = {"unavailable", "timeout", "rate_limited"}
MOST_TOPICS = 3  # of a client
ASKED = ("amount", "currency", "account_id")  # what an invoice is over does not change


class _Asked(NamedTuple):
    """A request that waits for its reply."""

    number: int
    what: str
    about: str
    at: float


class Client:
    """One that follows, asks, comes back, and compares what it is told with what is true."""

    def __init__(self, run: "Run", number: int) -> None:
        self.name = f"client {number}"
        self.reader = Reader(run.truth)
        self.line: SimulatedLine | None = None
        self.troubled_until = 0.0  # by what happens to it alone
        self.paused_until = 0.0
        self._run = run
        self._own = Random(f"{run.scenario.seed} {number}")
        self._followed_at = 0.0  # when it resumed: from then on it is told what it missed
        self._wanted: dict[str, None] = {}
        self._unsure: dict[str, dict[str, object]] = {}  # creates without an answer, by their key
        self._made: dict[str, str] = {}  # uids by key
        self._asked: deque[_Asked] = deque()
        self._numbers = itertools.count(1)
        self._outgoing: trio.MemorySendChannel[bytes] | None = None
        self._calling = trio.CancelScope()
        self._failures = 0  # since it had a line
        self._prices: bytes | None = None  # as they were told last

    async def live(self) -> None:
        """Come back whenever the line is lost."""
        while True:
            try:
                await self._call()
            except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionRefusedError):
                self._say("has no line")
            except* plain.NotOpenedError as errors:
                self._say(f"was turned away: {leaves(errors)[0]}")
            self._failures = 0 if self._outgoing is not None else self._failures + 1
            self._asked.clear()
            self._outgoing = None
            await trio.sleep(
                self._own.uniform(0, min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2**self._failures))
            )

    async def _call(self) -> None:
        world = self._own.choice(self._run.worlds)
        stream = await world.network.call()
        self.line = stream.line
        try:
            with trio.CancelScope() as self._calling:
                rest = await plain.open_line(stream)
                self._outgoing, outgoing = trio.open_memory_channel[bytes](math.inf)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, outgoing)
                    self._say("has a line")
                    self._begin()
                    await self._read(stream, rest)
                    nursery.cancel_scope.cancel()
        finally:
            has_vanished = self._calling.cancelled_caught  # then it can't even say that it has gone
            if not has_vanished:
                await trio.aclose_forcefully(stream)

    def _begin(self) -> None:
        if self._wanted and self.reader.position is not None:
            topics = [dict(zip(("type", "id"), topic.split(":"), strict=True)) for topic in self._wanted]
            self._ask("resume", str(self.reader.position), after=str(self.reader.position), topics=topics)
        else:
            self.reader.topics.clear()
            for topic in self._wanted:
                self._subscribe(topic)
        for key in self._unsure:
            self._create(key)
        self.list_prices()  # so that the server has them in memory, and has to keep them right

    async def _write(self, stream: trio.abc.SendStream, outgoing: trio.MemoryReceiveChannel[bytes]) -> None:
        try:
            async for frame in outgoing:
                await stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader sees it, too

    async def _read(self, stream: SimulatedStream, rest: bytes) -> None:
        frames = plain.Frames(stream, rest)
        while (frame := await frames.receive()) is not None:
            opcode, payload = frame
            if self.paused_until > trio.current_time():
                await trio.sleep_until(self.paused_until)
            if opcode == plain.TEXT:
                self._hear(payload)
            elif opcode == plain.PING:
                self._send(plain.PONG, payload)
            elif opcode == plain.CLOSE:
                self._see_the_end(payload)
                self._send(plain.CLOSE, payload[:2])
                await trio.sleep(0.001)
                return

    def _see_the_end(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big")
        self._say(f"is told the end: {code} {payload[2:].decode()}")
        if code not in GOOD_ENDS and not (code in ENDS_IN_TROUBLE and self._is_troubled_since(0)):
            raise Violation(f"{self.name} was ended with {code}")
        if code in SPREAD_ENDS and not payload[2:].startswith(b"retry_after="):
            raise Violation(f"{self.name} was not told when to come back")

    # What it is told

    def _hear(self, payload: bytes) -> None:
        try:
            told = msgspec.json.decode(payload, type=Told)
        except msgspec.MsgspecError as error:
            raise Violation(f"{self.name} is told {payload!r}: {error}") from None
        try:
            if told.request_id is not None:
                self._hear_reply(told)
            else:
                event = self.reader.take(told)
                self._say(f"is told {told.type} {told.position}")
                since = max(event.at - EPOCH.timestamp(), self._followed_at)
                self._check_promptness("event", since, PROMPT_SECONDS)
        except Violation as violation:
            raise Violation(f"{self.name}: {violation}") from None

    def _hear_reply(self, told: Told) -> None:
        if not self._asked:
            raise Violation(f"a reply to {told.request_id} came, and nothing was asked")
        asked = self._asked.popleft()
        if asked.number != told.request_id:
            raise Violation(f"{asked.number} was asked, and {told.request_id} answered")
        self._say(f"is answered {asked.what} {asked.about}: {told.status} {told.code}")
        self._check_promptness("reply", asked.at, ANSWER_SECONDS)
        if told.status != "success":
            self._bear(asked, told)
        elif asked.what == "resume":
            self._followed_at = trio.current_time()
            data = msgspec.json.decode(told.data, type=_Followed)
            position = Position.parse(data.position)
            self.reader.resume(
                list(self._wanted),
                Position.parse(asked.about),
                position,
                recovered=data.recovered,
                excused=self._is_troubled_since(0),
            )
        elif asked.what == "follow":
            self.reader.follow(
                asked.about, Position.parse(msgspec.json.decode(told.data, type=_Followed).position)
            )
        elif asked.what == "unfollow":
            self.reader.unfollow(asked.about)
        elif asked.what == "list_prices":
            self._prices = bytes(told.data)
        elif asked.what in ("create", "cancel", "fetch"):
            self._check_invoice(asked, told)

    def _check_invoice(self, asked: _Asked, told: Told) -> None:
        """Raise unless a reply brings the invoice that the request was about, and as it must be."""
        invoice = msgspec.json.decode(told.data, type=_Invoice)
        if asked.what == "fetch":
            self._run.check_invoice(asked.about, bytes(told.data))
        elif asked.what == "cancel":
            if (invoice.uid, invoice.status) != (asked.about, "cancelled"):
                raise Violation(f"{asked.about} was to be cancelled, and the reply is {invoice}")
        else:
            uid, wanted = invoice.uid, self._unsure.pop(asked.about, None)
            if wanted is not None and any(getattr(invoice, name) != wanted[name] for name in ASKED):
                raise Violation(f"{asked.about} was asked for as {wanted}, and made as {invoice}")
            if self._made.setdefault(asked.about, uid) != uid and not self._run.was_restored:
                raise Violation(f"{asked.about} made two invoices: {self._made[asked.about]} and {uid}")

    def _bear(self, asked: _Asked, told: Told) -> None:
        expected = {
            "fetch": {"not_found"},
            "cancel": {"not_found", "conflict"},
            "ask_nonsense": {"invalid_message"},
        }.get(asked.what, set())
        if told.code in expected:
            if told.code == "not_found":
                self._run.check_absence(asked.about)
            return
        if told.code not in WORTH_A_RETRY:
            raise Violation(f"{asked.what} {asked.about} was answered {told.code}: {told.message}")
        if asked.what == "create":
            self._run.nursery.start_soon(self._create_later, asked.about)
        if asked.what in ("resume", "follow") and self.line is not None:
            self.line.cut()  # and anew
        if asked.what == "unfollow":
            self._wanted[asked.about] = None

    def _check_promptness(self, what: str, since: float, seconds: float) -> None:
        late = trio.current_time() - since
        if late > seconds and not self._is_troubled_since(late):
            raise Violation(f"{what} came after {late:.1f} s")

    def _is_troubled_since(self, seconds: float) -> bool:
        """Tell whether something excuses delay, in the last so many seconds or shortly before."""
        until = max(self.troubled_until, self._run.troubled_until)
        return until + self._run.after_trouble_seconds >= trio.current_time() - max(0.0, seconds)

    def check_at_the_end(self) -> None:
        """Raise unless it has a line, and on it all that it should."""
        if self._outgoing is None:
            raise Violation("has no line at the end")
        if self._asked:
            raise Violation(f"{self._asked[0].what} {self._asked[0].about} was never answered")
        if self._unsure:
            raise Violation(f"{next(iter(self._unsure))} was never made")
        if self._prices != (prices := self._run.truth.prices):
            raise Violation(f"prices are {prices!r}, and were told as {self._prices!r}")
        self.reader.check_all_told()

    # What it does

    def ask_nonsense(self) -> None:
        """Send what is no request."""
        self._ask("ask_nonsense", "", action="dance")

    def create(self, account: int, value: str) -> None:
        """Make an invoice, and see that it is made once, however often that takes asking."""
        key = f"{self.name}.{next(self._numbers)}".replace(" ", "-")
        # By its memo it is known in the log, so that what was made twice is found there.
        fields: dict[str, object] = {"amount": account, "currency": "USD", "account_id": account, "memo": key}
        if value == "soon":
            fields["expires_in_seconds"] = 2 * account
        elif value == "webhook":
            fields["webhook_url"] = URLS[account % len(URLS)]
        self._unsure[key] = fields
        self._create(key)

    def _create(self, key: str) -> None:
        self._ask("create", key, action="create_invoice", idempotency_key=key, **self._unsure[key])

    async def _create_later(self, key: str) -> None:
        await trio.sleep(RETRY_SECONDS)
        if key in self._unsure:
            self._create(key)

    def fetch(self, uid: UUID) -> None:
        """Fetch an invoice."""
        self._ask("fetch", str(uid), action="fetch_invoice", id=str(uid))

    def list_prices(self) -> None:
        """Ask for all prices."""
        self._prices = None
        self._ask("list_prices", "")

    def cancel(self, uid: UUID) -> None:
        """Cancel an invoice."""
        self._ask("cancel", str(uid), action="cancel_invoice", uid=str(uid))

    def follow(self, topic: str) -> None:
        """Follow a topic, on this line and the next ones, and one of before no more where these are many."""
        if topic in self._wanted:
            return
        if len(self._wanted) == MOST_TOPICS:
            self._unsubscribe(next(iter(self._wanted)))
        self._wanted[topic] = None
        self._subscribe(topic)

    def _subscribe(self, topic: str) -> None:
        type_, id_ = topic.split(":")
        self._ask("follow", topic, action="subscribe", type=type_, id=id_)

    def unfollow(self, own: Random) -> None:
        """Follow one of its topics no more."""
        if self._wanted:
            self._unsubscribe(own.choice(list(self._wanted)))

    def _unsubscribe(self, topic: str) -> None:
        del self._wanted[topic]
        type_, id_ = topic.split(":")
        self._ask("unfollow", topic, action="unsubscribe", type=type_, id=id_)

    def pause(self, seconds: float) -> None:
        """Read nothing for a while."""
        self.paused_until = trio.current_time() + seconds
        self.trouble(seconds)

    def vanish(self) -> None:
        """Be gone without a word, as where the power fails; it comes back by another line."""
        if self.line is not None:
            self.line.hold()
            self._calling.cancel()

    def trouble(self, seconds: float) -> None:
        """Excuse it for a while."""
        self.troubled_until = max(self.troubled_until, trio.current_time() + seconds)

    def leave(self) -> None:
        """Say goodbye; it comes back."""
        self._send(plain.CLOSE, NORMAL.to_bytes(2, "big"))

    def _ask(self, what: str, about: str, **fields: object) -> None:
        if self._outgoing is not None:
            fields.setdefault("action", what)
            number = next(self._numbers)
            self._asked.append(_Asked(number, what, about, trio.current_time()))
            self._say(f"asks {what} {about}")
            self._send(plain.TEXT, msgspec.json.encode({**fields, "request_id": number}))

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._outgoing is not None:
            self._outgoing.send_nowait(plain.encode(opcode, payload))

    def _say(self, text: str) -> None:
        self._run.say(self.name, text)


class _Followed(msgspec.Struct):
    position: str
    recovered: bool = True


class _Invoice(msgspec.Struct):
    uid: str
    status: str
    amount: int
    currency: str
    account_id: int
