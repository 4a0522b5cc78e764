"""Accounts and their tokens: made, listed and revoked in the database of a server that runs."""

import re
from typing import Annotated

from cyclopts import Parameter

from trio_ws.cli.database import run_query
from trio_ws.cli.options import NO_OPTIONS, Options
from trio_ws.database import tokens
from trio_ws.identity import SCOPES, hash_token, new_token
from trio_ws.settings import SettingsError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # of a duration, in seconds


def create_account(*, name: str, options: Options = NO_OPTIONS) -> None:
    """Make an account, and print its id."""
    print(run_query(options, tokens.create_account, name))


def create_token(
    *,
    account: Annotated[int, Parameter(help="Id of the account that it is for.")],
    scope: Annotated[str, Parameter(help="read, write, process: some of them, with commas.")],
    expires: Annotated[str | None, Parameter(help="How long it lasts: 30d, 12h. Default: for ever.")] = None,
    options: Options = NO_OPTIONS,
) -> None:
    """Make a token, and print it on the last line: it can't be shown again."""
    scopes = [part.strip() for part in scope.split(",")]
    if unknown := [part for part in scopes if part not in SCOPES]:
        raise SettingsError(f"--scope: {unknown[0]!r} is none of {', '.join(SCOPES)}")
    seconds = None if expires is None else _seconds(expires)
    token = new_token()
    number = run_query(options, tokens.create_token, account, hash_token(token), scopes, seconds)
    print(f"token {number} of account {account}, {','.join(scopes)}; it is shown this once:")
    print(token)


def list_tokens(*, options: Options = NO_OPTIONS) -> None:
    """Print a line for each token: id, account, scopes, and when it was made, expires, was revoked."""
    for number, account, scopes, created_at, expires_at, revoked_at in run_query(options, tokens.list_tokens):
        end = f"revoked {revoked_at}" if revoked_at else f"expires {expires_at or 'never'}"
        print(f"{number}  account {account}  {','.join(scopes)}  created {created_at}  {end}")


def revoke_token(
    token: Annotated[int, Parameter(name="ID", help="As `trio-ws token list` shows it.")],
    /,
    *,
    options: Options = NO_OPTIONS,
) -> None:
    """Have a token be good no more; what is connected with it is disconnected within a second."""
    run_query(options, tokens.revoke_token, token)
    print(f"revoked token {token}")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if match is None or int(match[1]) == 0:
        raise SettingsError(f"--expires: {text!r} is no duration such as 30d, 12h or 90m")
    return int(match[1]) * UNITS[match[2]]
