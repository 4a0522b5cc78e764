"""Another program that writes to the database: PostgreSQL's psql, or its like on the simulated one."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

import psycopg
import trio
from psycopg import sql

from trio_ws.database import queries, tokens
from trio_ws.identity import SCOPES, Scope, hash_token, new_token
from trio_ws.testing import SimulatedDatabase
from trio_ws.testing.database import CheckViolation


def prepare(connection: queries.Connection, statement_seconds: float = 10) -> None:
    """Make a connection as the server's are, for a test that also types SQL as others do."""
    queries.prepare_connection(connection, statement_seconds)
    connection.execute("SET search_path = public, pg_temp")


class Refused(Exception):
    """The database does not allow a change."""


class OtherProgram(Protocol):
    """A payment processor, an import, a person at psql."""

    async def create_invoice(self, **fields: Any) -> UUID:
        """Insert an invoice, and return its uid.

        Raises:
            Refused: the database does not allow it.
        """

    async def update_invoice(self, uid: UUID, **changes: Any) -> None:
        """Change an invoice.

        Raises:
            Refused: the database does not allow it.
        """

    async def set_price(self, currency: str, value: Decimal) -> None:
        """Insert or change a price in USD."""

    async def delete_price(self, currency: str) -> None:
        """Delete a price in USD."""

    async def create_account(self) -> int:
        """Insert an account, and return its id."""

    async def create_token(
        self, account_id: int = 1, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
    ) -> str:
        """Insert a token, and return it."""

    async def revoke_token(self, token: str) -> None:
        """Have a token be good no more."""


class SimulatedProgram:
    """See `OtherProgram`."""

    def __init__(self, database: SimulatedDatabase) -> None:
        self._database = database

    async def create_invoice(self, **fields: Any) -> UUID:
        try:
            return self._database.create_invoice(**fields)
        except CheckViolation as error:
            raise Refused(str(error)) from None

    async def update_invoice(self, uid: UUID, **changes: Any) -> None:
        try:
            self._database.update_invoice(uid, **changes)
        except CheckViolation as error:
            raise Refused(str(error)) from None

    async def set_price(self, currency: str, value: Decimal) -> None:
        self._database.set_price(currency, value)

    async def delete_price(self, currency: str) -> None:
        self._database.delete_price(currency)

    async def create_account(self) -> int:
        return self._database.create_account()

    async def create_token(
        self, account_id: int = 1, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
    ) -> str:
        return self._database.create_token(account_id, scopes, seconds)

    async def revoke_token(self, token: str) -> None:
        self._database.revoke_token(token)


class Psql:
    """See `OtherProgram`."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo

    async def create_invoice(self, **fields: Any) -> UUID:
        names = sql.SQL(", ").join(map(sql.Identifier, fields))
        places = sql.SQL(", ").join([sql.Placeholder()] * len(fields))
        statement = sql.SQL("INSERT INTO invoices ({}) VALUES ({}) RETURNING uid").format(names, places)
        row = await trio.to_thread.run_sync(self._run, statement, *fields.values())
        assert row is not None
        return UUID(str(row[0]))

    async def update_invoice(self, uid: UUID, **changes: Any) -> None:
        settings = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in changes
        )
        statement = sql.SQL("UPDATE invoices SET {} WHERE uid = {} RETURNING uid")
        await trio.to_thread.run_sync(
            self._run, statement.format(settings, sql.Placeholder()), *changes.values(), uid
        )

    async def set_price(self, currency: str, value: Decimal) -> None:
        statement = sql.SQL(
            "INSERT INTO prices (account_id, currency, value) VALUES (1, %s, %s)"
            " ON CONFLICT (account_id, currency, base_currency) DO UPDATE SET value = excluded.value"
            " RETURNING id"
        )
        await trio.to_thread.run_sync(self._run, statement, currency, value)

    async def delete_price(self, currency: str) -> None:
        statement = sql.SQL("DELETE FROM prices WHERE currency = %s RETURNING id")
        await trio.to_thread.run_sync(self._run, statement, currency)

    async def create_account(self) -> int:
        return int(await self._query(tokens.create_account, "another"))

    async def create_token(
        self, account_id: int = 1, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
    ) -> str:
        token = new_token()
        await self._query(tokens.create_token, account_id, hash_token(token), list(scopes), seconds)
        return token

    async def revoke_token(self, token: str) -> None:
        statement = sql.SQL("UPDATE tokens SET revoked_at = now() WHERE hash = %s RETURNING id")
        await trio.to_thread.run_sync(self._run, statement, hash_token(token))

    async def _query(self, query: Callable[..., Any], *args: object) -> Any:
        def run() -> Any:
            with psycopg.connect(self._conninfo) as connection:
                prepare(connection)
                connection.execute("SET trio_ws.wakes_itself = 'no'")
                return query(connection, *args)

        return await trio.to_thread.run_sync(run)

    def _run(self, statement: sql.SQL | sql.Composed, *args: object) -> tuple[Any, ...] | None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            try:
                row: tuple[Any, ...] | None = connection.execute(statement, args).fetchone()
            except psycopg.errors.CheckViolation as error:
                raise Refused(error.diag.message_primary) from None
            return row
