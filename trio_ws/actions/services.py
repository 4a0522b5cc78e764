"""What an action may use of the server."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from trio_ws.actions.tokens import Tokens
from trio_ws.database.gateway import Database
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.prices import Prices
from trio_ws.events.tail import Tail
from trio_ws.limits import Allowances
from trio_ws.settings import Settings
from trio_ws.wire.ear import Deaf, Ear


@dataclass
class Services:
    """One for the whole server.

    Args:
        settings: Those in force; they change when they are reloaded.
        now: The wall clock, in Unix seconds.
        ear: Hears clients that are silent.
        allowances: Of who asks over plain HTTP, where a connection is no client.
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
    tokens: Tokens = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.database)
