"""One client's bytes: the request head, then frames; nothing else reads or writes its socket.

What comes in is screened before anybody sees it. One task at a time sends; where that is cancelled or fails
the socket is closed, because half a frame may be out. Each wait on a client that does not read ends in
`write_seconds`; each other wait is the caller's to end.
"""

import logging
import math
import os
import socket
from collections.abc import Callable, Sized
from contextlib import suppress

import trio

from trio_ws.limits import Bucket
from trio_ws.settings import Settings
from trio_ws.wire.body import CONTINUE, BodyReader
from trio_ws.wire.ear import RECEIVE_BYTES, Ear, Read
from trio_ws.wire.frames import Frame, Screen
from trio_ws.wire.head import Head, HeadReader, Refusal
from trio_ws.wire.tls import socket_of

logger = logging.getLogger(__name__)

HANG_UP_BYTES = 65536
GIVEN_CHARACTERS = 200  # of what did not fit, for the log: an origin or a path is rarely longer
FLOOD = 64  # frames, or bytes that were not looked at, that come at once
FLOOD_PAUSE_SECONDS = 0.02  # a client that sends all it can is read at 1 MB/s, for 5 % of a core
NONE = -1  # no descriptor

SendSome = Callable[[bytes], int]
PROGRESS_BYTES = 16384  # what must go out in `write_seconds`; who takes less counts as not reading
# What the kernel may hold for a client that reads slowly; left alone, it lets that grow to some 4 MB
# (net.ipv4.tcp_wmem), behind which our pings stand, and which no limit of ours counts.
SEND_BUFFER_BYTES = 65536


class Wire:
    """A socket and what has come of it.

    Args:
        stream: The accepted socket, or anything like it.
        settings: The settings in force.

    Attributes:
        screen: What the client sends, and how that ended.
        gave_up: Whether the client was cut off because it did not read.
        is_waited_for: Whether somebody waits for what the client says next.
        has_begun_head: Whether some of a head has come, where one is waited for.
        sent_bytes: How much has gone out, or was on its way.
    """

    __slots__ = (  # see `Follower`
        "_descriptor",
        "_ear",
        "_error",
        "_has_come",
        "_heard",
        "_is_over",
        "_only_head",
        "_parked",
        "_read",
        "_rest",
        "_send_some",
        "_settings",
        "_stream",
        "_take",
        "gave_up",
        "has_begun_head",
        "is_waited_for",
        "screen",
        "sent_bytes",
    )

    def __init__(self, stream: trio.abc.HalfCloseableStream, settings: Settings) -> None:
        control_frames = settings.control_frames_per_second
        self.screen = Screen(
            settings.message_bytes,
            settings.message_fragments,
            Bucket(control_frames, control_frames),
            trio.current_time,
        )
        self.gave_up = self.has_begun_head = self.is_waited_for = False
        self.sent_bytes = 0
        self._stream = stream
        self._settings = settings
        self._rest = b""  # what has come and was not looked at yet
        self._only_head = False  # is what HEAD is answered
        self._descriptor = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else NONE
        # Takes what it has room for where there is no descriptor: only a simulated socket has it.
        self._send_some: SendSome = getattr(stream, "send_some", _take_nothing)
        self._ear: Ear
        self._take: Callable[[list[Frame]], int] | None = None
        self._read: Read | None = None  # while the ear listens
        self._has_come = False  # perhaps without a notification
        self._is_over = False  # whether the end has come, behind what was not read yet
        self._parked: trio.lowlevel.Task | None = None  # who waits for what the ear hears
        self._heard: list[Frame] = []
        self._error: Exception | None = None
        if (transport := socket_of(stream)) is not None:
            _set_up(transport, settings.write_seconds)

    async def receive_head(self) -> Head | None:
        """Return the request head, or None where the client goes before it is whole.

        Raises:
            Refusal: there is none that can be understood.
        """
        reader = HeadReader(self._settings.head_bytes)
        self.has_begun_head = False
        while data := self._rest or self._receive_now() or await self._receive():
            self._rest = b""
            self.has_begun_head = True
            if (head := reader.feed(data)) is not None:
                self._rest = reader.rest
                self._only_head = head.method == "HEAD"
                return head
        return None

    async def receive_body(self, head: Head) -> bytes | None:
        """Return the body that follows a head, or None where the client goes before it is whole.

        Raises:
            Refusal: there is none that can be understood.
        """
        reader = BodyReader(head, self._settings.message_bytes, self._settings.message_fragments)
        data, self._rest = self._rest, b""
        if (body := reader.feed(data)) is None and not data and head.awaits_continue:
            with suppress(trio.BrokenResourceError):  # it has gone, which reading shows too
                await self.send_all(CONTINUE)
        while body is None:
            if not (data := self._receive_now() or await self._receive()):
                return None
            body = reader.feed(data)
        self._rest = reader.rest
        return body

    async def receive_unread(self) -> bool:
        """Wait for what nobody will read, and tell whether there was any; else the end has come."""
        data, self._rest = self._rest or await self._receive(), b""
        await self.pause_in_flood(data)
        return bool(data)

    async def receive(self) -> list[Frame]:
        """Return the next of what is said, some of it at a time; nothing at the end."""
        while not self.screen.has_ended:
            if self.screen.has_more:
                await trio.lowlevel.checkpoint()
                data = b""
            elif self._rest or self._read is None:
                data, self._rest = self._rest or await self._receive(), b""
                if not data:
                    return []
            elif self._has_come:
                await trio.lowlevel.checkpoint()
                if self._read is None or (read := self._read_now()) is None:
                    continue
                if not read:
                    return []
                data = read
            elif said := await self._park():
                return said
            else:
                continue
            if said := self.screen.feed(data):
                return said
        return []

    def listen(self, ear: Ear, take: Callable[[list[Frame]], int]) -> None:
        """Have what comes be heard, from now on, while `receive` waits.

        Args:
            ear: What notifies of it, if it does for this stream.
            take: Takes what is said, or the first of it, and returns how much. The rest is received.
        """
        self._ear, self._take = ear, take
        self._read = ear.listen(self._stream, self._hear)
        self._has_come = True  # before this

    def listen_no_more(self) -> None:
        """Have who receives wait for the stream itself."""
        if self._read is not None:
            self._ear.forget(self._stream)
            self._wake([])
        self._read = self._take = None

    def _hear(self, is_over: bool) -> int:  # noqa: FBT001 - as an ear calls it
        """Take what has come, or wake who receives; for the ear."""
        self._is_over = self._is_over or is_over
        self._has_come = True
        if self._parked is None or self._take is None or (data := self._read_now()) is None:
            return 0
        try:
            said = self.screen.feed(data)
            taken = self._take(said)
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self._error = error
            self._wake([])
            return 0
        if not data:
            self._has_come = True  # the end, which who receives sees for itself
        if taken < len(said) or self._has_come or self.screen.has_more or self.screen.has_ended:
            self._wake(said[taken:])
        return taken

    def _read_now(self) -> bytes | None:
        assert self._read is not None  # noqa: S101 - it is not called else
        data = self._read()
        # Less is all that there was, but for the end, which may have come with it and is notified once.
        self._has_come = data is not None and (len(data) == RECEIVE_BYTES or self._is_over)
        return data

    async def _park(self) -> list[Frame]:
        """Wait until there is something to do, and return what the ear has heard and not taken."""
        self._parked = trio.lowlevel.current_task()
        self.is_waited_for = True

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked = None
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self.is_waited_for = False
        if self._error is not None:
            raise self._error
        heard, self._heard = self._heard, []
        return heard

    def _wake(self, heard: list[Frame]) -> None:
        if self._parked is not None:
            self._heard = heard
            trio.lowlevel.reschedule(self._parked)
            self._parked = None

    async def pause_in_flood(self, said: Sized) -> None:
        """Let others have the processor, where much is said that nobody hears any more."""
        if len(said) > FLOOD:
            await trio.sleep(FLOOD_PAUSE_SECONDS)

    def send_now(self, frames: bytes) -> int:
        """Hand frames to the kernel, and return how many bytes of them it took: what it has room for.

        Not while `send_all` is at it. Under TLS, 0. A frame costs 6 µs this way, nearly all of them the
        kernel's, and 20 where a task is woken to send it (`scripts/bench fanout`).
        """
        try:
            is_socket = self._descriptor != NONE  # trio's never block
            sent = os.write(self._descriptor, frames) if is_socket else self._send_some(frames)
        except OSError:  # no room, or no line: who waits for it finds out
            return 0
        self.sent_bytes += sent
        return sent

    async def send_all(self, data: bytes, *, by: float = math.inf) -> None:
        """Send all of this, or close the socket.

        Args:
            data: What is sent; nothing waits for what the kernel has room for.
            by: When it must be out, on trio's clock, if that is sooner than `write_seconds` have it.

        Raises:
            trio.BrokenResourceError: nothing goes out any more.
        """
        sent = self.send_now(data)
        self.sent_bytes += len(data) - sent
        try:
            for start in range(sent, len(data), PROGRESS_BYTES):
                with trio.fail_at(min(by, trio.current_time() + self._settings.write_seconds)):
                    await self._stream.send_all(memoryview(data)[start : start + PROGRESS_BYTES])
        except (trio.TooSlowError, trio.ClosedResourceError) as error:
            self.gave_up = isinstance(error, trio.TooSlowError)
            self._let_go()
            await trio.aclose_forcefully(self._stream)  # its reader learns of the end, too
            raise trio.BrokenResourceError("it does not read" if self.gave_up else "hung up") from None
        except BaseException:
            self._let_go()
            await trio.aclose_forcefully(self._stream)
            raise

    def _let_go(self) -> None:
        """Use its descriptor no more, which another connection may have soon."""
        self.listen_no_more()
        self._descriptor, self._send_some = NONE, _take_nothing

    async def refuse(self, refusal: Refusal, *, by: float = math.inf) -> None:
        """Tell a caller that it is turned away, if it is still there."""
        given = {} if refusal.given is None else {"given": str(refusal.given)[:GIVEN_CHARACTERS]}
        logger.info(
            "refused with %d: %s",
            refusal.status,
            refusal.reason,
            extra={"figures": given, "repeats": True},
        )
        with suppress(trio.BrokenResourceError):
            await self.send_all(refusal.encode(only_head=self._only_head), by=by)

    async def hang_up(self) -> None:
        """Close the socket so that the peer reads what was sent last, and can say goodbye.

        A socket closed with bytes unread answers them with a reset, which may overtake our close frame. So
        say that we are done, and read on until the peer is, or the caller's patience ends.
        """
        self._descriptor, self._send_some = NONE, _take_nothing  # another connection may have it soon
        try:
            await self._stream.send_eof()
            while data := await self._stream.receive_some(HANG_UP_BYTES):
                await self.pause_in_flood(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It has hung up on us.
        finally:
            await trio.aclose_forcefully(self._stream)

    def _receive_now(self) -> bytes:
        """Return what has come, if something has: a head often has, before its line is accepted."""
        if self._descriptor == NONE:
            return b""
        try:
            return os.read(self._descriptor, RECEIVE_BYTES)
        except OSError:  # nothing yet, or no line: who waits for it finds out
            return b""

    async def _receive(self) -> bytes:
        self.is_waited_for = True
        try:
            if self._descriptor == NONE:
                return bytes(await self._stream.receive_some(RECEIVE_BYTES))
            # Half of what `receive_some` costs, which tries first, in vain.
            await trio.lowlevel.wait_readable(self._descriptor)
            while True:
                try:
                    return os.read(self._descriptor, RECEIVE_BYTES)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._descriptor)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return b""
        finally:
            self.is_waited_for = False


def _take_nothing(_: bytes) -> int:
    return 0


def _set_up(stream: trio.SocketStream, seconds: float) -> None:
    """Have the kernel hold little for a client, and give up on one that takes nothing.

    trio has set TCP_NODELAY itself.
    """
    with suppress(OSError):  # it has gone already
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
