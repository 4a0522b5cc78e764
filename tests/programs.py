"""Another program that writes to the database, in a test's own thread or, on PostgreSQL, in another one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import trio

from trio_ws.database import queries
from trio_ws.identity import SCOPES, Scope
from trio_ws.testing import PostgresSession, Session, SimulatedDatabase

T = TypeVar("T")


def prepare(connection: queries.Connection, statement_seconds: float = 10) -> None:
    """Make a connection as the server's are, for a test that also types SQL as others do."""
    queries.prepare_connection(connection, statement_seconds)
    connection.execute("SET search_path = public, pg_temp")


class OtherProgram:
    """A payment processor, an import, a person at psql: see `Session`.

    Args:
        open_session: Opens one, until the block ends.
        is_remote: Whether its statements take a thread.
    """

    def __init__(
        self, open_session: Callable[[], AbstractContextManager[Session]], *, is_remote: bool
    ) -> None:
        self.open_session = open_session
        self._is_remote = is_remote

    async def run(self, write: Callable[[Session], T]) -> T:
        """Run a function on a session of its own."""

        def run() -> T:
            with self.open_session() as session:
                return write(session)

        return await trio.to_thread.run_sync(run) if self._is_remote else run()

    async def create_invoice(self, **columns: Any) -> UUID:
        """Insert an invoice, and return its uid."""
        uid: UUID = await self.run(lambda session: session.create_invoice(**columns))
        return uid

    async def update_invoice(self, uid: UUID, **columns: Any) -> None:
        """Change an invoice."""
        await self.run(lambda session: session.update_invoice(uid, **columns))

    async def set_price(self, currency: str, value: Decimal) -> None:
        """Insert or change a price in USD."""
        await self.run(lambda session: session.set_price(currency, value))

    async def delete_price(self, currency: str) -> None:
        """Delete a price in USD."""
        await self.run(lambda session: session.delete_price(currency))

    async def create_account(self) -> int:
        """Insert an account, and return its id."""
        return int(await self.run(lambda session: session.create_account(name="another")))

    async def create_token(
        self, account_id: int | None = 1, scopes: Sequence[Scope] = SCOPES, seconds: float | None = None
    ) -> str:
        """Insert a token, and return it."""
        return str(await self.run(lambda session: session.create_token(account_id, scopes, seconds)))

    async def revoke_token(self, token: str) -> None:
        """Have a token be good no more."""
        await self.run(lambda session: session.revoke_token(token))


def simulated_program(database: SimulatedDatabase) -> OtherProgram:
    """Return one that writes to a simulated database."""
    return OtherProgram(lambda: nullcontext(database.session()), is_remote=False)


def postgres_program(conninfo: str) -> OtherProgram:
    """Return one that writes to PostgreSQL."""

    @contextmanager
    def open_session() -> Iterator[Session]:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            yield PostgresSession(connection)

    return OtherProgram(open_session, is_remote=True)
