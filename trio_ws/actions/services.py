"""What an action may use of the server, and what it may leave to be done together with others like it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trio_ws.actions.tokens import Tokens
from trio_ws.database.gateway import Database
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.prices import Prices
from trio_ws.events.tail import Tail
from trio_ws.messages import Reply
from trio_ws.pages import Pages
from trio_ws.settings import Settings


@dataclass
class Services:
    """One for the whole server.

    Args:
        settings: Those in force; they change when they are reloaded.
        now: The wall clock, in Unix seconds.
        pages: What plain HTTP finds here.
        tokens: Those that connections rely on.
    """

    settings: Settings
    database: Database
    dispatcher: Dispatcher
    tail: Tail
    prices: Prices
    now: Callable[[], float] = time.time
    pages: Pages = field(default_factory=lambda: Pages({}))
    tokens: Tokens = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.database)


class Query(NamedTuple):
    """An action that is one query, and goes into batches with others of the same client and of other ones.

    Args:
        function: Of `queries`.
        arguments: Its arguments but the connection.
        reply: Makes the reply of what it returns.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    reply: Callable[[Any], Reply]
