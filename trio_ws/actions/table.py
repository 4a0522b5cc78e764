"""The table of actions, and `Request`: one message in, one message out, errors included."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import msgspec

from trio_ws import logs, metrics
from trio_ws.actions import (
    accounts,
    connections,
    history,
    identities,
    invoices,
    payments,
    prices,
    topics,
    webhooks,
)
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.codec import DecodeFailure, decode, encode, find_request_id
from trio_ws.database.tickets import Ticket
from trio_ws.errors import ActionError
from trio_ws.identity import ADMIN, Scope
from trio_ws.messages import (
    Action,
    Authenticate,
    CancelInvoice,
    ConvertPrice,
    CreateAccount,
    CreateInvoice,
    CreateToken,
    EndConnection,
    Failure,
    FetchFigures,
    FetchInvoice,
    FetchWebhook,
    ListAccounts,
    ListConnections,
    ListEvents,
    ListInvoices,
    ListPayments,
    ListPrices,
    ListTokens,
    ListWebhooks,
    Ping,
    RecordPayment,
    RenameAccount,
    Reply,
    Resume,
    RetryWebhook,
    RevokeToken,
    SetPrice,
    Subscribe,
    Unsubscribe,
    UnsubscribeAll,
    UpdateInvoice,
)
from trio_ws.messages.fields import RequestId
from trio_ws.wire.frames import TEXT, encode_frame

logger = logging.getLogger(__name__)

Later = Callable[[], Awaitable[Reply]]
# What takes no waiting returns its reply at once, and what is one query a ticket for it: no task has to wake
# for these. All else is, or returns, what is to be awaited.
Handler = Callable[[Any, Services, Session], Reply | Ticket[Any] | Later | Awaitable[Reply]]

TOPIC_COST = 1 / 8  # of a request: 8 µs or so, and clients follow hundreds at once when they come

ALL_COST = 10.0  # of what looks at all connections or measurements: some ms


def _of_topic(action: Subscribe | Unsubscribe) -> float:
    return 1.0 if isinstance(action, Subscribe) and action.snapshot else TOPIC_COST


def _of_topics(action: Resume) -> float:
    return max(1.0, len(action.topics) * TOPIC_COST)


def _of_all(_: ListConnections | FetchFigures) -> float:
    return ALL_COST


class Row:
    """What there is to know of an action.

    Args:
        action: Its struct.
        handler: Does it.
        scope: What a token has to allow; None: anybody may.
        cost: Returns how many of the requests that a client may send it counts for; None: for one.
        for_customers: Whether customers may, who have no token.
        of_line: Whether it is about the connection that it comes by, and says nothing where that is not kept.

    Attributes:
        name: What a client calls it.
        is_later: Whether all of it is to be awaited.
    """

    __slots__ = ("action", "cost", "for_customers", "handler", "is_later", "name", "of_line", "scope")

    def __init__(
        self,
        action: type[Action],
        handler: Handler,
        scope: Scope | None,
        cost: Callable[[Any], float] | None = None,
        *,
        for_customers: bool = False,
        of_line: bool = False,
    ) -> None:
        self.action = action
        self.name = str(action.__struct_config__.tag)
        self.handler: Any = handler
        self.scope = scope
        self.cost = cost
        self.for_customers = for_customers
        self.of_line = of_line
        self.is_later = iscoroutinefunction(handler)


ACTIONS: dict[type, Row] = {
    row.action: row
    for row in (
        Row(Subscribe, topics.subscribe, "read", _of_topic, for_customers=True, of_line=True),
        Row(Resume, topics.resume, "read", _of_topics, for_customers=True, of_line=True),
        Row(Unsubscribe, topics.unsubscribe, "read", _of_topic, for_customers=True, of_line=True),
        Row(UnsubscribeAll, topics.unsubscribe_all, "read", for_customers=True, of_line=True),
        Row(CreateInvoice, invoices.create_invoice, "write"),
        Row(FetchInvoice, invoices.fetch_invoice, "read", for_customers=True),
        Row(CancelInvoice, invoices.cancel_invoice, "write"),
        Row(UpdateInvoice, invoices.update_invoice, "process"),
        Row(ListInvoices, invoices.list_invoices, "read"),
        Row(RecordPayment, payments.record_payment, "process"),
        Row(ListPayments, payments.list_payments, "read"),
        Row(ListPrices, prices.list_prices, "read"),
        Row(SetPrice, prices.set_price, "process"),
        Row(ConvertPrice, prices.convert_price, "read"),
        Row(ListEvents, history.list_events, "read"),
        Row(ListWebhooks, webhooks.list_webhooks, "read"),
        Row(FetchWebhook, webhooks.fetch_webhook, "read"),
        Row(RetryWebhook, webhooks.retry_webhook, "write"),
        Row(ListAccounts, accounts.list_accounts, "read"),
        Row(CreateAccount, accounts.create_account, ADMIN),
        Row(RenameAccount, accounts.rename_account, ADMIN),
        Row(ListTokens, accounts.list_tokens, "read"),
        Row(CreateToken, accounts.create_token, ADMIN),
        Row(RevokeToken, accounts.revoke_token, ADMIN),
        Row(ListConnections, connections.list_connections, "read", _of_all),
        Row(EndConnection, connections.end_connection, ADMIN),
        Row(FetchFigures, connections.fetch_figures, ADMIN, _of_all),
        Row(Authenticate, identities.authenticate, None, of_line=True),
        Row(Ping, identities.ping, None),
    )
}


class Request:
    """One request, from its text to its reply. The only place where errors become messages.

    Args:
        text: What the client sent; bytes are no part of the protocol.
        services: The server's.
        session: The client's.

    Attributes:
        row: What it asks for, once that is known.
        later: What is to be awaited for its reply, once it has begun; None: nothing.
    """

    __slots__ = ("_action", "_error", "_request_id", "_services", "_session", "later", "row")

    def __init__(self, text: str | bytes, services: Services, session: Session) -> None:
        self._services = services
        self._session = session
        self._action: Action | None = None
        self._request_id: RequestId | None = None
        self.later: Later | None = None
        self._error: Exception | None = session.charge_message(len(text))
        try:
            if self._error is None:
                self._action = action = self._decode(text)
                self._request_id = action.request_id
                self.row = row = ACTIONS[type(action)]
                if row.cost is not None:
                    session.charge(row.cost(action) - 1)
            else:
                self._request_id = find_request_id(text)
        except DecodeFailure as failure:
            self._request_id, self._error = failure.request_id, failure.error
        except Exception as error:  # noqa: BLE001 - each is answered
            self._error = error

    def _decode(self, text: str | bytes) -> Action:
        """Return what a message asks for.

        Raises:
            DecodeFailure: it asks for nothing that can be done.
        """
        return decode(text)

    def _encode(self, reply: Reply) -> bytes:
        """Return a reply as it goes out."""
        return encode_frame(TEXT, encode(reply))

    def goes_with(self, other: "Request") -> bool:
        """Return whether it may begin while the other is under way: what is refused, beside any other."""
        return self._error is not None or self.row is other.row

    def begin(self) -> bytes | Ticket[Reply] | None:
        """Do what takes no waiting; return the reply as a frame, a ticket for it, or None: `wait` for it."""
        if self._error is not None:
            return self.finish(self._error)
        handler = self.row.handler
        try:
            self._check_scope()
            if self.row.is_later:
                self.later = partial(handler, self._action, self._services, self._session)
                return None
            begun = handler(self._action, self._services, self._session)
        except Exception as error:  # noqa: BLE001 - each is answered
            return self.finish(error)
        if isinstance(begun, Ticket):
            return begun
        if callable(begun):
            self.later = begun
            return None
        return self.finish(begun)

    async def wait(self) -> bytes:
        """Do what takes waiting, and return the reply as a frame."""
        done: Reply | Exception
        try:
            self._check_scope()  # once more: the token may have been lost
            assert self.later is not None  # noqa: S101 - it has begun
            done = await self.later()
        except Exception as error:  # noqa: BLE001 - each is answered
            done = error
        return self.finish(done)

    async def answer(self) -> bytes:
        """Return the reply to one that nothing is under way beside."""
        begun = self.begin()
        if begun is None:
            return await self.wait()
        if isinstance(begun, Ticket):
            with suppress(Exception):  # it is the outcome
                await begun.wait()
            return self.finish(begun.outcome)
        return begun

    def _check_scope(self) -> None:
        identity = self._session.identity
        if (scope := self.row.scope) is not None and not (self.row.for_customers and identity.is_customer):
            identity.require(scope)

    def finish(self, done: Reply | Exception) -> bytes:
        """Return the reply as a frame."""
        name = "unknown" if self._action is None else self.row.name
        code, reply = "success", done
        if isinstance(reply, Exception):
            reply = self._explain(name, reply)
            code = reply.code
        metrics.count_request(name, code)
        if self._request_id is not None:
            reply.request_id = self._request_id
        return self._encode(reply)

    def _explain(self, name: str, error: Exception) -> Failure:
        if isinstance(error, ActionError):
            return _failure(error)
        figures = {"request_id": self._request_id}  # a bug: logged whole, shown as nothing
        with logs.of(self._session.log_fields):  # whichever task runs this
            logger.error("%s failed", name, exc_info=error, extra={"figures": figures})
        metrics.BUGS.inc()
        return Failure(message="Internal server error", code="internal")


def _failure(error: ActionError) -> Failure:
    def given(value: Any) -> Any:
        return msgspec.UNSET if value is None else value

    return Failure(
        message=error.message,
        code=error.code,
        detail=given(error.detail),
        retry_after_seconds=given(error.retry_after_seconds),
    )
