"""Making, reading and changing invoices."""

from uuid import UUID

import msgspec

from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.checkout import hide
from trio_ws.database import queries
from trio_ws.database.lanes import Lane
from trio_ws.database.tickets import Ticket
from trio_ws.endpoint import Endpoint
from trio_ws.errors import InvalidValue, NotFound
from trio_ws.messages import CancelInvoice, CreateInvoice, FetchInvoice, ListInvoices, Success, UpdateInvoice
from trio_ws.messages.fields import Status
from trio_ws.paging import PAGE_DEFAULT, Cursor, next_cursor
from trio_ws.topics import parse_uid


def create_invoice(action: CreateInvoice, services: Services, session: Session) -> Ticket[Success]:
    """Store an invoice; the reply is sent after its commit."""
    account_id = session.identity.account_for(action.account_id)
    _check_webhook(action, services)
    action = msgspec.structs.replace(action, account_id=account_id)

    def reply(invoice: msgspec.Raw) -> Success:
        services.tail.wake()
        return Success(data=invoice)

    return services.database.ask(queries.create_invoice, action).then(reply)


def fetch_invoice(action: FetchInvoice, services: Services, session: Session) -> Ticket[Success]:
    """Read an invoice."""
    asked = services.database.ask(queries.fetch_invoice, uid_of(action.id), session.identity.account_id)
    return asked.then(_for_customer if session.identity.is_customer else _found)


def _found(invoice: msgspec.Raw) -> Success:
    return Success(data=invoice)


def _for_customer(invoice: msgspec.Raw) -> Success:
    return Success(data=hide(invoice))


async def cancel_invoice(action: CancelInvoice, services: Services, session: Session) -> Success:
    """Cancel an invoice that nobody has begun to pay."""
    owner = session.identity.account_id
    invoice = await services.database.run(queries.change_status, uid_of(action.uid), "cancelled", owner)
    services.tail.wake()
    return Success(message="Invoice cancelled successfully", data=invoice)


async def update_invoice(action: UpdateInvoice, services: Services, session: Session) -> Success:
    """Change an invoice's status as the protocol's section 3 allows."""
    owner = session.identity.account_id
    invoice = await services.database.run(queries.change_status, uid_of(action.uid), action.status, owner)
    services.tail.wake()
    return Success(data=invoice)


async def list_invoices(action: ListInvoices, services: Services, session: Session) -> Success:
    """Read a page of invoices, the newest first: of one's own account, where a token names one."""
    account_id = session.identity.account_asked_for(action.account_id)
    cursor = None if action.cursor is None else Cursor.parse(action.cursor, "open|all")
    statuses: tuple[Status, ...] | None = None if action.status is None else (action.status,)
    if cursor is not None and cursor.kind == "open":  # of a snapshot
        statuses = tuple(one for one in queries.OPEN if action.status in (None, one))
    wanted = queries.InvoiceFilter(
        *(account_id, action.address, statuses, cursor and cursor.last),
        *(action.limit or PAGE_DEFAULT, action.memo),
    )
    page = await services.database.run(queries.list_invoices, wanted, lane=Lane.LISTS)
    kind = "all" if cursor is None else cursor.kind
    return Success(data=page.items, next=next_cursor(kind, page.next))


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


def uid_of(text: str) -> UUID:
    """Return an invoice's uid.

    Raises:
        NotFound: no invoice can have that name.
    """
    uid = parse_uid(text)
    if uid is None:
        raise NotFound("Invoice not found")
    return uid
