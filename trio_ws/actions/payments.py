"""Recording what money moved, and reading it."""

from trio_ws.actions.invoices import uid_of
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.database import payments
from trio_ws.database.lanes import Lane
from trio_ws.errors import InvalidValue
from trio_ws.messages import ListPayments, RecordPayment, Success
from trio_ws.paging import PAGE_DEFAULT, begin_after, next_cursor


async def record_payment(action: RecordPayment, services: Services, session: Session) -> Success:
    """Record a payment; its invoice follows in the same transaction."""
    if action.amount == 0:
        raise InvalidValue("Expected an amount other than 0 - at `$.amount`")
    payment = await services.database.run(
        payments.record_payment, uid_of(action.uid), action, session.identity.account_id
    )
    services.tail.wake()
    return Success(data=payment)


async def list_payments(action: ListPayments, services: Services, session: Session) -> Success:
    """Read a page of an invoice's payments, the oldest first."""
    uid = uid_of(action.uid)
    after = begin_after(action.cursor, str(uid))
    page = await services.database.run(
        payments.list_payments,
        *(uid, after, action.limit or PAGE_DEFAULT, session.identity.account_id),
        lane=Lane.LISTS,
    )
    return Success(data=page.items, next=next_cursor(str(uid), page.next))
