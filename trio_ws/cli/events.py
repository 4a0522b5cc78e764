"""`events tail`: the event log as it stands in the database, with or without a server before it."""

import contextlib
import json
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import psycopg
import trio
from cyclopts import Parameter

from trio_ws import client
from trio_ws.cli.asking import print_event
from trio_ws.cli.database import running_database
from trio_ws.cli.options import NO_OPTIONS, AsJson, Options
from trio_ws.database import migrations
from trio_ws.database.gateway import Gateway
from trio_ws.errors import ActionError, InvalidValue, StartupError, leaves
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.log import Log, LogTrimmedError
from trio_ws.events.tail import Tail
from trio_ws.logs import configure_logs
from trio_ws.settings import Settings, SettingsError
from trio_ws.topics import Event, Position, Topic

RETRY_SECONDS = 0.5  # pause while the log can't be read

Show = Callable[[client.Event | client.Gap], None]


def tail(
    *,
    account: Annotated[int | None, Parameter(help="Only events of this account.")] = None,
    after: Annotated[str | None, Parameter(help="Position to resume from. Default: only new events.")] = None,
    begin: Annotated[
        Literal["start", "end"], Parameter(name="--from", help="start: print all events that are kept first.")
    ] = "end",
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Read the event log itself, in order, and go on with what comes, until Ctrl-C.

    It needs no server, and keeps running when PostgreSQL is away for a while.
    """
    settings, _ = options.load()
    configure_logs(settings)
    try:
        position = Position.parse(after) if after is not None else None
    except InvalidValue:
        raise SettingsError(f"--after: {after!r} is no position") from None
    if position is not None and begin == "start":
        raise SettingsError("give either --after or --from start")
    conninfo = running_database(settings)
    migrations.require_migrated(settings.listen_url or conninfo)
    topic = None if account is None else str(Topic("account", str(account)))
    try:
        start: Position | Literal["start"] | None = position if begin == "end" else "start"
        trio.run(_tail, settings, conninfo, start, topic, partial(print_event, as_json=as_json))
    except* KeyboardInterrupt:
        raise KeyboardInterrupt from None
    except* StartupError as errors:
        raise leaves(errors)[0] from None
    except* LogTrimmedError:
        raise StartupError("the log was trimmed past the place that was read: begin anew") from None
    except* (ActionError, psycopg.Error) as errors:
        raise StartupError(f"can't read the event log: {leaves(errors)[0]}") from None


async def _tail(
    settings: Settings,
    conninfo: str,
    after: Position | Literal["start"] | None,
    topic: str | None,
    show: Show,
) -> None:
    gateway = Gateway(conninfo, settings)
    log = Log(gateway, settings.log_memory_bytes)
    follower = Tail(gateway, Dispatcher(log), settings.poll_seconds)
    with contextlib.closing(gateway):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.watch, follower.wake)
            await nursery.start(follower.run)
            if isinstance(after, Position) and not await log.prove(after):
                raise StartupError(f"the log goes from {log.begin} to {log.end}, without {after}")
            start = log.begin if after == "start" else after or log.end
            await _print_from(log, start.seq, topic, show)


async def _print_from(log: Log, reached: int, topic: str | None, show: Show) -> None:
    restarts = log.restarts
    while True:
        await log.reach(reached + 1, seconds=1)
        if log.restarts != restarts:
            restarts, reached = log.restarts, log.end.seq
            show(client.Gap(str(log.end)))
        try:
            events, reached = await log.read(reached, None if topic is None else [topic])
        except ActionError:
            await trio.sleep(RETRY_SECONDS)  # The gateway has said why.
            continue
        for event in events:
            show(_as_client_sees(event))


def _as_client_sees(event: Event) -> client.Event:
    data, previous = json.loads(bytes(event.data)), json.loads(bytes(event.previous))
    return client.Event(event.type, data, previous, str(event.position))
