"""What a client that reads on from the log is sent: frames, made and joined once for all who want the same.

Of a herd that resumes, most follow the same topics from the same position. A delivery cost 5 to 7 µs when
each follower encoded its events, and costs 0.9 µs now, much of it in the kernel (`scripts/bench herd`).
"""

from typing import NamedTuple

import msgspec

from trio_ws.events.spelling import FRAMES, Spelling
from trio_ws.topics import Event

# What a view and what is kept of it take beside its frames, and for each topic: measured, rounded up.
VIEW_BYTES, TOPIC_BYTES = 700, 200


class View(NamedTuple):
    """What a follower wants of the log. Those who want the same are sent the same bytes.

    Args:
        topics: Those that any of its events concerns.
        upto: The last event for which that is so; then it wants other topics.
        account: The only account whose events it may see, as a topic; None: any.
        is_folded: Whether prices are left out that a later event replaces.
        together_bytes: About how much it takes at once.
        spelling: How events are spelled for it.
    """

    topics: frozenset[str]
    upto: float
    account: str | None
    is_folded: bool
    together_bytes: int
    spelling: Spelling = FRAMES

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return VIEW_BYTES + TOPIC_BYTES * len(self.topics)


class Chunk(NamedTuple):
    """The next frames of a view.

    Args:
        frames: They, joined.
        messages: How many they are.
        reached: The number of the last event that was looked at.
    """

    frames: bytes
    messages: int
    reached: int


def join(events: list[Event], reached: int, view: View, most_bytes: float) -> Chunk:
    """Return the first frames of what was read of a view's topics.

    Args:
        events: Those that concern any of its topics, in order.
        reached: The number of the last event that was looked at.
        view: The view.
        most_bytes: About how many may go together.
    """
    events = [event for event in events if event.seq <= view.upto and event.is_visible_to(view.account)]
    frames: list[bytes] = []
    size = 0
    for event in _folded(events) if view.is_folded else events:
        if size >= most_bytes:
            return Chunk(b"".join(frames), len(frames), event.seq - 1)
        frames.append(view.spelling.spell(event))
        size += len(frames[-1])
    return Chunk(b"".join(frames), len(frames), int(min(reached, view.upto)))


class _Row(msgspec.Struct):
    id: int


def _folded(events: list[Event]) -> list[Event]:
    """Leave out prices that a later event replaces: who reads slowly wants today's, not each of them."""
    rows = {
        event.seq: msgspec.json.decode(event.data, type=_Row).id
        for event in events
        if event.type == "price.updated"
    }
    latest = {row: seq for seq, row in rows.items()}
    return [event for event in events if event.seq not in rows or latest[rows[event.seq]] == event.seq]
