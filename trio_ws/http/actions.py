"""`POST /actions`: one action for each request. The same structs and the same table.

Connections are cheap here, and one of a proxy may carry many clients' requests. So what a client may ask is
counted by its token, or else by its address, over however many connections it asks.
"""

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
import trio

from trio_ws import logs
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.actions.table import ACTIONS, Request
from trio_ws.codec import DecodeFailure, decode, encode
from trio_ws.errors import ActionError, CloseCode, InvalidMessage, InvalidValue, RateLimited
from trio_ws.events.follower import Follower
from trio_ws.events.outbox import Outbox
from trio_ws.http.pages import Page
from trio_ws.http.paths import EVENTS
from trio_ws.limits import Allowance
from trio_ws.messages import Action, CreateInvoice, Failure, Reply
from trio_ws.messages.fields import Word
from trio_ws.settings import Settings
from trio_ws.wire.admission import find_token
from trio_ws.wire.head import Head, Refusal

METHODS = ("POST", "OPTIONS")
JSON = "application/json"

# The status of each error's code: the protocol's section 9.
STATUSES: Mapping[str, int] = MappingProxyType(
    {
        "invalid_message": 400,
        "invalid_value": 400,
        "invalid_topic": 400,
        "too_many_subscriptions": 400,
        "unauthorized": 401,
        "forbidden": 403,
        "not_found": 404,
        "conflict": 409,
        "idempotency_mismatch": 422,
        "rate_limited": 429,
        "internal": 500,
        "unavailable": 503,
        "timeout": 504,
    }
)


_ESCAPED = re.compile(r'\\(["\\])')  # in a string of RFC 8941


class PlainRequest(Request):
    """A request whose reply is a response's body.

    Attributes:
        reply: The same, once it is there.
    """

    __slots__ = ("reply",)

    def _encode(self, reply: Reply) -> bytes:
        self.reply = reply
        return encode(reply) + b"\n"

    @property
    def failure(self) -> Failure | None:
        """The reply, where it says that nothing was done."""
        return self.reply if isinstance(self.reply, Failure) else None

    async def respond(self) -> Page:
        """Do it, and return the response."""
        return self._page(await self.answer())

    def refuse(self, error: ActionError) -> Page:
        """Return the response where it may not even be tried."""
        return self._page(self.finish(error))

    def _page(self, body: bytes) -> Page:
        headers: dict[str, str] = {}
        if (failure := self.failure) is None:
            return Page(body, JSON)
        if failure.code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(seconds := failure.retry_after_seconds, float):
            headers["Retry-After"] = str(max(1, math.ceil(seconds)))
        return Page(body, JSON, STATUSES[failure.code], headers=headers)


class ActionRequest(PlainRequest):
    """One of those that need no line.

    Args:
        text: The body; bytes are no UTF-8.
        services: The server's.
        session: The client's.
        key: The header `Idempotency-Key`; None: there is none.
    """

    __slots__ = ("_key",)

    def __init__(self, text: str | bytes, services: Services, session: Session, key: str | None) -> None:
        self._key = key
        super().__init__(text, services, session)

    def _decode(self, text: str | bytes) -> Action:
        if isinstance(text, bytes):
            raise DecodeFailure(InvalidMessage("The body is no UTF-8"), None)
        action = decode(text)
        row = ACTIONS[type(action)]
        if row.of_line:
            reason = f"`{row.name}` is for a WebSocket; events come by `GET {EVENTS}`, too"
            raise DecodeFailure(InvalidMessage(reason), action.request_id)
        if self._key is not None and isinstance(action, CreateInvoice):
            try:
                _add_key(action, self._key)
            except InvalidValue as error:
                raise DecodeFailure(error, action.request_id) from None
        return action


def _add_key(action: CreateInvoice, key: str) -> None:
    try:
        msgspec.convert(key, Word)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"{error} - at the header `Idempotency-Key`") from None
    if action.idempotency_key not in (None, key):
        raise InvalidValue("The header `Idempotency-Key` and `$.idempotency_key` differ")
    action.idempotency_key = key


class Actions:
    """What one connection asks.

    Args:
        services: The server's.
        log_fields: What each log line about it says.
        find_address: Returns where a request comes from; None: that is not known.
    """

    _request_type = ActionRequest

    def __init__(
        self,
        services: Services,
        log_fields: dict[str, object],
        find_address: Callable[[Head], str | None],
    ) -> None:
        self._services = services
        self._log_fields = log_fields
        self._find_address = find_address
        self._own: Allowance | None = None  # where neither a token nor an address is known
        self._asker: tuple[str | None, str | None] = None, None  # by token and address
        self._counted_as: str | None = None
        self._session: Session | None = None  # the same asker's, for as long as its token is good
        self._expires_at = math.inf
        self._is_ended = False

    @property
    def settings(self) -> Settings:
        """Those in force: a connection may be kept for as long as the server lives."""
        return self._services.settings

    async def answer(self, head: Head, body: bytes) -> tuple[Page, bool]:
        """Return the response to a request, and whether another one may follow."""
        session, error = await self._find_session(find_token(head), self._find_address(head))
        with logs.of(session.log_fields):
            request = self._request_type(_text(body), self._services, session, _find_key(head))
            page = await request.respond() if error is None else request.refuse(error)
        return page, not self._is_ended

    def close(self) -> None:
        """Rely on the token no more."""
        if self._session is not None:
            self._session.close()
        self._session = None

    async def _find_session(
        self, token: str | None, address: str | None
    ) -> tuple[Session, ActionError | None]:
        """Return the asker's session, and what is wrong with its token."""
        asker = token, address
        if trio.current_time() >= self._expires_at or asker != self._asker:
            self.close()
        if self._session is not None:
            self._session.allowance = self._allowance()
            return self._session, None
        self._asker = asker
        self._expires_at = math.inf
        self._counted_as = None if address is None else f"address {address}"
        session = self._open_session(address)
        try:
            if token is not None:
                await self._authenticate(session, token)
        except ActionError as error:
            session.close()
            return session, error
        self._session = session
        return session, None

    def _open_session(self, address: str | None) -> Session:
        follower = Follower(self._services.dispatcher.log, Outbox(0), lambda: None)  # follows nothing
        # The asker's own: what it is called stays with it where another one asks next.
        log_fields = {**self._log_fields, **({} if address is None else {"address": address})}
        return Session(
            self._services,
            follower,
            self._end,
            self._expire_at,
            log_fields,
            allowance=self._allowance(),
        )

    async def _authenticate(self, session: Session, token: str) -> None:
        """Have the session be who the token says; what it may ask is counted by that from then on.

        Until then it is a guess, of which an address may have as many as requests.
        """
        guesses = session.allowance.requests
        if seconds := guesses.take(trio.current_time()):
            raise RateLimited("Too many requests", math.ceil(seconds * 1000) / 1000)
        identity = await session.authenticate(token)
        guesses.spend(-1)
        self._counted_as = f"token {identity.token_id}"
        session.allowance = self._allowance()

    def _allowance(self) -> Allowance:
        """Return the asker's, for one request: of one that is used no more, nothing is kept."""
        settings = self._services.settings
        limits = settings.requests_per_second, settings.requests_burst
        if self._counted_as is None:
            self._own = self._own or Allowance(*limits)
            return self._own
        return self._services.allowances.of(self._counted_as, *limits, trio.current_time())

    def _end(self, code: CloseCode, reason: str, *, seconds: float) -> None:
        """End a client that keeps sending too much; one that lost its token can bring another."""
        del reason, seconds
        if code is CloseCode.RATE_LIMITED:
            self._is_ended = True
        else:
            self._expires_at = -math.inf

    def _expire_at(self, moment: float) -> None:
        self._expires_at = moment


def for_programs(refusal: Refusal) -> Refusal:
    """Return a refusal whose body is a reply, for programs that read no other."""
    code = "unavailable" if refusal.status == STATUSES["unavailable"] else "not_found"
    refusal.json = encode(Failure(message=refusal.reason, code=code)) + b"\n"
    return refusal


def check_body(head: Head) -> None:
    """Let by what says that its body is what we read.

    Raises:
        Refusal: another does.
    """
    kind, _, parameters = "".join(head.values("content-type")).lower().partition(";")
    charset = parameters.replace('"', "").replace(" ", "")
    if kind.strip() != JSON or charset not in ("", "charset=utf-8"):
        raise Refusal(415, f"Expected `Content-Type: {JSON}`", given=kind, Accept=JSON)
    if any(coding != "identity" for coding in head.tokens("content-encoding")):
        raise Refusal(415, "Expected a body without Content-Encoding", Accept_Encoding="identity")
    # HTTP/1.0 knows none of it, and it is to be ignored there: RFC 9110 section 10.1.1.
    if head.version == "1.1" and (expected := head.tokens("expect")) not in ([], ["100-continue"]):
        raise Refusal(417, "Only `Expect: 100-continue` is known here", given=expected)


def _text(body: bytes) -> str | bytes:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _find_key(head: Head) -> str | None:
    """Return the idempotency key, which may stand in quotes as a header of RFC 8941 does."""
    if not (values := head.values("idempotency-key")):
        return None
    key = ", ".join(values)
    return _ESCAPED.sub(r"\1", key[1:-1]) if len(key) > 1 and key[0] == key[-1] == '"' else key
