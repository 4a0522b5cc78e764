"""How another program writes: statement by statement, or several in one transaction.

The same on a simulated database and, by `postgres.py`, on PostgreSQL, so that a program's test, too, can run
on both. The refusals are psycopg's: see `refusals.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from psycopg import Error, Rollback

from trio_ws.identity import SCOPES, Scope, hash_token
from trio_ws.testing.refusals import InFailedSqlTransaction, NoData, refusal
from trio_ws.testing.rules import check_texts
from trio_ws.testing.tables import Tables, Transaction, wire


class Session(Protocol):
    """A payment processor, an import, a person at psql.

    Each method is a statement, which is done whole or refused: then an error of `refusals.py` says why.
    """

    def create_account(self, **columns: Any) -> int:
        """Insert an account, and return its id."""

    def create_invoice(self, **columns: Any) -> UUID:
        """Insert an invoice, and return its uid; `expires_in_seconds` may stand for `expires_at`."""

    def update_invoice(self, uid: UUID, **columns: Any) -> None:
        """Change an invoice.

        Raises:
            NoData: there is none with that uid.
        """

    def lock_invoice(self, uid: UUID) -> dict[str, Any]:
        """Return an invoice as the protocol shows it; nobody else changes it before the transaction ends.

        Raises:
            NoData: there is none with that uid.
        """

    def record_payment(self, uid: UUID, **columns: Any) -> int:
        """Insert a payment of an invoice, or change the one that has this reference, and return its id.

        Raises:
            NoData: there is no invoice with that uid.
        """

    def set_price(
        self, currency: str, value: Decimal | None, base_currency: str = "USD", account_id: int = 1
    ) -> None:
        """Insert or change a price."""

    def delete_price(self, currency: str, base_currency: str = "USD", account_id: int = 1) -> None:
        """Delete a price.

        Raises:
            NoData: there is none.
        """

    def create_token(
        self, account_id: int | None = 1, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
    ) -> str:
        """Insert a token, good for so long, and return it; one with the scope `admin` has no account."""

    def revoke_token(self, token: str) -> None:
        """Have a token be good no more.

        Raises:
            NoData: there is none like it.
        """

    def transaction(self) -> AbstractContextManager[object]:
        """Have what the block writes be done together: nobody sees it before the end, an error undoes it all.

        A transaction in a transaction can be undone alone. As in psycopg, `Rollback` undoes without an error,
        and after a refusal nothing more is done before the transaction, or the part of it, is undone.
        """


class Statements(ABC):
    """The methods of a `Session`, on simulated tables."""

    @abstractmethod
    def _statement(self) -> AbstractContextManager[Transaction]:
        """Run one."""

    def _with(self, *values: object) -> AbstractContextManager[Transaction]:
        check_texts(values)
        return self._statement()

    def create_account(self, **columns: Any) -> int:
        """See `Session`."""
        with self._with(*columns.values()) as statement:
            return statement.insert_account(columns).id

    def create_invoice(self, **columns: Any) -> UUID:
        """See `Session`."""
        with self._with(*columns.values()) as statement:
            return statement.insert_invoice(columns).uid

    def update_invoice(self, uid: UUID, **columns: Any) -> None:
        """See `Session`."""
        with self._with(*columns.values()) as statement:
            statement.update_invoice(uid, columns)

    def lock_invoice(self, uid: UUID) -> dict[str, Any]:
        """See `Session`."""
        with self._statement() as statement:
            return wire(statement.lock_invoice(uid))

    def record_payment(self, uid: UUID, **columns: Any) -> int:
        """See `Session`."""
        with self._with(*columns.values()) as statement:
            return statement.upsert_payment(uid, columns).id

    def set_price(
        self, currency: str, value: Decimal | None, base_currency: str = "USD", account_id: int = 1
    ) -> None:
        """See `Session`."""
        key = {"account_id": account_id, "currency": currency, "base_currency": base_currency}
        with self._with(currency, base_currency) as statement:
            statement.upsert_price({**key, "value": value})

    def delete_price(self, currency: str, base_currency: str = "USD", account_id: int = 1) -> None:
        """See `Session`."""
        with self._with(currency, base_currency) as statement:
            statement.delete_price((account_id, currency, base_currency))

    def create_token(
        self, account_id: int | None = 1, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
    ) -> str:
        """See `Session`."""
        with self._statement() as statement:
            return f"token-{statement.insert_token(account_id, scopes, seconds).id}"

    def revoke_token(self, token: str) -> None:
        """See `Session`."""
        with self._statement() as statement:
            statement.revoke_token(hash_token(token))


class _Aborted(Exception):
    """PostgreSQL answers COMMIT with ROLLBACK."""


class SimulatedSession(Statements):
    """A session of its own, as psycopg's connection is one.

    Args:
        tables: Where it writes.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._open: list[Transaction] = []
        self._is_aborted = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Session`."""
        self._refuse_if_aborted()
        try:
            with self._begin() as transaction:
                self._open.append(transaction)
                try:
                    yield
                except BaseException:
                    self._is_aborted = False
                    raise
                finally:
                    self._open.pop()
                if self._is_aborted and not self._open:
                    self._is_aborted = False
                    raise _Aborted
                self._refuse_if_aborted()
        except (_Aborted, Rollback):
            pass

    @contextmanager
    def _statement(self) -> Iterator[Transaction]:
        self._refuse_if_aborted()
        try:
            with self._begin() as statement:
                yield statement
        except Error as error:
            # What psycopg finds before it asks PostgreSQL has no code; no row is no error there.
            self._is_aborted = bool(self._open and error.sqlstate and not isinstance(error, NoData))
            raise

    def _begin(self) -> AbstractContextManager[Transaction]:
        return self._open[-1].begin() if self._open else self._tables.begin()

    def _refuse_if_aborted(self) -> None:
        if self._is_aborted:
            raise refusal(
                InFailedSqlTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            )
