"""One client's requests, answered in the order in which they came.

    take → begin ─ reply ────────────────→ outbox
             │ └── ticket ─→ settled ────↗
             └──── inbox → run: to be awaited

Where nothing waits, nobody is woken: what takes no waiting is answered by who reads it, and the reply to what
is one query goes out as its ticket is settled. All else waits in the inbox for the task that runs here. What
comes behind something that is under way waits, too, unless both are of one kind: these are asked without a
pause, so that they join one batch, and none sees an older state than one before it.
"""

from collections.abc import Sequence
from typing import Protocol

import trio

from trio_ws.actions.table import Later, Request
from trio_ws.database.tickets import Ticket
from trio_ws.events.outbox import Outbox
from trio_ws.messages import Reply
from trio_ws.wire.frames import CLOSE, Frame

TURN_REQUESTS = 64  # taken at once, before others have their turn: a ms or so
# Read ahead of the one that is being answered, so that reading and answering overlap.
INBOX_REQUESTS = 128
# Of those that are one query, so many are under way together. All their replies are there at once, whether
# the client reads or not, and an invoice may take 22 KB: with 64, who read nothing held 2 MB for 17 KB of
# fetches.
ASKED_REQUESTS = 16
# Replies up to here go together, of a turn some 256 KB at most; a longer one ends them.
SHORT_REPLY_BYTES = 4096


_Waiting = tuple[Request, Later | None]  # and what it takes to answer it, where it has begun


class Client(Protocol):
    """What answering needs of a connection.

    Attributes:
        is_ending: Whether what comes is ignored, as of who keeps sending too much.
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
        "_client",
        "_inbox",
        "_is_closed",
        "_news",
        "_outbox",
        "_pending",
        "_to_inbox",
        "taken",
    )

    def __init__(self, client: Client, outbox: Outbox) -> None:
        self._client = client
        self._outbox = outbox
        # From when something has to wait: both ends take 2 KB, and most clients ask for nothing that does.
        self._to_inbox: trio.MemorySendChannel[_Waiting] | None = None
        self._inbox: trio.MemoryReceiveChannel[_Waiting]
        self._is_closed = False
        self._pending = 0  # in the inbox, or being answered from there
        self._asked: list[tuple[Request, Ticket[Reply] | bytes]] = []  # under way, in their order
        self._news = trio.lowlevel.ParkingLot()  # fewer are pending, or nothing is under way
        self.taken = 0

    def take(self, said: Sequence[Frame]) -> int:
        """Take requests, and answer at once what can be; return how many frames were taken.

        It ends at the end of a turn, and where there is no room.
        """
        replies: list[bytes] = []
        beside: Request | None = None  # it was asked for, and what is like it may be, too
        try:
            for number, (opcode, content) in enumerate(said):
                if self._client.is_ending:
                    break
                if number == TURN_REQUESTS or not self.has_room:
                    self._reply(replies)
                    return number
                if isinstance(content, bytes) and opcode > CLOSE:
                    self._reply(replies)
                    self._client.take_control(opcode, content)
                    continue
                self.taken += 1
                request = self._client.request(content)
                if self._pending or (self._asked and not self._may_join(request, beside)):
                    self._hand_on(request, None)
                elif isinstance(begun := request.begin(), bytes) and not self._asked:
                    replies.append(begun)
                    if len(begun) > SHORT_REPLY_BYTES:
                        self._reply(replies)
                else:
                    self._reply(replies)
                    beside = self._go_on(request, begun, beside)
            self._reply(replies)
        except trio.BrokenResourceError:
            self._client.stop_reading()
        return len(said)

    @property
    def has_room(self) -> bool:
        """Tell whether there is room for another request."""
        return self._outbox.has_room and self._pending < INBOX_REQUESTS

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
        if self._to_inbox is not None:
            self._to_inbox.close()
        self._news.unpark_all()

    async def run(self) -> None:
        """Answer what has to wait, until all is answered and no more comes."""
        try:
            while self._to_inbox is None and not self._is_closed:
                await self._news.park()
            if self._to_inbox is not None:
                await self._answer_all()
            await self._all_told()
        except trio.BrokenResourceError:
            self._client.stop_reading()
        finally:
            self._is_closed = True
            for _, begun in self._asked:
                if isinstance(begun, Ticket):
                    begun.is_dropped = True

    async def _answer_all(self) -> None:
        async with self._inbox:
            async for request, later in self._inbox:
                next_ = await self._answer(request, later)
                while next_ is not None:
                    next_ = await self._answer(*next_)

    async def _answer(self, request: Request, later: Later | None) -> _Waiting | None:
        """Answer a request, and ask beside it for those like it; return the next one, if it is there."""
        await self._all_told()
        while not self._outbox.has_room:
            await self._outbox.room()
        begun = later or request.begin()
        if isinstance(begun, bytes | Ticket):
            beside = self._go_on(request, begun, None)
        else:
            self._outbox.put(await request.wait(begun))
            beside = None
        self._is_begun()
        while beside is not None and len(self._asked) < ASKED_REQUESTS:
            try:
                next_, later = self._inbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            if later is not None or (self._asked and not self._may_join(next_, beside)):
                return next_, later
            beside = self._go_on(next_, next_.begin(), beside)
            self._is_begun()
        return None

    def _may_join(self, request: Request, beside: Request | None) -> bool:
        """Tell whether it may begin beside those under way: in their batch, where it sees no older state."""
        return beside is not None and request.goes_with(beside) and len(self._asked) < ASKED_REQUESTS

    def _go_on(
        self, request: Request, begun: bytes | Ticket[Reply] | Later, beside: Request | None
    ) -> Request | None:
        """Have a request that has begun be answered once all before it are; return what may join it."""
        if isinstance(begun, Ticket):
            begun.joins = beside is not None
            self._asked.append((request, begun))
            begun.on_settled(self._tell)
            return request
        if isinstance(begun, bytes):
            self._asked.append((request, begun))
            self._tell()
            return beside
        self._hand_on(request, begun)
        return None

    def _hand_on(self, request: Request, later: Later | None) -> None:
        if self._to_inbox is None:
            if self._is_closed:
                raise trio.BrokenResourceError  # who answers has gone
            self._to_inbox, self._inbox = trio.open_memory_channel[_Waiting](INBOX_REQUESTS)
            self._news.unpark_all()
        self._pending += 1
        self._to_inbox.send_nowait((request, later))

    def _is_begun(self) -> None:
        self._pending -= 1
        self._news.unpark_all()

    async def _all_told(self) -> None:
        """Wait until nothing is under way."""
        while self._asked:
            await self._news.park()

    def _tell(self) -> None:
        """Send the replies that are there to the first of what is under way."""
        if not self._asked:
            return  # all of a batch went out as the first of it was told
        replies: list[bytes] = []
        try:
            while self._asked:
                request, begun = self._asked[0]
                if isinstance(begun, Ticket) and not begun.is_settled:
                    break
                del self._asked[0]
                replies.append(begun if isinstance(begun, bytes) else request.finish(begun.outcome))
                if len(replies[-1]) > SHORT_REPLY_BYTES:
                    self._reply(replies)
            self._reply(replies)
        except trio.BrokenResourceError:
            self._client.stop_reading()
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self._client.fail(error)
        if not self._asked:
            self._news.unpark_all()

    def _reply(self, replies: list[bytes]) -> None:
        """Send replies, all in one call."""
        if replies:
            self._outbox.put(b"".join(replies), len(replies))
            replies.clear()
