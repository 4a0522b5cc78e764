"""One POST to a real server on loopback that takes it, fails, hangs, lies, and points elsewhere."""

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_ws.webhooks.post import HEAD_BYTES, Poster, PostError

BODY = b'{"type":"invoice.created"}'
ANSWER_BYTES = 65536
PATIENCE_SECONDS = 20  # only a test that fails waits so long
KEYS = Path(__file__).parent / "keys"  # of `receiver.test` only, and of nobody's

Handler = Callable[[trio.abc.Stream], Awaitable[None]]


class Receiver:
    """A server that reads a request and does what it is told then.

    Attributes:
        requests: What has come, whole.
    """

    def __init__(self, handler: Handler | bytes, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.port = 0
        self._handler = handler
        self._tls = tls

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._take, [listener])

    async def _take(self, stream: trio.abc.Stream) -> None:
        if self._tls is not None:
            stream = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        try:
            request = b""
            while not request.endswith(BODY):
                received = await stream.receive_some()
                if not received:
                    return
                request += received
            self.requests.append(request)
            if isinstance(self._handler, bytes):
                await stream.send_all(self._handler)
            else:
                await self._handler(stream)
            await trio.aclose_forcefully(stream)
        except trio.BrokenResourceError:
            pass  # We have had enough of it.


class Endless(Receiver):
    """A receiver that answers for ever.

    Attributes:
        sent: How many bytes it got rid of.
    """

    def __init__(self, head: bytes, more: bytes) -> None:
        super().__init__(self._answer)
        self.sent = 0
        self._head, self._more = head, more

    async def _answer(self, stream: trio.abc.Stream) -> None:
        await stream.send_all(self._head)
        while True:
            await stream.send_all(self._more)
            self.sent += len(self._more)


@pytest.fixture
async def nursery() -> AsyncIterator[trio.Nursery]:
    """Where receivers live until the test ends."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


def poster(**settings: Any) -> Poster:
    return Poster(**{"private_addresses": True, "answer_bytes": ANSWER_BYTES, **settings})


async def post(receiver: Receiver, nursery: trio.Nursery, **settings: Any) -> int:
    """Start the receiver and post to it once; return the status."""
    await nursery.start(receiver.serve)
    with trio.fail_after(PATIENCE_SECONDS):
        url = f"http://127.0.0.1:{receiver.port}/hook?key=1"
        return (await poster(**settings)(url, {"x-test": "é".encode().hex()}, BODY)).status


async def test_a_request_is_whole_and_its_answer_is_the_status(nursery: trio.Nursery) -> None:
    receiver = Receiver(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert await post(receiver, nursery) == 204
    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    assert line == "POST /hook?key=1 HTTP/1.1"
    assert sorted(map(str.lower, fields)) == [
        "connection: close",
        f"content-length: {len(BODY)}",
        f"host: 127.0.0.1:{receiver.port}",
        "x-test: c3a9",
    ]
    assert body == BODY


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        (b"HTTP/1.0 200 OK\r\n\r\nok", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\n\r\n", 201),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 500),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nclosed mid-answer", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a chunk", 200),
    ],
)
async def test_the_status_decides(nursery: trio.Nursery, answer: bytes, status: int) -> None:
    assert await post(Receiver(answer), nursery) == status


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0" * 1000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * HEAD_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
    ],
)
async def test_what_is_no_answer_is_an_error(nursery: trio.Nursery, answer: bytes) -> None:
    with pytest.raises(PostError):
        await post(Receiver(answer), nursery)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(nursery: trio.Nursery, status: int) -> None:
    other = Receiver(b"HTTP/1.1 200 OK\r\n\r\n")
    await nursery.start(other.serve)
    answer = f"HTTP/1.1 {status} Elsewhere\r\nLocation: http://127.0.0.1:{other.port}/\r\n\r\n"
    assert await post(Receiver(answer.encode()), nursery) == status
    assert other.requests == []


async def test_of_an_answer_without_end_little_is_read(nursery: trio.Nursery) -> None:
    receiver = Endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 2500)
    assert await post(receiver, nursery) == 200
    await wait_all_tasks_blocked()
    assert receiver.sent < 16 * 2**20  # what the kernel's buffers hold


async def test_nor_of_one_that_never_begins(nursery: trio.Nursery) -> None:
    receiver = Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
    with pytest.raises(PostError, match=r"^the answer has no end$"):
        await post(receiver, nursery)
    await wait_all_tasks_blocked()
    assert receiver.sent < 16 * 2**20


class Hanging(Receiver):
    """A receiver that says something and then nothing.

    Attributes:
        reached: Set when the request has come.
        left: Set when the line has ended.
    """

    def __init__(self, said: bytes) -> None:
        super().__init__(self._answer)
        self.reached = trio.Event()
        self.left = trio.Event()
        self._said = said

    async def _answer(self, stream: trio.abc.Stream) -> None:
        await stream.send_all(self._said)
        self.reached.set()
        assert await stream.receive_some() == b"", "the line has ended"
        self.left.set()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n"])
async def test_who_hangs_is_left_when_the_caller_has_waited_enough(
    nursery: trio.Nursery, said: bytes
) -> None:
    receiver = Hanging(said)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as caller:
            caller.start_soon(post, receiver, nursery)
            await receiver.reached.wait()
            caller.cancel_scope.cancel()
        await receiver.left.wait()


async def test_who_hangs_after_the_status_has_said_enough(nursery: trio.Nursery) -> None:
    receiver = Hanging(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    assert await post(receiver, nursery) == 200
    with trio.fail_after(PATIENCE_SECONDS):
        await receiver.left.wait()


async def test_nobody_there_is_an_error() -> None:
    with pytest.raises(PostError, match=r"^can't connect$"):
        await poster()("http://127.0.0.1:1/", {}, BODY)


# Whom it connects to


class Names:
    """A name server that answers as it is told, another time each time."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int, *, type: int) -> list[Any]:  # noqa: A002 - its name there
        addresses = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if not addresses:
            raise socket.gaierror("no such name")
        return [(0, type, 6, "", (address, port)) for address in addresses]


class Calls:
    """Whom the poster would have connected to, where it may not really."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int]] = []
        monkeypatch.setattr(trio, "open_tcp_stream", self._open)

    async def _open(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.made.append((host, port))
        raise OSError("nobody there")


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.0.0.1", "192.168.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%eth0"], ["64:ff9b::7f00:1"]],
)
async def test_a_name_that_leads_inside_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    calls = Calls(monkeypatch)
    with pytest.raises(PostError, match=r"^the host's address is not public$"):
        await poster(private_addresses=False, look_up=Names(addresses))("https://shop.example/", {}, BODY)
    assert calls.made == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "[::1]", "0x7f.1", "localhost", "[::ffff:10.0.0.1]"]
)
async def test_nor_is_what_leads_there_without_a_name(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    calls = Calls(monkeypatch)
    with pytest.raises(PostError, match=r"^the host's address is not public$"):
        await poster(private_addresses=False)(f"http://{host}/", {}, BODY)
    assert calls.made == []


async def test_a_name_that_changes_its_mind_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    names = Names(["127.0.0.1", "8.8.8.8", "10.0.0.1"], ["127.0.0.1"])
    with pytest.raises(PostError, match=r"^can't connect$"):
        await poster(private_addresses=False, look_up=names)("https://shop.example:8443/", {}, BODY)
    assert calls.made == [("8.8.8.8", 8443)]
    assert names.asked == 1


async def test_the_next_address_is_tried_when_nobody_is_at_the_first(nursery: trio.Nursery) -> None:
    receiver = Receiver(b"HTTP/1.1 200 OK\r\n\r\n")
    await nursery.start(receiver.serve)
    names = Names(["::1", "127.0.0.1"])
    answer = await poster(look_up=names)(f"http://shop.example:{receiver.port}/", {}, BODY)
    assert answer.status == 200


@pytest.mark.parametrize(
    "url", ["", "ftp://shop.example/", "https://user:secret@shop.example/", "https://[/"]
)
async def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(PostError, match=r"^Expected") as error:
        await poster()(url, {}, BODY)
    assert "secret" not in str(error.value)


async def test_a_name_that_leads_nowhere_is_said() -> None:
    with pytest.raises(PostError, match=r"^the host's name leads nowhere$"):
        await poster(look_up=Names([]))("https://shop.example/", {}, BODY)


async def test_names_that_nobody_answers_for_hold_up_no_others(nursery: trio.Nursery) -> None:
    answering = threading.Event()

    def look_up(host: str, port: int, *, type: int) -> list[Any]:  # noqa: A002 - its name there
        if host == "silent.example":
            answering.wait(PATIENCE_SECONDS)
        return [(0, type, 6, "", ("127.0.0.1", port))]

    receiver = Receiver(b"HTTP/1.1 200 OK\r\n\r\n")
    await nursery.start(receiver.serve)
    send = poster(look_up=look_up)
    async with trio.open_nursery() as waiting:
        for _ in range(100):  # more than trio has threads for
            waiting.start_soon(send, "http://silent.example/", {}, BODY)
        await wait_all_tasks_blocked()
        assert (await send(f"http://shop.example:{receiver.port}/", {}, BODY)).status == 200
        waiting.cancel_scope.cancel()
    answering.set()


# TLS


@pytest.fixture
def trusting() -> ssl.SSLContext:
    """Trusts the authority that vouches for `receiver.test`."""
    return ssl.create_default_context(cafile=str(KEYS / "authority.pem"))


async def serve_tls(nursery: trio.Nursery) -> Receiver:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(KEYS / "receiver.pem")
    receiver = Receiver(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", tls)
    await nursery.start(receiver.serve)
    return receiver


async def test_over_tls_it_is_the_urls_host_that_has_to_prove_who_it_is(
    nursery: trio.Nursery, trusting: ssl.SSLContext
) -> None:
    receiver = await serve_tls(nursery)
    send = poster(tls=trusting, look_up=Names(["127.0.0.1"]))
    assert (await send(f"https://receiver.test:{receiver.port}/", {}, BODY)).status == 200
    for host in ("other.test", "127.0.0.1"):
        with pytest.raises(PostError, match="CERTIFICATE_VERIFY_FAILED"):
            await send(f"https://{host}:{receiver.port}/", {}, BODY)
    assert len(receiver.requests) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(nursery: trio.Nursery) -> None:
    receiver = await serve_tls(nursery)
    with pytest.raises(PostError, match=r"^the connection broke \(CERTIFICATE_VERIFY_FAILED\)$"):
        await poster(look_up=Names(["127.0.0.1"]))(f"https://receiver.test:{receiver.port}/", {}, BODY)
    assert receiver.requests == []


async def test_tls_to_who_speaks_none_is_an_error(nursery: trio.Nursery) -> None:
    async def greet(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 mail.example ESMTP\r\n")

    (listener, *_) = await nursery.start(partial(trio.serve_tcp, greet, 0, host="127.0.0.1"))
    with pytest.raises(PostError, match="the connection broke"):
        await poster()(f"https://127.0.0.1:{listener.socket.getsockname()[1]}/", {}, BODY)
