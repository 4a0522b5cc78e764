"""Twins of every function and operator that our SQL calls, made by somebody who may create in our schema.

PostgreSQL calls the function that fits a call best, in whichever schema of the search path it is. So a twin
that takes the very types of a call wins over PostgreSQL's own. Each of these ends with an error that says so.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

import trio_ws

# The types that our calls have, ours among them.
TYPES = (
    *("bool", "smallint", "int", "bigint", "float8", "numeric", "text", "varchar", "name", "uuid", "json"),
    *("timestamptz", "interval", "bytea", "oid", "regclass", "pg_lsn", "bit", "record"),
    *("text[]", "bigint[]", "uuid[]"),
    *(
        "public.currency",
        "public.amount",
        "public.invoices",
        "public.prices",
        "public.event",
        "public.tokens",
    ),
)
# As they are written, and as BETWEEN, IN, CASE, LIKE and DISTINCT search for them.
OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "||", "+", "-", "*", "/", "%", "^", "->", "->>", "<@", "@>")
PATTERNS = ("~", "~*", "!~", "~~", "!~~", "~~*")
POLYMORPHIC = re.compile(r'^(any\w*|"any")(\[\])?$')
BODY = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a twin was called by %', session_user; END $$"


def twins(connection: psycopg.Connection[tuple[Any, ...]]) -> Iterator[str]:
    """Yield statements that make them in `public`."""
    signatures = {
        (name, signature): "text" if POLYMORPHIC.match(returns) else returns
        for name, arguments, required, returns in _called(connection)
        for signature in _better(arguments, required)
    }
    for (name, signature), returns in signatures.items():
        yield f'CREATE FUNCTION public."{name}"({signature}) RETURNS {returns} {BODY}'
    for left in TYPES:
        for right in TYPES:
            pair = f"({left}, {right})"
            yield f"CREATE FUNCTION public.twin{pair} RETURNS bool {BODY}"
            yield f"CREATE FUNCTION public.twin_text{pair} RETURNS text {BODY}"
            for operator in (*OPERATORS, *PATTERNS):
                function = "twin_text" if operator in ("||", "->", "->>") else "twin"
                yield (
                    f"CREATE OPERATOR public.{operator}"
                    f" (FUNCTION = public.{function}, LEFTARG = {left}, RIGHTARG = {right})"
                )


def _called(
    connection: psycopg.Connection[tuple[Any, ...]],
) -> list[tuple[str, list[tuple[str, str]], int, str]]:
    """Return each function whose name stands in our SQL.

    It is its name, its arguments, how many of them have no default, and the type that it returns.
    """
    ours = (Path(trio_ws.__file__).parent / "database").rglob("*.*")
    sources = [path.read_text() for path in ours if path.suffix in (".py", ".sql")]
    words = sorted(set(re.findall(r"[a-z_][a-z_0-9]*", " ".join(sources))))
    rows = connection.execute(
        "SELECT p.proname, coalesce(p.proargnames, '{}'), p.pronargs - p.pronargdefaults,"
        " ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY a (t, n) ORDER BY n),"
        " format_type(p.prorettype, NULL)"
        " FROM pg_proc p WHERE p.proname = ANY(%s) AND p.prorettype <> 'trigger'::regtype"
        " AND p.pronamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace)",
        (words,),
    )
    return [
        (name, list(zip([*names, *[""] * len(types)][: len(types)], types, strict=True)), required, returns)
        for name, names, required, types, returns in rows
    ]


def _better(arguments: list[tuple[str, str]], required: int) -> Iterator[str]:
    """Yield signatures that may fit a call better: each argument as any type, the others as they are."""
    plain = [(name, "text" if POLYMORPHIC.match(type_) else type_) for name, type_ in arguments]
    for place, (name, _) in enumerate(plain):
        for type_ in TYPES:
            changed = [*plain]
            changed[place] = (name, type_)
            for count in {len(plain), max(required, place + 1)}:
                yield ", ".join(f'"{n}" {t}' if n else t for n, t in changed[:count])
            if name and required == 0:
                yield f'"{name}" {type_}'  # as in make_interval(secs => 1)
            if len(plain) == 2 and POLYMORPHIC.match(arguments[1 - place][1]):
                yield f"{type_}, {type_}"
