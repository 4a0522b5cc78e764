"""What PostgreSQL refuses, in psycopg's own words: what a program catches there, its test can raise here.

Of `error.diag`, the names of table, column and constraint are as PostgreSQL has them.
"""

from psycopg import DataError, Error
from psycopg.errors import (
    CheckViolation,
    DatatypeMismatch,
    FeatureNotSupported,
    ForeignKeyViolation,
    InFailedSqlTransaction,
    InvalidTextRepresentation,
    LockNotAvailable,
    NoData,
    NotNullViolation,
    NumericValueOutOfRange,
    UndefinedColumn,
    UniqueViolation,
)
from psycopg.pq import DiagnosticField

__all__ = [
    "CheckViolation",
    "DataError",
    "DatatypeMismatch",
    "FeatureNotSupported",
    "ForeignKeyViolation",
    "InFailedSqlTransaction",
    "InvalidTextRepresentation",
    "LockNotAvailable",
    "NoData",
    "NotNullViolation",
    "NumericValueOutOfRange",
    "UndefinedColumn",
    "UniqueViolation",
    "refusal",
]


def refusal(
    kind: type[Error],
    message: str,
    *,
    table: str | None = None,
    column: str | None = None,
    constraint: str | None = None,
) -> Error:
    """Return an error as psycopg makes it of what PostgreSQL says."""
    fields = {
        DiagnosticField.SQLSTATE: kind.sqlstate,
        DiagnosticField.MESSAGE_PRIMARY: message,
        DiagnosticField.TABLE_NAME: table,
        DiagnosticField.COLUMN_NAME: column,
        DiagnosticField.CONSTRAINT_NAME: constraint,
    }
    said: dict[int, bytes | None] = {
        int(field): text.encode() for field, text in fields.items() if text is not None
    }
    return kind(message, info=said)
