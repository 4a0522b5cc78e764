"""The table of actions, and `answer`: one frame in, one frame out, errors included."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from trio_ws import codec
from trio_ws.actions import invoices, prices, topics
from trio_ws.actions.services import Services
from trio_ws.errors import ActionError
from trio_ws.events.follower import Follower
from trio_ws.messages import (
    CancelInvoice,
    CreateInvoice,
    Failure,
    FetchInvoice,
    ListPrices,
    Ping,
    Reply,
    RequestId,
    Resume,
    Subscribe,
    Unsubscribe,
    UnsubscribeAll,
    UpdateInvoice,
)

logger = logging.getLogger(__name__)

Handler = Callable[[Any, Services, Follower], Awaitable[Reply]]

ACTIONS: dict[type, Handler] = {
    Subscribe: topics.subscribe,
    Resume: topics.resume,
    Unsubscribe: topics.unsubscribe,
    UnsubscribeAll: topics.unsubscribe_all,
    CreateInvoice: invoices.create_invoice,
    FetchInvoice: invoices.fetch_invoice,
    CancelInvoice: invoices.cancel_invoice,
    UpdateInvoice: invoices.update_invoice,
    ListPrices: prices.list_prices,
    Ping: topics.ping,
}


async def answer(frame: str | bytes, services: Services, follower: Follower) -> bytes:
    """Return the reply to one frame, encoded. The only place where errors become messages.

    Args:
        frame: What the client sent.
        services: The server's.
        follower: The client's place in the event log, to which the topics that it follows are tied.
    """
    request_id: RequestId | None = None
    reply: Reply
    try:
        action = codec.decode(frame)
        request_id = action.request_id
        reply = await ACTIONS[type(action)](action, services, follower)
    except codec.DecodeFailure as failure:
        request_id = failure.request_id
        reply = _failure(failure.error)
    except ActionError as error:
        reply = _failure(error)
    except Exception:  # a bug: logged whole, shown as nothing
        logger.exception("request %r failed", request_id)
        reply = Failure(message="Internal server error", code="internal")
    if request_id is not None:
        reply.request_id = request_id
    return codec.encode(reply)


def _failure(error: ActionError) -> Failure:
    def given(value: Any) -> Any:
        return msgspec.UNSET if value is None else value

    return Failure(
        message=error.message,
        code=error.code,
        detail=given(error.detail),
        retry_after_seconds=given(error.retry_after_seconds),
    )
