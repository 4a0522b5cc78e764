"""What an action may use of the server."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from trio_ws.actions.tokens import Tokens
from trio_ws.database.gateway import Database
from trio_ws.errors import CloseCode
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.prices import Prices
from trio_ws.events.tail import Tail
from trio_ws.identity import Identity
from trio_ws.limits import Allowances
from trio_ws.settings import Settings
from trio_ws.siblings import Siblings
from trio_ws.wire.ear import Deaf, Ear


class Outlined(NamedTuple):
    """What clients that are connected are found by: there may be thousands, so this costs next to nothing.

    Attributes:
        opened_at: When it came, in Unix seconds.
        identity: Who it is.
        address: Where it is; None: not known.
        waiting_bytes: What it has not read yet.
    """

    opened_at: float
    identity: Identity
    address: str | None
    waiting_bytes: int


class Described(NamedTuple):
    """The rest of it, as people look at a client.

    Attributes:
        kind: websocket or event_stream.
        topics: Some of those that it follows.
        topic_count: How many it follows.
        is_catching_up: Whether it reads older events from the log.
        requests: How many it has sent.
        messages: How many it was sent.
    """

    kind: str
    topics: list[str]
    topic_count: int
    is_catching_up: bool
    requests: int
    messages: int


class Client(Protocol):
    """One that may be connected: `Connection`.

    Attributes:
        number: What it is called in this process.
    """

    @property
    def number(self) -> int: ...  # noqa: D102 - see above

    def outline(self) -> Outlined | None:
        """Return who it is; None: it has no WebSocket and no event stream."""

    def describe(self) -> Described:
        """Return how it is, if it has one."""

    def send_away(self, code: CloseCode, seconds: float) -> None:
        """Begin to end it."""


@dataclass
class Services:
    """One for the whole server.

    Args:
        settings: Those in force; they change when they are reloaded.
        now: The wall clock, in Unix seconds.
        ear: Hears clients that are silent.
        allowances: Rate limits of plain HTTP clients, where a connection is not a client.
        siblings: The processes that serve beside this one.
        clients: Returns those of this process.
        tokens: Those that connections rely on.
    """

    settings: Settings
    database: Database
    dispatcher: Dispatcher
    tail: Tail
    prices: Prices
    now: Callable[[], float] = time.time
    ear: Ear = field(default_factory=Deaf)
    allowances: Allowances = field(default_factory=Allowances)
    siblings: Siblings = field(default_factory=Siblings)
    clients: Callable[[], Iterable[Client]] = lambda: ()
    tokens: Tokens = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.database)
