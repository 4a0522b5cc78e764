"""The Python client: sends requests, watches and follows, reconnects by itself, and resumes where it was.

    async with connect("ws://localhost:8080", token=TOKEN) as client:
        invoice = await client.create_invoice(amount=1000, currency="USD", account_id=1)
        async for invoice in client.watch("invoice", invoice["uid"]):
            if invoice["status"] == "paid":
                break

Requests share one line. Each `watch` and `follow` has a line of its own, so that a consumer who takes his
time slows down that line alone: the server then catches it up from its log, and nothing is lost or queued up
here. Numbers with a decimal point are `Decimal`s.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import trio

from trio_ws.client.closing import Backoff
from trio_ws.client.errors import Disconnected, Refused
from trio_ws.client.following import (
    Event,
    Events,
    Follower,
    Following,
    Gap,
    Source,
    State,
    States,
    T,
    TopicName,
)
from trio_ws.client.line import REPLY_SECONDS, Line, encode, request_of
from trio_ws.client.opening import Address, OpenStream, open_nursery, open_patiently
from trio_ws.client.pages import Items
from trio_ws.client.requests import Requests

__all__ = [
    "Client",
    "Disconnected",
    "Event",
    "Following",
    "Gap",
    "Items",
    "OpenStream",
    "Refused",
    "connect",
    "encode",
]


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    open_stream: OpenStream | None = None,
    ca: str | None = None,
    is_patient: bool = True,
) -> AsyncIterator["Client"]:
    """Yield a client of the server at a `ws://` or `wss://` URL; its lines are opened when they are needed.

    Args:
        url: Where the server is.
        token: Who we are; None: nobody, for a server that asks for none.
        open_stream: How to get there; None: TCP, and TLS for `wss://`. Tests give the simulated network's.
        ca: PEM file of the certificates to trust for `wss://`; None: those that the system trusts.
        is_patient: Whether to try again where no line can be opened; false: `Disconnected` says why at once.

    Raises:
        ValueError: the URL is none of these, the token can be none, or `ca` can't be read.
    """
    address = Address.of(url, token, open_stream, ca=ca, is_patient=is_patient)
    async with open_nursery() as nursery:
        yield Client(address, nursery)


class Client(Requests):
    """Asks and follows; made by `connect`."""

    def __init__(self, address: "Address", nursery: trio.Nursery) -> None:
        self._address = address
        self._nursery = nursery
        self._opening = trio.Lock()
        self._line: Line | None = None
        self._backoff = Backoff()
        self._rests_until = -inf  # by trio's clock, after a line was lost

    async def request(self, action: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Do an action and return its whole reply: see `Requests`."""
        request = request_of(action, fields)
        line = None
        with trio.move_on_after(REPLY_SECONDS):
            async with self._opening:
                if self._line is None or self._line.lost is not None:
                    await self._rest()
                    self._line = await self._nursery.start(self._hold_line)
                line = self._line
            return await line.ask(request)
        if line is None:
            raise Disconnected(f"no connection within {REPLY_SECONDS:.0f} s{self._last_loss()}")
        line.give_up("no reply in time")  # on it all is lost, most likely; the next request needs another
        raise Disconnected("no reply in time")

    async def _rest(self) -> None:
        """Leave the server alone for a while after a line was lost, as `follow` does."""
        seconds = self._rests_until - trio.current_time()
        if seconds > REPLY_SECONDS:
            raise Disconnected(
                f"the server wants to be left alone for another {seconds:.0f} s{self._last_loss()}"
            )
        await trio.sleep(max(0.0, seconds))

    def _last_loss(self) -> str:
        return "" if self._line is None else f"; the last one: {self._line.lost}"

    def watch(self, type_: str, id_: str | int) -> "Following[State]":
        """Iterate over the state of what a topic is about, as it is now, and then over each newer one.

        Lost lines make no difference. Where something may have been missed, as after a restore, the state as
        it is then comes, which may be an older one. It ends as `follow` does.

        Args:
            type_: `invoice`, for one invoice; `account` or `address`, for each of its open invoices and those
                to come; `price`, for prices.
            id_: Which of that type.
        """
        return self._start(States(type_, id_))

    def follow(self, *topics: TopicName, after: str | None = None) -> "Following[Event | Gap]":
        """Follow topics: iterate over what comes, each event once and in order, across lost lines.

        It ends when nobody holds on to the iterator any more, so `break` will do; in other Pythons than
        CPython, use it in an `async with`.

        Args:
            topics: `(type, id)` of each.
            after: A position to go on from; None: from now on.
        """
        return self._start(Events(topics, after))

    def _start(self, source: Source[T]) -> "Following[T]":
        to_consumer, found = trio.open_memory_channel[T | Refused | Disconnected](0)
        following = trio.CancelScope()
        self._nursery.start_soon(Follower(self._address, source, to_consumer).run, following)
        return Following(found, following)

    async def _hold_line(self, *, task_status: trio.TaskStatus["Line"]) -> None:
        async with open_patiently(self._address) as socket:
            line = Line(socket)
            begin = trio.current_time()
            task_status.started(line)
            lost = await line.run()
            self._rests_until = trio.current_time() + self._backoff.pause_after(begin, lost.asked_seconds)
