"""Following topics: from now on, from a position on, or from a snapshot on."""

from collections.abc import Sequence

from msgspec import UNSET, Raw, UnsetType

from trio_ws.actions.services import Services
from trio_ws.database import queries
from trio_ws.errors import TooManySubscriptions, Unavailable
from trio_ws.events.follower import Follower
from trio_ws.messages import (
    Ping,
    Pong,
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


async def subscribe(action: Subscribe, services: Services, follower: Follower) -> Success:
    """Follow a topic: from its snapshot, from a position, or from the current one on."""
    topic = Topic.parse(action.type, action.id)
    after = _position(action.after)
    state: Raw | UnsetType = UNSET
    if action.snapshot:
        position, state = await services.database.run(queries.read_snapshot, topic)
        await _reach(position, services)
        after = after or position
    followed = await _follow([topic], after, services, follower)
    followed.snapshot = state
    if action.snapshot:
        followed.position = str(position)
    return Success(message=f"Subscribed to {action.type} {action.id}", data=followed)


async def resume(action: Resume, services: Services, follower: Follower) -> Success:
    """Follow many topics from one position on."""
    topics = [Topic.parse(wanted.type, wanted.id) for wanted in action.topics]
    followed = await _follow(topics, _position(action.after), services, follower)
    return Success(message=f"Resumed {len(topics)} topics", data=followed)


async def unsubscribe(action: Unsubscribe, services: Services, follower: Follower) -> Success:
    """Follow a topic no more, also if it was not followed."""
    services.dispatcher.unsubscribe(Topic.parse(action.type, action.id), follower)
    return Success(message=f"Unsubscribed from {action.type} {action.id}")


async def unsubscribe_all(_: UnsubscribeAll, services: Services, follower: Follower) -> Success:
    """Follow nothing any more."""
    count = services.dispatcher.unsubscribe_all(follower)
    return Success(message=f"Unsubscribed from {count} topics")


async def ping(_: Ping, services: Services, __: Follower) -> Pong:
    """Say that the server is there."""
    return Pong(timestamp=int(services.now()))


async def _follow(
    topics: Sequence[Topic], after: Position | None, services: Services, follower: Follower
) -> Subscribed:
    """Follow the topics, all or none, and say where the follower stands."""
    log, most = services.dispatcher.log, services.settings.subscriptions
    wanted = follower.topics.keys() | {str(topic) for topic in topics}
    if most is not None and len(wanted) > most:
        raise TooManySubscriptions(f"A connection may follow {most} topics")
    if after is not None and after.epoch == log.end.epoch and after.seq > log.end.seq:
        services.tail.wake()  # another process told of it, and this one has not heard of it yet
        await log.reach(after.seq, AHEAD_SECONDS)
    recovered = after is None or log.reaches_back_to(after)
    since = after.seq if after is not None and recovered else log.end.seq
    services.dispatcher.subscribe(topics, follower, since)
    return Subscribed(position=str(log.end), recovered=recovered)


async def _reach(position: Position, services: Services) -> None:
    """Wait until this process has told of all that a snapshot holds."""
    services.tail.wake()
    if not await services.dispatcher.log.reach(position.seq, AHEAD_SECONDS):
        raise Unavailable("The event log is behind")


def _position(text: str | None) -> Position | None:
    return None if text is None else Position.parse(text)
