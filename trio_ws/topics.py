"""Topics, which can be followed, their events, and positions in the event log."""

import re
import uuid
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct, UnsetType

from trio_ws.errors import InvalidTopic, InvalidValue

_POSITION = re.compile(r"(?P<name>[\w-]{1,64})\.(?P<seq>[0-9]{1,18})", re.ASCII)


class Position(NamedTuple):
    """A place in the event log: an event's name and number.

    The same name at the same number means that all up to there is the same, in whatever log.
    """

    name: str
    seq: int

    def __str__(self) -> str:
        return f"{self.name}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Return the position that a client was told.

        Raises:
            InvalidValue: it is none.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidValue("Expected a position as the server tells it - at `$.after`")
        return cls(match["name"], int(match["seq"]))


NOTHING = Raw(b"null")


class Event(Struct, frozen=True, array_like=True, gc=False):
    """A change that committed, as the event log holds it, and as read_log() of the schema writes it.

    Args:
        seq: Its number in the log, without gaps.
        type: `invoice.` or `payment.`, and `created` or `updated`; or `price.updated`.
        topics: Whom it concerns, as `str(Topic)`.
        data: The row's whole new state, as JSON.
        previous: The changed fields' old values, as JSON; `NOTHING` for a new invoice.
        at: When it was written down, in Unix seconds by the database's clock.
        name: That of the step that numbered it.
        frame: It as a WebSocket is sent it, once one was.
    """

    seq: int
    type: str
    topics: tuple[str, ...]
    data: Raw
    previous: Raw = NOTHING
    at: float = 0.0
    name: str = ""
    frame: bytes = b""

    @property
    def position(self) -> Position:
        """Its place in the log."""
        return Position(self.name, self.seq)

    def is_visible_to(self, account: str | None) -> bool:
        """Return whether a client of that account may see it; None: of any. Prices are for all."""
        return account is None or account in self.topics or self.type == "price.updated"


class EventMessage(Struct):
    """An event on the wire."""

    type: str
    data: Raw
    previous: Raw | UnsetType
    position: str


class Topic(NamedTuple):
    """What can be followed; `str(topic)` is how the event log spells it."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"

    @classmethod
    def parse(cls, type_: str, given: str | int) -> "Topic":
        """Return the topic in the one spelling that events use, so that `"1"` and `1` are the same.

        An id that nothing can have is one that nothing will match.

        Raises:
            InvalidTopic: there is no such type, or the id is too long, or has what no text of PostgreSQL has.
        """
        if type_ == "invoice" and _CANONICAL_UID.fullmatch(str(given)):  # nearly always: 2 µs sooner
            return cls(type_, str(given))
        if type_ not in TOPIC_TYPES:
            raise InvalidTopic(f"Unknown topic type {type_!r}", f"One of {', '.join(TOPIC_TYPES)}")
        try:
            id_: str = msgspec.convert(str(given), type=_TopicId)
        except msgspec.ValidationError as error:
            raise InvalidTopic(f"Invalid {type_} id", f"{error} - at `$.id`") from None
        if type_ == "invoice":
            id_ = str(parse_uid(id_) or id_)
        return cls(type_, id_)

    @property
    def account_id(self) -> int:
        """Whose topic it is; 0, which no account has, where its id is none."""
        return int(self.id) if _ACCOUNT_ID.fullmatch(self.id) else 0


TOPIC_TYPES = ("invoice", "account", "address", "price")
_TopicId = Annotated[str, Meta(max_length=128, pattern=r"^[^\x00]*\Z")]
_ACCOUNT_ID = re.compile("[1-9][0-9]{0,17}", re.ASCII)
_CANONICAL_UID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


def parse_uid(text: str) -> uuid.UUID | None:
    """Return an invoice's uid; None where no invoice can have that name."""
    try:
        return msgspec.convert(text, uuid.UUID)  # in a third of the time, the two forms that are usual
    except msgspec.ValidationError:
        pass
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
