"""Making and reading invoices."""

from trio_ws.actions.services import Services
from trio_ws.database import queries
from trio_ws.errors import NotFound
from trio_ws.events.follower import Follower
from trio_ws.messages import CreateInvoice, FetchInvoice, Success, parse_uid


async def create_invoice(action: CreateInvoice, services: Services, _: Follower) -> Success:
    """Store an invoice; the reply is sent after its commit."""
    invoice = await services.database.run(queries.create_invoice, action)
    services.tail.wake()
    return Success(data=invoice)


async def fetch_invoice(action: FetchInvoice, services: Services, _: Follower) -> Success:
    """Read an invoice."""
    uid = parse_uid(action.id)
    if uid is None:
        raise NotFound("Invoice not found")
    return Success(data=await services.database.run(queries.fetch_invoice, uid))
