"""What followers want alike is encoded and joined once for all, and nobody is sent what is not theirs."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec import Raw
from trio.testing import MockClock

from tests.events.test_dispatcher import NAME, Ends, LogInMemory, read_all
from tests.raw import seqs_of
from trio_ws.codec import encode_event
from trio_ws.events.chunks import VIEW_BYTES, Chunk, View
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.follower import Follower
from trio_ws.events.log import CHUNKS_SHARE, PAGE, Log
from trio_ws.events.outbox import Outbox
from trio_ws.topics import Event, Position, Topic

ADDRESS, ONE, TWO = Topic("address", "x"), Topic("account", "1"), Topic("account", "2")


class Shop:
    """A log in which two accounts have invoices at one address, in turn, and followers of it.

    Attributes:
        encoded: The numbers of the events that were encoded, each as often as it was.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, memory_bytes: int = 10**8) -> None:
        self.database = LogInMemory()
        self.log = Log(self.database, memory_bytes)
        self.log.restart(Position(NAME, 0), Position(NAME, 0))
        self.dispatcher = Dispatcher(self.log)
        self.encoded: list[int] = []

        def note(event: Event) -> bytes:
            self.encoded.append(event.seq)
            return encode_event(event)

        monkeypatch.setattr("trio_ws.events.spelling.encode_event", note)

    def publish(self, count: int) -> None:
        end = self.log.end.seq
        events = [
            Event(seq, "invoice.updated", (f"account:{seq % 2 + 1}", "address:x"), Raw(b"{}"), name=NAME)
            for seq in range(end + 1, end + count + 1)
        ]
        self.database.events += events
        while events:
            events = events[self.dispatcher.publish(events).events :]

    def follow(self, after: int, *topics: Topic, account: str | None = None, room: int = 10**6) -> Follower:
        follower = Follower(self.log, Outbox(room), Ends())
        follower.account = account
        self.dispatcher.subscribe(topics, follower, after)
        return follower


def wanting(*topics: str) -> View:
    return View(frozenset(topics), upto=math.inf, account=None, is_folded=False, together_bytes=16384)


async def take(follower: Follower) -> bytes:
    """What it takes next that is not empty."""
    while not (frames := await follower.take()):
        pass
    return frames


async def test_followers_that_want_the_same_are_sent_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(monkeypatch)
    shop.publish(20)
    sent: list[bytes] = []

    async def resume() -> None:
        sent.append(await take(shop.follow(4, ONE, ADDRESS)))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(resume)
    assert seqs_of(sent[0]) == list(range(5, 21))
    assert all(frames is sent[0] for frames in sent), "not a copy of them"
    assert len(sent) == 100


async def test_an_event_is_encoded_once_whoever_it_is_sent_to(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(monkeypatch)
    live = shop.follow(0, ADDRESS)
    shop.publish(10)
    others = [shop.follow(after, *topics) for after in range(5) for topics in ([ONE], [ADDRESS], [ONE, TWO])]
    for follower in (live, *others):
        assert await read_all(follower)
    assert shop.encoded == list(range(1, 11))


async def test_of_an_event_that_nobody_follows_nothing_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(monkeypatch)
    shop.follow(0, Topic("account", "3"))
    shop.publish(10)
    assert shop.encoded == []


async def test_an_account_is_never_sent_anothers_events_whoever_follows_the_same_topic(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(monkeypatch)
    shop.publish(6)
    followers = [shop.follow(0, ADDRESS, account=account) for account in ("account:1", "account:2", None)]
    assert [await read_all(follower) for follower in followers] == [[2, 4, 6], [1, 3, 5], [1, 2, 3, 4, 5, 6]]


@asynccontextmanager
async def reading(shop: Shop, follower: Follower) -> AsyncIterator[list[bytes]]:
    """Have a follower read on, and the database answer when the block ends; yield what is sent then."""
    shop.database.gate = trio.Event()
    sent: list[bytes] = []

    async def read() -> None:
        sent.append(await take(follower))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        yield sent
        shop.database.gate.set()


async def test_who_becomes_another_account_while_it_reads_on_is_sent_the_new_ones_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = Shop(monkeypatch)
    shop.publish(6)
    shop.log.restart(shop.log.begin, shop.log.end)  # which has it read from the database
    follower = shop.follow(0, ADDRESS, account="account:1")
    async with reading(shop, follower) as sent:
        follower.account = "account:2"
    assert seqs_of(sent[0]) == [1, 3, 5]


async def test_what_was_unsubscribed_from_while_it_was_read_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = Shop(monkeypatch)
    shop.publish(6)
    shop.log.restart(shop.log.begin, shop.log.end)
    follower = shop.follow(0, ONE, TWO)
    async with reading(shop, follower) as sent:
        shop.dispatcher.unsubscribe(ONE, follower)
    assert seqs_of(sent[0]) == [1, 3, 5]


async def test_what_is_joined_is_bounded_in_memory_however_many_want_different_things(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 50
    shop = Shop(monkeypatch, memory_bytes=CHUNKS_SHARE * VIEW_BYTES * most)
    shop.publish(PAGE)
    for number in range(4 * most):
        await shop.log.read_view(0, wanting(str(ADDRESS), f"invoice:{number}"))
    assert len(vars(shop.log)["_chunks"]) < most


async def test_what_was_joined_of_another_log_is_sent_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(monkeypatch)
    shop.publish(6)
    before = await shop.log.read_view(0, wanting(str(ADDRESS)))
    shop.database.events = shop.database.events[:2]
    shop.log.restart(shop.log.begin, Position(NAME, 2))
    assert before.reached == 6
    assert await shop.log.read_view(0, wanting(str(ADDRESS))) == Chunk(
        before.frames[: len(before.frames) // 3], 2, 2
    )
