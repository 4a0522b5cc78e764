"""Webhooks, as people look at them: what waits, failed or was delivered."""

from msgspec import UNSET, Raw

from trio_ws.actions.invoices import uid_of
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.codec import encode_event
from trio_ws.database import webhook_lists
from trio_ws.database.lanes import Lane
from trio_ws.database.webhook_lists import Listed, Place, Wanted
from trio_ws.messages import FetchWebhook, ListWebhooks, RetryWebhook, Success, Webhook
from trio_ws.paging import PAGE_DEFAULT, Cursor


async def list_webhooks(action: ListWebhooks, services: Services, session: Session) -> Success:
    """Read a page of webhooks, the newest first."""
    wanted = Wanted(
        session.identity.account_asked_for(action.account_id),
        action.state,
        None if action.uid is None else str(uid_of(action.uid)),
        None if action.cursor is None else _place(action.cursor),
        action.limit or PAGE_DEFAULT,
    )
    page = await services.database.run(webhook_lists.list_page, wanted, lane=Lane.LISTS)
    following = UNSET if page.next is None else str(Cursor(f"w{page.next.moment}", page.next.seq))
    return Success(data=[_shown(listed) for listed in page.deliveries], next=following)


async def fetch_webhook(action: FetchWebhook, services: Services, session: Session) -> Success:
    """Read one webhook, with what is sent."""
    listed, url, event = await services.database.run(
        webhook_lists.find_delivery, action.id, session.identity.account_id, lane=Lane.LISTS
    )
    shown = _shown(listed)
    shown.url, shown.body = url, Raw(encode_event(event))
    return Success(data=shown)


async def retry_webhook(action: RetryWebhook, services: Services, session: Session) -> Success:
    """Have a webhook be sent now."""
    listed = await services.database.run(webhook_lists.retry_delivery, action.id, session.identity.account_id)
    return Success(data=_shown(listed))


def _place(cursor: str) -> Place:
    parsed = Cursor.parse(cursor, "w[0-9]{1,18}")
    return Place(int(parsed.kind[1:]), parsed.last)


def _shown(listed: Listed) -> Webhook:
    return Webhook(
        id=listed.id,
        account_id=listed.account_id,
        invoice=listed.invoice,
        type=listed.type,
        endpoint=listed.endpoint,
        state=listed.state,
        attempts=listed.attempts,
        status=UNSET if listed.status is None else listed.status,
        error=UNSET if listed.error is None else listed.error,
        is_behind=listed.is_behind,
        queued_at=listed.since,
        next_attempt_at=UNSET if listed.next_attempt_at is None else listed.next_attempt_at,
        ended_at=UNSET if listed.ended_at is None else listed.ended_at,
    )
