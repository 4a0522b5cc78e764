"""The table of actions, and `answer`: one frame in, one frame out, errors included."""

import logging
from collections.abc import Awaitable, Callable
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

logger = logging.getLogger(__name__)

Handler = Callable[[Any, Services, Session], Awaitable[Reply]]

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


async def answer(frame: str | bytes, services: Services, session: Session) -> bytes:
    """Return the reply to one frame, encoded. The only place where errors become messages.

    Args:
        frame: What the client sent.
        services: The server's.
        session: The client's.
    """
    name = "unknown"
    request_id: RequestId | None = None
    reply: Reply
    limited = session.count_request()
    try:
        action = decode(frame)
        name, request_id = str(action.__struct_config__.tag), action.request_id
        if limited is not None:
            raise limited
        handler, scope = ACTIONS[type(action)]
        if scope is not None:
            session.identity.require(scope)
        reply = await handler(action, services, session)
    except DecodeFailure as failure:
        request_id = failure.request_id
        reply = _failure(limited or failure.error)
    except ActionError as error:
        reply = _failure(error)
    except Exception:  # a bug: logged whole, shown as nothing
        logger.exception("%s failed", name, extra={"figures": {"request_id": request_id}})
        metrics.BUGS.inc()
        reply = Failure(message="Internal server error", code="internal")
    metrics.REQUESTS.labels(name, getattr(reply, "code", "success")).inc()
    if request_id is not None:
        reply.request_id = request_id
    return encode(reply)


def _failure(error: ActionError) -> Failure:
    def given(value: Any) -> Any:
        return msgspec.UNSET if value is None else value

    return Failure(
        message=error.message,
        code=error.code,
        detail=given(error.detail),
        retry_after_seconds=given(error.retry_after_seconds),
    )
