"""Lanes: who may use how many connections, so that no work keeps other work waiting.

A lane has connections of its own. What waits in one, for up to `statement_seconds`, delays no other.

A session that we cut keeps its place until it has ended in PostgreSQL too. Else another would take its place,
and be cut as well, until PostgreSQL has no session left for anybody.
"""

import enum
from collections.abc import Collection
from contextlib import ExitStack
from typing import ClassVar, NamedTuple

import trio
from prometheus_client import Histogram

from trio_ws import metrics
from trio_ws.database.sessions import Primary
from trio_ws.errors import Outage


class Lane(enum.Enum):
    """What a query is for.

    Attributes:
        AHEAD: The end of the event log, which all clients wait for.
        IDENTIFY: Tokens: who comes, and whose token has ended.
        CATCH_UP: Older parts of the event log, for clients that resume.
        UPKEEP: Expiry, retention and webhooks.
        CLIENTS: Clients' requests.
        LISTS: Clients' snapshots and lists. They use half of the connections of CLIENTS at most.
    """

    AHEAD = enum.auto()
    IDENTIFY = enum.auto()
    CATCH_UP = enum.auto()
    UPKEEP = enum.auto()
    CLIENTS = enum.auto()
    LISTS = enum.auto()


SINGLE = (Lane.AHEAD, Lane.IDENTIFY, Lane.CATCH_UP, Lane.UPKEEP)  # one connection each
STANDBY = (Lane.AHEAD, Lane.CATCH_UP)  # and one each on a standby that the log is read from


def connections(database_connections: int) -> dict[Lane, int]:
    """Return how many connections each lane may use.

    Args:
        database_connections: The setting, which is for clients' requests.
    """
    return {
        **dict.fromkeys(SINGLE, 1),
        Lane.CLIENTS: database_connections,
        Lane.LISTS: max(1, database_connections // 2),
    }


def sessions(database_connections: int) -> int:
    """Return how many sessions one process has at most in PostgreSQL, the one that listens included.

    While some are stuck there is one more, for a moment each second, that asks what became of them. Those on
    the standby of `log_url` are not counted: they are of another PostgreSQL.
    """
    return 1 + len(SINGLE) + database_connections


class Cut(NamedTuple):
    """A session that we cut.

    Args:
        pid: Of its process in PostgreSQL; 0: behind a pooler, nobody knows.
        primary: Where it was, if that is known.
        at: When it was cut, on the monotonic clock.
    """

    pid: int
    primary: Primary | None
    at: float


class Lanes:
    """The places in all lanes.

    Attributes:
        stuck: Those of sessions that were cut, and may go on in PostgreSQL.
        kind: What a place is.
    """

    kind: ClassVar["type[Place]"]

    def __init__(self, database_connections: int) -> None:
        room = connections(database_connections)
        self._limiters = {lane: trio.CapacityLimiter(places) for lane, places in room.items()}
        self._waits = {lane: metrics.DATABASE_POOL_WAIT.labels(lane.name.lower()) for lane in Lane}
        self.stuck: dict[Place, Cut] = {}

    def place(self, lane: Lane) -> "Place":
        """Return what one query needs to run in a lane."""
        ways = (Lane.LISTS, Lane.CLIENTS) if lane is Lane.LISTS else (lane,)
        return self.kind(self, [self._limiters[way] for way in ways], self._waits[lane])

    def hold(self, place: "Place", cut: Cut) -> None:
        """Keep the place of a session that may go on in PostgreSQL."""
        self.stuck[place] = cut
        metrics.DATABASE_STUCK.set(len(self.stuck))

    def free(self, gone: "Collection[Place]") -> None:
        """Give back the places of sessions that have ended in PostgreSQL."""
        for place in gone:
            del self.stuck[place]
            place.leave()
        metrics.DATABASE_STUCK.set(len(self.stuck))

    def is_stuck(self, limiter: trio.CapacityLimiter) -> bool:
        """Return whether all places of a lane are held so."""
        return sum(limiter in place.limiters for place in self.stuck) >= limiter.total_tokens


class Place:
    """The place of one query: a limiter, as far as `trio.to_thread.run_sync` asks for one.

    Args:
        lanes: Where it is.
        limiters: Of the lanes that it counts in.
        waits: Is given how long it waited, also where that was in vain.

    Attributes:
        limiters: The same.
        cut: Set when the session that it uses is cut.
    """

    __slots__ = ("_lanes", "_waits", "cut", "limiters")

    def __init__(self, lanes: Lanes, limiters: list[trio.CapacityLimiter], waits: Histogram) -> None:
        self._lanes = lanes
        self._waits = waits
        self.limiters = limiters
        self.cut: Cut | None = None

    async def acquire_on_behalf_of(self, _thread: object) -> None:
        """Wait until there is room.

        Raises:
            Outage: all sessions of the lane are stuck.
        """
        if any(map(self._lanes.is_stuck, self.limiters)):
            raise Outage("The database is stuck")
        began = trio.current_time()
        try:
            with ExitStack() as taken:
                for limiter in self.limiters:
                    await limiter.acquire_on_behalf_of(self)
                    taken.callback(limiter.release_on_behalf_of, self)
                taken.pop_all()
        finally:
            self._waits.observe(trio.current_time() - began)

    def release_on_behalf_of(self, _thread: object) -> None:
        """Leave, unless the session may go on without us."""
        if self.cut is None:
            self.leave()
        else:
            self._lanes.hold(self, self.cut)

    async def __aenter__(self) -> None:
        await self.acquire_on_behalf_of(None)

    async def __aexit__(self, *_: object) -> None:
        self.release_on_behalf_of(None)

    def leave(self) -> None:
        """Make room for another."""
        for limiter in self.limiters:
            limiter.release_on_behalf_of(self)


Lanes.kind = Place
