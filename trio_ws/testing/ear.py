"""An ear for simulated lines: what the server's own does for sockets."""

from functools import partial

import trio

from trio_ws.testing.lines import SimulatedStream
from trio_ws.wire.ear import RECEIVE_BYTES, Hear, Read


class SimulatedEar:
    """Notifies of each stream once when something new has come."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None  # while it listens
        self._listening: dict[trio.abc.Stream, trio.CancelScope] = {}

    def listen(self, stream: trio.abc.Stream, hear: Hear) -> Read | None:
        """Listen to a stream."""
        if self._nursery is None or not isinstance(stream, SimulatedStream):
            return None
        scope = self._listening[stream] = trio.CancelScope()
        self._nursery.start_soon(self._follow, stream, hear, scope)
        return partial(stream.receive_now, RECEIVE_BYTES)

    def forget(self, stream: trio.abc.Stream) -> None:
        """Listen no more."""
        self._listening.pop(stream).cancel()

    async def run(self) -> None:
        """Listen until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    @staticmethod
    async def _follow(stream: SimulatedStream, hear: Hear, scope: trio.CancelScope) -> None:
        known = 0
        with scope:
            while True:
                known = await stream.news(known)
                await trio.lowlevel.checkpoint()  # others may come before, as with a poll
                hear(stream.is_over)
