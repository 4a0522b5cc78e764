"""Whom webhooks go to, without a network."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import trio

from trio_ws.webhooks.answer import Answer


class Posted(NamedTuple):
    """A webhook that a receiver got.

    Attributes:
        at: When, on trio's clock.
        url: Where it went.
        headers: What came with it.
        body: The event, as bytes.
        event: The same, decoded.
    """

    at: float
    url: str
    headers: Mapping[str, str]
    body: bytes
    event: dict[str, Any]


class SimulatedReceiver:
    """Takes webhooks, all of them, whatever their URLs.

    It obeys: `answers` has, by URL, the status or whole answer that it gives, or the error that is raised;
    `seconds`, how long that takes.

    Attributes:
        posted: What came, in order, whatever was answered.
        most: How many came at a time, at most, by URL.
    """

    def __init__(self) -> None:
        self.answers: dict[str, int | Answer | Exception] = {}
        self.seconds: dict[str, float] = {}
        self.posted: list[Posted] = []
        self.most: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._came = trio.lowlevel.ParkingLot()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take one: what `trio_ws.server.serve` is given."""
        self._now[url] = self._now.get(url, 0) + 1
        self.most[url] = max(self.most.get(url, 0), self._now[url])
        self.posted.append(Posted(trio.current_time(), url, headers, body, msgspec.json.decode(body)))
        self._came.unpark_all()
        try:
            await trio.sleep(self.seconds.get(url, 0))
        finally:
            self._now[url] -= 1
        answer = self.answers.get(url, 200)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Answer) else Answer(answer)

    async def receive(self, count: int) -> list[Posted]:
        """Wait until so many have come, and return them all."""
        while len(self.posted) < count:
            await self._came.park()
        return self.posted
