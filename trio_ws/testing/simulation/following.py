"""What a client follows, on this line and the next ones, and how it asks for that."""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import msgspec
import trio

from trio_ws.testing.simulation.reader import Reader
from trio_ws.testing.simulation.truth import Told
from trio_ws.topics import Position

if TYPE_CHECKING:
    from trio_ws.testing.simulation.client import Client

MOST = 3  # topics that a client follows, one by one
CROWD = 900  # addresses that one may follow besides: with the others, no more than one connection may
NO_SNAPSHOT = msgspec.Raw()


class _Followed(msgspec.Struct):
    position: str
    recovered: bool = True
    snapshot: msgspec.Raw = NO_SNAPSHOT
    next: str | None = None


class Following:
    """The topics of one client.

    Args:
        client: Whose they are.

    Attributes:
        reader: What it must be told, and has been.
        since: When it asked last for what was before: from then on it is told.
    """

    def __init__(self, client: "Client") -> None:
        self.reader = Reader(client.run.truth, client.credentials.view)
        self.since = 0.0
        self._client = client
        self._wanted: dict[str, None] = {}

    def begin(self) -> None:
        """Go on from where the last line ended, or begin."""
        self.reader.topics.clear()
        if self._client.credentials.view.is_customer:
            self._wanted = {topic: None for topic in self._wanted if topic.startswith(_INVOICE)}
        if self._wanted and self.reader.position is not None:
            self._resume([*self._wanted], self.reader.position)
        else:
            for topic in self._wanted:
                self._subscribe(topic)

    def pause(self) -> None:
        """Note that this line is told nothing any more, until it begins again."""
        self.reader.topics.clear()

    def follow(self, topic: str, how: str, own: Random) -> None:
        """Follow a topic, on this line and the next ones, and one of before no more where these are many.

        Args:
            topic: Its type and id.
            how: Whether it asks for a `snapshot`, for what was `after` a position that it was told, or both.
            own: Says which position.
        """
        credentials, account = self._client.credentials, self._client.credentials.account
        if credentials.is_becoming:
            return  # who is to say what it may follow?
        if credentials.view.is_customer and not topic.startswith(_INVOICE):
            self._client.ask("follow", topic, _subscribe(topic), must="unauthorized")
        elif topic.startswith("account:") and account is not None and topic != f"account:{account}":
            self._client.ask("follow", topic, _subscribe(topic), scope="read", must="forbidden")
        elif topic not in self._wanted:
            few = [wanted for wanted in self._wanted if not wanted.startswith(_ADDRESS)]
            if len(few) >= MOST:
                self._unsubscribe(few[0])
            after = own.choice(self.reader.told) if "after" in how and self.reader.told else None
            self._subscribe(topic, after, snapshot="snapshot" in how)

    def follow_too_much(self) -> None:
        """As a customer, ask for an invoice's events and for an address's, and get neither."""
        credentials, after = self._client.credentials, self.reader.position
        if after is not None and credentials.view.is_customer and not credentials.is_becoming:
            fields = {"after": str(after), "topics": _named(["invoice:any", "address:here"])}
            self._client.ask("resume", "of an address", fields, must="unauthorized")

    def follow_crowd(self) -> None:
        """Follow many addresses at once, from a position on, in three messages."""
        crowd = [f"{_ADDRESS}{number}" for number in range(CROWD)]
        is_customer = self._client.credentials.view.is_customer
        if self.reader.position is not None and crowd[0] not in self._wanted and not is_customer:
            self._wanted.update(dict.fromkeys(crowd))
            third, after = len(crowd) // 3, str(self.reader.position)
            for begin in (0, third):
                topics = _named(crowd[begin : begin + third])
                named = {"action": "resume", "more": True, "after": after, "topics": topics}
                self._client.ask("name", f"{third} topics", named, scope="read")
            self._resume(crowd, self.reader.position, left=crowd[2 * third :])

    def unfollow(self, own: Random) -> None:
        """Follow one of its topics no more."""
        if self._wanted:
            self._unsubscribe(own.choice(list(self._wanted)))

    def _subscribe(self, topic: str, after: Position | None = None, *, snapshot: bool = False) -> None:
        self._wanted[topic] = None
        fields = _subscribe(topic)
        if after is not None:
            fields["after"] = str(after)
        if snapshot:
            fields["snapshot"] = True
        self._client.ask(
            "follow",
            f"{topic} {after or ''} {'snapshot' if snapshot else ''}",
            fields,
            scope="read",
            for_customers=True,
            done=partial(self._followed, [topic], after),
            again=self._client.cut,
        )

    def _unsubscribe(self, topic: str) -> None:
        del self._wanted[topic]
        self._client.ask(
            "unfollow",
            topic,
            {**_subscribe(topic), "action": "unsubscribe"},
            scope="read",
            for_customers=True,
            done=lambda _: self.reader.unfollow(topic),
            again=partial(self._wanted.setdefault, topic),
        )

    def _resume(self, topics: Sequence[str], after: Position, *, left: Sequence[str] | None = None) -> None:
        """Follow topics from a position on.

        Args:
            topics: All of them.
            after: The position.
            left: Those that it has not named in a message before; None: all.
        """
        self._client.ask(
            "resume",
            str(after),
            {"after": str(after), "topics": _named(topics if left is None else left)},
            scope="read",
            for_customers=True,
            done=partial(self._followed, topics, after),
            again=self._client.cut,
        )

    def _followed(self, topics: Sequence[str], after: Position | None, told: Told) -> None:
        data = msgspec.json.decode(told.data, type=_Followed)
        self.since = trio.current_time()
        position, is_excused = Position.parse(data.position), self._client.is_troubled_since(0)
        self.reader.follow(
            topics,
            position,
            after,
            recovered=data.recovered,
            excused=is_excused,
            is_snapshot=data.snapshot is not NO_SNAPSHOT,
        )
        if data.snapshot is not NO_SNAPSHOT:
            run, view = self._client.run, self._client.credentials.view
            has_lost = topics[0].startswith("price:") and run.price_losses > 0  # the log does not say which
            is_whole = data.next is None and not has_lost
            run.truth.check_snapshot(topics[0], position, bytes(data.snapshot), view, is_whole=is_whole)


_ADDRESS = "address:many-"
_INVOICE = "invoice:"


def _subscribe(topic: str) -> dict[str, object]:
    (named,) = _named([topic])
    return {"action": "subscribe", **named}


def _named(topics: Sequence[str]) -> list[dict[str, str]]:
    return [dict(zip(("type", "id"), topic.split(":"), strict=True)) for topic in topics]
