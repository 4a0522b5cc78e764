"""Who is connected and what the server measures, in all of its processes."""

import heapq
import itertools
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import itemgetter

import msgspec
from msgspec import UNSET, Struct

import trio_ws
from trio_ws import metrics
from trio_ws.actions.services import Client, Outlined, Services
from trio_ws.actions.session import Session
from trio_ws.errors import CloseCode, NotFound, Unavailable
from trio_ws.messages import Connected, EndConnection, FetchFigures, Figures, ListConnections, Success
from trio_ws.paging import PAGE_BYTES, PAGE_DEFAULT, Cursor

Key = tuple[int, int, int]  # when it was opened, in µs of Unix time; of which process; its number there
_ID = re.compile(r"(?P<process>[0-9]{1,18})-(?P<number>[0-9]{1,18})", re.ASCII)  # of a connection
LAST: Key = (2**63, 0, 0)  # which all are before


class Find(Struct, tag=True):
    """Asks for connections, the newest first.

    Args:
        account_id: Of this account; None: of any.
        address: From there; None: from anywhere.
        waiting: Only those for which something waits.
        before: Those after this one in the list.
        most: Maximum number.
    """

    account_id: int | None
    address: str | None
    waiting: bool
    before: Key | None
    most: int


class End(Struct, tag=True):
    """Asks the process that has a connection to end it."""

    process: int
    number: int


class Measure(Struct, tag=True):
    """Asks for what is measured."""


class Found(Struct):
    """A connection, and its place in the list."""

    key: Key
    shown: Connected


class Measured(Struct):
    """What one process measures."""

    process: int
    values: dict[str, float]


Question = Find | End | Measure
_questions = msgspec.json.Decoder(Question)


async def list_connections(action: ListConnections, services: Services, session: Session) -> Success:
    """Ask all processes, and return a page of what they have, the newest first."""
    most = action.limit or PAGE_DEFAULT
    question = Find(
        session.identity.account_asked_for(action.account_id),
        action.address,
        bool(action.waiting),
        None if action.cursor is None else _key(action.cursor),
        most + 1,
    )
    answers, missing = await services.siblings.ask(msgspec.json.encode(question))
    found = sorted(
        (one for answer in answers for one in msgspec.json.decode(answer, type=list[Found])),
        key=lambda one: one.key,
        reverse=True,
    )
    page = _fitting(found[:most])
    return Success(
        message=f"{missing} of the server's processes did not answer" if missing else UNSET,
        data=[one.shown for one in page],
        next=_cursor(page[-1].key) if len(found) > len(page) else UNSET,
    )


def _fitting(found: list[Found]) -> list[Found]:
    """Return the first of them, up to the one that ends a page of `PAGE_BYTES`."""
    sizes = itertools.accumulate((len(msgspec.json.encode(one.shown)) for one in found), initial=0)
    return [one for one, before in zip(found, sizes, strict=False) if before < PAGE_BYTES]


async def end_connection(action: EndConnection, services: Services, _: Session) -> Success:
    """Ask the process that has it to end a connection.

    Raises:
        NotFound: no process has it.
        Unavailable: none of those that answer has it.
    """
    if (match := _ID.fullmatch(action.id)) is None:
        raise NotFound("Connection not found")
    question = msgspec.json.encode(End(int(match["process"]), int(match["number"])))
    answers, missing = await services.siblings.ask(question)
    if not any(msgspec.json.decode(answer, type=bool) for answer in answers):
        if missing:
            raise Unavailable(f"{missing} of the server's processes did not answer")
        raise NotFound("Connection not found")
    return Success(message=f"Closing connection {action.id}")


async def fetch_figures(_: FetchFigures, services: Services, __: Session) -> Success:
    """Ask all processes what they measure, and return it as one server's."""
    answers, missing = await services.siblings.ask(msgspec.json.encode(Measure()))
    measured = [msgspec.json.decode(answer, type=Measured) for answer in answers]
    figures = Figures(
        version=trio_ws.__version__,
        processes=sorted(one.process for one in measured),
        missing=missing,
        values=metrics.together([one.values for one in measured]),
    )
    return Success(data=figures)


def answer(services: Services, question: bytes) -> bytes:
    """Return what this process has to say to a question of one of them."""
    asked = _questions.decode(question)
    if isinstance(asked, Find):
        return msgspec.json.encode(_find(services.clients(), asked))
    if isinstance(asked, End):
        return msgspec.json.encode(_end(services, asked))
    return msgspec.json.encode(Measured(os.getpid(), metrics.figures()))


def _find(clients: Iterable[Client], asked: Find) -> list[Found]:
    process = os.getpid()
    before = asked.before or LAST
    there = ((client, one) for client in clients if (one := client.outline()) is not None)
    wanted = (
        (key, client, one)
        for client, one in there
        if asked.account_id in (None, one.identity.account_id)
        and asked.address in (None, one.address)
        and (one.waiting_bytes > 0 or not asked.waiting)
        and (key := _key_of(client, one, process)) < before
    )
    newest = heapq.nlargest(asked.most, wanted, key=itemgetter(0))
    return [Found(key, _shown(client, one, process)) for key, client, one in newest]


def _end(services: Services, asked: End) -> bool:
    if asked.process != os.getpid():
        return False
    for client in services.clients():
        if client.number == asked.number and client.outline() is not None:
            client.send_away(CloseCode.GOING_AWAY, services.settings.close_seconds)
            return True
    return False


def _shown(client: Client, one: Outlined, process: int) -> Connected:
    described = client.describe()
    return Connected(
        id=f"{process}-{client.number}",
        kind=described.kind,
        address=one.address,
        account_id=one.identity.account_id,
        token_id=one.identity.token_id,
        scopes=one.identity.scopes,
        opened_at=datetime.fromtimestamp(one.opened_at, UTC).isoformat(timespec="microseconds"),
        topics=described.topics,
        topic_count=described.topic_count,
        waiting_bytes=one.waiting_bytes,
        is_catching_up=described.is_catching_up,
        requests=described.requests,
        messages=described.messages,
    )


def _key_of(client: Client, one: Outlined, process: int) -> Key:
    return round(one.opened_at * 1_000_000), process, client.number


def _cursor(key: Key) -> str:
    moment, process, number = key
    return str(Cursor(f"c{moment}-{process}", number))


def _key(cursor: str) -> Key:
    parsed = Cursor.parse(cursor, "c[0-9]{1,18}-[0-9]{1,18}")
    moment, _, process = parsed.kind[1:].partition("-")
    return int(moment), int(process), parsed.last
