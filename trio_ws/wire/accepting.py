"""Accepting who calls, to the end, and without a reset there.

The kernel lets clients in before we accept them. When a socket that listens is closed, it resets those that
wait there, though they have sent their request. So a server that stops has the kernel let in nobody more,
accepts those that are there, and only then closes.
"""

import ctypes
import errno
import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from trio_ws.wire.tls import Stream

logger = logging.getLogger(__name__)

Listener = trio.abc.Listener[Stream]  # one that is around another has that as its `transport`
Serve = Callable[[Stream], Awaitable[None]]

# How long the last packet of a TCP handshake may take that we have begun: a round trip around the Earth takes
# 0.3 s. Who calls meanwhile tries again after a second (RFC 6298), and finds another server or none.
HANDSHAKE_SECONDS = 0.5

TURNS = 3  # of the event loop, of which accepting one client takes one

SO_ATTACH_FILTER = 26  # of Linux, for which Python has no name
# A classic BPF program, which sees a packet from its TCP header on: drop what has the flag SYN in byte 13.
_NO_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load byte 13
        (0x45, 0, 1, 0x02),  # unless it has this bit, skip one
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
    )
)


async def accept(listener: Listener, serve: Serve, nursery: trio.Nursery) -> None:
    """Serve clients until cancelled or the listener is closed; then also those that wait, in the nursery.

    Args:
        listener: Where they call.
        serve: Called with each; the stream is closed when it returns.
        nursery: Where it is called, and where the listener is closed.
    """
    try:
        with suppress(trio.ClosedResourceError):  # as a test kit's network is where its server is killed
            while True:
                nursery.start_soon(_serve, serve, await listener.accept())
    finally:
        nursery.start_soon(_finish, listener, serve, nursery)


async def _serve(serve: Serve, stream: Stream) -> None:
    try:
        await serve(stream)
    finally:
        await trio.aclose_forcefully(stream)


async def _finish(listener: Listener, serve: Serve, nursery: trio.Nursery) -> None:
    async with listener:
        if let_nobody_in(listener):
            with trio.move_on_after(HANDSHAKE_SECONDS):
                while True:
                    nursery.start_soon(_serve, serve, await listener.accept())
        while (stream := await _accept_at_once(listener)) is not None:
            nursery.start_soon(_serve, serve, stream)


async def _accept_at_once(listener: Listener) -> Stream | None:
    """Return a client that waits already, or None."""
    accepted: Stream | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_soon, nursery.cancel_scope)
        with suppress(OSError, trio.ClosedResourceError):  # no descriptor for it; closed meanwhile
            accepted = await listener.accept()
        nursery.cancel_scope.cancel()
    return accepted


async def _cancel_soon(waiting: trio.CancelScope) -> None:
    for _ in range(TURNS):
        await trio.lowlevel.checkpoint()
    waiting.cancel()


def let_nobody_in(listener: Listener) -> bool:
    """Have the kernel begin no more handshakes, and tell whether it does so."""
    transport: object = listener
    while not isinstance(transport, trio.SocketListener):
        if (transport := getattr(transport, "transport", None)) is None:
            return False  # it is simulated
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    instructions = len(_NO_SYN) // struct.calcsize("HBBI")
    try:
        transport.socket.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", instructions, ctypes.addressof(program))
        )
    except OSError as error:  # a sandbox may know no filters
        logger.debug("can't stop TCP handshakes: %s", errno.errorcode.get(error.errno or 0, error))
        return False
    return True
