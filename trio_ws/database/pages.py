"""Pages of lists, and rows that are JSON: what statements about invoices and payments share."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from trio_ws.database.sessions import Row

# Where a query takes an `owner`, what is not that account's is not there; None: any account's.
OWNED = "(%(owner)s::bigint IS NULL OR account_id = %(owner)s)"


class Page(NamedTuple):
    """Rows as a JSON list, and the id of the last one where there are more."""

    items: msgspec.Raw
    next: int | None


def page_query(rows: str, order: str, columns: str = "id, json") -> str:
    """Return a query of a page: each row's columns, and how many rows were found, up to one more than fit.

    Args:
        rows: A query of the columns and the row's `size`, of one row more than `%(most)s`.
        order: That of the page.
        columns: What a row has.
    """
    return (
        f"SELECT {columns}, found FROM (SELECT {columns}, count(*) OVER () AS found,"  # noqa: S608 - texts of ours
        f" row_number() OVER (ORDER BY {order}) AS place, sum(size) OVER (ORDER BY {order}) - size AS bytes"
        f" FROM ({rows}) sized) placed WHERE place <= %(most)s AND bytes < %(page_bytes)s"
    )


def page_of(rows: Sequence[Row]) -> Page:
    """Return the page of rows that are an id, JSON, and how many were found, up to one more than fit."""
    if not rows:
        return Page(msgspec.Raw(b"[]"), None)
    items = msgspec.Raw(b"[" + b",".join(bytes(json) for _, json, _ in rows) + b"]")
    last, _, found = rows[-1]
    return Page(items, last if found > len(rows) else None)


def json_of(row: Row) -> msgspec.Raw:
    """Return the row's one column."""
    (json,) = row
    assert isinstance(json, msgspec.Raw)  # noqa: S101 - what `prepare_connection` makes of json
    return json
