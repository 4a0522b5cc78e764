"""Following topics. None of these waits, so a reply and the events around it keep their order."""

from trio_ws.actions.services import Services
from trio_ws.errors import TooManySubscriptions
from trio_ws.events.outbox import Outbox
from trio_ws.messages import (
    Ping,
    Pong,
    Subscribe,
    Subscribed,
    Success,
    Topic,
    Unsubscribe,
    UnsubscribeAll,
)


async def subscribe(action: Subscribe, services: Services, outbox: Outbox) -> Success:
    """Follow a topic from the current position on."""
    topic = Topic.parse(action.type, action.id)
    dispatcher = services.dispatcher
    most = services.settings.subscriptions
    is_new = not dispatcher.is_subscribed(topic, outbox)
    if is_new and most is not None and dispatcher.subscriptions(outbox) >= most:
        raise TooManySubscriptions(f"A connection may follow {most} topics")
    dispatcher.subscribe(topic, outbox)
    return Success(
        message=f"Subscribed to {action.type} {action.id}",
        # There is no replay yet: whoever asks for one is told that it got none.
        data=Subscribed(position=str(dispatcher.position), recovered=action.after is None),
    )


async def unsubscribe(action: Unsubscribe, services: Services, outbox: Outbox) -> Success:
    """Follow a topic no more, also if it was not followed."""
    services.dispatcher.unsubscribe(Topic.parse(action.type, action.id), outbox)
    return Success(message=f"Unsubscribed from {action.type} {action.id}")


async def unsubscribe_all(_: UnsubscribeAll, services: Services, outbox: Outbox) -> Success:
    """Follow nothing any more."""
    count = services.dispatcher.unsubscribe_all(outbox)
    return Success(message=f"Unsubscribed from {count} topics")


async def ping(_: Ping, services: Services, __: Outbox) -> Pong:
    """Say that the server is there."""
    return Pong(timestamp=int(services.now()))
