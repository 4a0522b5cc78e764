"""Accounts and their tokens: made, listed and revoked in the database of a server that runs."""

import json
import re
from typing import Annotated

from cyclopts import Parameter

from trio_ws.cli.database import run_query
from trio_ws.cli.options import NO_OPTIONS, AsJson, Options
from trio_ws.database import tokens
from trio_ws.identity import ADMIN, SCOPES, hash_token, new_token
from trio_ws.settings import SettingsError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # of a duration, in seconds


def create_account(*, name: str, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Make an account, and print its id."""
    account = run_query(options, tokens.create_account, name)
    print(json.dumps({"id": account, "name": name}) if as_json else account)


def list_accounts(*, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Print a line for each account: id, when it was made, and its name."""
    for number, name, created_at in run_query(options, tokens.list_accounts):
        fields = {"id": number, "name": name, "createdAt": created_at}
        print(
            json.dumps(fields, ensure_ascii=False) if as_json else f"{number}  created {created_at}  {name}"
        )


def rename_account(
    account: Annotated[int, Parameter(name="ID", help="As `trio-ws account list` shows it.")],
    name: Annotated[str, Parameter(name="NAME", help="Its new name.")],
    /,
    *,
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Give an account another name."""
    run_query(options, tokens.rename_account, account, name)
    print(json.dumps({"id": account, "name": name}) if as_json else f"renamed account {account}")


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
    scopes = [part.strip() for part in scope.split(",")]
    if unknown := [part for part in scopes if part not in (*SCOPES, ADMIN)]:
        raise SettingsError(f"--scope: {unknown[0]!r} is none of {', '.join((*SCOPES, ADMIN))}")
    if (account is None) != (ADMIN in scopes):
        wrong = "is for operators, without --account" if account else "is for an account: give --account"
        raise SettingsError(f"--scope: {scope} {wrong}")
    seconds = None if expires is None else _seconds(expires)
    token = new_token()
    number = run_query(options, tokens.create_token, account, hash_token(token), scopes, seconds)
    if as_json:
        print(json.dumps({"id": number, "account_id": account, "scopes": scopes, "token": token}))
        return
    print(f"token {number} of {_owner(account)}, {','.join(scopes)}; it is shown this once:")
    print(token)


def list_tokens(*, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Print a line for each token: id, account, scopes, and when it was made, expires, was revoked."""
    names = ("id", "account_id", "scopes", "createdAt", "expiresAt", "revokedAt")
    for row in run_query(options, tokens.list_tokens):
        number, account, scopes, created_at, expires_at, revoked_at = row
        if as_json:
            print(json.dumps(dict(zip(names, row, strict=True))))
            continue
        end = f"revoked {revoked_at}" if revoked_at else f"expires {expires_at or 'never'}"
        print(f"{number}  {_owner(account)}  {','.join(scopes)}  created {created_at}  {end}")


def revoke_token(
    token: Annotated[int, Parameter(name="ID", help="As `trio-ws token list` shows it.")],
    /,
    *,
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Have a token be good no more; what is connected with it is disconnected within a second."""
    run_query(options, tokens.revoke_token, token)
    print(json.dumps({"id": token}) if as_json else f"revoked token {token}")


def _owner(account: int | None) -> str:
    return "an operator" if account is None else f"account {account}"


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if match is None or int(match[1]) == 0:
        raise SettingsError(f"--expires: {text!r} is no duration such as 30d, 12h or 90m")
    return int(match[1]) * UNITS[match[2]]
