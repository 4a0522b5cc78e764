"""One connection under the mock clock: how it opens, what it bears, and all the ways in which it ends."""

import gc
import json
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any, cast

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from trio.testing import MockClock, lockstep_stream_pair, wait_all_tasks_blocked

from tests import raw
from tests.raw import RawClient
from tests.wire.test_frames import anything, chunked, good_streams
from trio_ws import answers, metrics
from trio_ws import websocket as websocket_module
from trio_ws.actions.services import Services
from trio_ws.connection import Connection
from trio_ws.errors import CloseCode
from trio_ws.events import outbox
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.log import Log
from trio_ws.events.outbox import Outbox
from trio_ws.events.prices import Prices
from trio_ws.events.tail import Tail
from trio_ws.http.pages import Pages
from trio_ws.pulse import Pulse
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase
from trio_ws.topics import NOTHING, Event
from trio_ws.wire.ear import SocketEar

OPEN = "HTTP/1.1 101 "
PATIENCE_SECONDS = 30


class Line:
    """A connection, the client on its other end, and the server's parts around it."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**{"auth": "open", **settings})
        self.database = SimulatedDatabase()
        log = Log(self.database, memory_bytes=100_000)
        log.restart(self.database.position(0), self.database.position(0))
        self.dispatcher = Dispatcher(log)
        tail = Tail(self.database, self.dispatcher, self.settings.poll_seconds)
        self.services = Services(
            self.settings, self.database, self.dispatcher, tail, Prices(self.database, self.dispatcher)
        )
        stream, theirs = lockstep_stream_pair()
        self.client = RawClient(stream)
        self.pulse = Pulse()
        self.connection = Connection(theirs, self.services, self.pulse, Pages({}))
        self.ended_at: float | None = None
        self._seq = 0

    async def live(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pulse.run)
            nursery.start_soon(self.database.watch, lambda *_: None)
            await self.connection.run()
            nursery.cancel_scope.cancel()
        self.ended_at = trio.current_time()

    @property
    def outbox(self) -> Outbox:
        opened = vars(self.connection)["_line"]
        return cast(Outbox, vars(opened)["_outbox"])

    def publish(self, size: int = 0) -> None:
        self._seq += 1
        data = Raw(b'"%s"' % (b"x" * size))
        event = Event(self._seq, "invoice.updated", ("account:1",), data, NOTHING)
        self.database.log_event(event)
        self.dispatcher.publish(self.database.written[-1:])  # which has a name


@asynccontextmanager
async def open_line(*, handshake: bool = True, **settings: Any) -> AsyncIterator[Line]:
    """Yield a line; on leaving, the connection must have ended, or end when the client goes."""
    line = Line(**settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.live)
        if handshake:
            assert (await line.client.shake_hands()).startswith(OPEN)
        yield line
        await trio.aclose_forcefully(line.client.stream)
    assert vars(line.dispatcher)["_followers"] == {}


# Opening


async def test_a_caller_that_says_nothing_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with open_line(handshake=False, head_seconds=10) as line:
        assert await line.client.see_the_end() == b""
        assert trio.current_time() == 10


async def test_a_head_that_dribbles_in_has_the_same_deadline(autojump_clock: MockClock) -> None:
    async with open_line(handshake=False, head_seconds=10) as line:
        with pytest.raises(trio.BrokenResourceError):
            await _dribble(line.client, raw.head())
        assert trio.current_time() <= 11 + line.settings.close_seconds


async def test_a_head_that_does_not_come_to_its_end_is_answered_with_408(autojump_clock: MockClock) -> None:
    async with open_line(handshake=False, head_seconds=10) as line:
        await line.client.stream.send_all(raw.head()[:-1])
        assert (await line.client.receive_head()).startswith("HTTP/1.1 408 ")
        assert trio.current_time() == 10
        assert await line.client.see_the_end() != b""


async def _dribble(client: RawClient, data: bytes) -> None:
    for byte in data:
        await client.stream.send_all(bytes([byte]))
        await trio.sleep(1)


@pytest.mark.parametrize("sent", [raw.head(), raw.head("/elsewhere")], ids=["accepted", "refused"])
async def test_a_caller_that_does_not_read_its_answer_has_the_same_deadline(
    autojump_clock: MockClock, sent: bytes
) -> None:
    async with open_line(handshake=False, head_seconds=10, write_seconds=100) as line:
        await line.client.stream.send_all(sent)
        await trio.sleep(11 + line.settings.close_seconds)
        assert line.ended_at is not None
        assert line.ended_at >= 10


async def test_a_caller_that_hangs_up_leaves_at_once(autojump_clock: MockClock) -> None:
    async with open_line(handshake=False) as line:
        await line.client.stream.send_all(b"GET / HT")
        await trio.aclose_forcefully(line.client.stream)
        await wait_all_tasks_blocked()
        assert line.ended_at == 0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (raw.head("/elsewhere"), "404"),
        (raw.head(method="POST"), "405"),
        (raw.head(Origin="https://evil.example"), "403"),
        (raw.head(Sec_WebSocket_Version="8"), "426"),
        (raw.head(X="x" * 32768)[:32768], "431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "426"),
        (raw.head(Upgrade="", Connection=""), "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), "400"),
        (b"hello\r\n\r\n", "400"),
    ],
)
async def test_what_asks_for_no_websocket_of_ours_is_refused(
    autojump_clock: MockClock, sent: bytes, status: str
) -> None:
    async with open_line(handshake=False) as line:
        await line.client.stream.send_all(sent)
        head = await line.client.receive_head()
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert "\r\nConnection: close" in head
        assert (await line.client.see_the_end()).endswith(b"\n"), "a sentence that says why"
        assert trio.current_time() == 0


@pytest.mark.parametrize(
    "header", ["Host", "Connection", "Sec_WebSocket_Protocol", "Sec_WebSocket_Extensions"]
)
async def test_a_head_that_breaks_the_library_ends_its_own_connection_only(
    autojump_clock: MockClock, header: str
) -> None:
    async with open_line(handshake=False) as line:
        await line.client.stream.send_all(raw.head(**{header: "\xe9"}))
        assert (await line.client.see_the_end()).startswith(b"HTTP/1.1 400 ")
        assert trio.current_time() <= line.settings.head_seconds


async def test_bad_http_followed_by_a_reset_ends_its_own_connection_only(autojump_clock: MockClock) -> None:
    async with open_line(handshake=False) as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.client.stream.send_all, b"\0\0\0\0\r\n\r\n")
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(line.client.stream)


async def test_what_is_sent_before_we_have_accepted_is_read_after_it(autojump_clock: MockClock) -> None:
    async with open_line(handshake=False) as line:
        await line.client.stream.send_all(raw.head() + raw.frame(raw.TEXT, b'{"action":"ping"}'))
        assert (await line.client.receive_head()).startswith(OPEN)
        assert (await line.client.receive())["type"] == "pong"


@pytest.mark.parametrize("broken", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x81"])
async def test_a_bad_chunk_before_we_have_accepted_ends_its_own_connection_only(
    autojump_clock: MockClock, broken: bytes
) -> None:
    async with open_line(handshake=False, auth="token") as line:
        line.database.gate = trio.Event()
        token = line.database.create_token()
        await line.client.stream.send_all(raw.head(Authorization=f"Bearer {token}"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.client.stream.send_all, broken)
            await wait_all_tasks_blocked()
            line.database.gate.set()
            assert (await line.client.receive_head()).startswith(OPEN)
            if broken != b"\x81":
                assert (await line.client.receive_close())[0] == CloseCode.PROTOCOL_ERROR


async def test_who_waits_to_come_in_when_the_server_stops_is_told_to_come_again(
    autojump_clock: MockClock,
) -> None:
    async with open_line(handshake=False, auth="token") as line:
        line.database.gate = trio.Event()
        await line.client.stream.send_all(raw.head(Authorization="Bearer x"))
        await wait_all_tasks_blocked()
        line.connection.end(CloseCode.GOING_AWAY, seconds=5)
        line.database.gate.set()
        head = await line.client.receive_head()
        assert head.startswith("HTTP/1.1 503 ")
        assert "\r\nRetry-After: " in head


# Messages


async def test_a_fragmented_message_is_one_message(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        message = b'{"action":"ping","request_id":"in three"}'
        await line.client.stream.send_all(raw.frame(raw.TEXT, message[:5], fin=False))
        await line.client.stream.send_all(raw.frame(raw.PING, b"between"))
        assert await line.client.receive_frame() == (raw.PONG, b"between")
        await line.client.stream.send_all(raw.frame(0, message[5:9], fin=False))
        await line.client.stream.send_all(raw.frame(0, message[9:]))
        assert (await line.client.receive())["request_id"] == "in three"


async def test_a_message_as_long_as_the_limit_is_taken(autojump_clock: MockClock) -> None:
    async with open_line(message_bytes=100) as line:
        await line.client.stream.send_all(raw.frame(raw.TEXT, b'{"action":"ping"}'.ljust(100)))
        assert (await line.client.receive())["type"] == "pong"


@pytest.mark.parametrize("text", ["x" * 101, "é" * 51], ids=["characters", "bytes"])
async def test_a_message_over_the_limit_in_bytes_ends_with_1009(autojump_clock: MockClock, text: str) -> None:
    async with open_line(message_bytes=100) as line:
        await line.client.stream.send_all(raw.frame(raw.TEXT, text.encode()))
        code, _ = await line.client.receive_close()
        assert code == CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (raw.frame(raw.TEXT, b'{"action":"\xff"}'), CloseCode.INVALID_TEXT),
        (raw.frame(raw.TEXT, b"\xff", fin=False), CloseCode.INVALID_TEXT),
        (raw.frame(raw.CLOSE, b"\x03\xe8\xff"), CloseCode.INVALID_TEXT),
        (raw.frame(raw.TEXT, b"{}", masked=False), CloseCode.PROTOCOL_ERROR),
        (raw.frame(0x3, b"{}"), CloseCode.PROTOCOL_ERROR),
        (raw.frame(raw.PING, b"x" * 126), CloseCode.PROTOCOL_ERROR),
        (raw.frame(raw.PING, b"", fin=False), CloseCode.PROTOCOL_ERROR),
        (b"\xf1" + raw.frame(raw.TEXT, b"{}")[1:], CloseCode.PROTOCOL_ERROR),
        (raw.frame(0, b"{}"), CloseCode.PROTOCOL_ERROR),
        (raw.frame(raw.CLOSE, b"\x00"), CloseCode.PROTOCOL_ERROR),
        (raw.frame(raw.CLOSE, b"\x03\xed"), CloseCode.PROTOCOL_ERROR),
        (raw.frame(raw.PING, b"") * 21, CloseCode.RATE_LIMITED),
        (raw.frame(raw.TEXT, b"x", fin=False) * 2, CloseCode.PROTOCOL_ERROR),
        (raw.frame(raw.TEXT, b"", fin=False) + raw.frame(0, b"", fin=False) * 128, CloseCode.MESSAGE_TOO_BIG),
    ],
)
async def test_a_broken_frame_ends_its_connection_with_its_code(
    autojump_clock: MockClock, broken: bytes, code: int
) -> None:
    async with open_line() as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.client.stream.send_all, broken)
        opcode, payload = await line.client.receive_frame()
        while opcode == raw.PONG:
            opcode, payload = await line.client.receive_frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (raw.CLOSE, code)
        await line.client.see_the_end()
        assert trio.current_time() <= line.settings.close_seconds


@pytest.mark.parametrize("last", [raw.frame(raw.TEXT, b"\xff"), raw.frame(raw.CLOSE, b"\x03\xe8")])
async def test_what_came_before_the_end_is_answered_in_order_and_what_came_after_it_is_not(
    autojump_clock: MockClock, last: bytes
) -> None:
    async with open_line() as line, trio.open_nursery() as nursery:
        asked = [raw.frame(raw.TEXT, b'{"action":"ping","request_id":%d}' % number) for number in range(30)]
        nursery.start_soon(line.client.stream.send_all, b"".join([*asked, last, *asked]))
        for number in range(30):
            assert (await line.client.receive())["request_id"] == number
        opcode, payload = await line.client.receive_frame()
        assert (opcode, payload[:2]) in [(raw.CLOSE, b"\x03\xef"), (raw.CLOSE, b"\x03\xe8")]
        assert await line.client.see_the_end() == b""
        assert trio.current_time() == 0


async def test_a_reply_that_waits_for_room_is_not_overtaken_by_one_that_takes_no_query(
    autojump_clock: MockClock,
) -> None:
    async with open_line(outbox_bytes=1) as line, trio.open_nursery() as nursery:
        long = line.database.create_invoice(account_id=1, amount=1, currency="USD", memo="\x01" * 1000)
        fetches = [
            raw.frame(raw.TEXT, b'{"action":"fetch_invoice","id":"%s","request_id":%d}' % (uid, number))
            for number, uid in enumerate([str(long).encode()] * 4)
        ]
        await line.client.stream.send_all(b"".join(fetches))
        await wait_all_tasks_blocked()  # the first reply is on its way, and the others have no room yet
        nursery.start_soon(
            line.client.stream.send_all, raw.frame(raw.TEXT, b'{"action":"ping","request_id":4}')
        )
        await wait_all_tasks_blocked()
        assert [(await line.client.receive())["request_id"] for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_what_is_refused_waits_for_the_answers_to_what_was_asked_before(
    autojump_clock: MockClock,
) -> None:
    async with open_line() as line:
        uid = str(line.database.create_invoice(account_id=1, amount=1, currency="USD"))
        fetch = raw.frame(raw.TEXT, b'{"action":"fetch_invoice","id":"%s","request_id":0}' % uid.encode())
        dance = raw.frame(raw.TEXT, b'{"action":"dance","request_id":1}')
        await line.client.stream.send_all(fetch + dance)
        assert [(await line.client.receive())["request_id"] for _ in range(2)] == [0, 1]


async def test_who_has_said_all_is_answered_before_it_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        await line.client.send(action="list_prices", request_id=1)
        await line.client.stream.send_eof()
        assert (await line.client.receive())["request_id"] == 1
        assert await line.client.see_the_end() == b""


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each frame sent by itself, so that a client can read slowly that has little to read."""
    monkeypatch.setattr(outbox, "TOGETHER_BYTES", 1)


@pytest.mark.usefixtures("one_by_one")
async def test_who_broke_something_and_reads_slowly_is_not_waited_for_long(autojump_clock: MockClock) -> None:
    async with open_line(write_seconds=10, drain_seconds=25) as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        for _ in range(8):
            line.publish()
        await line.client.stream.send_all(b"\xff\xff")
        while line.ended_at is None:
            await trio.sleep(9)
            with suppress(trio.BrokenResourceError):
                await line.client.stream.receive_some()
        assert 25 <= line.ended_at <= 25 + 2 * line.settings.close_seconds


async def test_requests_over_the_rate_are_refused_and_the_connection_lives(
    autojump_clock: MockClock,
) -> None:
    async with open_line(requests_per_second=10, requests_burst=20) as line:
        for number in range(30):
            await line.client.send(action="ping", request_id=number)
            reply = await line.client.receive()
            assert reply["request_id"] == number
            if number < 20:
                assert reply["type"] == "pong"
            else:
                assert (reply["status"], reply["code"]) == ("error", "rate_limited")
                assert reply["retry_after_seconds"] == 0.1
        await line.client.stream.send_all(raw.frame(raw.TEXT, b"no JSON"))
        assert (await line.client.receive())["code"] == "rate_limited", "whatever it is"
        await trio.sleep(0.1)
        await line.client.send(action="ping")
        assert (await line.client.receive())["type"] == "pong"


async def test_who_keeps_to_the_rate_is_never_refused(autojump_clock: MockClock) -> None:
    async with open_line(requests_per_second=10, requests_burst=1, ping_seconds=1000) as line:
        for _ in range(1000):
            await line.client.send(action="ping")
            assert (await line.client.receive())["type"] == "pong"
            await trio.sleep(0.1)


async def test_who_keeps_breaking_the_rate_ends_with_4029(autojump_clock: MockClock) -> None:
    async with open_line(requests_per_second=10, requests_burst=20) as line, trio.open_nursery() as nursery:
        flood = raw.frame(raw.TEXT, b'{"action":"ping"}') * 100
        nursery.start_soon(line.client.stream.send_all, flood)
        answers = 0
        while (frame := await line.client.receive_frame())[0] == raw.TEXT:
            answers += 1
        assert int.from_bytes(frame[1][:2], "big") == CloseCode.RATE_LIMITED
        assert 40 < answers <= 50
        await line.client.see_the_end()


async def test_what_came_together_with_one_too_many_is_answered_before_4029(
    autojump_clock: MockClock,
) -> None:
    async with open_line(requests_per_second=10, requests_burst=20) as line, trio.open_nursery() as nursery:
        flood = raw.frame(raw.TEXT, b'{"action":"fetch_invoice","id":"inv_123"}') * 60
        nursery.start_soon(line.client.stream.send_all, flood)
        codes = []
        while (frame := await line.client.receive_frame())[0] == raw.TEXT:
            codes.append(json.loads(frame[1])["code"])
        assert codes == ["not_found"] * 20 + ["rate_limited"] * 21
        assert int.from_bytes(frame[1][:2], "big") == CloseCode.RATE_LIMITED
        await line.client.see_the_end()


async def test_without_a_limit_a_flood_is_answered(autojump_clock: MockClock) -> None:
    lifted: dict[str, Any] = {"requests_per_second": None, "control_frames_per_second": None}
    async with open_line(**lifted) as line, trio.open_nursery() as nursery:
        request = raw.frame(raw.TEXT, b'{"action":"ping"}')
        flood = b"".join(request + raw.frame(raw.PING, b"%03d" % number) for number in range(1000))
        nursery.start_soon(line.client.stream.send_all, flood)
        texts, pongs = 0, [b""]
        while texts < 1000 or pongs[-1] != b"999":
            opcode, payload = await line.client.receive_frame()
            texts += opcode == raw.TEXT
            pongs += [payload] if opcode == raw.PONG else []
        assert texts == 1000
        assert pongs == sorted(set(pongs)), "not all, for it reads slowly, but each in its turn"


@pytest.mark.logs_errors
async def test_a_bug_in_an_action_is_answered_and_logged_and_the_connection_lives(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_line() as line:
        monkeypatch.setattr(line.database, "answers", {})
        await line.client.send(action="list_prices", request_id="r-7")
        assert await line.client.receive() == {
            "status": "error",
            "message": "Internal server error",
            "code": "internal",
            "request_id": "r-7",
        }
        await line.client.send(action="ping")
        assert (await line.client.receive())["type"] == "pong"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert vars(record)["figures"] == {"request_id": "r-7"}
    assert record.exc_info


@pytest.mark.logs_errors
async def test_a_bug_in_the_connection_ends_it_with_1011_and_is_logged(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def request(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(websocket_module, "Request", request)
    async with open_line() as line:
        await line.client.send(action="ping")
        assert await line.client.receive_close() == (CloseCode.INTERNAL_ERROR, "")
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info


@pytest.mark.logs_errors
async def test_a_bug_in_a_ping_ends_the_connection_with_1011_too(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_module, "PING_BYTES", None)
    async with open_line() as line:
        assert await line.client.receive_close() == (CloseCode.INTERNAL_ERROR, "")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(
    st.lists(
        st.one_of(anything, good_streams(), st.just(raw.frame(raw.TEXT, b'{"action":"ping"}'))), max_size=4
    ),
    st.lists(st.integers(0, 10**6), max_size=5),
    st.sampled_from(["close", "end", "vanish", "stay"]),
)
def test_whatever_is_sent_the_connection_ends_in_time_and_without_a_bug(
    sent: list[bytes], cuts: list[int], leaving: str
) -> None:
    async def live() -> None:
        line = Line(ping_seconds=5, pong_seconds=5, write_seconds=5, drain_seconds=5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.live)  # which raises what is a bug
            nursery.start_soon(_read_until_the_end, line.client)
            await line.client.stream.send_all(raw.head())
            with suppress(trio.BrokenResourceError):
                for chunk in chunked(b"".join(sent), cuts):
                    await line.client.stream.send_all(chunk)
                if leaving == "close":
                    await line.client.stream.send_all(raw.frame(raw.CLOSE, b"\x03\xe8"))
                elif leaving == "end":
                    await line.client.stream.send_eof()
                elif leaving == "vanish":
                    await trio.aclose_forcefully(line.client.stream)
        assert line.ended_at is not None
        assert line.ended_at <= 30

    trio.run(live, clock=MockClock(autojump_threshold=0))


async def _read_until_the_end(client: RawClient) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await client.stream.receive_some(1000):
            pass


async def test_much_that_waits_behind_a_query_goes_on_in_a_turn_of_its_own(autojump_clock: MockClock) -> None:
    """Or a batch would keep everybody waiting for all that its clients have asked besides."""
    async with open_line() as line:
        turns: list[trio.lowlevel.Task] = []

        def now() -> float:
            turns.append(trio.lowlevel.current_task())
            return 0.0

        line.services.now = now
        line.database.gate = trio.Event()
        await line.client.send(action="create_invoice", amount=1, currency="USD", account_id=1)
        for _ in range(2 * answers.ASKED_REQUESTS):
            await line.client.send(action="ping")
        await wait_all_tasks_blocked()
        line.database.gate.set()
        assert (await line.client.receive())["status"] == "success"
        for _ in range(2 * answers.ASKED_REQUESTS):
            assert (await line.client.receive())["type"] == "pong"
        assert {turn.name.rpartition(".")[2] for turn in turns} == {"live"}


# Endings


async def test_a_client_that_closes_is_answered_in_kind(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        await line.client.stream.send_all(raw.frame(raw.CLOSE, b"\x03\xe8bye"))
        assert await line.client.receive_frame() == (raw.CLOSE, b"\x03\xe8bye")
        await line.client.see_the_end()
        await wait_all_tasks_blocked()
        assert line.ended_at == 0


async def test_a_client_that_vanishes_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        await trio.aclose_forcefully(line.client.stream)
        await wait_all_tasks_blocked()
        assert line.ended_at == 0
        line.publish()


async def test_a_client_that_vanished_is_gone_once_what_it_asked_is_done(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        line.database.gate = trio.Event()
        await line.client.send(action="create_invoice", amount=1, currency="USD", account_id=1)
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(line.client.stream)
        line.publish()  # by which the writer finds that nobody reads
        await wait_all_tasks_blocked()
        line.database.gate.set()
        await wait_all_tasks_blocked()
        assert line.ended_at == 0


async def test_who_is_ended_while_it_waits_for_an_answer_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    async with open_line() as line:  # which sees that nothing is followed in the end
        uid = str(line.database.create_invoice(account_id=1, amount=1, currency="USD"))
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        gate = line.database.gate = trio.Event()
        await line.client.send(action="fetch_invoice", id=uid)
        await wait_all_tasks_blocked()
        line.connection.end(CloseCode.GOING_AWAY, seconds=1)
        await trio.sleep(30)
        gate.set()


async def test_a_client_that_has_gone_leaves_no_garbage(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        await line.client.send(action="list_prices")
        await line.client.receive()
    connection = weakref.ref(line.connection)
    gc.disable()
    try:
        del line.connection
        assert connection() is None, "nobody has to look for it"
    finally:
        gc.enable()


async def test_a_client_that_answers_pings_stays_for_days(autojump_clock: MockClock) -> None:
    async with open_line(ping_seconds=20, pong_seconds=10) as line:
        while trio.current_time() < 2 * 86400:
            opcode, payload = await line.client.receive_frame()
            assert opcode == raw.PING
            await trio.sleep(9)
            await line.client.stream.send_all(raw.frame(raw.PONG, payload))
        await line.client.send(action="ping")
        assert (await line.client.receive())["type"] == "pong"


async def test_a_client_that_answers_no_ping_ends_with_4000(autojump_clock: MockClock) -> None:
    async with open_line(ping_seconds=20, pong_seconds=10) as line:
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await line.client.receive_frame())[0] == raw.PING
        assert await line.client.receive_close() == (CloseCode.UNRESPONSIVE, "no pong")
        assert trio.current_time() == 30


async def test_a_pong_to_another_ping_is_no_answer(autojump_clock: MockClock) -> None:
    async with open_line(ping_seconds=20, pong_seconds=10) as line:
        for payload in (b"", b"another's"):
            await line.client.stream.send_all(raw.frame(raw.PONG, payload))
        opcode, first = await line.client.receive_frame()
        assert (opcode, trio.current_time()) == (raw.PING, 20), "nor is one that nobody asked for"
        await line.client.stream.send_all(raw.frame(raw.PONG, first))
        opcode, second = await line.client.receive_frame()
        assert (opcode, trio.current_time()) == (raw.PING, 40)
        assert second != first
        for payload in (b"", b"another's", first):
            await line.client.stream.send_all(raw.frame(raw.PONG, payload))
        assert await line.client.receive_close() == (CloseCode.UNRESPONSIVE, "no pong")


async def test_who_can_send_no_pong_any_more_is_not_pinged(autojump_clock: MockClock) -> None:
    async with open_line(ping_seconds=3, pong_seconds=3) as line:
        line.database.gate = trio.Event()
        await line.client.send(action="list_prices", request_id=1)
        await line.client.stream.send_eof()
        await trio.sleep(20)
        line.database.gate.set()
        assert (await line.client.receive())["request_id"] == 1
        await line.client.see_the_end()


async def test_pings_are_answered_before_what_waits(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        for _ in range(2):
            line.publish(size=outbox.TOGETHER_BYTES)
        await wait_all_tasks_blocked()
        line.publish()
        await line.client.stream.send_all(raw.frame(raw.PING, b"anybody?"))
        frames = [await line.client.receive_frame() for _ in range(4)]
        assert [opcode for opcode, _ in frames] == [raw.TEXT, raw.PONG, raw.TEXT, raw.TEXT]
        assert frames[1][1] == b"anybody?"


class Steps(trio.abc.Instrument):
    """The names of tasks that ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.names.append(task.name)


@pytest.mark.parametrize("action", ["ping", "fetch_invoice"])
async def test_a_request_alone_wakes_no_task_of_its_connection(action: str, nursery: trio.Nursery) -> None:
    line = Line()
    line.services.ear = SocketEar()
    near, far = trio.socket.socketpair()
    client = RawClient(trio.SocketStream(near))
    connection = Connection(trio.SocketStream(far), line.services, line.pulse, Pages({}))
    nursery.start_soon(line.services.ear.run)
    nursery.start_soon(line.database.watch, lambda *_: None)
    nursery.start_soon(connection.run, name="run")
    uid = line.database.create_invoice(account_id=1, amount=1, currency="USD")
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.stream:
            await client.shake_hands()
            steps = Steps()
            for asked in range(2):
                if asked:
                    trio.lowlevel.add_instrument(steps)
                await client.send(action=action, id=str(uid))
                assert (await client.receive())["status"] == "success"
                await wait_all_tasks_blocked()
            trio.lowlevel.remove_instrument(steps)
    assert not {"reader", "writer", "run"} & set(steps.names), steps.names
    assert any(name.endswith("SocketEar.run") for name in steps.names)


async def test_a_pong_that_stands_behind_requests_we_are_slow_with_is_not_missed(
    autojump_clock: MockClock,
) -> None:
    async with open_line(ping_seconds=20, pong_seconds=10, requests_per_second=None) as line:
        line.database.gate = trio.Event()
        count = 2 * answers.WAITING_REQUESTS
        requests = raw.frame(raw.TEXT, b'{"action":"list_prices"}') * count
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.client.stream.send_all, requests)
            nursery.start_soon(_open_later, line.database.gate, 100)
            answered = 0
            while answered < count:
                opcode, payload = await line.client.receive_frame()
                assert opcode in (raw.TEXT, raw.PING), payload
                answered += opcode == raw.TEXT
        assert trio.current_time() == 100


async def _open_later(gate: trio.Event, seconds: float) -> None:
    await trio.sleep(seconds)
    gate.set()


@pytest.mark.usefixtures("one_by_one")
async def test_a_client_that_reads_slowly_may_be_slow_with_its_pong_and_one_that_has_read_all_may_not(
    autojump_clock: MockClock,
) -> None:
    async with open_line(ping_seconds=20, pong_seconds=10, outbox_bytes=4096) as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        for _ in range(300):
            line.publish(size=400)
        seen = 0
        while seen < 300:  # for five minutes, and answers no ping, which stands behind all this
            opcode, _ = await line.client.receive_frame()
            seen += opcode == raw.TEXT
            await trio.sleep(1)
        read_all = trio.current_time()
        line.client.ignores_pings = True
        assert await line.client.receive_close() == (CloseCode.UNRESPONSIVE, "no pong")
        assert 30 <= trio.current_time() - read_all <= 30 + 60


async def test_who_was_slow_when_pinged_is_excused_from_its_pong_for_the_kernel_may_hold_what_it_has_not_read(
    autojump_clock: MockClock,
) -> None:
    async with open_line(ping_seconds=20, pong_seconds=10) as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        await trio.sleep(19)
        for _ in range(10):
            line.publish(size=400)
        await trio.sleep(6)
        for _ in range(11):  # from here on nothing waits that we know of
            await line.client.receive_frame()
        line.client.ignores_pings = True
        assert await line.client.receive_close() == (CloseCode.UNRESPONSIVE, "no pong")
        assert 80 <= trio.current_time() <= 90 + 20


@pytest.mark.usefixtures("one_by_one")
async def test_a_client_with_half_a_ping_is_cut_off_as_one_with_half_of_anything(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_line(ping_seconds=20, pong_seconds=10, write_seconds=60) as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        for _ in range(5):
            line.publish()
        await trio.sleep(25)
        await line.client.receive_frame()  # so that our ping is next, and its pong is due in the middle
        await trio.sleep(59)
        assert line.ended_at is None
        await trio.sleep(2)
        assert line.ended_at == 85
    assert "ended: slow " in caplog.messages


async def test_a_client_that_does_not_read_is_cut_off(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_line(write_seconds=15) as line:
        await line.client.send(action="ping")
        await trio.sleep(15 + 2 * line.settings.close_seconds)
        assert line.ended_at is not None
        assert line.ended_at >= 15
        with pytest.raises(trio.BrokenResourceError):
            await line.client.send(action="ping")
    assert "ended: slow " in caplog.messages


async def test_long_replies_to_requests_that_come_together_wait_for_room_one_by_one(
    autojump_clock: MockClock,
) -> None:
    async with open_line(outbox_bytes=10_000, drain_seconds=5) as line, trio.open_nursery() as nursery:
        for number in range(100):
            line.database.set_price(f"C{number:02}", Decimal(1))
        await line.client.send(action="list_prices")
        _, reply = await line.client.receive_frame()
        assert len(reply) > 10_000
        nursery.start_soon(line.client.stream.send_all, raw.frame(raw.TEXT, b'{"action":"list_prices"}') * 50)
        await wait_all_tasks_blocked()
        assert line.outbox.messages <= 3, "one was read, one is being written, one waits"
        for _ in range(50):
            assert (await line.client.receive_frame())[1] == reply


async def test_fetches_that_come_together_bring_few_long_replies_ahead_of_who_does_not_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_line(outbox_bytes=10_000, write_seconds=60) as line, trio.open_nursery() as nursery:
        await line.client.send(
            action="create_invoice", amount=1, currency="USD", account_id=1, memo="\x01" * 1000
        )
        uid = (await line.client.receive())["data"]["uid"]
        fetched: list[int] = []
        monkeypatch.setattr(metrics.DATABASE_BATCH.labels("fetch_invoice"), "observe", fetched.append)
        message = json.dumps({"action": "fetch_invoice", "id": uid}).encode()
        nursery.start_soon(line.client.stream.send_all, raw.frame(raw.TEXT, message) * 100)
        await wait_all_tasks_blocked()
        assert fetched == [answers.ASKED_REQUESTS], "the others wait for room in the outbox"
        for _ in range(100):
            assert (await line.client.receive())["data"]["uid"] == uid


async def test_a_client_too_slow_for_its_events_gets_them_all_when_it_reads(
    autojump_clock: MockClock,
) -> None:
    async with open_line(outbox_bytes=4096, write_seconds=60, ping_seconds=1000) as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        for _ in range(1000):
            line.publish(size=400)
        await trio.sleep(50)
        assert line.outbox.waiting_bytes <= 4096
        for seq in range(1, 1001):
            assert (await line.client.receive())["position"] == str(line.database.position(seq))
        line.publish()
        assert (await line.client.receive())["position"] == str(line.database.position(1001))


async def test_at_a_gap_what_was_queued_is_written_first_and_what_comes_after_it_never(
    autojump_clock: MockClock,
) -> None:
    async with open_line() as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        for _ in range(5):
            line.publish()
        await trio.sleep(1)  # the first one is half sent
        line.dispatcher.restart(
            line.database.position(0), line.database.position(5)
        )  # and what of it the client has, who knows
        line.publish()
        await trio.sleep(10)
        told = [(await line.client.receive())["position"] for _ in range(5)]
        assert told == [str(line.database.position(seq)) for seq in range(1, 6)]
        code, reason = await line.client.receive_close()
        assert code == CloseCode.LOG_LOST
        assert reason.startswith("retry_after=")


async def test_ending_finishes_what_is_under_way_and_reads_no_more(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        line.database.gate = trio.Event()
        await line.client.send(action="list_prices", request_id=1)
        await wait_all_tasks_blocked()
        line.connection.end(CloseCode.GOING_AWAY, "retry_after=3.0", seconds=5)
        line.connection.end(CloseCode.UNRESPONSIVE, seconds=100)  # the first one counts
        await trio.sleep(4)
        line.database.gate.set()
        assert (await line.client.receive())["request_id"] == 1
        assert await line.client.receive_close() == (CloseCode.GOING_AWAY, "retry_after=3.0")


async def test_ending_waits_no_longer_than_it_was_told_to(autojump_clock: MockClock) -> None:
    async with open_line(write_seconds=1000) as line:
        await line.client.send(action="ping")  # the reply finds no reader
        await wait_all_tasks_blocked()
        line.connection.end(CloseCode.GOING_AWAY, seconds=5)
        await trio.sleep(5 + 2 * line.settings.close_seconds)
        assert line.ended_at is not None
        assert line.ended_at >= 5


async def test_ending_before_the_handshake_hangs_up(autojump_clock: MockClock) -> None:
    async with open_line(handshake=False) as line:
        await wait_all_tasks_blocked()
        line.connection.end(CloseCode.GOING_AWAY, seconds=5)
        assert await line.client.see_the_end() == b""
        assert trio.current_time() == 0


async def test_a_client_that_ignores_our_close_is_hung_up_on(autojump_clock: MockClock) -> None:
    async with open_line(close_seconds=2) as line:
        line.connection.end(CloseCode.GOING_AWAY, seconds=5)
        assert (await line.client.receive_frame())[0] == raw.CLOSE
        await trio.sleep(4.01)
        assert line.ended_at is not None


async def test_the_client_closes_first_where_it_knows_how_to(autojump_clock: MockClock) -> None:
    async with open_line(close_seconds=5) as line:
        line.connection.end(CloseCode.GOING_AWAY, seconds=5)
        assert (await line.client.receive_frame())[0] == raw.CLOSE
        await line.client.send(action="ping")  # sent before the close came
        with trio.move_on_after(1) as waiting:
            await line.client.stream.receive_some()
        assert waiting.cancelled_caught, "no end before its close"
        await line.client.stream.send_all(raw.frame(raw.CLOSE, b"\x03\xe9"))
        assert await line.client.stream.receive_some() == b""
        assert trio.current_time() == 1


async def test_one_that_is_to_end_at_once_sends_nothing_more(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        await line.client.send(action="subscribe", type="account", id=1)
        await line.client.receive()
        for _ in range(3):
            line.publish()  # of which two wait
            await wait_all_tasks_blocked()
        line.connection.end(CloseCode.UNAUTHORIZED)
        line.publish()
        assert (await line.client.receive())["position"] == str(line.database.position(1))
        assert await line.client.receive_close() == (CloseCode.UNAUTHORIZED, "")


async def test_a_ping_that_crosses_our_close_breaks_nothing(autojump_clock: MockClock) -> None:
    async with open_line() as line:
        line.connection.end(CloseCode.GOING_AWAY, seconds=5)
        assert (await line.client.receive_frame())[0] == raw.CLOSE
        await line.client.stream.send_all(raw.frame(raw.PING, b"sent before the close came"))
        await line.client.see_the_end()
        assert trio.current_time() <= 2 * line.settings.close_seconds


async def test_a_flood_after_an_oversize_message_breaks_nothing(autojump_clock: MockClock) -> None:
    async with open_line(message_bytes=10) as line:
        flood = raw.frame(raw.TEXT, b"x" * 11) + raw.frame(raw.PING, b"") * 50
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.client.stream.send_all, flood)
            opcode, payload = await line.client.receive_frame()
        assert (opcode, payload[:2]) == (raw.CLOSE, b"\x03\xf1")
