"""Accounts and tokens: operators manage all of them, a merchant sees its own."""

from msgspec import UnsetType
from msgspec.structs import replace

from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.database import tokens
from trio_ws.database.lanes import Lane
from trio_ws.errors import Forbidden, InvalidValue
from trio_ws.identity import ADMIN, hash_token, new_token
from trio_ws.messages import (
    Account,
    CreateAccount,
    CreateToken,
    ListAccounts,
    ListTokens,
    RenameAccount,
    RevokeToken,
    Success,
    Token,
)
from trio_ws.paging import PAGE_DEFAULT, begin_after, next_cursor


async def list_accounts(action: ListAccounts, services: Services, session: Session) -> Success:
    """Read a page of accounts by id."""
    most = action.limit or PAGE_DEFAULT
    found = await services.database.run(
        tokens.list_accounts,
        *(begin_after(action.cursor, "accounts"), most + 1, session.identity.account_id),
        lane=Lane.LISTS,
    )
    return Success(data=found[:most], next=_next(found, most, "accounts"))


async def create_account(action: CreateAccount, services: Services, _: Session) -> Success:
    """Store an account."""
    return Success(data=await services.database.run(tokens.create_account, action.name))


async def rename_account(action: RenameAccount, services: Services, _: Session) -> Success:
    """Give an account another name."""
    return Success(data=await services.database.run(tokens.rename_account, action.account_id, action.name))


async def list_tokens(action: ListTokens, services: Services, session: Session) -> Success:
    """Read a page of tokens by id."""
    most = action.limit or PAGE_DEFAULT
    account_id = session.identity.account_asked_for(action.account_id)
    found = await services.database.run(
        tokens.list_tokens, *(begin_after(action.cursor, "tokens"), most + 1, account_id), lane=Lane.LISTS
    )
    return Success(data=found[:most], next=_next(found, most, "tokens"))


async def create_token(action: CreateToken, services: Services, session: Session) -> Success:
    """Store a token, and return it with what is secret.

    Where no tokens are asked for anybody could make one that stays good when they are.
    """
    if session.identity.token_id is None:
        raise Forbidden("Without a token, tokens are made by `trio-ws token create`")
    if (action.account_id is None) != (ADMIN in action.scopes):
        raise InvalidValue("Expected an account, or the scope `admin` and no account - at `$.account_id`")
    token = new_token()
    made = await services.database.run(
        tokens.create_token,
        *(action.account_id, hash_token(token), action.scopes, action.expires_in_seconds),
    )
    return Success(data=replace(made, token=token))


async def revoke_token(action: RevokeToken, services: Services, _: Session) -> Success:
    """Have a token be good no more."""
    return Success(data=await services.database.run(tokens.revoke_token, action.id))


def _next(found: list[Account] | list[Token], most: int, kind: str) -> str | UnsetType:
    return next_cursor(kind, found[most - 1].id if len(found) > most else None)
