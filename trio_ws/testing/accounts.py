"""Accounts and tokens without PostgreSQL."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from trio_ws.database import tokens
from trio_ws.errors import NotFound, Unauthorized
from trio_ws.identity import Identity, Scope
from trio_ws.messages import Account, Token
from trio_ws.testing.rules import AccountRow
from trio_ws.testing.tables import Tables, TokenRow, wire_time


class SimulatedAccounts:
    """What is asked about accounts and tokens.

    Args:
        tables: Where they are.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def _list_accounts(
        self, after: int = 0, most: int | None = None, owner: int | None = None
    ) -> list[Account]:
        found = sorted(self._tables.rows.accounts.values(), key=lambda one: one.id)
        wanted = [one for one in found if one.id > after and owner in (None, one.id)]
        return [_account(one) for one in wanted[:most]]

    def _create_account(self, name: str) -> Account:
        with self._tables.begin() as statement:
            return _account(statement.insert_account({"name": name}))

    def _rename_account(self, account_id: int, name: str) -> Account:
        if account_id not in self._tables.rows.accounts:
            raise NotFound("Account not found")
        with self._tables.begin() as statement:
            return _account(statement.rename_account(account_id, name))

    def _list_tokens(
        self, after: int = 0, most: int | None = None, account_id: int | None = None
    ) -> list[Token]:
        found = sorted(self._tables.rows.tokens.values(), key=lambda one: one.id)
        wanted = [one for one in found if one.id > after and account_id in (None, one.identity.account_id)]
        return [_token(one) for one in wanted[:most]]

    def _create_token(
        self, account_id: int | None, digest: bytes, scopes: list[Scope], seconds: float | None
    ) -> Token:
        if account_id is not None and account_id not in self._tables.rows.accounts:
            raise NotFound("Account not found")
        with self._tables.begin() as statement:
            return _token(statement.insert_token(account_id, scopes, seconds, digest))

    def _revoke_token(self, token_id: int) -> Token:
        for digest, token in self._tables.rows.tokens.items():
            if token.id == token_id:
                with self._tables.begin() as statement:
                    return _token(statement.revoke_token(digest))
        raise NotFound("Token not found")

    def _identify(self, digest: bytes) -> Identity:
        token, now = self._tables.rows.tokens.get(digest), self._tables.now()
        if token is None or token.has_ended(now):
            raise Unauthorized("The token is unknown, expired or revoked")
        left = None if token.expires_at is None else (token.expires_at - now).total_seconds()
        return msgspec.structs.replace(token.identity, seconds_left=left)

    def _find_ended(self, held: Sequence[Identity]) -> list[Identity]:
        there = self._tables.rows.tokens.values()
        good = {token.identity for token in there if token.revoked_at is None}
        return [identity for identity in held if identity not in good]

    answers: dict[Callable[..., Any], Callable[..., Any]] = {  # noqa: RUF012 - a constant table
        tokens.list_accounts: _list_accounts,
        tokens.create_account: _create_account,
        tokens.rename_account: _rename_account,
        tokens.list_tokens: _list_tokens,
        tokens.create_token: _create_token,
        tokens.revoke_token: _revoke_token,
        tokens.identify: _identify,
        tokens.find_ended: _find_ended,
    }


def _account(row: AccountRow) -> Account:
    return Account(id=row.id, name=row.name, created_at=wire_time(row.created_at))


def _token(row: TokenRow) -> Token:
    return Token(
        id=row.id,
        account_id=row.identity.account_id,
        scopes=list(row.identity.scopes),
        created_at=wire_time(row.created_at),
        expires_at=UNSET if row.expires_at is None else wire_time(row.expires_at),
        revoked_at=UNSET if row.revoked_at is None else wire_time(row.revoked_at),
    )
