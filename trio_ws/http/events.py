"""`GET /events`: a line on which the client only listens. Its events are an event stream's blocks.

What it follows stands in the query, and is asked for as a WebSocket would, by the same actions. Who comes
back says with `Last-Event-ID` up to where it has come: browsers do so by themselves.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import parse_qsl

import trio

from trio_ws.actions.services import Services
from trio_ws.codec import encode, encode_event
from trio_ws.errors import ActionError, InvalidMessage, TooManySubscriptions
from trio_ws.events.spelling import spelling
from trio_ws.http.actions import PlainRequest
from trio_ws.http.pages import Page
from trio_ws.line import Line
from trio_ws.messages import Resume, Subscribe, Subscribed, WantedTopic
from trio_ws.paging import PAGE_BYTES
from trio_ws.pulse import Pulse
from trio_ws.topics import Event
from trio_ws.wire.admission import find_token
from trio_ws.wire.blocks import HEARTBEAT, encode_block
from trio_ws.wire.frames import PING
from trio_ws.wire.head import Head, Refusal, encode_head
from trio_ws.wire.stream import Wire

METHODS = ("GET", "HEAD", "OPTIONS")
CONTENT_TYPE = "text/event-stream"
# Of all snapshots together, which are in memory until the client has taken them: eight of the longest.
FIRST_BYTES = 8 * PAGE_BYTES
# What the response says: nobody may keep it, and a proxy (nginx) is not to hold it back until it is long.
_HEADERS = {
    "Content-Type": CONTENT_TYPE,
    "Cache-Control": "no-store",
    "Connection": "close",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


def _block(event: Event) -> bytes:
    return encode_block(event.type, encode_event(event), position=str(event.position))


BLOCKS = spelling(_block)


class Query(NamedTuple):
    """What is asked for.

    Attributes:
        topics: What to follow.
        after: A position. Events after it are sent first. None: the end of the log.
        snapshot: Whether each topic's state is sent first.
    """

    topics: list[WantedTopic]
    after: str | None
    snapshot: bool


class EventStream(Line):
    """Serves one client that has asked for events.

    Args:
        wire: The client's.
        services: The server's.
        pulse: Says when to send a comment, which shows that we are there.
        log_fields: What each log line about the client says.
        told: What the response says to the page that calls: see `admit_page`.
    """

    KIND = "event_stream"
    _request_type = PlainRequest

    def __init__(
        self,
        wire: Wire,
        services: Services,
        pulse: Pulse,
        log_fields: dict[str, object],
        *,
        told: Mapping[str, str],
    ) -> None:
        super().__init__(wire, services, pulse, log_fields, BLOCKS)
        self._told = told
        self._over = trio.Event()  # the client has gone, or we end it

    async def admit(self, head: Head) -> bytes:
        """Follow what is asked for, and return the response's head; the first blocks wait in the outbox.

        There it has the time that all else has that goes out: a megabyte of snapshots takes a slow client
        longer than a head may.

        Raises:
            Refusal: the caller may not, or asks for what can't be.
        """
        try:
            if head.has_body:
                raise InvalidMessage("A request for events has no body")
            query = read_query(head)
            if (token := find_token(head)) is not None:
                await self._session.authenticate(token)
            blocks = await self._follow(query)
        except ActionError as error:
            request = self._request("")
            raise _refused(request, request.refuse(error)) from None
        with suppress(trio.BrokenResourceError):  # it is being ended
            for block in blocks:
                self._outbox.put(block)
        return respond_to_head(self._told)

    async def _follow(self, query: Query) -> list[bytes]:
        """Follow what is asked for, and return the first blocks.

        Raises:
            Refusal: some of it can't be followed.
            TooManySubscriptions: it is too much to tell.
        """
        # While one snapshot is read, what happens to the topics before it waits in the log: else it would be
        # sent before older events of the topics after it.
        self._follower.hold()
        most = self._settings.requests_burst
        if query.snapshot and most is not None and len(query.topics) > most:  # waiting would not help
            raise TooManySubscriptions(f"A stream may begin with {most} snapshots")
        blocks: list[bytes] = []
        for action in self._wanted(query):
            request = self._request(encode(action).decode())
            page = await request.respond()
            if request.failure is not None:
                raise _refused(request, page)
            blocks += _tell(_followed(request), page.body, query.after, is_first=not blocks)
            if sum(map(len, blocks)) > FIRST_BYTES:
                raise TooManySubscriptions("These snapshots are too long: ask for fewer at a time")
        return blocks

    def _request(self, text: str) -> PlainRequest:
        return self._request_type(text, self._services, self._session)

    def _wanted(self, query: Query) -> Iterator[Subscribe | Resume]:
        """Return the actions that follow what is asked for."""
        if query.snapshot:
            for topic in query.topics:
                yield Subscribe(type=topic.type, id=topic.id, after=query.after, snapshot=True)
        else:
            after = str(self._services.dispatcher.log.end) if query.after is None else query.after
            yield Resume(after=after, topics=query.topics)

    async def _read(self) -> None:
        try:
            with self._reading:
                while await self._wire.receive_unread():
                    pass
            if self._ending is None and trio.current_time() >= self._reading.deadline:
                self._session.run_out()
            if self._ending is None:  # it has gone: nobody reads any more
                self._running.deadline = trio.current_time()
            self._beat.leave()
        except Exception as error:  # noqa: BLE001 - a bug, which is this connection's alone
            self.fail(error)
        finally:
            self._over.set()

    async def _answer(self) -> None:
        await self._over.wait()

    def _keep_alive(self) -> None:
        self._outbox.control(PING, HEARTBEAT)
        self._set_beat(self._settings.ping_seconds)

    def _last_words(self) -> bytes | None:
        """Return why we end it, and when to come back; None: there is nobody to read that."""
        if (ending := self._ending) is None:
            return None
        data = {"code": int(ending.code), "reason": ending.reason}
        return encode_block("end", encode(data), retry=ending.retry_after)

    def _how_it_ended(self) -> str:
        return "gone"


def read_query(head: Head) -> Query:
    """Return what a request for events asks for.

    Raises:
        InvalidMessage: that is not what can be asked for.
    """
    try:
        given = parse_qsl(head.query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:  # UnicodeError is one
        given = []
    topics: list[WantedTopic] = []
    others: dict[str, str] = {}
    for name, value in given:
        if name == "topic":
            type_, _, id_ = value.partition(":")
            topics.append(WantedTopic(type_, id_))
        elif name in ("after", "snapshot") and name not in others:
            others[name] = value
        else:
            raise InvalidMessage(f"`{name[:40]}` is twice in the query, or unknown there")
    if not topics:
        raise InvalidMessage("Expected a query such as `topic=invoice:UID&topic=account:1`")
    if (snapshot := others.get("snapshot", "false")) not in ("true", "false"):
        raise InvalidMessage("Expected `snapshot=true` or `snapshot=false`")
    # Who has seen no event yet may say so with an empty one.
    after = next(filter(None, head.values("last-event-id")), others.get("after"))
    return Query(topics, after, snapshot == "true")


def respond_to_head(told: Mapping[str, str]) -> bytes:
    """Return the head of a stream's response, which is all that HEAD is answered.

    Args:
        told: What `admit_page` returned.
    """
    return encode_head(200, {**_HEADERS, **told})


def _tell(followed: Subscribed, reply: bytes, after: str | None, *, is_first: bool) -> Iterator[bytes]:
    """Return the blocks for a client that follows something now.

    The first position is the one from which it goes on, with all topics: a later one would be its last if
    it came no further, and what it had not received by then would be lost.
    """
    begins = after if after is not None and followed.recovered else followed.position
    yield encode_block("subscribed", reply.rstrip(), position=begins if is_first else None)
    if not followed.recovered:
        yield encode_block("gap", encode({"position": followed.position}))


def _followed(request: PlainRequest) -> Subscribed:
    followed: Subscribed = request.reply.data  # type: ignore[union-attr]
    return followed


def _refused(request: PlainRequest, page: Page) -> Refusal:
    given = None if request.failure is None else request.failure.code
    refusal = Refusal(page.status, "Events are not to be had", given=given, json=page.body)
    refusal.headers.update(page.headers)
    return refusal
