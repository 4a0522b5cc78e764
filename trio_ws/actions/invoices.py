"""Making, reading and changing invoices."""

from uuid import UUID

from trio_ws.actions.services import Services
from trio_ws.database import queries
from trio_ws.errors import NotFound
from trio_ws.events.follower import Follower
from trio_ws.messages import (
    CancelInvoice,
    CreateInvoice,
    FetchInvoice,
    Success,
    UpdateInvoice,
    parse_uid,
)


async def create_invoice(action: CreateInvoice, services: Services, _: Follower) -> Success:
    """Store an invoice; the reply is sent after its commit."""
    invoice = await services.database.run(queries.create_invoice, action)
    services.tail.wake()
    return Success(data=invoice)


async def fetch_invoice(action: FetchInvoice, services: Services, _: Follower) -> Success:
    """Read an invoice."""
    return Success(data=await services.database.run(queries.fetch_invoice, _uid(action.id)))


async def cancel_invoice(action: CancelInvoice, services: Services, _: Follower) -> Success:
    """Cancel an invoice that nobody has begun to pay."""
    invoice = await services.database.run(queries.change_status, _uid(action.uid), "cancelled")
    services.tail.wake()
    return Success(message="Invoice cancelled successfully", data=invoice)


async def update_invoice(action: UpdateInvoice, services: Services, _: Follower) -> Success:
    """Change an invoice's status as the protocol's section 3 allows."""
    invoice = await services.database.run(queries.change_status, _uid(action.uid), action.status)
    services.tail.wake()
    return Success(data=invoice)


def _uid(text: str) -> UUID:
    uid = parse_uid(text)
    if uid is None:
        raise NotFound("Invoice not found")
    return uid
