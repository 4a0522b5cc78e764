"""Accounts and their tokens: made, listed and revoked in the database of a server that runs."""

import re
from typing import Annotated

import msgspec
from cyclopts import Parameter

from trio_ws.cli.asking import as_json_text
from trio_ws.cli.database import run_query
from trio_ws.cli.options import NO_OPTIONS, AsJson, Options
from trio_ws.database import tokens
from trio_ws.identity import ADMIN, SCOPES, hash_token, new_token
from trio_ws.settings import SettingsError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # of a duration, in seconds


def create_account(*, name: str, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Make an account, and print its id."""
    account = run_query(options, tokens.create_account, name)
    print(as_json_text(account) if as_json else account.id)


def list_accounts(*, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Print a line for each account: id, when it was made, and its name."""
    for account in run_query(options, tokens.list_accounts):
        line = f"{account.id}  created {account.created_at}  {account.name}"
        print(as_json_text(account) if as_json else line)


def rename_account(
    account: Annotated[int, Parameter(name="ID", help="As `trio-ws account list` shows it.")],
    name: Annotated[str, Parameter(name="NAME", help="Its new name.")],
    /,
    *,
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Give an account another name."""
    renamed = run_query(options, tokens.rename_account, account, name)
    print(as_json_text(renamed) if as_json else f"renamed account {account}")


def create_token(
    *,
    account: Annotated[
        int | None, Parameter(help="Id of its account. Leave out with the scope admin.")
    ] = None,
    scope: Annotated[str, Parameter(help="read, write and process, separated by commas; or admin.")],
    expires: Annotated[
        str | None, Parameter(help="How long it is valid: 30d, 12h. Default: no limit.")
    ] = None,
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Make a token, and print it on the last line: it can't be shown again.

    The scope admin is for operators: such a token is of no account, and may do everything for any.
    """
    asked = [part.strip() for part in scope.split(",")]
    if unknown := [part for part in asked if part not in (*SCOPES, ADMIN)]:
        raise SettingsError(f"--scope: {unknown[0]!r} is none of {', '.join((*SCOPES, ADMIN))}")
    scopes = [known for known in (*SCOPES, ADMIN) if known in asked]
    if (account is None) != (ADMIN in scopes):
        wrong = "is for operators, without --account" if account else "is for an account: give --account"
        raise SettingsError(f"--scope: {scope} {wrong}")
    seconds = None if expires is None else _seconds(expires)
    token = new_token()
    made = run_query(options, tokens.create_token, account, hash_token(token), scopes, seconds)
    if as_json:
        print(as_json_text(msgspec.structs.replace(made, token=token)))
        return
    print(f"token {made.id} of {_owner(account)}, {','.join(made.scopes)}; it is shown this once:")
    print(token)


def list_tokens(*, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Print a line for each token: id, account, scopes, and when it was made, expires, was revoked."""
    for token in run_query(options, tokens.list_tokens):
        end = f"revoked {token.revoked_at}" if token.revoked_at else f"expires {token.expires_at or 'never'}"
        line = f"{token.id}  {_owner(token.account_id)}  {','.join(token.scopes)}  created {token.created_at}"
        print(as_json_text(token) if as_json else f"{line}  {end}")


def revoke_token(
    token: Annotated[int, Parameter(name="ID", help="As `trio-ws token list` shows it.")],
    /,
    *,
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Have a token be good no more; what is connected with it is disconnected within a second."""
    revoked = run_query(options, tokens.revoke_token, token)
    print(as_json_text(revoked) if as_json else f"revoked token {token}")


def _owner(account: int | None) -> str:
    return "an operator" if account is None else f"account {account}"


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if match is None or int(match[1]) == 0:
        raise SettingsError(f"--expires: {text!r} is no duration such as 30d, 12h or 90m")
    return int(match[1]) * UNITS[match[2]]
