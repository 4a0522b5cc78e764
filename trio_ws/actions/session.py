"""One client's session: who it is now, how much it asks for, and its place in the event log.

A token is checked for as long as its session lasts: `Tokens` says when it is revoked, whichever process did
that, and a deadline when it expires.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from trio_ws import metrics
from trio_ws.actions.services import Services
from trio_ws.database import tokens
from trio_ws.database.lanes import Lane
from trio_ws.errors import ActionError, CloseCode, RateLimited, Unauthorized
from trio_ws.events.follower import Follower
from trio_ws.identity import ANYBODY, CUSTOMER, NOBODY, Identity, hash_token
from trio_ws.limits import Allowance

# A message costs one request, and one more for each of these: so much takes about as long as a small request.
BYTES_PER_REQUEST = 4096
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
        end: Called when the client may stay no longer.
        expire_at: Called with the moment, on trio's clock, at which to call `run_out`.
        log_fields: What each log line about it says.
        allowance: How much it may ask; None: as much as one connection may.

    Attributes:
        allowance: The same.
        identity: Who it is.
        named: The topics that a `resume` in several messages has named so far, as type and id.
    """

    def __init__(
        self,
        services: Services,
        follower: Follower,
        end: End,
        expire_at: Callable[[float], None],
        log_fields: dict[str, object],
        *,
        allowance: Allowance | None = None,
    ) -> None:
        without_token = CUSTOMER if services.settings.checkout else NOBODY
        self.identity = ANYBODY if services.settings.auth == "open" else without_token
        self.follower = follower
        self._spelling = follower.spelling  # for clients with a token
        if self.identity.is_customer:
            follower.spelling = follower.spelling.for_customers
        self.named: dict[tuple[str, str | int], None] = {}
        self.log_fields = log_fields
        self._services = services
        self._end = end
        self._expire_at = expire_at
        self._due = math.inf  # when its time is over, to authenticate or as its token says
        self._let_go: Callable[[], None] = lambda: None  # of the token
        self._is_lost = False
        settings = services.settings
        self.allowance = allowance or Allowance(settings.requests_per_second, settings.requests_burst)

    def charge_message(self, size: int) -> RateLimited | None:
        """Charge for a message before it is decoded, and return its answer if it is one too many.

        A client that goes on, so that what is refused comes to as much as what is allowed, is ended.

        Args:
            size: How long it is, in bytes or characters.
        """
        now, cost = trio.current_time(), 1 + size // BYTES_PER_REQUEST
        if not (seconds := self.allowance.requests.take(now, cost)):
            return None
        if self.allowance.refusals.take(now, cost):
            self._end(CloseCode.RATE_LIMITED, "kept sending too much", seconds=LAST_WORDS_SECONDS)
        return RateLimited("Too many requests", math.ceil(seconds * 1000) / 1000)

    def charge(self, cost: float) -> None:
        """Charge for what a request is found to ask for, beyond 1; less than 0 gives some back."""
        self.allowance.requests.spend(cost)

    def await_token(self) -> None:
        """Give the client its time to authenticate from now on, where it has to."""
        seconds = self._services.settings.authenticate_seconds
        if self.identity is NOBODY and seconds is not None:
            self._stay(seconds)

    async def authenticate(self, token: str) -> Identity:
        """Become who the token says.

        Raises:
            Unauthorized: it is unknown, expired or revoked, or comes too late; the client stays who it was.
        """
        if trio.current_time() >= self._due:
            raise Unauthorized("Authentication took too long")
        services = self._services
        with self._looking_up():
            identity = await identify(services, hash_token(token))
        if self._is_lost:
            raise Unauthorized("The token is unknown, expired or revoked")
        self.close()
        self._let_go = services.tokens.hold(identity, self._revoke)
        self.identity = identity
        self.follower.account = None if identity.account_id is None else f"account:{identity.account_id}"
        self.follower.spelling = self._spelling
        self.log_fields["account"] = identity.account_id
        if not identity.allows("read"):
            services.dispatcher.unsubscribe_all(self.follower)
        self._stay(math.inf if identity.seconds_left is None else identity.seconds_left)
        return identity

    def run_out(self) -> None:
        """See the client's time end: that of its token, or that to bring one."""
        self.lose("no token came in time" if self.identity is NOBODY else "the token has expired")

    def lose(self, reason: str) -> None:
        """Lose the identity, receive nothing any more, and end."""
        self._is_lost = True
        self.identity = NOBODY
        self._services.dispatcher.unsubscribe_all(self.follower)
        self._end(CloseCode.UNAUTHORIZED, reason, seconds=LAST_WORDS_SECONDS)

    def close(self) -> None:
        """Rely on the token no more."""
        self._let_go()
        self._let_go = lambda: None

    def _stay(self, seconds: float) -> None:
        self._due = trio.current_time() + seconds
        self._expire_at(self._due)

    @contextmanager
    def _looking_up(self) -> Iterator[None]:
        """Let no time run out for a token that came in time; a wrong one gets the client no more of it.

        Where the database is away that is not the client's fault, so its time begins again.
        """
        if self.identity is not NOBODY:
            yield
            return
        self._expire_at(math.inf)
        try:
            yield
        except Unauthorized:
            self._expire_at(self._due)
            raise
        except ActionError:
            self.await_token()
            raise

    def _revoke(self) -> None:
        self.lose("the token was revoked")


async def identify(services: Services, digest: bytes) -> Identity:
    """Return whom the token with that SHA-256 names.

    Raises:
        Unauthorized: it is unknown, expired or revoked.
        Unavailable: the database could not be asked in time.
    """
    try:
        identity = await services.database.run(tokens.identify, digest, lane=Lane.IDENTIFY)
    except ActionError as error:
        metrics.AUTHENTICATIONS.labels(error.code).inc()
        raise
    metrics.AUTHENTICATIONS.labels("success").inc()
    return identity
