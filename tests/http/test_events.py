"""`GET /events`: the events of a WebSocket as an event stream's blocks, exact whichever of them came last."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.plain import Answer, Block, Caller, bearer, call, held, request
from tests.test_checkout import EVENTS, SECRET, seen
from tests.test_protocol import BAD_TOPICS, UNMATCHED
from trio_ws import metrics
from trio_ws.checkout import HIDDEN
from trio_ws.http import events
from trio_ws.http.events import FIRST_BYTES
from trio_ws.paging import PAGE_BYTES
from trio_ws.testing import SimulatedDatabase, World, simulated_server
from trio_ws.wire.blocks import encode_block

INVOICE = {"amount": 1, "currency": "USD", "account_id": 1}
ACCOUNT = "topic=account:1"


def position(database: SimulatedDatabase, seq: int) -> str:
    return str(database.position(seq))


def seq_of(id_: str | None) -> int:
    assert id_ is not None
    return int(id_.rpartition(".")[2])


async def open_stream(world: World, query: str, *fields: str) -> tuple[Caller, Block]:
    """Follow, and return the stream and its first block."""
    caller = await call(world)
    answer = await caller.follow(query, *fields)
    assert answer.status == 200, answer
    block = await caller.event()
    assert block.event == "subscribed"
    return caller, block


async def refused(world: World, query: str, *fields: str) -> Answer:
    """The answer to who may not follow; nothing follows it."""
    caller = await call(world)
    answer = await caller.follow(query, *fields)
    assert answer.status != 200
    assert answer.headers["connection"] == "close"
    assert await caller.rest() == b""
    return answer


def followed(world: World) -> float:
    """How many topics are followed, all followers together."""
    return metrics.REGISTRY.get_sample_value("trio_ws_subscriptions") or 0.0


# What is told


async def test_the_first_block_says_what_resuming_would(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    caller = await call(world)
    answer = await caller.follow(f"topic=invoice:x&{ACCOUNT}")
    assert answer.status == 200
    assert answer.headers == {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "connection": "close",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
        "vary": "Origin",
    }
    here = position(database, database.numbered)
    data = {
        "status": "success",
        "message": "Resumed 2 topics",
        "data": {"position": here, "recovered": True},
    }
    assert await caller.block() == Block("subscribed", here, data, None, is_comment=False)


async def test_an_event_is_told_as_on_a_websocket_by_its_type_and_position(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    client = await world.connect()
    await client.request(action="subscribe", type="account", id=1)
    caller, _ = await open_stream(world, ACCOUNT)
    uid = database.create_invoice(**INVOICE, memo="two\nlines\r\nand\rmore")
    database.update_invoice(uid, status="confirming")
    database.set_price("BTC", Decimal(50000))
    for _ in range(3):
        event, block = await client.receive(), await caller.block()
        assert (block.event, block.id, block.data) == (event["type"], event["position"], event)


def test_a_line_s_end_between_the_values_of_json_ends_no_block() -> None:
    block = encode_block("x", b'{"a":\n1,\r\n\r\n"b":"\\n"}', position="p.1", retry=1.5)
    assert block == b'retry: 1500\nid: p.1\nevent: x\ndata: {"a": 1,    "b":"\\n"}\n\n'
    parsed = Block.parse(block[:-2].decode())
    assert parsed == Block("x", "p.1", {"a": 1, "b": "\n"}, 1500, is_comment=False)


async def test_a_topic_brings_its_own_alone_and_an_event_comes_once(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    uid = database.create_invoice(**INVOICE, address="here")
    caller, _ = await open_stream(world, f"topic=invoice:{uid}&topic=address:here&topic=address:here")
    database.create_invoice(**INVOICE, address="there")
    database.update_invoice(uid, memo="x")
    database.update_invoice(uid, address="there")
    told = [await caller.block() for _ in range(2)]
    assert [block.data["previous"] for block in told] == [{"memo": None}, {"address": "here"}]
    with pytest.raises(trio.TooSlowError):
        await caller.block(5)


@pytest.mark.parametrize("how", ["after", "header", "both"])
async def test_who_comes_back_is_told_all_that_came_since(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase, how: str
) -> None:
    first, _ = await open_stream(world, ACCOUNT)
    for _ in range(5):
        database.create_invoice(**INVOICE)
    told = [await first.block() for _ in range(5)]
    last = told[1].id
    query = f"{ACCOUNT}&after={last}" if how == "after" else ACCOUNT
    if how == "both":
        query += f"&after={told[0].id}"
    caller, begun = await open_stream(world, query, *([] if how == "after" else [f"Last-Event-ID: {last}"]))
    assert (begun.id, begun.data["data"]) == (last, {"position": told[4].id, "recovered": True})
    assert [await caller.block() for _ in range(3)] == told[2:]
    database.create_invoice(**INVOICE)
    assert await caller.block() == await first.block()


async def test_an_empty_last_event_id_is_none(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    _, begun = await open_stream(world, f"{ACCOUNT}&after={position(database, 1)}", "Last-Event-ID:")
    assert begun.id == position(database, 1)
    _, begun = await open_stream(world, ACCOUNT, "Last-Event-ID:")
    assert begun.data["data"]["recovered"] is True


@pytest.mark.parametrize("snapshot", ["", "&snapshot=true"])
@pytest.mark.parametrize("after", ["4f3c9a-1.1029", "x.0"])
async def test_what_can_t_be_replayed_exactly_is_a_gap_and_goes_on_live(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase, after: str, snapshot: str
) -> None:
    caller, begun = await open_stream(world, f"{ACCOUNT}&after={after}{snapshot}")
    here = position(database, database.numbered)
    assert begun.data["data"]["recovered"] is False
    assert begun.id == here, "who comes back again comes back to where it goes on"
    gap = await caller.block()
    assert (gap.event, gap.id, gap.data) == ("gap", None, {"position": here})
    database.create_invoice(**INVOICE)
    assert seq_of((await caller.block()).id) == seq_of(here) + 1


async def test_a_snapshot_is_told_first_and_what_comes_after_it_next(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    uids = [database.create_invoice(**INVOICE) for _ in range(2)]
    await trio.sleep(1)
    caller, begun = await open_stream(
        world, f"topic=invoice:{uids[0]}&topic=invoice:x&topic=price:BTC&snapshot=true"
    )
    assert begun.id == position(database, 5)
    assert begun.data["data"]["snapshot"]["uid"] == str(uids[0])
    nothing, prices = await caller.block(), await caller.block()
    assert (nothing.event, nothing.id, nothing.data["data"]["snapshot"]) == ("subscribed", None, None)
    assert [price["currency"] for price in prices.data["data"]["snapshot"]] == ["BTC"]
    database.update_invoice(uids[0], memo="x")
    database.set_price("BTC", Decimal(1))
    assert [(await caller.block()).event for _ in range(2)] == ["invoice.updated", "price.updated"]


async def test_snapshots_that_are_too_long_together_are_refused(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    long = {"memo": "m" * 1000, "webhook_url": "https://h.example/" + "w" * 1900}
    for _ in range(60):
        database.create_invoice(**INVOICE, **long, address="here")
    await trio.sleep(1)
    topics = "&".join(["topic=address:here"] * (FIRST_BYTES // PAGE_BYTES + 1))
    answer = await refused(world, f"{topics}&snapshot=true")
    assert (answer.status, answer.reply["code"]) == (400, "too_many_subscriptions")
    await open_stream(world, topics)
    await open_stream(world, "topic=address:here&topic=account:1&snapshot=true")


TOPICS = ["address:a", "address:b", "account:1"]


@settings(max_examples=60)
@given(
    wanted=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True),
    snapshot=st.booleans(),
    seed=st.integers(0, 1000),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.01, 0.6)), min_size=4, max_size=14),
    cuts=st.lists(st.integers(0, 6), max_size=4),
)
def test_whichever_id_is_the_last_nothing_is_lost_nor_out_of_order(
    *,
    wanted: list[str],
    snapshot: bool,
    seed: int,
    steps: list[tuple[str, float]],
    cuts: list[int],
) -> None:
    run = partial(cut_and_resume, wanted, seed, steps, cuts, snapshot=snapshot)
    trio.run(run, clock=MockClock(autojump_threshold=0))


async def cut_and_resume(
    wanted: list[str], seed: int, steps: list[tuple[str, float]], cuts: list[int], *, snapshot: bool
) -> None:
    """A stream is cut after any of its blocks, while things happen, and goes on after the last id."""
    database = SimulatedDatabase(seed)
    database.answer_seconds = 1.0
    query = "&".join(f"topic={topic}" for topic in wanted) + ("&snapshot=true" if snapshot else "")
    async with simulated_server(database) as world:

        async def happen() -> None:
            for address, seconds in steps:
                await trio.sleep(seconds)
                database.create_invoice(**INVOICE, address=address)
            await trio.sleep(5)
            database.create_invoice(**INVOICE, address="a", memo="last")
            database.create_invoice(**INVOICE, address="b", memo="last")

        known: set[int] = set()  # ids of invoices that were told of, by a snapshot or an event
        last: str | None = None
        begin: int | None = None
        is_over = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(happen)
            for count in [*cuts, 1000]:
                fields = [] if last is None else [f"Last-Event-ID: {last}"]
                caller = await call(world)
                assert (await caller.follow(query, *fields)).status == 200
                for _ in range(count + 1):
                    block = await caller.event()
                    assert block.event != "gap"
                    if block.event == "subscribed":
                        known |= {one["id"] for one in block.data["data"].get("snapshot", [])}
                    else:
                        assert last is not None
                        assert seq_of(block.id) > seq_of(last), "in the log's order, each once"
                        known.add(block.data["data"]["id"])
                        is_over = block.data["data"].get("memo") == "last" and (
                            block.data["data"]["address"] == "b" or "address:a" == wanted[0] == wanted[-1]
                        )
                    last = block.id or last
                    begin = seq_of(last) if begin is None else begin
                    if is_over:
                        break
                await trio.aclose_forcefully(caller.stream)
                if is_over:
                    break
    assert begin is not None
    for event in database.written:
        if event.type == "invoice.created" and (snapshot or event.seq > begin):
            data = json.loads(bytes(event.data))
            if "account:1" in wanted or f"address:{data['address']}" in wanted:
                assert data["id"] in known, event.seq


async def test_what_happens_while_a_snapshot_is_read_is_told_in_the_log_s_order(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    """The first topic is followed already, and the second one's snapshot is older than what comes to it."""
    caller = await call(world)
    await caller.send(request("GET", "/events?topic=address:a&topic=address:b&snapshot=true"))
    database.delay = 0.5
    await trio.sleep(0.1)
    for _ in range(30):
        for address in "ab":
            database.create_invoice(**INVOICE, address=address)
        await trio.sleep(0.1)
    assert (await caller.answer()).status == 200
    first, second = await caller.block(), await caller.block()
    known = {one["id"] for block in (first, second) for one in block.data["data"]["snapshot"]}
    seqs = [seq_of(first.id)]
    while len(known) < 60:
        block = await caller.event()
        seqs.append(seq_of(block.id))
        known.add(block.data["data"]["id"])
    assert seqs == sorted(set(seqs))


# What can't be followed


@pytest.mark.parametrize(
    "query",
    [
        *(
            "",
            "topic",
            "topic=price:*&x=1",
            "topic=price:*&after=a.1&after=a.2",
            "topic=price:*&snapshot=yes",
        ),
        *(
            "topic=price:*&snapshot=true&snapshot=true",
            "after=x.0",
            "topic=price:*&&",
            "topic=address:%ff",
            "token=x",
        ),
    ],
)
async def test_a_query_that_is_none_is_said(autojump_clock: MockClock, world: World, query: str) -> None:
    answer = await refused(world, query)
    assert (answer.status, answer.reply["code"]) == (400, "invalid_message")
    assert answer.reply["detail"]


@pytest.mark.parametrize(
    "after", ["", "1029", "4f3c9a-1.", "4f3c9a-1.x", "4f3c9a-1.1%0A", "a%20b.1", "x." + "9" * 19]
)
@pytest.mark.parametrize("snapshot", ["", "&snapshot=true"])
async def test_a_position_that_is_none_is_an_error(
    autojump_clock: MockClock, world: World, after: str, snapshot: str
) -> None:
    answer = await refused(world, f"{ACCOUNT}&after={after}{snapshot}")
    assert (answer.status, answer.reply["code"]) == (400, "invalid_value")


def spelled(type_: str, id_: str | int) -> str:
    return f"topic={quote(type_)}:{quote(str(id_))}"


@pytest.mark.parametrize("snapshot", ["", "&snapshot=true"])
@pytest.mark.parametrize(("type_", "id_"), UNMATCHED)
async def test_a_topic_that_nothing_matches_is_followed_like_any(
    autojump_clock: MockClock, world: World, type_: str, id_: str | int, snapshot: str
) -> None:
    await open_stream(world, f"{spelled(type_, id_)}{snapshot}")


@pytest.mark.parametrize(("type_", "id_"), BAD_TOPICS)
async def test_a_topic_that_cannot_be_is_refused_and_none_beside_it_is_followed(
    autojump_clock: MockClock, world: World, type_: str, id_: str | int
) -> None:
    for snapshot in ("", "&snapshot=true"):
        answer = await refused(world, f"{ACCOUNT}&{spelled(type_, id_)}{snapshot}")
        assert (answer.status, answer.reply["code"]) == (400, "invalid_topic")
    await wait_all_tasks_blocked()
    assert followed(world) == 0


async def test_more_topics_than_a_connection_may_follow_are_refused(autojump_clock: MockClock) -> None:
    async with simulated_server(subscriptions=2) as world:
        await open_stream(world, "topic=address:a&topic=address:b&topic=address:a")
        answer = await refused(world, "topic=address:a&topic=address:b&topic=address:c")
        assert (answer.status, answer.reply["code"]) == (400, "too_many_subscriptions")


async def test_a_database_that_is_away_is_said_where_a_snapshot_needs_it(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    database.away = True
    answer = await refused(world, f"{ACCOUNT}&snapshot=true")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    await open_stream(world, ACCOUNT)


async def test_events_are_asked_for_without_a_body(autojump_clock: MockClock, world: World) -> None:
    answer = await refused(world, ACCOUNT, "Content-Length: 5")
    assert (answer.status, answer.reply["code"]) == (400, "invalid_message")
    await open_stream(world, ACCOUNT, "Content-Length: 0")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_events_are_got(autojump_clock: MockClock, world: World, method: str) -> None:
    answer = await (await call(world)).ask(request(method, f"/events?{ACCOUNT}"))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_head_is_told_of_a_stream_of_no_known_length(autojump_clock: MockClock, world: World) -> None:
    caller = await call(world)
    answer = await caller.ask(request("HEAD", f"/events?{ACCOUNT}"))
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    assert "content-length" not in answer.headers
    assert await caller.rest() == b""
    assert followed(world) == 0


async def test_a_stream_is_asked_for_by_http_1_0_too(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    caller = await call(world)
    assert (await caller.ask(request("GET", f"/events?{ACCOUNT}", version="1.0"))).status == 200
    await caller.event()
    database.create_invoice(**INVOICE)
    assert (await caller.block()).event == "invoice.created"


async def test_a_stream_may_follow_other_requests_and_none_follows_it(
    autojump_clock: MockClock, world: World
) -> None:
    caller = await call(world)
    assert (await caller.act(action="ping")).status == 200
    await caller.send(request("GET", f"/events?{ACCOUNT}") + request("GET", "/healthz"))
    assert (await caller.answer()).status == 200
    assert (await caller.event()).event == "subscribed"
    with pytest.raises(trio.TooSlowError):
        await caller.block(15)


# How it goes on


async def test_a_comment_shows_that_we_are_there(autojump_clock: MockClock, world: World) -> None:
    caller, _ = await open_stream(world, ACCOUNT)
    begin = trio.current_time()
    for count in range(1, 200):
        assert (await caller.block(30)).is_comment
        assert trio.current_time() - begin == count * world.settings.ping_seconds


async def test_a_slow_reader_is_caught_up_from_the_log_and_its_events_wait_nowhere_else(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, outbox_bytes=1000, write_seconds=1000) as world:
        caller, begun = await open_stream(world, ACCOUNT)
        await wait_all_tasks_blocked()
        before = metrics.REGISTRY.get_sample_value("trio_ws_catch_ups_total") or 0
        for _ in range(300):
            database.create_invoice(**INVOICE)
        await trio.sleep(10)
        assert metrics.REGISTRY.get_sample_value("trio_ws_catch_ups_total") == before + 1
        waiting = metrics.REGISTRY.get_sample_value("trio_ws_outbox_max_bytes")
        assert waiting is not None
        assert waiting < 2000
        told = [seq_of((await caller.event()).id) for _ in range(300)]
        assert told == [seq_of(begun.id) + number for number in range(1, 301)]


async def test_a_slow_reader_has_its_time_for_a_snapshot_too(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    long = {"memo": "m" * 1000, "webhook_url": "https://h.example/" + "w" * 1900}
    async with simulated_server(database, write_seconds=100) as world:
        for _ in range(40):
            database.create_invoice(**INVOICE, **long, address="here")
        await trio.sleep(1)
        caller = await call(world)
        answer = await caller.follow("topic=address:here&topic=account:1&snapshot=true")
        assert answer.status == 200
        await trio.sleep(50)
        database.create_invoice(**INVOICE)
        snapshots = [(await caller.event()).data["data"]["snapshot"] for _ in range(2)]
        assert [len(snapshot) for snapshot in snapshots] == [40, 40]
        assert (await caller.event()).event == "invoice.created"


async def test_who_reads_nothing_is_cut_off(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    await open_stream(world, ACCOUNT)
    database.create_invoice(**INVOICE)
    await trio.sleep(world.settings.write_seconds + world.settings.close_seconds + 1)
    assert world.network.lines[0].is_left
    assert followed(world) == 0


@pytest.mark.parametrize("how", ["vanishes", "says that it ends", "is cut"])
async def test_who_goes_is_followed_by_nothing(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase, how: str
) -> None:
    caller, _ = await open_stream(world, f"{ACCOUNT}&topic=price:*")
    assert followed(world) == 2
    if how == "vanishes":
        await trio.aclose_forcefully(caller.stream)
    elif how == "is cut":
        world.network.lines[0].cut()
    else:
        await caller.stream.send_eof()
        assert await caller.rest() == b""
    await wait_all_tasks_blocked()
    assert followed(world) == 0
    assert world.network.lines == []
    assert trio.current_time() == 0, "at once"


async def test_who_goes_before_its_snapshot_is_there_leaves_nothing(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    with held(database) as gate:
        caller = await call(world)
        await caller.send(request("GET", f"/events?topic=price:*&{ACCOUNT}&snapshot=true"))
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(caller.stream)
        gate.set()
        await trio.sleep(world.settings.close_seconds + 1)
        assert followed(world) == 0
        assert world.network.lines == []


async def test_more_snapshots_than_may_ever_be_asked_for_are_refused_for_good(
    autojump_clock: MockClock,
) -> None:
    async with simulated_server(requests_burst=3) as world:
        query = "&".join(["topic=account:1"] * 4)
        answer = await refused(world, f"{query}&snapshot=true")
        assert (answer.status, answer.reply["code"]) == (400, "too_many_subscriptions")
        await open_stream(world, query)


async def test_streams_are_counted_and_limited_as_connections(autojump_clock: MockClock) -> None:
    async with simulated_server(connections=2) as world:
        first, _ = await open_stream(world, ACCOUNT)
        await open_stream(world, ACCOUNT)
        assert metrics.REGISTRY.get_sample_value("trio_ws_connections") == 2
        answer = await refused(world, ACCOUNT)
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
        await trio.aclose_forcefully(first.stream)
        await wait_all_tasks_blocked()
        await open_stream(world, ACCOUNT)


# How it ends


async def last_words(caller: Caller) -> Block:
    """The last block, behind which the server hangs up."""
    block = await caller.event()
    assert await caller.rest() == b""
    return block


async def test_a_drain_says_when_to_come_back(autojump_clock: MockClock, database: SimulatedDatabase) -> None:
    async with simulated_server(database, retry_spread_seconds=10) as world:
        streams = [(await open_stream(world, ACCOUNT))[0] for _ in range(5)]
        world.network.lines[0].hold()
        database.create_invoice(**INVOICE)
        await wait_all_tasks_blocked()
        world.shutdown.set()
        await wait_all_tasks_blocked()
        world.network.lines[0].heal()
        retries = []
        for caller in streams:
            if (await caller.event()).event == "invoice.created":
                ended = await last_words(caller)
                assert (ended.event, ended.data["code"], ended.id) == ("end", 1001, None)
                assert ended.retry is not None
                assert (
                    abs(ended.retry - 1000 * float(ended.data["reason"].removeprefix("retry_after="))) <= 51
                )
                retries.append(ended.retry)
        assert len(retries) == 5
        assert len(set(retries)) > 1, "not all at once"
        assert all(0 <= retry <= 10000 for retry in retries)


async def test_who_asks_while_the_server_drains_is_sent_away(
    autojump_clock: MockClock, database: SimulatedDatabase
) -> None:
    async with simulated_server(database, origins=("https://shop.example",)) as world:
        with held(database) as gate:
            caller = await call(world)
            page = "Origin: https://shop.example"
            await caller.send(request("GET", f"/events?{ACCOUNT}&snapshot=true", page))
            await wait_all_tasks_blocked()
            world.shutdown.set()
            await wait_all_tasks_blocked()
            gate.set()
            answer = await caller.answer()
            assert (answer.status, "retry-after" in answer.headers) == (503, True)
            assert answer.headers["access-control-allow-origin"] == "https://shop.example", "it can read why"
            assert await caller.rest() == b""


async def test_a_revoked_token_ends_its_stream_within_a_second(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    token = database.create_token()
    caller, _ = await open_stream(guarded_world, ACCOUNT, bearer(token))
    begin = trio.current_time()
    database.lose_wakes = True
    database.revoke_token(token)
    ended = await last_words(caller)
    assert ended.data == {"code": 4401, "reason": "the token was revoked"}
    assert trio.current_time() - begin < 1.5
    database.lose_wakes = False
    assert (await refused(guarded_world, ACCOUNT, bearer(token))).status == 401
    assert followed(guarded_world) == 0


async def test_a_token_that_expires_ends_its_stream_to_the_second(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    caller, _ = await open_stream(guarded_world, ACCOUNT, bearer(database.create_token(seconds=100)))
    begin = trio.current_time()
    ended = await last_words_after_comments(caller)
    assert ended.data == {"code": 4401, "reason": "the token has expired"}
    assert round(trio.current_time() - begin) == 100


async def last_words_after_comments(caller: Caller) -> Block:
    with trio.fail_after(1000):
        while (block := await caller.block(30)).is_comment:
            pass
        assert await caller.rest() == b""
        return block


async def test_a_log_that_is_lost_ends_its_streams_and_who_comes_back_sees_the_gap(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    for _ in range(5):
        database.create_invoice(**INVOICE)
    await trio.sleep(1)
    caller, begun = await open_stream(world, ACCOUNT)
    database.restore(seq=4)
    ended = await last_words(caller)
    assert (ended.event, ended.data["code"]) == ("end", 4008)
    assert ended.retry is not None
    back = await call(world)
    assert (await back.follow(ACCOUNT, f"Last-Event-ID: {begun.id}")).status == 200
    assert [(await back.block()).event for _ in range(2)] == ["subscribed", "gap"]


@pytest.mark.logs_errors
async def test_a_bug_ends_its_stream_alone(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, _ = await open_stream(world, ACCOUNT)
    client, begin = await world.connect(), trio.current_time()
    monkeypatch.setattr(events, "HEARTBEAT", None)
    ended = await last_words_after_comments(caller)
    assert (ended.event, ended.data) == ("end", {"code": 1011, "reason": ""})
    assert trio.current_time() - begin == world.settings.ping_seconds
    assert (await client.request(action="ping"))["type"] == "pong"


# Who may follow what


async def test_without_a_good_token_nothing_is_followed(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    for fields in ([], [bearer("wrong")], ["Authorization: Basic eDp5"]):
        answer = await refused(guarded_world, ACCOUNT, *fields)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.reply["code"] == "unauthorized"
    token = database.create_token(account_id=2)
    assert (await refused(guarded_world, ACCOUNT, bearer(token))).status == 403
    blind = database.create_token(1, ("write",))
    assert (await refused(guarded_world, ACCOUNT, bearer(blind))).status == 403
    assert (await refused(guarded_world, f"{ACCOUNT}&token={token}")).status == 400
    database.away = True
    assert (await refused(guarded_world, ACCOUNT, bearer(token))).status == 503


async def test_a_token_brings_its_own_account_alone(
    autojump_clock: MockClock, guarded_world: World, database: SimulatedDatabase
) -> None:
    token = bearer(database.create_token(account_id=2))
    other = database.create_invoice(**INVOICE, address="here")
    query = f"topic=address:here&topic=invoice:{other}"
    caller, begun = await open_stream(guarded_world, f"{query}&snapshot=true", token)
    assert begun.data["data"]["snapshot"] == []
    assert (await caller.block()).data["data"]["snapshot"] is None
    database.update_invoice(other, memo="x")
    database.create_invoice(amount=2, currency="USD", account_id=2, address="here")
    assert (await caller.block()).data["data"]["account_id"] == 2


@pytest.fixture
async def checkout(database: SimulatedDatabase) -> AsyncIterator[World]:
    """A server on which customers may look at an invoice."""
    async with simulated_server(database, auth="token", checkout=True) as world:
        yield world


async def test_a_customer_follows_an_invoice_and_sees_what_it_may(
    autojump_clock: MockClock, checkout: World, database: SimulatedDatabase
) -> None:
    uid = database.create_invoice(**INVOICE, **SECRET)
    await trio.sleep(1)
    caller, begun = await open_stream(checkout, f"topic=invoice:{uid}&snapshot=true")
    merchant, _ = await open_stream(checkout, f"topic=invoice:{uid}", bearer(database.create_token()))
    for status in ("pending", "settled"):
        database.record_payment(uid, reference="secret-1", amount=1, status=status)
    told = [await caller.block() for _ in range(4)]
    whole = [await merchant.block() for _ in range(4)]
    assert [block.event for block in told] == EVENTS[:4] == [block.event for block in whole]
    assert "secret" in str(whole)
    again, first = await open_stream(checkout, f"topic=invoice:{uid}&after={begun.id}")
    assert [await again.block() for _ in range(4)] == told
    for block in (begun, *told, first):
        assert not seen(block.data) & HIDDEN
        assert "secret" not in str(block)


@pytest.mark.parametrize("topic", ["account:1", "address:addr", "price:*", "price:BTC"])
@pytest.mark.parametrize("snapshot", ["", "&snapshot=true"])
async def test_a_customer_follows_nothing_else(
    autojump_clock: MockClock, checkout: World, database: SimulatedDatabase, topic: str, snapshot: str
) -> None:
    uid = database.create_invoice(**INVOICE, **SECRET)
    for query in (f"topic={topic}", f"topic=invoice:{uid}&topic={topic}"):
        answer = await refused(checkout, f"{query}{snapshot}")
        assert answer.status == 401
        assert b"secret" not in answer.body
    assert followed(checkout) == 0


async def test_many_streams_and_websockets_are_told_the_same_in_the_same_order(
    autojump_clock: MockClock, world: World, database: SimulatedDatabase
) -> None:
    clients = [await world.connect() for _ in range(5)]
    for client in clients:
        await client.request(action="subscribe", type="account", id=1)
    streams = [(await open_stream(world, ACCOUNT))[0] for _ in range(5)]
    told: list[list[Any]] = []

    async def listen(receive: Any) -> None:
        told.append([await receive() for _ in range(20)])

    async def receive_data(caller: Caller) -> Any:
        return (await caller.event()).data

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(listen, client.receive)
        for caller in streams:
            nursery.start_soon(listen, partial(receive_data, caller))
        for _ in range(20):
            database.create_invoice(**INVOICE)
    assert len(told) == 10
    assert all(one == told[0] for one in told)
