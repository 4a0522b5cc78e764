"""What a client is answered does not depend on how it asks: one request after the other, or many at once.

The plainest way to ask is the measure: send one request, whole, and read its reply before the next one. Any
other `Manner` has to bring the same bytes: sixteen requests in flight, cut anywhere, read slowly, and queries
that take any time. What is answered at once, in batches or by another task shows in none of it.
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests import raw
from tests.raw import RawClient
from tests.wire.test_frames import chunked
from trio_ws.errors import CloseCode
from trio_ws.testing import SimulatedDatabase, World, simulated_server
from trio_ws.testing.ear import SimulatedEar
from trio_ws.wire.ear import Deaf, Ear

MOST = 20  # requests of one client that differ; each may come several times
TIMES = st.sampled_from([1, 1, 1, 2, 6])  # what is asked for again goes into batches
BURST = 12  # where requests are limited; a client that sends more than as many again is ended
ALL = 65536
TOO_MUCH = CloseCode.RATE_LIMITED.to_bytes(2, "big")
CLOSING = raw.frame(raw.CLOSE, b"\x03\xe8")


class Manner(NamedTuple):
    """How a client asks, and what it meets; a new way to hear or to answer is one more field.

    Args:
        in_flight: How many requests may have no reply yet.
        groups: How many requests it sends together, in turn.
        cuts: Where that is cut into pieces.
        split: Seeds in which pieces it arrives; None: as it was sent.
        sip: How much it reads before it waits until the server can do no more.
        outbox_bytes: How much may wait for it.
        delays: How long queries take from each sending on, in turn, in s.
        ear: What hears it.
    """

    in_flight: int = 1
    groups: tuple[int, ...] = (1,)
    cuts: tuple[int, ...] = ()
    split: int | None = None
    sip: int = ALL
    outbox_bytes: int = 262144
    delays: tuple[float, ...] = (0.0,)
    ear: type[Ear] = Deaf


ONE_AT_A_TIME = Manner()
MANNERS = st.builds(
    Manner,
    in_flight=st.sampled_from([2, 16, 100]),
    groups=st.lists(st.sampled_from([1, 2, 3, 16, 100]), min_size=1, max_size=4).map(tuple),
    cuts=st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
    split=st.none() | st.integers(0, 9),
    sip=st.sampled_from([50, 1000, ALL]),
    outbox_bytes=st.sampled_from([1, 500, 262144]),
    delays=st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.05]), min_size=1, max_size=4).map(tuple),
    ear=st.sampled_from([SimulatedEar, Deaf]),
)


class Heard(NamedTuple):
    """All that a client is sent but events, which come when they come.

    Args:
        replies: In their order, without what depends on the moment.
        pongs: Their payloads, in order.
        close: The payload of the server's close frame; None: there was none.
    """

    replies: list[bytes]
    pongs: list[bytes]
    close: bytes | None


class Caller(RawClient):
    """A client on a simulated line that asks in some manner.

    Attributes:
        replies: Those that it has read.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, manner: Manner, database: SimulatedDatabase):
        super().__init__(stream)
        self.replies: list[dict[str, Any]] = []
        self._manner = manner
        self._database = database
        self._room = trio.Semaphore(manner.in_flight)

    @classmethod
    async def connect(cls, world: World, manner: Manner, **headers: str) -> "Caller":
        """Return one that has shaken hands."""
        world.network.split = None if manner.split is None else Random(manner.split)
        caller = cls(await world.network.call(), manner, world.database)
        await caller.stream.send_all(raw.head(**headers))
        assert (await caller.receive_head()).startswith("HTTP/1.1 101 ")
        return caller

    async def converse(
        self,
        asked: Sequence[bytes],
        last: bytes = CLOSING,
        *,
        before_each: Callable[[], None] = lambda: None,
        after_each: Callable[[], None] = lambda: None,
    ) -> Heard:
        """Send all requests and what comes last, and return what was heard until the line ended.

        Args:
            asked: The frames of one request each.
            last: What ends the connection.
            before_each: Called before a request is sent.
            after_each: Called when a reply was read.
        """
        heard = Heard([], [], None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, asked, last, before_each)
            with suppress(trio.EndOfChannel, trio.BrokenResourceError):
                while True:
                    opcode, payload = await self.receive_frame()
                    if opcode == raw.CLOSE:
                        assert heard.close is None
                        heard = heard._replace(close=payload)
                    elif opcode == raw.PONG:
                        heard.pongs.append(payload)
                    elif opcode == raw.TEXT and "status" in (message := json.loads(payload)):
                        heard.replies.append(without_moments(payload))
                        self.replies.append(message)
                        after_each()
                        self._room.release()
            nursery.cancel_scope.cancel()
        return heard

    async def _send(self, asked: Sequence[bytes], last: bytes, before_each: Callable[[], None]) -> None:
        sizes, delays = itertools.cycle(self._manner.groups), itertools.cycle(self._manner.delays)
        waiting = iter(asked)
        with suppress(trio.BrokenResourceError):  # the server may end it meanwhile
            while group := list(itertools.islice(waiting, min(next(sizes), self._manner.in_flight))):
                for _ in group:
                    await self._room.acquire()
                    before_each()
                self._database.delay = next(delays)
                for chunk in chunked(b"".join(group), list(self._manner.cuts)):
                    await self.stream.send_all(chunk)
            await self._room.acquire()
            await self.stream.send_all(last)

    async def _receive(self) -> None:
        if self._manner.sip < ALL:
            await wait_all_tasks_blocked()
        if not (data := await self.stream.receive_some(self._manner.sip)):
            raise trio.EndOfChannel
        self._buffer += data


_MOMENTS = re.compile(
    rb'"(createdAt|updatedAt|expiresAt|timestamp|position|retry_after_seconds)":("[^"]*"|[0-9.]+)'
)


def without_moments(reply: bytes) -> bytes:
    """Return a reply without the time, and how far the log was read by then."""
    return _MOMENTS.sub(rb'"\1":0', reply)


async def _make_invoices(count: int) -> list[str]:
    database = SimulatedDatabase()
    return [str(database.create_invoice(account_id=1, amount=1, currency="USD")) for _ in range(count)]


def play(run: Callable[[], Any]) -> Any:
    """Run in simulated time."""
    return trio.run(run, clock=MockClock(autojump_threshold=0))


# A simulated database gives the same uids again, so a request may name an invoice that the one before makes.
UIDS: list[str] = play(partial(_make_invoices, 6 * MOST))


# One request, as the frames that it comes in


def message(opcode: int, payload: bytes, cuts: Sequence[int] = (), ping: bytes | None = None) -> bytes:
    """Return a message in one frame or in fragments, with a ping before the last of them."""
    pieces = list(chunked(payload, list(cuts)))
    frames = [
        raw.frame(opcode if number == 0 else 0, piece, fin=number == len(pieces) - 1)
        for number, piece in enumerate(pieces)
    ]
    if ping is not None:
        frames.insert(len(frames) - 1, raw.frame(raw.PING, ping))
    return b"".join(frames)


def request(**fields: object) -> bytes:
    """Return a request as the text of a message."""
    return json.dumps(fields, separators=(",", ":")).encode()


invoice = st.integers(0, 5).map(UIDS.__getitem__)
topic = st.one_of(
    st.fixed_dictionaries({"type": st.just("invoice"), "id": invoice}),
    st.fixed_dictionaries({"type": st.just("account"), "id": st.sampled_from([1, 2])}),
    st.fixed_dictionaries({"type": st.just("address"), "id": st.sampled_from(["here", "there"])}),
    st.fixed_dictionaries({"type": st.just("price"), "id": st.sampled_from(["*", "BTC", "none"])}),
)
INVOICE = {"amount": 1, "currency": "USD"}
currency = st.sampled_from(["BTC", "USD", "EUR", "XXX"])


def action(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Requests of one kind."""
    return st.fixed_dictionaries({"action": st.just(name), **fields})


create = action(
    "create_invoice",
    amount=st.sampled_from([0, 1, 1, 1]),
    currency=st.just("USD"),
    account_id=st.sampled_from([1, 1, 2, 99]),
    memo=st.sampled_from(["", "é", "\x01" * 900]),
    address=st.sampled_from(["here", None]),
    idempotency_key=st.sampled_from(["a", None, None]),
)
fetch = action("fetch_invoice", id=invoice | st.just("none"))
VALID = st.one_of(
    create,
    create,
    fetch,
    fetch,
    action("ping"),
    action("cancel_invoice", uid=invoice),
    action("update_invoice", uid=invoice, status=st.sampled_from(["confirming", "paid"])),
    action("list_invoices", limit=st.sampled_from([1, 50])),
    action("list_prices"),
    action("set_price", currency=currency, base_currency=currency, value=st.sampled_from([1, 2])),
    action("convert_price", quote_currency=currency, base_currency=currency, quote_value=st.just(7)),
    action("authenticate", token=st.sampled_from(["token-1", "token-2", "wrong"])),
    action("unsubscribe_all"),
    action("resume", after=st.just("origin.0"), topics=st.lists(topic, max_size=3)),
    st.builds(dict, topic, action=st.just("subscribe"), snapshot=st.booleans()),
    st.builds(dict, topic, action=st.just("unsubscribe")),
)
BROKEN = [b"no JSON", b"", b"[]", b'{"action":"fly","request_id":7}', b'{"request_id":"x","action":"ping"']
LONG = request(action="ping", request_id="long", more="x" * 5000)  # costs as much as two

texts = st.one_of(
    st.builds(
        lambda fields, id_: request(**fields, request_id=id_), VALID, st.integers(0, 99) | st.just("é")
    ),
    VALID.map(lambda fields: request(**fields)),
    VALID.map(lambda fields: request(**fields)),
    st.sampled_from([*BROKEN, LONG]),
)
cuts = st.lists(st.integers(0, 10**6), max_size=3)
requests = st.one_of(
    texts.map(partial(message, raw.TEXT)),
    texts.map(partial(message, raw.TEXT)),
    st.builds(message, st.just(raw.TEXT), texts, cuts, st.sampled_from([None, b"", b"ping"])),
    st.sampled_from([message(raw.BINARY, b'{"action":"ping"}'), message(raw.TEXT, b"", (0,), b"ping")]),
)
LAST = [
    raw.frame(raw.CLOSE, b"\x03\xe8bye"),
    raw.frame(raw.TEXT, b"\xff"),
    raw.frame(raw.PING, b"", fin=False),
    raw.frame(raw.TEXT, b"half of", fin=False) + raw.frame(raw.CLOSE, b"\x03\xe8"),
]


@given(
    st.lists(st.tuples(requests, TIMES), min_size=1, max_size=MOST),
    st.sampled_from(LAST),
    MANNERS,
    st.sampled_from([None, None, BURST]),
)
def test_who_asks_many_things_at_once_gets_what_one_gets_who_waits_for_each_reply(
    wanted: list[tuple[bytes, int]], last: bytes, manner: Manner, burst: int | None
) -> None:
    asked = [request for request, times in wanted for _ in range(times)]

    async def converse(manner: Manner, burst: int | None = burst) -> Heard:
        database = SimulatedDatabase()
        database.create_account()
        for account in (1, 2):
            database.create_token(account)
            for _ in range(2):
                database.create_invoice(account_id=account, **INVOICE)
        limits: dict[str, Any] = {"requests_per_second": 0.001, "requests_burst": burst}
        limits |= {"control_frames_per_second": None, "outbox_bytes": manner.outbox_bytes}
        async with simulated_server(database, ear=manner.ear, **limits) as world:
            caller = await Caller.connect(world, manner)
            return await caller.converse(asked, last)

    expected = play(partial(converse, ONE_AT_A_TIME))
    assert len(expected.replies) == len(asked) or burst is not None
    heard = play(partial(converse, manner))
    pongs = expected.pongs
    if expected.close is not None and expected.close[:2] == TOO_MUCH:  # what it sent last may have no reply
        expected = expected._replace(replies=expected.replies[: len(heard.replies)])
        # Pings that are under way when the end begins are answered; who waits for each reply sends none then.
        pongs = play(partial(converse, ONE_AT_A_TIME, burst=None)).pongs
    else:
        assert heard.pongs[-1:] == pongs[-1:]
    assert heard._replace(pongs=[]) == expected._replace(pongs=[])
    # Of pings that wait for a client to read only the newest is answered (RFC 6455 section 5.5.3).
    rest = iter(pongs)
    assert all(pong in rest for pong in heard.pongs), "in their order"


@given(MANNERS, st.lists(TIMES, max_size=MOST))
def test_a_fetch_behind_a_create_sees_the_invoice(manner: Manner, counts: list[int]) -> None:
    """Several may be made, and then fetched, so that either go together."""
    uids = iter(UIDS)
    create = request(action="create_invoice", account_id=1, **INVOICE)
    texts: list[bytes] = []
    for count in counts:
        texts += [create] * count
        texts += [request(action="fetch_invoice", id=uid) for uid in itertools.islice(uids, count)]

    async def converse() -> list[dict[str, Any]]:
        async with simulated_server(
            ear=manner.ear, outbox_bytes=manner.outbox_bytes, requests_burst=None
        ) as world:
            caller = await Caller.connect(world, manner)
            await caller.converse([message(raw.TEXT, text) for text in texts])
            return caller.replies

    replies = iter(play(converse))
    for count in counts:
        made = [reply["data"] for reply in itertools.islice(replies, count)]
        assert len(made) == count
        assert [reply["data"] for reply in itertools.islice(replies, count)] == made
    assert next(replies, None) is None


@given(
    MANNERS,
    st.lists(st.integers(0, 2), max_size=2 * MOST),
    st.lists(st.sampled_from(["another program", "another client", "nobody"]), min_size=1, max_size=9),
)
def test_a_fetch_never_shows_an_older_version_than_there_was_when_it_was_asked_for_or_than_one_before_it(
    manner: Manner, wanted: list[int], writers: list[str]
) -> None:
    """In the order of the replies, and whoever changes the invoice meanwhile."""

    async def converse() -> None:
        async with (
            simulated_server(ear=manner.ear, outbox_bytes=manner.outbox_bytes) as world,
            trio.open_nursery() as others,
        ):
            for _ in range(3):
                world.database.create_invoice(account_id=1, **INVOICE)
            caller = await Caller.connect(world, manner)
            writer = await world.connect()
            turns, least = itertools.cycle(writers), dict.fromkeys(UIDS[:3], 1)
            at_least: list[int] = []

            def change() -> None:
                uid = UIDS[len(caller.replies) % 3]
                match next(turns):
                    case "another program":
                        memo = f"{len(caller.replies)}"
                        world.database.update_invoice(UUID(uid), memo=memo)
                    case "another client":
                        status = ("confirming", "unpaid")[len(caller.replies) % 2]
                        others.start_soon(
                            partial(writer.send, action="update_invoice", uid=uid, status=status)
                        )

            def note() -> None:
                uid = UIDS[wanted[len(at_least)]]
                at_least.append(json.loads(bytes(world.database.invoice(UUID(uid))))["version"])

            asked = [message(raw.TEXT, request(action="fetch_invoice", id=UIDS[one])) for one in wanted]
            await caller.converse(asked, before_each=note, after_each=change)
            assert [reply["data"]["uid"] for reply in caller.replies] == [UIDS[one] for one in wanted]
            for reply, noted in zip(caller.replies, at_least, strict=True):
                invoice = reply["data"]
                assert invoice["version"] >= max(noted, least[invoice["uid"]])
                least[invoice["uid"]] = invoice["version"]
            others.cancel_scope.cancel()

    play(converse)


TENANTS = (1, 2, 3)  # accounts, each with an invoice, and clients, each with a token of each account
FIRST_OF_ALL = st.lists(
    st.tuples(st.sampled_from(["fetch_invoice", "fetch_invoice", "authenticate"]), st.sampled_from(TENANTS)),
    min_size=1,
    max_size=MOST,
)


@given(MANNERS, st.lists(FIRST_OF_ALL, min_size=3, max_size=3), st.integers(1, MOST))
def test_each_reply_is_of_the_account_that_the_client_had_then_also_when_its_tokens_are_revoked(
    manner: Manner, wanted: list[list[tuple[str, int]]], revoked_after: int
) -> None:
    """Of three clients that ask at the same time, the first one loses all of its tokens in the middle."""

    async def converse() -> None:
        database = SimulatedDatabase()
        while database.create_account() < max(TENANTS):
            pass
        for account in TENANTS:
            database.create_invoice(account_id=account, **INVOICE)
        limits: dict[str, Any] = {"outbox_bytes": manner.outbox_bytes}
        async with (
            simulated_server(database, ear=manner.ear, auth="token", **limits) as world,
            trio.open_nursery() as clients,
        ):
            for account, todo in zip(TENANTS, wanted, strict=True):
                clients.start_soon(be_tenant, world, account, todo)

    async def be_tenant(world: World, account: int, todo: list[tuple[str, int]]) -> None:
        tokens = {one: world.database.create_token(one) for one in TENANTS}
        caller = await Caller.connect(world, manner, authorization=f"Bearer {tokens[account]}")
        loses_tokens = account == TENANTS[0] and revoked_after <= len(todo)

        def revoke() -> None:
            if loses_tokens and len(caller.replies) == revoked_after:
                for token in tokens.values():
                    world.database.revoke_token(token)

        asked = [
            message(
                raw.TEXT,
                request(action=name, request_id=number, id=UIDS[one - 1])
                if name == "fetch_invoice"
                else request(action=name, request_id=number, token=tokens[one]),
            )
            for number, (name, one) in enumerate(todo)
        ]
        heard = await caller.converse(asked, b"" if loses_tokens else CLOSING, after_each=revoke)
        for number, (reply, (name, one)) in enumerate(zip(caller.replies, todo, strict=not loses_tokens)):
            assert reply["request_id"] == number
            if reply["status"] == "success":
                assert name == "authenticate" or one == account
                assert reply["data"]["account_id"] == one
                account = one
            else:
                assert loses_tokens or one != account
                assert reply["code"] == "not_found" or loses_tokens
        code = CloseCode.UNAUTHORIZED if loses_tokens else 1000
        assert heard.close is not None
        assert int.from_bytes(heard.close[:2], "big") == code

    play(converse)
