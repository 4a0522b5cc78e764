"""The table of actions, and `Request`: one message in, one message out, errors included."""

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from trio_ws import metrics
from trio_ws.actions import identities, invoices, prices, topics
from trio_ws.actions.services import Query, Services
from trio_ws.actions.session import Session
from trio_ws.codec import DecodeFailure, decode, encode, find_request_id
from trio_ws.errors import ActionError
from trio_ws.identity import Scope
from trio_ws.messages import (
    Action,
    Authenticate,
    CancelInvoice,
    ConvertPrice,
    CreateInvoice,
    Failure,
    FetchInvoice,
    ListInvoices,
    ListPrices,
    Ping,
    Reply,
    RequestId,
    Resume,
    SetPrice,
    Subscribe,
    Unsubscribe,
    UnsubscribeAll,
    UpdateInvoice,
)
from trio_ws.wire.frames import TEXT, encode_frame

logger = logging.getLogger(__name__)

# What takes no waiting returns its reply at once, and no task has to wake for it.
Begun = Reply | Query | Coroutine[Any, Any, Reply]
Handler = Callable[[Any, Services, Session], Begun]

# What is done, and the scope that it takes; None: anybody may.
ACTIONS: dict[type, tuple[Handler, Scope | None]] = {
    Subscribe: (topics.subscribe, "read"),
    Resume: (topics.resume, "read"),
    Unsubscribe: (topics.unsubscribe, "read"),
    UnsubscribeAll: (topics.unsubscribe_all, "read"),
    CreateInvoice: (invoices.create_invoice, "write"),
    FetchInvoice: (invoices.fetch_invoice, "read"),
    CancelInvoice: (invoices.cancel_invoice, "write"),
    UpdateInvoice: (invoices.update_invoice, "process"),
    ListInvoices: (invoices.list_invoices, "read"),
    ListPrices: (prices.list_prices, "read"),
    SetPrice: (prices.set_price, "process"),
    ConvertPrice: (prices.convert_price, "read"),
    Authenticate: (identities.authenticate, None),
    Ping: (identities.ping, None),
}


TOPIC_COST = 1 / 8  # of a request: 8 µs or so, and clients follow hundreds at once when they come


def _cost(action: Action) -> float:
    """Return how many of the requests that a client may send an action counts for."""
    match action:
        case Subscribe(snapshot=False) | Unsubscribe():
            return TOPIC_COST
        case Resume(topics=topics):
            return max(1.0, len(topics) * TOPIC_COST)
    return 1.0


# Those whose function returns a Query: what comes of one does not change what another one of its kind is.
TOGETHER = (CreateInvoice, FetchInvoice)


class Request:
    """One request, from its text to its reply. The only place where errors become messages.

    Args:
        text: What the client sent; bytes are no part of the protocol.
        services: The server's.
        session: The client's.

    Attributes:
        kind: What is asked for; NoneType: nothing that is known.
    """

    def __init__(self, text: str | bytes, services: Services, session: Session) -> None:
        self._services = services
        self._session = session
        self._action: Action | None = None
        self._request_id: RequestId | None = None
        self._error: Exception | None = session.charge_message(len(text))
        try:
            if self._error is None:
                self._action = decode(text)
                self._request_id = self._action.request_id
                session.charge(_cost(self._action) - 1)
            else:
                self._request_id = find_request_id(text)
        except DecodeFailure as failure:
            self._request_id, self._error = failure.request_id, failure.error
        except Exception as error:  # noqa: BLE001 - each is answered
            self._error = error
        self.kind = type(self._action)

    def answer_now(self) -> bytes | None:
        """Return the reply as a frame, where it takes no waiting; else None: `answer` has to."""
        if self._error is None and self.kind in TOGETHER:
            return None
        begun = self.begin()
        if isinstance(begun, Reply | Exception):
            return self.finish(begun)
        if isinstance(begun, Coroutine):
            begun.close()  # `answer` begins anew: whoever asks may have lost its token by then
        return None

    def goes_with(self, other: "Request") -> bool:
        """Tell whether both may be answered together: what is refused, with any other."""
        return self._error is not None or (self.kind in TOGETHER and self.kind is other.kind)

    def begin(self) -> Begun | Exception:
        """Do what takes no waiting, and return what is still to be done, or what came of it."""
        if self._error is not None:
            return self._error
        handler, scope = ACTIONS[self.kind]
        try:
            if scope is not None:
                self._session.identity.require(scope)
            return handler(self._action, self._services, self._session)
        except Exception as error:  # noqa: BLE001 - each is answered
            return error

    async def run(self, queries: Sequence[Query]) -> Sequence[Any]:
        """Return what queries of one kind return or raise, each."""
        if not queries:
            return ()
        try:
            many = [query.arguments for query in queries]
            return await self._services.database.run_many(queries[0].function, many)
        except ActionError as error:
            return [error for _ in queries]

    def finish(self, done: Reply | Exception) -> bytes:
        """Return the reply as a frame."""
        reply = self._explain(done) if isinstance(done, Exception) else done
        metrics.count_request(self._name, getattr(reply, "code", "success"))
        if self._request_id is not None:
            reply.request_id = self._request_id
        return encode_frame(TEXT, encode(reply))

    def _explain(self, error: Exception) -> Failure:
        if isinstance(error, ActionError):
            return _failure(error)
        figures = {"request_id": self._request_id}  # a bug: logged whole, shown as nothing
        logger.error("%s failed", self._name, exc_info=error, extra={"figures": figures})
        metrics.BUGS.inc()
        return Failure(message="Internal server error", code="internal")

    @property
    def _name(self) -> str:
        return "unknown" if self._action is None else str(self._action.__struct_config__.tag)


async def answer(requests: Sequence[Request]) -> list[bytes]:
    """Return the replies to one request, or to some that go together, as frames; however long that takes."""
    begun = [request.begin() for request in requests]
    outcomes = iter(await requests[0].run([one for one in begun if isinstance(one, Query)]))
    replies = []
    for request, one in zip(requests, begun, strict=True):
        if isinstance(one, Query):
            outcome = next(outcomes)
            done = outcome if isinstance(outcome, Exception) else one.reply(outcome)
        elif isinstance(one, Coroutine):
            done = await _outcome(one)
        else:
            done = one
        replies.append(request.finish(done))
    return replies


async def _outcome(doing: Coroutine[Any, Any, Reply]) -> Reply | Exception:
    try:
        return await doing
    except Exception as error:  # noqa: BLE001 - each is answered
        return error


def _failure(error: ActionError) -> Failure:
    def given(value: Any) -> Any:
        return msgspec.UNSET if value is None else value

    return Failure(
        message=error.message,
        code=error.code,
        detail=given(error.detail),
        retry_after_seconds=given(error.retry_after_seconds),
    )
