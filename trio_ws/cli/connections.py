"""`trio-ws connections`: who is connected to a running server, in all of its processes."""

import sys
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from trio_ws.cli.asking import as_json_text, ask_server
from trio_ws.cli.options import AsJson
from trio_ws.cli.target import NO_TARGET, Target
from trio_ws.messages import Connected, EndConnection, ListConnections

SHOWN = 50  # connections that a list shows unless another limit is given


def list_connections(
    *,
    account: Annotated[int | None, Parameter(help="Only connections of this account.")] = None,
    address: Annotated[str | None, Parameter(help="Only connections from this address.")] = None,
    waiting: Annotated[
        bool, Parameter(negative=(), help="Only connections with data that the client has not read.")
    ] = False,
    limit: Annotated[PositiveInt, Parameter(help="Maximum number of connections.")] = SHOWN,
    as_json: AsJson = False,
    target: Target = NO_TARGET,
) -> None:
    """Print a line for each open WebSocket and event stream, the newest first."""
    wanted = ListConnections(account_id=account, address=address, waiting=waiting or None)

    async def ask() -> None:
        async with target.server.connect() as server:
            shown = 0
            async for found in server.all(wanted):
                if shown == limit:
                    print(f"trio-ws: there are more than {limit}; see --limit", file=sys.stderr)
                    break
                print(as_json_text(found) if as_json else _line(found))
                shown += 1

    ask_server(ask)


def end_connection(
    connection: Annotated[str, Parameter(name="ID", help="As `trio-ws connections list` shows it.")],
    /,
    *,
    target: Target = NO_TARGET,
) -> None:
    """Close a connection. Its client reconnects: to keep it out, revoke its token."""

    async def ask() -> None:
        async with target.server.connect() as server:
            reply = await server.do(EndConnection(id=connection))
            print(reply.message)

    ask_server(ask)


def _line(one: Connected) -> str:
    who = "operator" if "admin" in one.scopes and one.token_id else f"account {one.account_id or '–'}"
    token = "no token" if one.token_id is None else f"token {one.token_id}"
    behind = ", catching up" if one.is_catching_up else ""
    counts = f"{one.topic_count} topics  {one.requests} requests  {one.messages} messages"
    where = one.address or "–"
    return (
        f"{one.id}  since {one.opened_at}  {one.kind}  {where}  {who}, {token}  {counts}"
        f"  {one.waiting_bytes} bytes waiting{behind}"
    )
