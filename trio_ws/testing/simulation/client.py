"""A client: its line, what it sends there and hears, and how it comes back.

Who it is there `credentials.py` says, what it follows `following.py`, what else it asks for `asking.py`, and
what it manages `managing.py`. Each of these sends requests by `Client.ask`, and says what may come of it.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from trio_ws.errors import CloseCode, leaves
from trio_ws.identity import Scope
from trio_ws.testing.database import EPOCH
from trio_ws.testing.lines import SimulatedLine, SimulatedStream
from trio_ws.testing.simulation import plain
from trio_ws.testing.simulation.asking import Asking
from trio_ws.testing.simulation.credentials import Credentials
from trio_ws.testing.simulation.following import Following
from trio_ws.testing.simulation.managing import Managing
from trio_ws.testing.simulation.truth import Told, Violation

if TYPE_CHECKING:
    from trio_ws.testing.simulation.run import Run
    from trio_ws.testing.world import World

ANSWER_SECONDS = 5.0  # RELIABILITY: a request is answered within it, whatever the database does
PROMPT_SECONDS = 1.0  # in calm times an event is told within it
ANSWERS_TO_BULK = 20  # of the database: 5000 events at once are numbered and read 500 at a time
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 20.0  # before a client calls again, and after each failure longer
NORMAL = 1000  # RFC 6455 section 7.4.1
SPREAD_ENDS = {CloseCode.GOING_AWAY, CloseCode.LOG_LOST}
ENDS_IN_TROUBLE = {CloseCode.GOING_AWAY, CloseCode.UNRESPONSIVE, CloseCode.LOG_LOST}
WORTH_A_RETRY = {"unavailable", "timeout", "rate_limited"}
UNAUTHORIZED = "HTTP/1.1 401"
IN_FRAGMENTS = 0.05  # of all requests, those that come in several frames, with a ping between them
# What breaks the protocol, and how it is to be ended (RFC 6455 sections 5.1, 5.4, 5.2, 8.1; 7.4.1)
BROKEN: dict[str, tuple[bytes, int]] = {
    "not masked": (b"\x81\x02{}", 1002),
    "text inside a text": (
        plain.encode(plain.TEXT, b'{"action":', final=False) + plain.encode(plain.TEXT, b'{"action":"ping"}'),
        1002,
    ),
    "no such frame": (plain.encode(3, b""), 1002),
    "no UTF-8": (plain.encode(plain.TEXT, b'{"action":"\xff"}'), 1007),
    "too long": (plain.encode(plain.TEXT, b" " * 70_000), 1009),
}


NOTHING: Mapping[str, object] = MappingProxyType({})


def _nothing(_: Told) -> None:
    pass


class _Asked(NamedTuple):
    """A request that waits for its reply."""

    number: int
    what: str
    at: float
    scope: Scope | None
    for_customers: bool
    must: str | None
    may: Collection[str]
    done: Callable[[Told], None]
    refused: Callable[[Told], None]
    again: Callable[[], None]


class Client:
    """One that follows, asks, comes back, and compares what it is told with what is true."""

    def __init__(self, run: "Run", number: int) -> None:
        self.name = f"client {number}"
        self.run = run
        self.own = Random(f"{run.scenario.seed} {number}")
        self.world: World | None = None  # whom it called last
        self.line: SimulatedLine | None = None
        self.troubled_until = -math.inf  # by what happens to it alone
        self.paused_until = 0.0
        self.numbers = itertools.count(1)
        self.credentials = Credentials(self, number)
        self.following = Following(self)
        self.asking = Asking(self)
        self.managing = Managing(self)
        self._asked: deque[_Asked] = deque()
        self._pings: deque[bytes] = deque()  # that it has sent, and were not answered
        self._outgoing: trio.MemorySendChannel[bytes] | None = None
        self._together: list[bytes] | None = None  # what is to be sent in one piece
        self._calling = trio.CancelScope()
        self._failures = 0  # since it had a line
        self._broke_rules = 0  # how it is to be ended for that; 0: it did not
        self._has_left = False  # it has said goodbye
        self._sent_away: SimulatedLine | None = None  # which an operator closes

    async def live(self) -> None:
        """Come back whenever the line is lost."""
        while True:
            try:
                await self._call()
            except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionRefusedError):
                self.say("has no line")
            except* plain.NotOpenedError as errors:
                why = str(leaves(errors)[0])
                self.say(f"was turned away: {why}")
                if why.startswith(UNAUTHORIZED):
                    self.credentials.lose()
                elif not self.is_troubled_since(0):
                    raise Violation(f"{self.name} was turned away: {why}") from None
            if self._asked:
                self._check_promptness("no reply", self._asked[0].at, ANSWER_SECONDS)
            self._failures = 0 if self.has_line else self._failures + 1
            self._asked.clear()
            self._pings.clear()
            self._outgoing = None
            self._broke_rules = 0
            self._has_left = False
            await trio.sleep(
                self.own.uniform(0, min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2**self._failures))
            )

    @property
    def has_line(self) -> bool:
        """Return whether it has shaken hands, and nothing has ended that."""
        return self._outgoing is not None

    @property
    def is_steady(self) -> bool:
        """Return whether it has a line, and nothing may have ended that which it has not heard of."""
        is_ending = self._has_left or self._broke_rules or self.line is self._sent_away
        return self.has_line and not is_ending and not self.is_troubled_since(0)

    async def _call(self) -> None:
        self.world = self.own.choice(self.run.worlds)
        stream = await self.world.network.call()
        self.line = stream.line
        try:
            with trio.CancelScope() as self._calling:
                rest = await plain.open_line(stream, self.credentials.bring())
                self._outgoing, outgoing = trio.open_memory_channel[bytes](math.inf)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, outgoing)
                    self.say("has a line")
                    self.credentials.begin()
                    self.following.begin()
                    self.asking.begin()
                    await self._read(stream, rest)
                    nursery.cancel_scope.cancel()
        finally:
            has_vanished = self._calling.cancelled_caught  # then it can't even say that it has gone
            if not has_vanished:
                await trio.aclose_forcefully(stream)

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
                self._send(plain.encode(plain.PONG, payload))
            elif opcode == plain.PONG:
                self._hear_pong(payload)
            elif opcode == plain.CLOSE:
                self._see_the_end(payload)
                self._send(plain.encode(plain.CLOSE, payload[:2]))
                await trio.sleep(0.001)
                return
        if not self.is_troubled_since(0):
            raise Violation(f"{self.name} lost its line without a word")

    def _see_the_end(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big")
        self.say(f"is told the end: {code} {payload[2:].decode()}")
        is_excused = code in ENDS_IN_TROUBLE and self.is_troubled_since(0)
        if code == CloseCode.UNAUTHORIZED:
            is_excused = not self.credentials.are_good
            self.credentials.lose()
        if code == NORMAL:
            is_excused = self._has_left
        if code == CloseCode.GOING_AWAY and self.line is self._sent_away:
            is_excused = True
        if code != self._broke_rules and not is_excused:
            raise Violation(f"{self.name} was ended with {code}")
        if code in SPREAD_ENDS and not payload[2:].startswith(b"retry_after="):
            raise Violation(f"{self.name} was not told when to come back")

    def ends_within(self, seconds: float, why: str, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Have the server end the line that there is now within a time, where it is calm."""
        self.run.nursery.start_soon(self._see_it_end, self.line, seconds, why, unless)

    async def _see_it_end(
        self, line: SimulatedLine | None, seconds: float, why: str, unless: Callable[[], bool]
    ) -> None:
        await trio.sleep(seconds)
        is_excused = unless() or self.is_troubled_since(min(seconds, ANSWER_SECONDS))
        if self.line is line and self.has_line and not is_excused:
            raise Violation(f"{self.name} {why}, and goes on after {seconds:.1f} s")

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
                event = self.following.reader.take(told)
                self.say(f"is told {told.type} {told.position}")
                self.asking.on_event(event)
                since = max(event.at - EPOCH.timestamp(), self.following.since)
                answers = ANSWERS_TO_BULK * self.run.scenario.answer_seconds
                self._check_promptness("event", since, PROMPT_SECONDS + answers)
        except Violation as violation:
            raise Violation(f"{self.name}: {violation}") from None

    def _hear_reply(self, told: Told) -> None:
        if not self._asked:
            raise Violation(f"a reply to {told.request_id} came, and nothing was asked")
        asked = self._asked.popleft()
        if asked.number != told.request_id:
            raise Violation(f"{asked.number} was asked, and {told.request_id} answered")
        self.say(f"is answered {asked.what}: {told.status} {told.code}")
        if trio.current_time() - asked.at > ANSWER_SECONDS and not self._is_cut_off_since(asked.at):
            raise Violation(f"{asked.what} was answered after {trio.current_time() - asked.at:.1f} s")
        if told.code == "unavailable" and not self.is_troubled_since(trio.current_time() - asked.at):
            raise Violation(f"{asked.what} was answered {told.code}: {told.message}")
        must = self.credentials.refuse(asked.scope, for_customers=asked.for_customers) or asked.must
        if told.code in WORTH_A_RETRY or (told.code == "unauthorized" and not self.credentials.are_good):
            asked.again()
        elif must is not None and told.code != must:
            raise Violation(f"{asked.what} was answered {told.code or told.status}, not {must}")
        elif told.status == "success":
            asked.done(told)
        elif told.code in asked.may:
            asked.refused(told)
        elif told.code != must:
            raise Violation(f"{asked.what} was answered {told.code}: {told.message}")

    def _hear_pong(self, payload: bytes) -> None:
        """Take it for the answer to a ping; those before it need none (RFC 6455 section 5.5.3)."""
        while self._pings:
            if self._pings.popleft() == payload:
                return
        raise Violation(f"{self.name} got a pong for no ping: {payload!r}")

    def _check_promptness(self, what: str, since: float, seconds: float) -> None:
        late = trio.current_time() - since
        if late > seconds and not self.is_troubled_since(late):
            raise Violation(f"{what} came after {late:.1f} s")

    def _is_cut_off_since(self, at: float) -> bool:
        """Return whether what it sends or receives may have been late since then, with any database."""
        return self.troubled_until + self.run.after_trouble_seconds >= at

    def is_troubled_since(self, seconds: float) -> bool:
        """Return whether something excuses delay, in the last so many seconds or shortly before."""
        until = max(self.troubled_until, self.run.troubled_until)
        return until + self.run.after_trouble_seconds >= trio.current_time() - max(0.0, seconds)

    def check_at_the_end(self) -> None:
        """Raise unless it has a line, and on it all that it should."""
        if not self.has_line:
            raise Violation("has no line at the end")
        if self._asked:
            raise Violation(f"{self._asked[0].what} was never answered")
        if self._pings:
            raise Violation(f"ping {self._pings[0]!r} was never answered")
        self.asking.check_at_the_end()
        self.following.reader.check_all_told()

    # What it does

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
        self._has_left = self.has_line
        self._send(plain.encode(plain.CLOSE, NORMAL.to_bytes(2, "big")))

    def may_be_sent_away(self) -> None:
        """Take it for right that the server closes the line that there is; it comes back."""
        self._sent_away = self.line

    def break_rules(self, how: str) -> None:
        """Send what breaks the protocol, and be ended for it; it comes back."""
        if self.has_line and not self._broke_rules:
            data, self._broke_rules = BROKEN[how]
            self._send(data)
            self.ends_within(ANSWER_SECONDS, f"has broken the protocol ({how})")

    def cut(self) -> None:
        """Break its line: it begins anew."""
        if self.line is not None:
            self.line.cut()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send in one piece what is asked meanwhile."""
        self._together = []
        yield
        data, self._together = b"".join(self._together), None
        self._send(data)

    def ask(
        self,
        what: str,
        about: str = "",
        fields: Mapping[str, object] = NOTHING,
        *,
        scope: Scope | None = None,
        for_customers: bool = False,
        must: str | None = None,
        may: Collection[str] = (),
        done: Callable[[Told], None] = _nothing,
        refused: Callable[[Told], None] = _nothing,
        again: Callable[[], None] = lambda: None,
    ) -> None:
        """Send a request, if there is a line.

        Args:
            what: Its name in the trace, and its action where the fields say no other.
            about: What it is about, for the trace.
            fields: What it says.
            scope: What a token has to allow for it; without, it has to be refused.
            for_customers: Whether customers may, who have no token.
            must: The code that it has to be refused with; None: it need not be.
            may: The codes that it may be refused with, besides those that are worth a retry.
            done: Called with the reply of a success.
            refused: Called with one that has a code of `may`.
            again: Called where it is worth a retry.
        """
        if self._outgoing is None or self._broke_rules:
            return
        message = {"action": what, **fields}
        what = f"{what} {about}".rstrip()
        number = next(self.numbers)
        at = trio.current_time()
        asked = _Asked(number, what, at, scope, for_customers, must, may, done, refused, again)
        self._asked.append(asked)
        self.say(f"asks {what}")
        self._send(self._message(msgspec.json.encode({**message, "request_id": number})))

    def _message(self, text: bytes) -> bytes:
        """Return a message as it is sent: mostly in one frame."""
        if self.own.random() >= IN_FRAGMENTS:
            return plain.encode(plain.TEXT, text)
        middle, ping = self.own.randrange(len(text)), str(next(self.numbers)).encode()
        self._pings.append(ping)
        return (
            plain.encode(plain.TEXT, text[:middle], final=False)
            + plain.encode(plain.PING, ping)
            + plain.encode(plain.CONTINUATION, text[middle:])
        )

    def _send(self, data: bytes) -> None:
        if self._together is not None:
            self._together.append(data)
        elif self._outgoing is not None:
            self._outgoing.send_nowait(data)

    def say(self, text: str) -> None:
        """Note what happens to it."""
        self.run.say(self.name, text)
