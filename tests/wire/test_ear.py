"""One ear for all clients: who is silent is not woken, and nothing that anybody says is lost."""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests import raw
from trio_ws.settings import Settings
from trio_ws.testing.ear import SimulatedEar
from trio_ws.testing.lines import SimulatedLine, SimulatedStream
from trio_ws.wire.ear import RECEIVE_BYTES, TURN_HEARD, Deaf, Ear, SocketEar, open_ear
from trio_ws.wire.frames import Frame
from trio_ws.wire.stream import Wire

SETTINGS = Settings(control_frames_per_second=None, message_bytes=None)
PATIENCE_SECONDS = 30
Stream = trio.abc.HalfCloseableStream
Connect = Callable[[], Awaitable[tuple[Stream, Stream]]]


async def sockets() -> tuple[Stream, Stream]:
    await trio.lowlevel.checkpoint()
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


async def simulated() -> tuple[Stream, Stream]:
    await trio.lowlevel.checkpoint()
    return SimulatedLine(room_bytes=10**6, split=random.Random(1)).ends


class Listener:
    """A wire of which the ear takes some, and a reader the rest.

    Attributes:
        heard: What the ear has taken.
        read: What came to the reader.
        in_order: Both.
        takes: How much of what is said at once is taken.
    """

    def __init__(self, ear: Ear, stream: Stream) -> None:
        self.wire = Wire(stream, SETTINGS)
        self.heard: list[Frame] = []
        self.read: list[Frame] = []
        self.in_order: list[Frame] = []
        self.takes = 10**9
        self.has_ended = False
        self.error: Exception | None = None
        self._ear = ear
        self._change = trio.lowlevel.ParkingLot()

    def take(self, said: list[Frame]) -> int:
        if self.error is not None:
            raise self.error
        taken = said[: self.takes]
        self.heard += taken
        self.in_order += taken
        self._change.unpark_all()
        return len(taken)

    async def run(self) -> None:
        self.wire.listen(self._ear, self.take)
        try:
            while said := await self.wire.receive():
                self.read += said
                self.in_order += said
                self._change.unpark_all()
        except ZeroDivisionError:
            pass
        finally:
            self.wire.listen_no_more()
        self.has_ended = True
        self._change.unpark_all()

    async def until(self, condition: Callable[["Listener"], object]) -> None:
        while not condition(self):
            await self._change.park()


class Room:
    """Where an ear listens."""

    def __init__(self, ear: Ear, nursery: trio.Nursery) -> None:
        self.ear = ear
        self.nursery = nursery
        self.streams: list[Stream] = []

    async def connect(self, connect: Connect, first: bytes = b"") -> tuple[Listener, Stream]:
        """Return who listens on one end, and the other end, where something may have been sent before."""
        ours, theirs = await connect()
        self.streams += (ours, theirs)
        if first:
            await theirs.send_all(first)
        listener = Listener(self.ear, ours)
        self.nursery.start_soon(listener.run)
        return listener, theirs

    async def connect_and_speak(self, connect: Connect) -> tuple[Listener, Stream]:
        """Do so, and return once a first message has come."""
        listener, theirs = await self.connect(connect)
        await theirs.send_all(texts(1)[0])
        await listener.until(lambda one: one.in_order)
        return listener, theirs


@asynccontextmanager
async def listening(ear: Ear) -> AsyncIterator[Room]:
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as ears:
            ears.start_soon(ear.run)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                room = Room(ear, nursery)
                yield room
                nursery.cancel_scope.cancel()
            for stream in room.streams:
                await trio.aclose_forcefully(stream)
            ears.cancel_scope.cancel()


def texts(count: int, size: int = 4) -> tuple[bytes, list[Frame]]:
    said: list[Frame] = [(raw.TEXT, f"{number:0{size}}") for number in range(count)]
    return b"".join(raw.frame(raw.TEXT, str(content).encode()) for _, content in said), said


both = pytest.mark.parametrize(
    ("ear", "connect"), [(SocketEar, sockets), (SimulatedEar, simulated)], ids=["sockets", "simulated"]
)


@both
async def test_who_is_silent_is_heard_without_being_woken(ear: type[Ear], connect: Connect) -> None:
    async with listening(ear()) as room:
        listener, theirs = await room.connect(connect)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            before = len(listener.heard)
            await theirs.send_all(texts(1)[0])
            await listener.until(lambda one: len(one.heard) > before)  # noqa: B023 - it is called now
        assert listener.read == []


@both
async def test_what_came_before_it_listened_is_not_forgotten(ear: type[Ear], connect: Connect) -> None:
    frames, said = texts(3)
    async with listening(ear()) as room:
        listener, _ = await room.connect(connect, frames)
        await listener.until(lambda one: one.in_order == said)


@both
@pytest.mark.parametrize("takes", [0, 1, 3])
async def test_what_it_does_not_take_goes_to_who_reads_in_order(
    ear: type[Ear], connect: Connect, takes: int
) -> None:
    frames, said = texts(1000)
    async with listening(ear()) as room:
        listener, theirs = await room.connect(connect)
        listener.takes = takes
        await theirs.send_all(frames)
        await listener.until(lambda one: len(one.in_order) >= 1000)
        assert listener.in_order == said
        assert listener.read


@both
@pytest.mark.parametrize("seed", range(5))
async def test_however_it_is_cut_to_pieces_all_is_heard_in_order(
    ear: type[Ear], connect: Connect, seed: int
) -> None:
    chance = random.Random(seed)
    frames, said = texts(300, size=200)
    async with listening(ear()) as room:
        listener, theirs = await room.connect(connect)
        while frames:
            size = chance.choice([1, 2, 7, 500, 40_000])
            await theirs.send_all(frames[:size])
            frames = frames[size:]
            listener.takes = chance.choice([0, 1, 10**9])
            for _ in range(chance.randrange(4)):
                await trio.lowlevel.checkpoint()
        await listener.until(lambda one: len(one.in_order) >= 300)
        assert listener.in_order == said


@both
async def test_more_than_one_read_brings_is_read_to_its_end(ear: type[Ear], connect: Connect) -> None:
    frames, said = texts(50, size=RECEIVE_BYTES // 5)
    async with listening(ear()) as room:
        listener, theirs = await room.connect(connect)
        room.nursery.start_soon(theirs.send_all, frames)
        await listener.until(lambda one: len(one.in_order) >= 50)
        assert listener.in_order == said


@both
async def test_the_end_is_seen_by_who_reads(ear: type[Ear], connect: Connect) -> None:
    async with listening(ear()) as room:
        listener, theirs = await room.connect_and_speak(connect)
        await theirs.send_eof()
        await listener.until(lambda one: one.has_ended)


@both
async def test_the_end_that_comes_together_with_what_was_said_last_is_seen_too(
    ear: type[Ear], connect: Connect
) -> None:
    data, said = texts(2)
    async with listening(ear()) as room:
        listener, theirs = await room.connect_and_speak(connect)
        if isinstance(theirs, trio.SocketStream):  # the ear has no turn between the two
            os.write(theirs.socket.fileno(), data)
            theirs.socket.shutdown(trio.socket.SHUT_WR)
        else:
            assert isinstance(theirs, SimulatedStream)
            assert theirs.send_some(data) == len(data)
            await theirs.send_eof()
        await listener.until(lambda one: one.has_ended)
        assert listener.in_order[1:] == said


@both
async def test_a_client_that_has_gone_is_seen_by_who_reads(ear: type[Ear], connect: Connect) -> None:
    async with listening(ear()) as room:
        listener, theirs = await room.connect_and_speak(connect)
        await trio.aclose_forcefully(theirs)
        await listener.until(lambda one: one.has_ended)


@both
async def test_a_violation_ends_it_for_who_reads(ear: type[Ear], connect: Connect) -> None:
    async with listening(ear()) as room:
        listener, theirs = await room.connect(connect)
        await theirs.send_all(texts(1)[0] + b"\xff\xff")
        await listener.until(lambda one: one.has_ended)
        assert len(listener.in_order) == 1
        assert listener.wire.screen.violation is not None


@both
async def test_what_goes_wrong_in_hearing_one_is_for_who_reads_it_and_nobody_else(
    ear: type[Ear], connect: Connect
) -> None:
    async with listening(ear()) as room:
        listener, theirs = await room.connect(connect)
        another, its = await room.connect(connect)
        await trio.testing.wait_all_tasks_blocked()
        listener.error = ZeroDivisionError()
        await theirs.send_all(texts(1)[0])
        await listener.until(lambda one: one.has_ended)
        await its.send_all(texts(1)[0])
        await another.until(lambda one: one.heard)


@both
async def test_who_stops_listening_reads_on_by_itself(ear: type[Ear], connect: Connect) -> None:
    async with listening(ear()) as room:
        listener, theirs = await room.connect_and_speak(connect)
        listener.wire.listen_no_more()
        before = len(listener.heard)
        await theirs.send_all(texts(1)[0])
        await listener.until(lambda one: len(one.in_order) == 2)
        assert len(listener.heard) == before


async def test_a_descriptor_that_another_connection_has_by_now_is_that_ones() -> None:
    ear = SocketEar()
    async with listening(ear) as room:
        for _ in range(50):
            ours, theirs = await sockets()
            listener = Listener(ear, ours)
            async with trio.open_nursery() as one:
                one.start_soon(listener.run)
                await theirs.send_all(texts(2)[0])
                await listener.until(lambda one: len(one.in_order) == 2)
                one.cancel_scope.cancel()
            await trio.aclose_forcefully(ours)
            await trio.aclose_forcefully(theirs)
        assert vars(ear)["_hear"] == {}
        last, theirs = await room.connect(sockets)
        await theirs.send_all(texts(1)[0])
        await last.until(lambda one: one.in_order)


async def test_who_says_much_keeps_nobody_from_being_heard() -> None:
    flood = texts(TURN_HEARD)[0]

    async def go_on(stream: Stream) -> None:
        while True:
            await stream.send_all(flood)

    async with listening(SocketEar()) as room:
        busy = []
        for _ in range(5):
            listener, theirs = await room.connect(sockets)
            busy.append(listener)
            room.nursery.start_soon(go_on, theirs)
        quiet, theirs = await room.connect(sockets)
        for _ in range(20):
            before, known = sum(len(one.in_order) for one in busy), len(quiet.in_order)
            await theirs.send_all(texts(1)[0])
            await quiet.until(lambda one: len(one.in_order) > known)  # noqa: B023 - it is called now
            assert sum(len(one.in_order) for one in busy) - before < 100_000


async def test_a_kernel_that_has_no_room_for_it_leaves_it_to_who_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full:
        def register(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

    ear = SocketEar()
    async with listening(ear) as room:
        monkeypatch.setitem(vars(ear), "_poll", Full())
        listener, theirs = await room.connect(sockets)
        await theirs.send_all(texts(5)[0])
        await listener.until(lambda one: len(one.read) == 5)
        monkeypatch.undo()


async def test_without_epoll_each_reads_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_ear(), SocketEar)
    monkeypatch.delattr("select.epoll")
    ear = open_ear()
    assert isinstance(ear, Deaf)
    monkeypatch.undo()
    async with listening(ear) as room:
        listener, theirs = await room.connect(sockets)
        await theirs.send_all(texts(5)[0])
        await listener.until(lambda one: len(one.read) == 5)
        await trio.aclose_forcefully(theirs)
        await listener.until(lambda one: one.has_ended)


async def test_all_may_end_at_once_in_any_order() -> None:
    async with trio.open_nursery() as nursery:
        ear = SocketEar()
        ours, theirs = await sockets()
        listener = Listener(ear, ours)
        nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as over:
            over.cancel()
            await ear.run()
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(ours)
    await trio.aclose_forcefully(theirs)


@both
@pytest.mark.parametrize("turns", range(8))
async def test_at_whatever_moment_it_stops_listening_all_is_read(
    ear: type[Ear], connect: Connect, turns: int
) -> None:
    frames, said = texts(20, size=RECEIVE_BYTES // 5)
    async with listening(ear()) as room:
        listener, theirs = await room.connect(connect)
        room.nursery.start_soon(theirs.send_all, frames)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        listener.wire.listen_no_more()
        await listener.until(lambda one: len(one.in_order) >= 20)
        assert listener.in_order == said
