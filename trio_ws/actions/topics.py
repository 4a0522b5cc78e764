"""Following topics: from now on, from a position on, or from a snapshot on."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec import UNSET

from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.checkout import hide
from trio_ws.database import queries
from trio_ws.database.lanes import Lane
from trio_ws.errors import TooManySubscriptions, Unauthorized, Unavailable
from trio_ws.messages import Resume, Subscribe, Subscribed, Success, Unsubscribe, UnsubscribeAll
from trio_ws.paging import Cursor
from trio_ws.topics import Position, Topic

# How long a position that another process has sent may take to reach this one: some polls of the log.
AHEAD_SECONDS = 1.0

Later = Callable[[], Awaitable[Success]]


def subscribe(action: Subscribe, services: Services, session: Session) -> Success | Later:
    """Follow a topic: from its snapshot, from a position, or from the current one on."""
    topic = _allowed(action.type, action.id, session)
    message = f"Subscribed to {action.type} {action.id}"
    after = _position(action.after)
    if action.snapshot and topic.type == "price":
        return partial(_follow_prices, topic, after, message, services, session)
    if action.snapshot:
        return partial(_follow_snapshot, topic, after, message, services, session)
    return _follow([topic], after, message, services, session)


def resume(action: Resume, services: Services, session: Session) -> Success | Later:
    """Follow many topics from one position on; where more are to come, begin once all are named."""
    named, session.named = session.named, {}
    for wanted in action.topics:
        named[wanted.type, wanted.id] = None
        _check_room(len(named), services)  # each topic takes µs, and a message may name 2 500
    after = _position(action.after)
    if action.more:
        session.named = named
        return Success(message=f"Noted {len(action.topics)} topics")
    topics = dict.fromkeys(_allowed(type_, id_, session) for type_, id_ in named)
    return _follow(list(topics), after, f"Resumed {len(named)} topics", services, session)


def unsubscribe(action: Unsubscribe, services: Services, session: Session) -> Success:
    """Follow a topic no more, also if it was not followed."""
    services.dispatcher.unsubscribe(Topic.parse(action.type, action.id), session.follower)
    return Success(message=f"Unsubscribed from {action.type} {action.id}")


def unsubscribe_all(_: UnsubscribeAll, services: Services, session: Session) -> Success:
    """Follow nothing any more."""
    count = services.dispatcher.unsubscribe_all(session.follower)
    return Success(message=f"Unsubscribed from {count} topics")


def _follow(
    topics: Sequence[Topic], after: Position | None, message: str, services: Services, session: Session
) -> Success | Later:
    """Follow the topics from a position on; where it is ahead of what we know, once we do."""
    _check_room_beside_others(topics, services, session)
    log = services.dispatcher.log
    recovered = after is None or (None if log.is_ahead(after) else log.remembers(after))
    if after is not None and recovered is None:
        return partial(_follow_later, topics, after, message, services, session)
    start = after if recovered else None
    followed = _follow_from(start, topics, services, session, recovered=bool(recovered))
    return Success(message=message, data=followed)


async def _follow_later(
    topics: Sequence[Topic], after: Position, message: str, services: Services, session: Session
) -> Success:
    recovered = await _come_to(after, services)
    start = after if recovered else None
    followed = _follow_from(start, topics, services, session, recovered=recovered)
    return Success(message=message, data=followed)


async def _follow_snapshot(
    topic: Topic, after: Position | None, message: str, services: Services, session: Session
) -> Success:
    position, state, last = await services.database.run(
        queries.read_snapshot, topic, session.identity.account_id, lane=Lane.LISTS
    )
    await _reach(position, services)
    _check_room_beside_others([topic], services, session)
    recovered = after is None or await _come_to(after, services)
    if not await services.dispatcher.log.prove(position):
        raise Unavailable("The event log was replaced; positions are no longer valid")
    start = after if after and recovered else position
    followed = _follow_from(start, [topic], services, session, recovered=recovered)
    followed.position = str(position)
    followed.snapshot = hide(state) if session.identity.is_customer else state
    if last is not None:
        followed.next = str(Cursor("open", last))
    return Success(message=message, data=followed)


async def _follow_prices(
    topic: Topic, after: Position | None, message: str, services: Services, session: Session
) -> Success:
    """Follow prices from what is in memory on, which at each moment is what the log has brought."""
    book, recovered = None, True
    while book is None or book is not services.prices.book:  # unless the log is lost meanwhile, it is
        book = await services.prices.read()
        services.tail.wake(services.prices.upto)
        if not await services.prices.reach(AHEAD_SECONDS):
            raise Unavailable("The event log is behind")
        if after is not None:
            recovered = await _come_to(after, services)
    _check_room_beside_others([topic], services, session)
    page = book.page(session.identity.account_id, Cursor(topic.id, 0))
    start = after if recovered else None
    followed = _follow_from(start, [topic], services, session, recovered=recovered)
    followed.snapshot, followed.next = page.items, page.next or UNSET
    return Success(message=message, data=followed)


def _check_room_beside_others(topics: Sequence[Topic], services: Services, session: Session) -> None:
    followed, most = session.follower.topics, services.settings.subscriptions
    # Of these, some may be followed already. To count them each time is a twentieth of a lone `subscribe`.
    if most is not None and len(followed) + len(topics) > most:
        _check_room(len({*followed, *map(str, topics)}), services)


def _check_room(count: int, services: Services) -> None:
    most = services.settings.subscriptions
    if most is not None and count > most:
        raise TooManySubscriptions(f"A connection may follow {most} topics")


async def _come_to(after: Position, services: Services) -> bool:
    """Wait for a position that another process has sent; return whether all after it can be replayed."""
    log = services.dispatcher.log
    if log.is_ahead(after) and not await services.tail.find_out(after.seq, AHEAD_SECONDS):
        raise Unavailable("The event log is behind")
    return await log.prove(after)


def _follow_from(
    start: Position | None, topics: Sequence[Topic], services: Services, session: Session, *, recovered: bool
) -> Subscribed:
    """Follow the topics, all or none, from a position on; None: from the log's end on."""
    log = services.dispatcher.log
    services.dispatcher.subscribe(topics, session.follower, (start or log.end).seq)
    return Subscribed(position=str(log.end), recovered=recovered)


def _allowed(type_: str, id_: str | int, session: Session) -> Topic:
    """Return the topic. An account's must be one's own, a customer's an invoice's; the rest is filtered."""
    topic = Topic.parse(type_, id_)
    if session.identity.is_customer and topic.type != "invoice":
        raise Unauthorized("Authentication required")
    if topic.type == "account":
        session.identity.require_account(topic.id)
    return topic


async def _reach(position: Position, services: Services) -> None:
    """Wait until this process has published all that a snapshot contains."""
    services.tail.wake()
    if not await services.dispatcher.log.reach(position.seq, AHEAD_SECONDS):
        raise Unavailable("The event log is behind")


def _position(text: str | None) -> Position | None:
    return None if text is None else Position.parse(text)
