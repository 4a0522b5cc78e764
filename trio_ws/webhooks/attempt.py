"""One attempt to deliver a webhook: its headers, its signature, its deadline, and what came of it.

The server's deliveries and `trio-ws webhooks forward` make the same request, so they share it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import trio

from trio_ws.webhooks import signature
from trio_ws.webhooks.answer import Answer
from trio_ws.webhooks.post import PostError

Post = Callable[[str, Mapping[str, str], bytes], Awaitable[Answer]]  # URL, headers, body

ERROR_CHARACTERS = 200


class Webhook(NamedTuple):
    """What is sent.

    Attributes:
        id: What the receiver knows it by: the same at each attempt.
        url: Where it goes.
        body: The event.
        secrets: What signs it, the newest first.
    """

    id: str
    url: str
    body: bytes
    secrets: tuple[str, ...]


async def attempt(post: Post, webhook: Webhook, *, seconds: float, timestamp: int) -> Answer | str:
    """Return the answer, or in a few words why there is none.

    Args:
        post: How a POST is made.
        webhook: What is sent.
        seconds: How long it may take.
        timestamp: What is signed as the time, in Unix seconds.
    """
    headers = {
        "content-type": "application/json",
        "user-agent": "trio-ws",
        "trio-ws-delivery": webhook.id,
        **signature.headers(webhook.id, webhook.body, timestamp, webhook.secrets),
    }
    try:
        with trio.fail_after(seconds):
            return await post(webhook.url, headers, webhook.body)
    except PostError as error:
        return str(error)[:ERROR_CHARACTERS]
    except trio.TooSlowError:
        return f"no answer in {seconds:g} s"
