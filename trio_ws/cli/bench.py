"""`trio-ws bench`: how fast a running server answers and delivers events, measured from here, in one line.

A first look, bounded in count and time. What it costs beside other servers is for `scripts/bench`.
"""

import ipaddress
import json
import math
import secrets
from collections import Counter, deque
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
import trio
from cyclopts import Parameter
from cyclopts.validators import Number
from trio_websocket import ConnectionClosed, WebSocketConnection

from trio_ws.cli.options import AsJson
from trio_ws.cli.target import NO_TARGET, Place, Target
from trio_ws.client import Disconnected, Refused
from trio_ws.client.opening import Address, open_patiently
from trio_ws.errors import StartupError, leaves
from trio_ws.settings import SettingsError

LAST_WORDS_SECONDS = 5.0  # for what is under way when the time is over

What = Literal["ping", "fetch", "create", "events"]


def bench(
    what: Annotated[What, Parameter(help="ping, fetch, create: requests; events: their lag.")],
    /,
    *,
    clients: Annotated[int, Parameter(validator=Number(gte=1, lte=1000), help="Up to 1000.")] = 50,
    in_flight: Annotated[int, Parameter(validator=Number(gte=1, lte=100), help="Requests of each.")] = 8,
    seconds: Annotated[float, Parameter(validator=Number(gt=0, lte=600), help="Up to 600.")] = 5.0,
    account: Annotated[int, Parameter(help="Whose invoices are made.")] = 1,
    yes: Annotated[bool, Parameter(negative=(), help="Allow a server on another machine.")] = False,
    as_json: AsJson = False,
    target: Target = NO_TARGET,
) -> None:
    """Measure a running server: requests a second and their latency, or the lag of events.

    `create` and `events` create invoices that stay. A client slows down when the server says so; raise the
    server's `requests_per_second` to measure more than it allows.
    """
    server = target.server
    if not yes and not _is_here(server.url):
        raise SettingsError(f"{server.url} is not on this machine: add --yes, if it is yours to load")
    run = Run(server, account)
    try:
        trio.run(run.measure, what, clients, in_flight, seconds)
    except* StartupError as errors:
        raise leaves(errors)[0] from None
    except* Refused as errors:
        raise StartupError(str(leaves(errors)[0])) from None
    except* Disconnected as errors:
        raise StartupError(f"{leaves(errors)[0]}: is the server running?") from None
    except* ConnectionClosed as errors:
        raise StartupError(f"the server ended a connection: {leaves(errors)[0]}") from None
    except* KeyboardInterrupt:
        raise KeyboardInterrupt from None
    result = run.result(what, seconds)
    print(json.dumps(result) if as_json else _in_words(result))


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_words(result: dict[str, Any]) -> str:
    codes = "".join(f", {count} {code}" for code, count in result["errors"].items())
    if not result["count"]:
        return f"{result['what']}: nothing{codes}"
    times = ", ".join(f"{name} {result[name]:.2f} ms" for name in ("p50", "p99", "max"))
    return f"{result['what']}: {result['per_second']:,.0f}/s; {times}{codes}"


class Run:
    """One measurement.

    Args:
        server: The server, and who we are there.
        account: Whose invoices are made.
    """

    def __init__(self, server: Place, account: int) -> None:
        try:
            self._address = Address.of(server.url, server.token, ca=server.ca, is_patient=False)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        self._create = {"action": "create_invoice", "amount": 1000, "currency": "USD", "account_id": account}
        self._account = account
        self._took: list[float] = []
        self._errors: Counter[str] = Counter()
        self._end = math.inf

    def result(self, what: What, seconds: float) -> dict[str, Any]:
        """Return what was measured; times are in ms."""
        took = sorted(self._took)
        found: dict[str, Any] = {"what": what, "count": len(took), "per_second": len(took) / seconds}
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            found[name] = 1000 * took[math.ceil(share * len(took)) - 1] if took else None
        return {**found, "errors": dict(self._errors)}

    async def measure(self, what: What, clients: int, in_flight: int, seconds: float) -> None:
        """Do it, and keep what comes of it."""
        async with trio.open_nursery() as lines:
            if what == "events":
                await self._tell(lines, clients, seconds)
            else:
                await self._ask(lines, what, clients, in_flight, seconds)
            lines.cancel_scope.cancel()

    async def _ask(
        self, lines: trio.Nursery, what: What, clients: int, in_flight: int, seconds: float
    ) -> None:
        """Have each client keep so many requests under way."""
        request: dict[str, Any] = self._create if what == "create" else {"action": "ping"}
        if what == "fetch":
            request = await self._fetch(lines)
        sockets = [await self._connect(lines) for _ in range(clients)]
        self._end = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = self._end + LAST_WORDS_SECONDS
            for socket in sockets:
                nursery.start_soon(self._converse, socket, _encode(request), in_flight)

    async def _tell(self, lines: trio.Nursery, clients: int, seconds: float) -> None:
        """Have one client make an invoice after the other, and the others follow their account."""
        writer = await self._connect(lines)
        name = secrets.token_hex(4)  # so that we know our own
        sent: dict[str, float] = {}
        to_writer, told = trio.open_memory_channel[float](clients)
        for _ in range(clients):
            socket = await self._connect(lines)
            await _call(socket, {"action": "subscribe", "type": "account", "id": self._account})
            lines.start_soon(self._hear, socket, sent, to_writer)
        self._end = trio.current_time() + seconds
        while trio.current_time() < self._end:
            memo = f"bench {name} {len(sent)}"
            sent[memo] = trio.current_time()
            reply = await _call(writer, {**self._create, "memo": memo})
            if reply["status"] == "error":
                await self._heed(reply)
                continue
            with trio.move_on_after(LAST_WORDS_SECONDS):
                for _ in range(clients):
                    self._took.append(await told.receive() - sent[memo])

    async def _hear(
        self, socket: WebSocketConnection, sent: dict[str, float], told: trio.MemorySendChannel[float]
    ) -> None:
        while True:
            event = msgspec.json.decode(await socket.get_message())
            if event["data"].get("memo") in sent:
                await told.send(trio.current_time())

    async def _converse(self, socket: WebSocketConnection, request: str, in_flight: int) -> None:
        begun: deque[float] = deque()
        for _ in range(in_flight):
            begun.append(trio.current_time())
            await socket.send_message(request)
        while begun:
            reply = msgspec.json.decode(await socket.get_message())  # in the order of the requests
            if reply["status"] == "success":
                self._took.append(trio.current_time() - begun[0])
            else:
                await self._heed(reply, in_flight)
            begun.popleft()
            if trio.current_time() < self._end:
                begun.append(trio.current_time())
                await socket.send_message(request)

    async def _heed(self, reply: dict[str, Any], turns: int = 1) -> None:
        """Count an error, and leave the server alone for as long as it asks for, for each that is under way.

        A client that returns sooner for each of them is too fast with the others, and is closed with 4029.
        """
        self._errors[reply["code"]] += 1
        await trio.sleep(turns * reply.get("retry_after_seconds", 0.1))

    async def _fetch(self, lines: trio.Nursery) -> dict[str, Any]:
        """Return the request for an invoice that is made for it."""
        reply = await _call(await self._connect(lines), self._create)
        if reply["status"] == "error":
            raise StartupError(f"can't make the invoice that is to be fetched: {reply['message']}")
        return {"action": "fetch_invoice", "id": reply["data"]["uid"]}

    async def _connect(self, lines: trio.Nursery) -> WebSocketConnection:
        socket: WebSocketConnection = await lines.start(self._hold_line)
        return socket

    async def _hold_line(self, *, task_status: trio.TaskStatus[WebSocketConnection]) -> None:
        async with open_patiently(self._address) as socket:
            task_status.started(socket)
            await trio.sleep_forever()


async def _call(socket: WebSocketConnection, request: dict[str, Any]) -> dict[str, Any]:
    await socket.send_message(_encode(request))
    while "status" not in (reply := msgspec.json.decode(await socket.get_message())):
        pass  # an event, of what others do
    found: dict[str, Any] = reply
    return found


def _encode(request: dict[str, Any]) -> str:
    return msgspec.json.encode(request).decode()
