"""The table of actions, and `Request`: one message in, one message out, errors included."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from trio_ws import metrics
from trio_ws.actions import identities, invoices, prices, topics
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.codec import DecodeFailure, decode, encode
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
Handler = Callable[[Any, Services, Session], Reply | Coroutine[Any, Any, Reply]]

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
    ListPrices: (prices.list_prices, "read"),
    SetPrice: (prices.set_price, "process"),
    ConvertPrice: (prices.convert_price, "read"),
    Authenticate: (identities.authenticate, None),
    Ping: (identities.ping, None),
}


class Request:
    """One request, from its text to its reply. The only place where errors become messages.

    Args:
        text: What the client sent; bytes are no part of the protocol.
        services: The server's.
        session: The client's.
    """

    def __init__(self, text: str | bytes, services: Services, session: Session) -> None:
        self._services = services
        self._session = session
        self._action: Action | None = None
        self._request_id: RequestId | None = None
        self._error: Exception | None = session.count_request()
        try:
            self._action = decode(text)
            self._request_id = self._action.request_id
        except DecodeFailure as failure:
            self._request_id = failure.request_id
            self._error = self._error or failure.error
        except Exception as error:  # noqa: BLE001 - each is answered
            self._error = self._error or error

    def answer_now(self) -> bytes | None:
        """Return the reply as a frame, where it takes no waiting; else None: `answer` has to."""
        try:
            reply = self._begin()
        except Exception as error:  # noqa: BLE001 - each is answered
            return self._finish(self._explain(error))
        if isinstance(reply, Reply):
            return self._finish(reply)
        reply.close()  # `answer` begins anew: whoever asks may have lost its token by then
        return None

    async def answer(self) -> bytes:
        """Return the reply as a frame, however long it takes."""
        try:
            reply = self._begin()
            return self._finish(reply if isinstance(reply, Reply) else await reply)
        except Exception as error:  # noqa: BLE001 - each is answered
            return self._finish(self._explain(error))

    def _begin(self) -> Reply | Coroutine[Any, Any, Reply]:
        if self._error is not None:
            raise self._error
        handler, scope = ACTIONS[type(self._action)]
        if scope is not None:
            self._session.identity.require(scope)
        return handler(self._action, self._services, self._session)

    def _explain(self, error: Exception) -> Failure:
        if isinstance(error, ActionError):
            return _failure(error)
        figures = {"request_id": self._request_id}  # a bug: logged whole, shown as nothing
        logger.error("%s failed", self._name, exc_info=error, extra={"figures": figures})
        metrics.BUGS.inc()
        return Failure(message="Internal server error", code="internal")

    def _finish(self, reply: Reply) -> bytes:
        metrics.count_request(self._name, getattr(reply, "code", "success"))
        if self._request_id is not None:
            reply.request_id = self._request_id
        return encode_frame(TEXT, encode(reply))

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
