"""Making, reading and changing invoices."""

from uuid import UUID

import msgspec

from trio_ws.actions.services import Query, Services
from trio_ws.actions.session import Session
from trio_ws.database import queries
from trio_ws.endpoint import Endpoint
from trio_ws.errors import InvalidValue, NotFound
from trio_ws.messages import (
    CancelInvoice,
    CreateInvoice,
    FetchInvoice,
    Success,
    UpdateInvoice,
    parse_uid,
)


def create_invoice(action: CreateInvoice, services: Services, session: Session) -> Query:
    """Store an invoice; the reply is sent after its commit."""
    account_id = session.identity.account_for(action.account_id)
    _check_webhook(action, services)
    action = msgspec.structs.replace(action, account_id=account_id)

    def reply(invoice: msgspec.Raw) -> Success:
        services.tail.wake()
        return Success(data=invoice)

    return Query(queries.create_invoice, (action,), reply)


def fetch_invoice(action: FetchInvoice, _: Services, session: Session) -> Query:
    """Read an invoice."""
    return Query(queries.fetch_invoice, (_uid(action.id), session.identity.account_id), _found)


def _found(invoice: msgspec.Raw) -> Success:
    return Success(data=invoice)


async def cancel_invoice(action: CancelInvoice, services: Services, session: Session) -> Success:
    """Cancel an invoice that nobody has begun to pay."""
    owner = session.identity.account_id
    invoice = await services.database.run(queries.change_status, _uid(action.uid), "cancelled", owner)
    services.tail.wake()
    return Success(message="Invoice cancelled successfully", data=invoice)


async def update_invoice(action: UpdateInvoice, services: Services, session: Session) -> Success:
    """Change an invoice's status as the protocol's section 3 allows."""
    owner = session.identity.account_id
    invoice = await services.database.run(queries.change_status, _uid(action.uid), action.status, owner)
    services.tail.wake()
    return Success(data=invoice)


def _check_webhook(action: CreateInvoice, services: Services) -> None:
    """Refuse a webhook that can't be; where a host's name leads is seen when it is delivered."""
    if action.webhook_url is None:
        return
    try:
        endpoint = Endpoint.parse(action.webhook_url)
    except ValueError as error:
        raise InvalidValue(f"{error} - at `$.webhook_url`") from None
    if endpoint.is_inside() and not services.settings.webhook_private_addresses:
        raise InvalidValue("Webhooks may not go to private addresses - at `$.webhook_url`")


def _uid(text: str) -> UUID:
    uid = parse_uid(text)
    if uid is None:
        raise NotFound("Invoice not found")
    return uid
