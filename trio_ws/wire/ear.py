"""Hears all clients at once, so that nobody is woken for one that says little and is answered at once.

A task that waits for a socket by itself is woken for each request: the poll is armed again, and a task
switched to and from. That costs more than to answer a `ping` (`scripts/bench requests`). So one task waits
for all that are silent, and has what comes heard right there. Where there is no epoll, or no plain socket as
under TLS, each reader waits for its own.
"""

import os
import select
from collections.abc import Callable
from typing import Protocol

import trio

RECEIVE_BYTES = 16384
EVENTS = 128  # from one look, which are heard before others have their turn
TURN_HEARD = 64  # requests that are heard before that: a ms or so

Hear = Callable[[bool], int]
# Returns what has come: nothing at the end, None where nothing has come yet.
Read = Callable[[], bytes | None]


class Ear(Protocol):
    """Says when something has come on a stream; `trio_ws.testing` has a simulated one."""

    def listen(self, stream: trio.abc.Stream, hear: Hear) -> Read | None:
        """Have `hear` be called whenever something new has come; it returns how many requests it took.

        It is called with whether the end has come, too, behind what was not read yet.

        What was there before is not notified. None: the stream's reader has to wait for it.
        """

    def forget(self, stream: trio.abc.Stream) -> None:
        """Listen no more: before it is closed, for another one may have its descriptor then."""

    async def run(self) -> None:
        """Listen until cancelled."""


class Deaf:
    """No ear: each reader waits for its own stream."""

    def listen(self, _: trio.abc.Stream, __: Hear) -> Read | None:
        """Leave it to the reader."""
        return None

    def forget(self, _: trio.abc.Stream) -> None:
        """Nothing was remembered."""

    async def run(self) -> None:
        """Do nothing until cancelled."""
        await trio.sleep_forever()


class SocketEar:
    """An ear for plain sockets, by one epoll, which notifies of each once when something new has come."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._hear: dict[int, Hear] = {}

    def listen(self, stream: trio.abc.Stream, hear: Hear) -> Read | None:
        """Listen to a socket."""
        if not isinstance(stream, trio.SocketStream):
            return None
        descriptor = stream.socket.fileno()
        try:
            self._poll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        except OSError:  # there are as many as the kernel allows, or it has gone
            return None
        self._hear[descriptor] = hear

        def read() -> bytes | None:
            try:
                return os.read(descriptor, RECEIVE_BYTES)
            except BlockingIOError:
                return None
            except OSError:
                return b""

        return read

    def forget(self, stream: trio.abc.Stream) -> None:
        """Forget a socket that is not closed yet."""
        assert isinstance(stream, trio.SocketStream)  # noqa: S101 - no other was listened to
        descriptor = stream.socket.fileno()
        del self._hear[descriptor]
        if not self._poll.closed:  # as where all ends at once
            self._poll.unregister(descriptor)

    async def run(self) -> None:
        """Listen until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._poll.fileno())
                while ready := self._poll.poll(0, EVENTS):  # those notified come last in the next poll
                    heard = 0
                    for descriptor, events in ready:
                        if (hear := self._hear.get(descriptor)) is not None:
                            heard += hear(bool(events & select.EPOLLRDHUP))
                        if heard >= TURN_HEARD:
                            heard = 0
                            await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
        finally:
            self._poll.close()


def open_ear() -> Ear:
    """Return an ear, where the system has one."""
    return SocketEar() if hasattr(select, "epoll") else Deaf()
