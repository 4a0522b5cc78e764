"""One client's requests, answered in the order in which they came.

    take → begin ─ reply ────────────→ outbox
     │       │└─── ticket ─→ settled ─↗
     └→ waiting ── to be awaited: run ↗

Where nothing waits, nobody is woken: what takes no waiting is answered by the reader, and the reply to what
is one query goes out as its ticket is settled. What comes behind something that is under way waits, unless
both are of one kind: these are asked without a pause, so that they join one batch, and none sees an older
state than one before it. What is to be awaited is awaited by the task that runs here.
"""

from collections.abc import Sequence
from typing import Protocol

import trio

from trio_ws.actions.table import Request
from trio_ws.database.tickets import Ticket
from trio_ws.events.outbox import Outbox
from trio_ws.messages import Reply
from trio_ws.wire.frames import CLOSE, Frame

TURN_REQUESTS = 64  # taken at once, before others have their turn: a ms or so
# Read ahead of the one that is being answered, so that reading and answering overlap.
WAITING_REQUESTS = 128
# Of those that are one query, so many are under way together. All their replies are there at once, whether
# the client reads or not, and an invoice may take 22 KB: with 64, who read nothing held 2 MB for 17 KB of
# fetches.
ASKED_REQUESTS = 16
# Replies up to here go together, of a turn some 256 KB at most; a longer one ends them.
SHORT_REPLY_BYTES = 4096


class Client(Protocol):
    """What answering needs of a connection.

    Attributes:
        is_ending: Whether requests are ignored, as of a client that keeps sending too much.
    """

    @property
    def is_ending(self) -> bool: ...  # noqa: D102 - see above

    def request(self, text: str | bytes) -> Request:
        """Return what a message asks for."""

    def take_control(self, opcode: int, payload: bytes) -> None:
        """Take a ping or pong."""

    def stop_reading(self) -> None:
        """Nobody writes any more, so there is nothing to read for."""

    def fail(self, error: Exception) -> None:
        """End with a bug."""


class Answers:
    """Answers one client's requests.

    Args:
        client: Whose they are.
        outbox: Where the replies go.

    Attributes:
        taken: How many requests came.
    """

    __slots__ = (  # see `Follower`
        "_asked",
        "_beside",
        "_client",
        "_is_closed",
        "_news",
        "_outbox",
        "_replies",
        "_waiting",
        "taken",
    )

    def __init__(self, client: Client, outbox: Outbox) -> None:
        self._client = client
        self._outbox = outbox
        self._replies: list[bytes] = []  # which go out together
        self._asked: list[tuple[Request, Ticket[Reply] | bytes]] = []  # under way, in their order
        self._beside: Request | None = (
            None  # one of them, which what is like it may join: until there is a pause
        )
        self._waiting: list[Request] = []  # behind these; the first may be the one that is awaited
        self._is_closed = False
        self._news = trio.lowlevel.ParkingLot()  # fewer wait, or the first of them is to be awaited
        self.taken = 0

    def take(self, said: Sequence[Frame]) -> int:
        """Take requests, and answer at once what can be; return how many frames were taken.

        It ends at the end of a turn, and where there is no room.
        """
        taken = 0
        try:
            for opcode, content in said:
                if self._client.is_ending:
                    taken = len(said)
                    break
                if taken == TURN_REQUESTS or not self.has_room:
                    break
                taken += 1
                if isinstance(content, bytes) and opcode > CLOSE:
                    self._reply()
                    self._client.take_control(opcode, content)
                    continue
                self.taken += 1
                request = self._client.request(content)
                if self._waiting or not self._begin(request):
                    self._wait(request)
            self._pause()
        except trio.BrokenResourceError:
            self._client.stop_reading()
            return len(said)
        return taken

    @property
    def has_room(self) -> bool:
        """Return whether there is room for another request."""
        return len(self._waiting) < WAITING_REQUESTS and self._outbox.has_room

    async def room(self) -> None:
        """Wait until there is, and let others have their turn."""
        await trio.lowlevel.checkpoint()
        while not self.has_room:
            if self._outbox.has_room:
                await self._news.park()
            else:
                await self._outbox.room()

    def close(self) -> None:
        """Say that no more requests come; those that came are still answered."""
        self._is_closed = True
        self._news.unpark_all()

    async def run(self) -> None:
        """Answer what has to wait, until all is answered and no more comes."""
        try:
            while self._asked or self._waiting or not self._is_closed:
                if self._asked or not self._waiting:
                    await self._news.park()
                elif not self._outbox.has_room:
                    await self._outbox.room()
                elif self._waiting[0].later is not None:
                    self._outbox.put(await self._waiting[0].wait())
                    del self._waiting[0]
                    self._go_on()
                else:
                    await trio.lowlevel.checkpoint()
                    self._go_on()
        except trio.BrokenResourceError:
            self._client.stop_reading()
        finally:
            self._is_closed = True
            for _, begun in self._asked:
                if isinstance(begun, Ticket):
                    begun.is_dropped = True

    def _begin(self, request: Request) -> bool:
        """Answer a request, or ask for its answer; or tell that it has to wait.

        Beside others that are under way it begins only in one batch with them, or it saw an older state.
        """
        if self._asked and (
            self._beside is None or not request.goes_with(self._beside) or len(self._asked) == ASKED_REQUESTS
        ):
            return False
        begun = request.begin()
        if begun is None:
            return False
        if isinstance(begun, Ticket) and begun.is_settled:
            begun = request.finish(begun.outcome)
        if isinstance(begun, Ticket):
            begun.joins = self._beside is not None
            begun.on_settled(self._tell)
            self._beside = request
        elif not self._asked:
            self._add(begun)
            return True
        self._asked.append((request, begun))
        return True

    def _wait(self, request: Request) -> None:
        if self._is_closed:
            raise trio.BrokenResourceError  # who answers has gone
        self._waiting.append(request)

    def _go_on(self) -> None:
        """Begin what waits, as far as it can."""
        for _ in range(TURN_REQUESTS):
            if not self._waiting or self._waiting[0].later is not None or not self._outbox.has_room:
                break
            if not self._begin(self._waiting[0]):
                break
            del self._waiting[0]
        self._pause()
        self._news.unpark_all()

    def _pause(self) -> None:
        """Send what is answered; what comes later joins no batch of now."""
        self._beside = None
        self._reply()
        if self._waiting and not self._asked:
            self._news.unpark_all()

    def _tell(self) -> None:
        """Send the replies that are there to the first of what is under way."""
        try:
            while self._asked:
                request, begun = self._asked[0]
                if isinstance(begun, Ticket):
                    if not begun.is_settled:
                        break
                    begun = request.finish(begun.outcome)
                del self._asked[0]
                self._add(begun)
            self._reply()
            if len(self._waiting) > ASKED_REQUESTS:
                self._pause()  # whose turn it is tells others, too: much goes on in a turn of its own
            elif not self._asked and (self._waiting or self._is_closed):
                self._go_on()
        except trio.BrokenResourceError:
            self._client.stop_reading()
            self._news.unpark_all()  # who runs here may wait for this reply alone
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self._client.fail(error)

    def _add(self, reply: bytes) -> None:
        """Add a reply to those that go out together."""
        self._replies.append(reply)
        if len(reply) > SHORT_REPLY_BYTES:
            self._reply()

    def _reply(self) -> None:
        """Send replies, all in one call."""
        if self._replies:
            frames, count = b"".join(self._replies), len(self._replies)
            self._replies.clear()
            self._outbox.put(frames, count)
