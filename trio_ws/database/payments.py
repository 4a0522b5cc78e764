"""The SQL statements about payments. Triggers do what becomes of their invoices: see 0016 of the schema."""

from uuid import UUID

import msgspec

from trio_ws.database.pages import OWNED, Page, json_of, page_of, page_query
from trio_ws.database.sessions import Connection
from trio_ws.errors import Conflict, InvalidValue, NotFound
from trio_ws.messages import RecordPayment
from trio_ws.paging import PAGE_BYTES


def record_payment(
    connection: Connection, uid: UUID, action: RecordPayment, owner: int | None
) -> msgspec.Raw:
    """Store a payment, or what has become of one, and return it as PAYMENT.

    Raises:
        NotFound: there is no such invoice.
        InvalidValue: the invoice is in another currency.
        Conflict: the payment that has this reference can't become that.
    """
    asked = {
        "uid": uid,
        "owner": owner,
        "reference": action.reference,
        "amount": action.amount,
        "status": action.status,
        "currency": action.currency,
    }
    recorded = connection.execute(
        "INSERT INTO @schema@.payments AS p (invoice_id, reference, amount, status)"  # noqa: S608
        " SELECT id, %(reference)s, %(amount)s, %(status)s FROM @schema@.invoices"
        f" WHERE uid = %(uid)s AND {OWNED} AND (%(currency)s::text IS NULL OR currency = %(currency)s)"
        " ON CONFLICT (invoice_id, reference)"
        " DO UPDATE SET amount = excluded.amount, status = excluded.status"
        " WHERE @schema@.payment_may_become(p, excluded.amount, excluded.status)"
        " RETURNING (SELECT @schema@.payment_json(p, i) FROM @schema@.invoices i WHERE i.id = p.invoice_id)",
        asked,
    )
    if row := recorded.fetchone():
        return json_of(row)
    found = connection.execute(
        "SELECT i.currency, p.status, p.amount FROM @schema@.invoices i"  # noqa: S608
        " LEFT JOIN @schema@.payments p ON p.invoice_id = i.id AND p.reference = %(reference)s"
        f" WHERE uid = %(uid)s AND {OWNED}",
        asked,
    )
    if not (row := found.fetchone()):
        raise NotFound("Invoice not found")
    currency, status, amount = row
    if action.currency not in (None, currency):
        raise InvalidValue(f"Expected {currency}, the invoice's currency - at `$.currency`")
    if status is None:  # there was none when the payment was to be recorded; it has come since
        raise NotFound("Invoice not found")
    raise Conflict(
        f"The payment cannot become {action.status} over {action.amount}", f"It is {status} over {amount}"
    )


def list_payments(connection: Connection, uid: UUID, after: int, most: int, owner: int | None) -> Page:
    """Return a page of an invoice's payments with ids above `after`, the oldest first.

    Raises:
        NotFound: there is no such invoice.
    """
    page = page_query(
        "SELECT p.id, @schema@.payment_json(p, i) AS json,"
        " octet_length(@schema@.payment_json(p, i)::text) AS size FROM @schema@.payments p"
        " WHERE p.invoice_id = i.id AND p.id > %(after)s ORDER BY p.invoice_id, p.id LIMIT %(most)s + 1",
        "id",
    )
    rows = connection.execute(
        f"SELECT page.* FROM @schema@.invoices i LEFT JOIN LATERAL ({page}) page ON true"  # noqa: S608
        f" WHERE uid = %(uid)s AND {OWNED} ORDER BY page.id".encode(),
        {"uid": uid, "after": after, "most": most, "owner": owner, "page_bytes": PAGE_BYTES},
    ).fetchall()
    if not rows:
        raise NotFound("Invoice not found")
    return page_of([row for row in rows if row[0] is not None])
