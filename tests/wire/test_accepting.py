"""What becomes of those who have called, and were not accepted yet, when a server stops."""

import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests import raw
from trio_ws.testing import World
from trio_ws.wire import accepting
from trio_ws.wire.accepting import accept
from trio_ws.wire.tls import Stream

PATIENCE_SECONDS = 30
CALLERS = 50


async def say_no(stream: Stream) -> None:
    assert await stream.receive_some() == b"?"
    await stream.send_all(b"no")


async def test_who_waits_in_the_kernel_when_a_server_stops_is_answered_and_not_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accepting, "HANDSHAKE_SECONDS", 0.01)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    where = listener.socket.getsockname()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            callers = [socket.create_connection(where) for _ in range(CALLERS)]
            for caller in callers:
                caller.sendall(b"?")
            async with trio.open_nursery() as listening:
                listening.start_soon(accept, listener, say_no, nursery)
                listening.cancel_scope.cancel()  # before anybody was accepted
        for caller in callers:
            with caller:
                assert caller.recv(2) == b"no"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where)


@pytest.mark.parametrize("knows_filters", [True, False])
async def test_no_handshake_begins_once_a_server_stops_where_the_kernel_can_be_told(
    monkeypatch: pytest.MonkeyPatch, *, knows_filters: bool
) -> None:
    if not knows_filters:
        monkeypatch.setattr(accepting, "SO_ATTACH_FILTER", 10**6)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        assert accepting.let_nobody_in(listener) is knows_filters
        with socket.socket() as caller:
            caller.settimeout(0)
            assert caller.connect_ex(listener.socket.getsockname())
            with trio.move_on_after(0.1) as waiting:
                await trio.lowlevel.wait_writable(caller)
        assert waiting.cancelled_caught is knows_filters


async def test_who_could_not_be_accepted_when_the_server_stops_is_told_to_come_again(
    autojump_clock: MockClock, world: World
) -> None:
    async def call() -> None:
        caller = raw.RawClient(await world.network.call())
        await caller.stream.send_all(raw.head())
        heads.append(await caller.receive_head())
        await caller.see_the_end()

    heads: list[str] = []
    world.network.lacks_descriptors = True
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as callers:
            for _ in range(3):
                callers.start_soon(call)
            await wait_all_tasks_blocked()
            assert heads == []
            world.network.lacks_descriptors = False
            world.shutdown.set()
    assert [head.partition(" Service")[0] for head in heads] == ["HTTP/1.1 503"] * 3
    assert all("\r\nRetry-After: " in head for head in heads)
