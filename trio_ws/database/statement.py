"""A statement whose answer is waited for in the event loop, without a thread.

To and from a thread are two wake-ups of a processor, some 0.3 ms each on a virtual machine. That is much of
the way of an event to its followers: so the log's end, which all of them wait for, is read without. All else
goes through threads, where a query is a plain function, and its answer may be large.
"""

from collections.abc import Callable
from typing import Generic, TypeVar, TypeVarTuple

import psycopg
import trio
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

from trio_ws.database.sessions import Connection, with_schema

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Statement(Generic[*Arguments, T]):
    """A statement that returns one value. Called with a connection, it blocks as any query does.

    Args:
        name: What it is called in logs and metrics.
        sql: With $1 and so on for its arguments, and a type for each. Its value is a text of less than 8 KB:
            else others would wait while it is decoded, and TLS may hold back the end of what has come.
        decode: Turns that text into what is returned.
    """

    def __init__(self, name: str, sql: bytes, decode: Callable[[str | bytes], T]) -> None:
        self.__name__ = name
        self._sql = sql
        self._decode = decode

    def __call__(self, connection: Connection, *args: *Arguments) -> T:
        """Return the value, blocking.

        Raises:
            psycopg.Error: PostgreSQL's, or the connection has ended.
        """
        cursor = psycopg.RawCursor(connection)  # which leaves $1 to PostgreSQL
        ((value,),) = cursor.execute(with_schema(connection, self._sql), args)
        return self._decode(value)

    async def ask(self, connection: Connection, *args: *Arguments) -> T:
        """Return the value. Nobody else may use the connection meanwhile.

        Raises:
            psycopg.Error: PostgreSQL's, or the connection has ended.
        """
        pgconn = connection.pgconn
        pgconn.send_query_params(with_schema(connection, self._sql), [str(arg).encode() for arg in args])
        answer = None
        while True:
            while pgconn.is_busy():
                await trio.lowlevel.wait_readable(pgconn.socket)
                pgconn.consume_input()
            if (result := pgconn.get_result()) is None:
                return self._read(connection, answer)
            answer = result

    def _read(self, connection: Connection, result: PGresult | None) -> T:
        if result is None or connection.pgconn.status != ConnStatus.OK:  # before it has committed, perhaps
            raise psycopg.OperationalError(connection.pgconn.get_error_message())
        if result.status != ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result, connection.info.encoding)
        value = result.get_value(0, 0)
        assert value is not None  # noqa: S101 - none of ours returns NULL
        return self._decode(value)
