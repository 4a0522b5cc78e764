"""The table of actions, and `Request`: one message in, one message out, errors included."""

import logging
from collections.abc import Awaitable, Callable
from functools import cache, partial
from inspect import iscoroutinefunction
from typing import Any

import msgspec

from trio_ws import logs, metrics
from trio_ws.actions import identities, invoices, prices, topics
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.codec import DecodeFailure, decode, encode, find_request_id
from trio_ws.database.tickets import Ticket
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

Later = Callable[[], Awaitable[Reply]]
# What takes no waiting returns its reply at once, and what is one query a ticket for it: no task has to wake
# for these. All else is, or returns, what is to be awaited.
Handler = Callable[[Any, Services, Session], Reply | Ticket[Any] | Later | Awaitable[Reply]]

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


_is_later = cache(iscoroutinefunction)  # which takes 1 µs


def _cost(action: Action) -> float:
    """Return how many of the requests that a client may send an action counts for."""
    match action:
        case Subscribe(snapshot=False) | Unsubscribe():
            return TOPIC_COST
        case Resume(topics=topics):
            return max(1.0, len(topics) * TOPIC_COST)
    return 1.0


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

    def goes_with(self, other: "Request") -> bool:
        """Tell whether it may begin while the other is under way: what is refused, beside any other."""
        return self._error is not None or self.kind is other.kind

    def begin(self) -> bytes | Ticket[Reply] | Later:
        """Do what takes no waiting; return the reply as a frame, a ticket for it, or what `wait` is given."""
        if self._error is not None:
            return self.finish(self._error)
        handler: Any = ACTIONS[self.kind][0]
        try:
            self._check_scope()
            if _is_later(handler):
                return partial(handler, self._action, self._services, self._session)
            begun = handler(self._action, self._services, self._session)
        except Exception as error:  # noqa: BLE001 - each is answered
            return self.finish(error)
        return self.finish(begun) if isinstance(begun, Reply) else begun

    async def wait(self, later: Later) -> bytes:
        """Do what takes waiting, and return the reply as a frame."""
        done: Reply | Exception
        try:
            self._check_scope()  # once more: the token may have been lost
            done = await later()
        except Exception as error:  # noqa: BLE001 - each is answered
            done = error
        return self.finish(done)

    def _check_scope(self) -> None:
        _, scope = ACTIONS[self.kind]
        if scope is not None:
            self._session.identity.require(scope)

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
        with logs.of(self._session.log_fields):  # whoever's task it is
            logger.error("%s failed", self._name, exc_info=error, extra={"figures": figures})
        metrics.BUGS.inc()
        return Failure(message="Internal server error", code="internal")

    @property
    def _name(self) -> str:
        return "unknown" if self._action is None else str(self._action.__struct_config__.tag)


def _failure(error: ActionError) -> Failure:
    def given(value: Any) -> Any:
        return msgspec.UNSET if value is None else value

    return Failure(
        message=error.message,
        code=error.code,
        detail=given(error.detail),
        retry_after_seconds=given(error.retry_after_seconds),
    )
