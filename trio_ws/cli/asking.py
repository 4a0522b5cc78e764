"""The commands that ask a running server, as any client would, and how events are printed."""

import json
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import msgspec
import trio
from cyclopts import Parameter
from cyclopts.completion import CompletionContext

from trio_ws import client
from trio_ws.actions.table import ACTIONS
from trio_ws.cli import plain
from trio_ws.cli.options import AsJson
from trio_ws.cli.printing import while_read
from trio_ws.cli.target import NO_TARGET, Place, Target
from trio_ws.cli.words import suggest, with_list
from trio_ws.documents.messages import fields_in_words, prose
from trio_ws.errors import StartupError, leaves
from trio_ws.settings import SettingsError


def listen(
    type_: Annotated[
        Literal["invoice", "account", "address", "price"], Parameter(name="TYPE", help="Kind of topic.")
    ],
    id_: Annotated[str, Parameter(name="ID", help="Its id.")],
    /,
    *,
    after: Annotated[str | None, Parameter(help="Position to resume from. Default: only new events.")] = None,
    as_json: AsJson = False,
    sse: Annotated[
        bool, Parameter(help="Use plain HTTP, and print the stream as it is.", negative=())
    ] = False,
    target: Target = NO_TARGET,
) -> None:
    """Follow a topic and print its events, until Ctrl-C. Reconnects by itself."""
    if sse:
        if as_json:
            raise SettingsError("--sse prints the stream as it is: leave out --json")
        plain.listen(plain.Server(target.server), f"{type_}:{id_}", after)

    async def follow() -> None:
        async with (
            target.server.connect(is_patient=True) as server,
            server.follow((type_, id_), after=after) as events,
        ):
            async for event in events:
                print_event(event, as_json=as_json)

    ask_server(follow)


_ABOUT = {row.name: prose(row.action) for row in ACTIONS.values()}


def _fields_of(action: str) -> dict[str, str]:
    """Return what an action may be given, and what each is; of one that we don't know, nothing."""
    for row in ACTIONS.values():
        if row.name == action:
            words = fields_in_words(row.action)
            return {
                field.encode_name: words.get(field.name, "")
                for field in msgspec.structs.fields(row.action)
                if field.name != "request_id"  # the client's own
            }
    return {}


def _fields_left(typed: CompletionContext) -> dict[str, str]:
    """Return how each field begins that an action may still be given, and what it is."""
    given = {field.partition("=")[0] for field in typed["fields"].raw_tokens}
    fields = _fields_of(typed["action"].raw or "")
    return {f"{name}=": about for name, about in fields.items() if name not in given}


@with_list("Actions", _ABOUT)
def call(
    action: Annotated[str, Parameter(help="Which action.", completer=lambda _: _ABOUT)],
    /,
    *fields: Annotated[str, Parameter(help="name=value of each field.", completer=_fields_left)],
    http: Annotated[bool, Parameter(help="Use plain HTTP.", negative=())] = False,
    target: Target = NO_TARGET,
) -> None:
    """Do one action and print the data of its reply. The value of a field is JSON or text."""
    given = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            raise SettingsError(f"{field!r} is not name=value")
        try:
            given[name] = json.loads(value, parse_float=Decimal)
        except ValueError:
            given[name] = value

    hint = _suggest(action, given)
    if http:
        print(as_json_text(plain.call(plain.Server(target.server), action, given, hint)))
        return

    async def ask() -> None:
        async with target.server.connect() as server:
            print(as_json_text(await server.call(action, **given)))

    ask_server(ask, hint)


def _suggest(action: str, given: Mapping[str, Any]) -> str:
    """Return what was meant, where an action or a field looks like one that there is; else nothing."""
    if action not in _ABOUT:
        return suggest(action, _ABOUT, "actions")
    fields = _fields_of(action)
    for name in given:
        if name not in fields and (close := get_close_matches(name, fields, n=1)):
            return f"; {name}: did you mean {close[0]}?"
    return ""


def print_event(event: client.Event | client.Gap, *, as_json: bool) -> None:
    """Print a line, at once: who reads it may be a program. When that has gone, be done."""
    with while_read():
        print(_event_as_json(event) if as_json else _as_text(event), flush=True)


def _event_as_json(event: client.Event | client.Gap) -> str:
    return as_json_text({"gap": isinstance(event, client.Gap), **event._asdict()})


def as_json_text(value: Any) -> str:
    """Return a value as a line of JSON, with decimals as they are."""
    return msgspec.json.format(client.encode(value), indent=0)


def _as_text(event: client.Event | client.Gap) -> str:
    if isinstance(event, client.Gap):
        return f"{event.position}  something may have been missed before this"
    changed = "" if event.previous is None else f"  was {as_json_text(event.previous)}"
    return f"{event.position}  {event.type}  {as_json_text(event.data)}{changed}"


FIRST_ACCOUNT = 1  # which every database has: the one to try things with

Account = Annotated[
    int | None, Parameter(help="Id of the account. Default: the token's; without a token, 1.")
]


async def account_of(server: client.Client, place: Place, given: int | None) -> int:
    """Return which account is meant: the one that is given, or the token's, or the first.

    Raises:
        SettingsError: the token is an operator's, and none is given.
    """
    if given is not None:
        return given
    if place.token is None:
        return FIRST_ACCOUNT
    account: int | None = (await server.call("authenticate", token=place.token))["account_id"]
    if account is None:
        raise SettingsError("an operator's token is of no account: give --account")
    return account


def ask_server(question: Callable[[], Awaitable[None]], hint: str = "") -> None:
    """Run a question to the server, and say what it does not like about it in one line."""
    try:
        trio.run(question)
    except client.Refused as error:
        detail = f" ({error.detail})" if error.detail else ""
        raise StartupError(f"{error}{detail}{hint}") from None
    except client.Disconnected as error:
        raise StartupError(f"{error}: is the server running, and are --url and --ca right?") from None
    except ValueError as error:
        raise SettingsError(str(error)) from None
    except BaseExceptionGroup as errors:
        if any(isinstance(error, KeyboardInterrupt) for error in leaves(errors)):
            raise KeyboardInterrupt from None
        raise
