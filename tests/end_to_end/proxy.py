"""A TCP line in a test's hands: it delays, swallows, is cut, and heals.

    with Proxy.to_port(8080) as line:
        client = connect(f"ws://127.0.0.1:{line.port}")
        line.black_hole()

It has a thread and an event loop of its own, so that tests which block and tests on trio can use it alike.
"""

import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Self

import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

HOST = "127.0.0.1"
CHUNKS = 64  # on their way in one direction; then who sends has to wait
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: on, for 0 seconds

Reach = Callable[[], Awaitable[trio.SocketStream]]
Chunk = tuple[float, bytes | None]  # when it is to arrive, and what: b"" is the end, None a reset


class Proxy:
    """Listens on a port of its own, and carries what is said there and back.

    Args:
        reach: Opens a stream to who is behind it.

    Attributes:
        port: Where it listens.
        delay: How long all that is said takes, each way, in seconds.
        opened: How many lines there have been.
        swallowed: How many bytes have gone nowhere.
    """

    def __init__(self, reach: Reach) -> None:
        self.delay = 0.0
        self.opened = 0
        self.swallowed = 0
        self.is_black_hole = False
        self._reach = reach
        self._lines: set[_Line] = set()
        self._listening = socket.create_server((HOST, 0))
        self.port = int(self._listening.getsockname()[1])
        self._serves = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))

    @classmethod
    def to_port(cls, port: int) -> Self:
        """Stand before who listens on a port of this machine."""
        return cls(partial(trio.open_tcp_stream, HOST, port))

    @classmethod
    def to_postgres(cls, conninfo: str) -> Self:
        """Stand before a PostgreSQL that listens on a Unix socket, as the embedded one does."""
        at = conninfo_to_dict(conninfo)
        return cls(partial(trio.open_unix_socket, f"{at['host']}/.s.PGSQL.{at['port']}"))

    def conninfo(self, direct: str) -> str:
        """Return how a PostgreSQL is reached through this."""
        return make_conninfo(direct, host=HOST, port=str(self.port))

    def __enter__(self) -> Self:
        self._thread.start()
        self._serves.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.run_sync_soon(self._serving.cancel)
        self._thread.join()

    def black_hole(self) -> None:
        """Swallow all that is said from now on, goodbyes and resets too; lines stay open."""
        self.is_black_hole = True

    def heal(self) -> None:
        """Carry again; but a line of which something is missing stays silent."""
        self.is_black_hole = False

    def cut(self) -> None:
        """Reset all lines, at both ends; new ones may be opened."""
        self._loop.run_sync_soon(self._cut)

    async def _serve(self) -> None:
        self._loop = trio.lowlevel.current_trio_token()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listening))
        with trio.CancelScope() as self._serving:
            self._serves.set()
            await trio.serve_listeners(self._carry, [listener])

    def _cut(self) -> None:
        for line in self._lines:
            line.reset()

    async def _carry(self, near: trio.SocketStream) -> None:
        self.opened += 1
        line = _Line(self)
        self._lines.add(line)
        with suppress(OSError):  # nobody is behind it
            await line.carry(near, self._reach)
        self._lines.remove(line)


class _Line:
    """One line, between who called and who is behind the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._ends: list[trio.SocketStream] = []
        self._carrying = trio.CancelScope()
        self._is_silent = False

    async def carry(self, near: trio.SocketStream, reach: Reach) -> None:
        """Carry until both ends have said goodbye, or it is reset."""
        self._ends.append(near)
        with self._carrying:
            if self._proxy.is_black_hole:
                await trio.sleep_forever()  # as if nobody were there
            async with await reach() as far, trio.open_nursery() as nursery:
                self._ends.append(far)
                for source, sink in ((near, far), (far, near)):
                    to_sink, on_its_way = trio.open_memory_channel[Chunk](CHUNKS)
                    nursery.start_soon(self._take, source, to_sink)
                    nursery.start_soon(self._hand_on, on_its_way, sink)

    def reset(self) -> None:
        """Have both ends see it broken."""
        for end in self._ends:
            with suppress(trio.ClosedResourceError, OSError):  # this end is closed already
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._carrying.cancel()

    async def _take(self, source: trio.SocketStream, to_sink: trio.MemorySendChannel[Chunk]) -> None:
        async with to_sink:
            data: bytes | None = b"something"
            while data:
                try:
                    data = bytes(await source.receive_some())
                except trio.BrokenResourceError:
                    data = None
                await to_sink.send((trio.current_time() + self._proxy.delay, data))

    async def _hand_on(self, on_its_way: trio.MemoryReceiveChannel[Chunk], sink: trio.SocketStream) -> None:
        async for due, data in on_its_way:
            await trio.sleep_until(due)
            self._is_silent = self._is_silent or self._proxy.is_black_hole
            if self._is_silent:
                self._proxy.swallowed += len(data or b"")
            elif data is None:
                self.reset()
            else:
                with suppress(trio.BrokenResourceError):  # the other way will say so
                    await (sink.send_all(data) if data else sink.send_eof())
        if self._is_silent:
            await trio.sleep_forever()  # what was said last was swallowed: nobody has heard of an end
