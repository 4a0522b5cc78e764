"""Connecting, most often to the primary: one host after the other, the last good one first.

libpq does so too, but begins with the first host each time: one that is down then costs each new connection
its timeout. And libpq knows nothing of a primary that was replaced and still answers, or answers again.
What such a primary takes is lost, so the fence refuses it.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from trio_ws import metrics
from trio_ws.database.sessions import ENCODING, Connection, Primary, is_standby

logger = logging.getLogger(__name__)

# It is down, going down, full, or a standby; or this process has no file descriptor for a connection.
OUTAGES = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    OSError,
)

# libpq's keepalives and TCP_USER_TIMEOUT: a peer that vanished is noticed in about 5 s.
_LINE_OPTIONS: dict[str, Any] = {
    "application_name": "trio-ws",
    "connect_timeout": 2,  # s; the least that libpq takes
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}


class Fence:
    """Refuses primaries that were replaced.

    Each promotion gives a copy of a database a higher timeline, so of all its primaries the one with the
    highest timeline counts. There are limits: two standbys promoted apart may have the same timeline, and a
    new process knows only what it has seen itself.
    """

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}  # timeline seen, by cluster
        self._primaries: WeakKeyDictionary[Connection, Primary] = WeakKeyDictionary()
        self._shown: Primary | None = None
        self._is_told = False  # that there is no fence
        self._lock = threading.Lock()

    def admit(self, connection: Connection, primary: Primary | None) -> None:
        """Note which primary a new session is on; None: nobody knows, and it is not refused.

        Raises:
            psycopg.OperationalError: another primary has replaced it.
        """
        with self._lock:
            if primary is None:
                if not self._is_told:
                    logger.info("PostgreSQL does not say which primary it is: one that was replaced is used")
                self._is_told = True
                return
            highest = self._highest.setdefault(primary.cluster, primary.timeline)
            if primary.timeline < highest:
                raise psycopg.OperationalError(
                    f"the primary at {connection.info.host}:{connection.info.port} was replaced: it writes"
                    f" timeline {primary.timeline}, and {highest} has been seen"
                )
            self._highest[primary.cluster] = primary.timeline
            self._primaries[connection] = primary
            if primary != self._shown:
                metrics.PRIMARY.clear()
                metrics.PRIMARY.labels(*primary).set(1)
                self._shown = primary

    def primary_of(self, connection: Connection) -> Primary | None:
        """Return which primary a session is on, if that is known."""
        return self._primaries.get(connection)

    def refuses(self, connection: Connection) -> bool:
        """Return whether the primary that a session is on was replaced since."""
        primary = self._primaries.get(connection)
        return primary is not None and primary.timeline < self._highest[primary.cluster]


class Hosts:
    """The hosts of a conninfo.

    Args:
        conninfo: What of it names no hosts, such as a service, is left to libpq.
        prepare: Begins a session, and returns which primary it is on.
        fence: Refuses some; None: any server that answers, also a standby.
    """

    def __init__(
        self, conninfo: str, prepare: Callable[[Connection], Primary | None], fence: Fence | None
    ) -> None:
        self._conninfo = conninfo
        self._prepare = prepare
        self._fence = fence
        given = conninfo_to_dict(conninfo)  # which has the last word
        self._options = {name: value for name, value in _LINE_OPTIONS.items() if name not in given}
        self._places = _places(given if "service" in given else {**_named_by_environment(), **given})
        if given.get("load_balance_hosts") == "random":
            random.shuffle(self._places)  # once: processes spread, and a host that is down costs each once
        self._good = self._places[0]

    def turn(self) -> bool:
        """Begin with the next host from now on, and tell whether there is another."""
        self._good = self._places[(self._places.index(self._good) + 1) % len(self._places)]
        return len(self._places) > 1

    def connect(self) -> Connection:
        """Return a new session on the first host that is good. Blocking.

        Raises:
            psycopg.Error, OSError: there is none on any host, for the reason that is among `OUTAGES`.
        """
        errors: list[Exception] = []
        for place in sorted(self._places, key=lambda place: place != self._good):  # else in their order
            try:
                connection = self._connect_to(place)
            except OUTAGES as error:
                metrics.DATABASE_FAILURES.labels("connect").inc()
                errors.append(error)
            else:
                self._good = place
                return connection
        if len(errors) == 1:
            raise errors[0]
        raise psycopg.OperationalError("; ".join(map(summary, errors)))

    def _connect_to(self, place: Mapping[str, Any]) -> Connection:
        connection: Connection = psycopg.connect(  # the encoding is ours, whatever is given for it
            self._conninfo, client_encoding=ENCODING, **self._options, **place
        )
        metrics.DATABASE_CONNECTS.inc()
        try:
            if self._fence is None:
                self._prepare(connection)
                return connection
            if is_standby(connection):
                raise psycopg.OperationalError(
                    f"{connection.info.host}:{connection.info.port} is a standby, which only reads"
                )
            self._fence.admit(connection, self._prepare(connection))
        except BaseException:
            connection.close()
            raise
        return connection


def summary(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().partition("\n")[0]


def _named_by_environment() -> dict[str, str]:
    """Return the hosts and ports that libpq takes from PGHOST and the like where a conninfo names none."""
    known = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}
    return {name: value.decode() for name in ("host", "hostaddr", "port") if (value := known.get(name))}


def _places(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what to give libpq for each host: of `host`, `hostaddr` and `port` those that are lists."""
    lists = {name: str(given[name]).split(",") for name in ("host", "hostaddr", "port") if given.get(name)}
    most = max(map(len, lists.values()), default=1)
    if len(lists.get("port", ())) == 1:
        del lists["port"]  # it is that of each host
    if {*map(len, lists.values())} != {most} or lists.keys() == {"port"}:
        return [{}]  # there is none, or libpq says what is wrong
    return [dict(zip(lists, place, strict=True)) for place in zip(*lists.values(), strict=True)]
