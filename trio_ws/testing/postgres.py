"""The same session on PostgreSQL: what was tested on the simulated database is tested on the real one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from trio_ws.identity import SCOPES, Scope, hash_token, new_token
from trio_ws.testing.refusals import NoData, refusal


class PostgresSession:
    """A `Session` on psycopg's connection.

    Args:
        connection: With autocommit on, so that a statement outside of `transaction` is one of its own.
    """

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def create_account(self, **columns: Any) -> int:
        """See `Session`."""
        return int(self._insert("accounts", columns, "id"))

    def create_invoice(self, *, expires_in_seconds: float | None = None, **columns: Any) -> UUID:
        """See `Session`."""
        until = {} if expires_in_seconds is None else {"expires_at": expires_in_seconds}
        return UUID(str(self._insert("invoices", {**columns, **until}, "uid", seconds=[*until])))

    def update_invoice(self, uid: UUID, **columns: Any) -> None:
        """See `Session`."""
        settings = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in columns]
        statement = sql.SQL("UPDATE invoices SET {} WHERE uid = {} RETURNING id")
        self._run(statement.format(sql.SQL(", ").join(settings), sql.Placeholder()), *columns.values(), uid)

    def lock_invoice(self, uid: UUID) -> dict[str, Any]:
        """See `Session`."""
        statement = sql.SQL("SELECT invoice_json(i) FROM invoices i WHERE uid = %s FOR UPDATE")
        found: dict[str, Any] = self._run(statement, uid)
        return found

    def record_payment(self, uid: UUID, **columns: Any) -> int:
        """See `Session`."""
        statement = sql.SQL(
            "INSERT INTO payments ({}) SELECT {} FROM invoices WHERE uid = %s"
            " ON CONFLICT (invoice_id, reference)"
            " DO UPDATE SET amount = excluded.amount, status = excluded.status RETURNING id"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, ("invoice_id", *columns))),
            sql.SQL(", ").join([sql.Identifier("invoices", "id"), *(sql.Placeholder() for _ in columns)]),
        )
        return int(self._run(statement, *columns.values(), uid))

    def set_price(
        self, currency: str, value: Decimal | None, base_currency: str = "USD", account_id: int = 1
    ) -> None:
        """See `Session`."""
        self._run(
            sql.SQL(
                "INSERT INTO prices (account_id, currency, base_currency, value) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (account_id, currency, base_currency) DO UPDATE SET value = excluded.value"
                " RETURNING id"
            ),
            *(account_id, currency, base_currency, value),
        )

    def delete_price(self, currency: str, base_currency: str = "USD", account_id: int = 1) -> None:
        """See `Session`."""
        self._run(
            sql.SQL(
                "DELETE FROM prices WHERE (account_id, currency, base_currency) = (%s, %s, %s) RETURNING id"
            ),
            *(account_id, currency, base_currency),
        )

    def create_token(
        self, account_id: int | None = 1, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
    ) -> str:
        """See `Session`."""
        token = new_token()
        until = {} if seconds is None else {"expires_at": seconds}
        columns = {"account_id": account_id, "hash": hash_token(token), "scopes": list(scopes), **until}
        self._insert("tokens", columns, "id", seconds=[*until])
        return token

    def revoke_token(self, token: str) -> None:
        """See `Session`."""
        self._run(
            sql.SQL("UPDATE tokens SET revoked_at = now() WHERE hash = %s RETURNING id"), hash_token(token)
        )

    def transaction(self) -> AbstractContextManager[object]:
        """See `Session`."""
        return self._connection.transaction()

    def _insert(
        self, table: str, columns: dict[str, Any], returned: str, *, seconds: Sequence[str] = ()
    ) -> Any:
        """Insert a row; the columns that are given in `seconds` come so long from now."""
        if not columns:
            values: sql.Composable = sql.SQL("DEFAULT VALUES")
        else:
            from_now = sql.SQL("clock_timestamp() + make_interval(secs => {})").format(sql.Placeholder())
            values = sql.SQL("({}) VALUES ({})").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(from_now if name in seconds else sql.Placeholder() for name in columns),
            )
        statement = sql.SQL("INSERT INTO {} {} RETURNING {}")
        return self._run(
            statement.format(sql.Identifier(table), values, sql.Identifier(returned)), *columns.values()
        )

    def _run(self, statement: sql.SQL | sql.Composed, *args: object) -> Any:
        """Run a statement on one row, and return what it returns."""
        row = self._connection.execute(statement, args).fetchone()
        if row is None:
            raise refusal(NoData, "there is no such row")
        return row[0]
