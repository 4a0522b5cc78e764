"""Following topics: from now on, from a position on, or from a snapshot on."""

from collections.abc import Sequence

import trio

from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.database import queries
from trio_ws.errors import TooManySubscriptions, Unavailable
from trio_ws.messages import (
    Position,
    Resume,
    Subscribe,
    Subscribed,
    Success,
    Topic,
    Unsubscribe,
    UnsubscribeAll,
)

# How long a position that another process has told of may take to reach this one: some looks at the log.
AHEAD_SECONDS = 1.0


async def subscribe(action: Subscribe, services: Services, session: Session) -> Success:
    """Follow a topic: from its snapshot, from a position, or from the current one on."""
    topic = _allowed(action.type, action.id, session)
    after = _position(action.after)
    if action.snapshot:
        position, state = await services.database.run(
            queries.read_snapshot, topic, session.identity.account_id
        )
        await _reach(position, services)
        followed = await _follow([topic], after, services, session, otherwise=position)
        followed.position, followed.snapshot = str(position), state
    else:
        followed = await _follow([topic], after, services, session)
    return Success(message=f"Subscribed to {action.type} {action.id}", data=followed)


async def resume(action: Resume, services: Services, session: Session) -> Success:
    """Follow many topics from one position on."""
    topics = [_allowed(wanted.type, wanted.id, session) for wanted in action.topics]
    followed = await _follow(topics, _position(action.after), services, session)
    return Success(message=f"Resumed {len(topics)} topics", data=followed)


async def unsubscribe(action: Unsubscribe, services: Services, session: Session) -> Success:
    """Follow a topic no more, also if it was not followed."""
    services.dispatcher.unsubscribe(Topic.parse(action.type, action.id), session.follower)
    return Success(message=f"Unsubscribed from {action.type} {action.id}")


async def unsubscribe_all(_: UnsubscribeAll, services: Services, session: Session) -> Success:
    """Follow nothing any more."""
    count = services.dispatcher.unsubscribe_all(session.follower)
    return Success(message=f"Unsubscribed from {count} topics")


async def _follow(
    topics: Sequence[Topic],
    after: Position | None,
    services: Services,
    session: Session,
    otherwise: Position | None = None,
) -> Subscribed:
    """Follow the topics, all or none, and say where the follower stands.

    Args:
        topics: What to follow.
        after: From where on; None: it does not matter.
        services: The server's.
        session: The client's.
        otherwise: From where on, where it does not matter or is not to be had; None: from the log's end.
    """
    log, most = services.dispatcher.log, services.settings.subscriptions
    wanted = session.follower.topics.keys() | {str(topic) for topic in topics}
    if most is not None and len(wanted) > most:
        raise TooManySubscriptions(f"A connection may follow {most} topics")
    if after is not None and after.epoch == log.end.epoch and after.seq > log.end.seq:
        asked = trio.current_time()
        services.tail.wake()  # another process told of it, and this one has not heard of it yet
        if not await log.reach(after.seq, AHEAD_SECONDS) and services.tail.read_at < asked:
            raise Unavailable("The event log is behind")
    recovered = after is None or log.reaches_back_to(after)
    start = after if recovered and after else otherwise or log.end
    services.dispatcher.subscribe(topics, session.follower, start.seq)
    return Subscribed(position=str(log.end), recovered=recovered)


def _allowed(type_: str, id_: str | int, session: Session) -> Topic:
    """Return the topic. An account's must be one's own; what the others bring is filtered."""
    topic = Topic.parse(type_, id_)
    if topic.type == "account":
        session.identity.require_account(topic.id)
    return topic


async def _reach(position: Position, services: Services) -> None:
    """Wait until this process has told of all that a snapshot holds."""
    services.tail.wake()
    if not await services.dispatcher.log.reach(position.seq, AHEAD_SECONDS):
        raise Unavailable("The event log is behind")


def _position(text: str | None) -> Position | None:
    return None if text is None else Position.parse(text)
