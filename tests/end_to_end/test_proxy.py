"""The line that other tests break does what they think it does."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio

from tests.end_to_end.proxy import HOST, Proxy
from tests.end_to_end.serving import PATIENCE_SECONDS


class Ends:
    """A proxy, and who listens behind it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._behind = stack.enter_context(socket.create_server((HOST, 0)))
        self.proxy = stack.enter_context(Proxy.to_port(self._behind.getsockname()[1]))

    def call(self) -> socket.socket:
        line = socket.create_connection((HOST, self.proxy.port), timeout=PATIENCE_SECONDS)
        return self._stack.enter_context(line)

    def take(self) -> socket.socket:
        line, _ = self._behind.accept()
        line.settimeout(PATIENCE_SECONDS)
        return self._stack.enter_context(line)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def test_it_carries_both_ways_to_the_end(ends: Ends) -> None:
    near, far = ends.call(), ends.take()
    near.sendall(b"there")
    near.shutdown(socket.SHUT_WR)
    assert (far.recv(5), far.recv(1)) == (b"there", b"")
    far.sendall(b"and back")
    far.close()
    assert (near.recv(8), near.recv(1)) == (b"and back", b"")


def test_it_delays_each_way(ends: Ends) -> None:
    near, far = ends.call(), ends.take()
    ends.proxy.delay = 0.1
    began = time.monotonic()
    near.sendall(b"?")
    far.recv(1)
    far.sendall(b"!")
    near.recv(1)
    assert time.monotonic() - began >= 0.2


def test_what_a_black_hole_has_touched_stays_silent(ends: Ends) -> None:
    near, far = ends.call(), ends.take()
    ends.proxy.black_hole()
    near.sendall(b"lost")
    while ends.proxy.swallowed < 4:
        time.sleep(0.01)
    ends.proxy.heal()
    near.sendall(b"too late")
    near.close()
    again = ends.call()
    again.sendall(b"found")
    assert ends.take().recv(5) == b"found"
    far.settimeout(0.1)
    with pytest.raises(TimeoutError):
        far.recv(1)


def test_it_is_cut_at_both_ends(ends: Ends) -> None:
    near, far = ends.call(), ends.take()
    near.sendall(b"?")
    far.recv(1)
    ends.proxy.cut()
    for end in near, far:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert ends.proxy.opened == 1


def test_it_lives_on_when_cut_while_a_line_ends(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    close = trio.SocketStream.aclose

    async def close_slowly(stream: trio.SocketStream) -> None:
        await close(stream)
        await trio.sleep(0.1)

    monkeypatch.setattr(trio.SocketStream, "aclose", close_slowly)
    near, far = ends.call(), ends.take()
    near.close()
    far.close()
    time.sleep(0.05)
    ends.proxy.cut()
    near, far = ends.call(), ends.take()
    near.sendall(b"?")
    assert far.recv(1) == b"?"
