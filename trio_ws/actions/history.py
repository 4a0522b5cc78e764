"""What the event log holds of an invoice."""

from msgspec import UNSET

from trio_ws.actions.invoices import uid_of
from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.database import event_log
from trio_ws.database.lanes import Lane
from trio_ws.messages import ListEvents, LoggedEvent, Success
from trio_ws.paging import PAGE_DEFAULT, begin_after, next_cursor
from trio_ws.topics import NOTHING, Event


async def list_events(action: ListEvents, services: Services, session: Session) -> Success:
    """Read a page of an invoice's events, the oldest first."""
    uid = uid_of(action.uid)
    after = begin_after(action.cursor, str(uid))
    history = await services.database.run(
        event_log.read_history,
        *(uid, after, action.limit or PAGE_DEFAULT, session.identity.account_id),
        lane=Lane.LISTS,
    )
    last = history.events[-1].seq if history.has_more else None
    return Success(data=[_logged(event) for event in history.events], next=next_cursor(str(uid), last))


def _logged(event: Event) -> LoggedEvent:
    previous = UNSET if event.previous == NOTHING else event.previous
    return LoggedEvent(type=event.type, data=event.data, previous=previous, position=str(event.position))
