"""One client's session: who it is now, how much it asks for, and its place in the event log.

A token is minded for as long as its session lasts: the event log tells when it is revoked, whichever process
did that, and a deadline when it expires.
"""

import math
from collections.abc import Callable
from typing import Protocol

import trio

from trio_ws.actions.services import Services
from trio_ws.database import queries
from trio_ws.errors import CloseCode, RateLimited
from trio_ws.events.follower import Follower
from trio_ws.identity import ANYBODY, NOBODY, Identity, hash_token
from trio_ws.limits import Bucket
from trio_ws.messages import Event

LAST_WORDS_SECONDS = 0.5  # for what is being written when it is ended: who has lost its token goes within 1 s


class End(Protocol):
    """How a connection is ended: `Connection.end`."""

    def __call__(self, code: CloseCode, reason: str, *, seconds: float) -> None:
        """Begin to end it."""


class Session:
    """What actions know of the client.

    Args:
        services: The server's.
        follower: Its place in the event log.
        end: Called when the token is good no more.
        expire_at: Called with the moment at which it ends, on trio's clock.

    Attributes:
        identity: Who it is.
        log_fields: What each log line about it says.
    """

    def __init__(
        self,
        services: Services,
        follower: Follower,
        end: End,
        expire_at: Callable[[float], None],
    ) -> None:
        self.identity = ANYBODY if services.settings.auth == "open" else NOBODY
        self.follower = follower
        self.log_fields: dict[str, object] = {}
        self._services = services
        self._end = end
        self._expire_at = expire_at
        self._watched: str | None = None
        settings = services.settings
        self._requests = Bucket(settings.requests_per_second, settings.requests_burst)
        self._refusals = Bucket(settings.requests_per_second, settings.requests_burst)

    def count_request(self) -> RateLimited | None:
        """Count a request, and return what it is answered if it is one too many.

        Who goes on regardless, so that even such answers come to twice what is allowed, is ended.
        """
        now = trio.current_time()
        if not (seconds := self._requests.take(now)):
            return None
        if self._refusals.take(now):
            self._end(CloseCode.RATE_LIMITED, "kept sending too much", seconds=LAST_WORDS_SECONDS)
        return RateLimited("Too many requests", math.ceil(seconds * 1000) / 1000)

    async def authenticate(self, token: str) -> Identity:
        """Become who the token says.

        Raises:
            Unauthorized: it is unknown, expired or revoked; the client stays who it was.
        """
        log = self._services.dispatcher.log
        digest = hash_token(token)
        before = log.end
        identity = await self._services.database.run(queries.identify, digest)
        self._watch(f"token:{identity.token_id}")
        if log.end != before:  # a revocation may have passed before we watched
            try:
                identity = await self._services.database.run(queries.identify, digest)
            except BaseException:
                self._watch(self._topic(self.identity))
                raise
        self.identity = identity
        self.follower.account = f"account:{identity.account_id}"
        self.log_fields["account"] = identity.account_id
        if "read" not in identity.scopes:
            self._services.dispatcher.unsubscribe_all(self.follower)
        left = math.inf if identity.seconds_left is None else identity.seconds_left
        self._expire_at(trio.current_time() + left)
        return identity

    def lose(self, reason: str) -> None:
        """Be nobody from now on, be told nothing any more, and end."""
        self.identity = NOBODY
        self._services.dispatcher.unsubscribe_all(self.follower)
        self._end(CloseCode.UNAUTHORIZED, reason, seconds=LAST_WORDS_SECONDS)

    def on_event(self, _: Event) -> None:
        """See the token go: it was revoked, or deleted, or has changed."""
        self.lose("the token was revoked")

    def on_lost_log(self) -> None:
        """See the event log go, which would tell of a revocation: the client has to come anew."""
        self._end(CloseCode.LOG_LOST, "the event log is another one now", seconds=LAST_WORDS_SECONDS)

    def close(self) -> None:
        """Mind the token no more."""
        self._watch(None)

    def _watch(self, topic: str | None) -> None:
        if self._watched is not None:
            self._services.dispatcher.unwatch(self._watched, self)
        if topic is not None:
            self._services.dispatcher.watch(topic, self)
        self._watched = topic

    @staticmethod
    def _topic(identity: Identity) -> str | None:
        return None if identity.token_id is None else f"token:{identity.token_id}"
