"""Every SQL statement about accounts and their tokens."""

from collections.abc import Collection, Sequence

from msgspec import UNSET

from trio_ws.database.sessions import Connection, Row
from trio_ws.errors import NotFound, Unauthorized
from trio_ws.identity import ADMIN, SCOPES, Identity, Scope
from trio_ws.messages import Account, Token


def identify(connection: Connection, digest: bytes) -> Identity:
    """Return whom a token stands for.

    Raises:
        Unauthorized: it is unknown, expired or revoked.
    """
    (found,) = identify_all(connection, [(digest,)])
    if isinstance(found, Unauthorized):
        raise found
    return found


def identify_all(connection: Connection, many: Sequence[tuple[bytes]]) -> list[Identity | Unauthorized]:
    """Return whom tokens stand for, as `identify` does, or what it raises."""
    rows = connection.execute(
        "SELECT number, id, account_id, scopes, @schema@.wire_time(expires_at),"
        " extract(epoch FROM expires_at - clock_timestamp())::float8"
        " FROM unnest(%s::bytea[]) WITH ORDINALITY AS wanted (hash, number)"
        " JOIN @schema@.tokens t ON t.hash = wanted.hash"
        " WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())",
        ([digest for (digest,) in many],),
    )
    found = {
        number: Identity(
            token_id=token_id,
            account_id=account_id,
            scopes=tuple(_in_order(scopes)),
            expires_at=expires_at,
            seconds_left=seconds_left,
        )
        for number, token_id, account_id, scopes, expires_at, seconds_left in rows
    }
    return [
        found.get(number) or Unauthorized("The token is unknown, expired or revoked")
        for number in range(1, len(many) + 1)
    ]


def find_ended(connection: Connection, held: Sequence[Identity]) -> list[Identity]:
    """Return those of the tokens that are revoked, deleted or changed. What expires does so by itself."""
    ended = connection.execute(
        "SELECT number FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[]) WITH ORDINALITY"
        " AS held (id, account_id, scopes, expires_at, number) WHERE NOT EXISTS ("
        "SELECT FROM @schema@.tokens t WHERE t.id = held.id AND t.revoked_at IS NULL"
        " AND t.account_id IS NOT DISTINCT FROM held.account_id"
        " AND t.scopes @> string_to_array(held.scopes, ' ') AND t.scopes <@ string_to_array(held.scopes, ' ')"
        " AND @schema@.wire_time(t.expires_at) IS NOT DISTINCT FROM held.expires_at)",
        (
            [identity.token_id for identity in held],
            [identity.account_id for identity in held],
            [" ".join(identity.scopes) for identity in held],
            [identity.expires_at for identity in held],
        ),
    )
    return [held[number - 1] for (number,) in ended]


def create_account(connection: Connection, name: str) -> Account:
    """Store a new account."""
    (row,) = connection.execute(
        "INSERT INTO @schema@.accounts (name) VALUES (%s) RETURNING id, name, @schema@.wire_time(created_at)",
        (name,),
    )
    return _account(row)


def list_accounts(
    connection: Connection, after: int = 0, most: int | None = None, owner: int | None = None
) -> list[Account]:
    """Return accounts by id.

    Args:
        connection: The database's.
        after: Only those with ids above this.
        most: Maximum number; None: all.
        owner: Only this one; None: any.
    """
    return [
        _account(row)
        for row in connection.execute(
            "SELECT id, name, @schema@.wire_time(created_at) FROM @schema@.accounts"
            " WHERE id > %(after)s AND (%(owner)s::bigint IS NULL OR id = %(owner)s)"
            " ORDER BY id LIMIT %(most)s",
            {"after": after, "most": most, "owner": owner},
        )
    ]


def rename_account(connection: Connection, account_id: int, name: str) -> Account:
    """Give an account another name.

    Raises:
        NotFound: the account does not exist.
    """
    renamed = connection.execute(
        "UPDATE @schema@.accounts SET name = %s WHERE id = %s"
        " RETURNING id, name, @schema@.wire_time(created_at)",
        (name, account_id),
    )
    if not (row := renamed.fetchone()):
        raise NotFound("Account not found")
    return _account(row)


def create_token(
    connection: Connection, account_id: int | None, digest: bytes, scopes: list[Scope], seconds: float | None
) -> Token:
    """Store a new token.

    Args:
        connection: The database's.
        account_id: Whose it is; None: an operator's, with the scope `admin`.
        digest: Its SHA-256.
        scopes: What it allows.
        seconds: How long it lasts; None: until it is revoked.

    Raises:
        NotFound: the account does not exist.
    """
    created = connection.execute(
        "INSERT INTO @schema@.tokens (account_id, hash, scopes, expires_at)"  # noqa: S608 - a constant
        " SELECT a.id, %(hash)s, %(scopes)s, clock_timestamp() + make_interval(secs => %(seconds)s)"
        " FROM (SELECT id FROM @schema@.accounts WHERE id = %(account)s"
        " UNION ALL SELECT NULL WHERE %(account)s::bigint IS NULL) a"
        f" RETURNING {_COLUMNS}",
        {"hash": digest, "scopes": scopes, "seconds": seconds, "account": account_id},
    )
    if not (row := created.fetchone()):
        raise NotFound("Account not found")
    return _token(row)


def list_tokens(
    connection: Connection, after: int = 0, most: int | None = None, account_id: int | None = None
) -> list[Token]:
    """Return tokens by id, those that have ended too.

    Args:
        connection: The database's.
        after: Only those with ids above this.
        most: Maximum number; None: all.
        account_id: Only this account's; None: anybody's.
    """
    whose = "" if account_id is None else " AND account_id = %(account)s"
    return [
        _token(row)
        for row in connection.execute(
            f"SELECT {_COLUMNS} FROM @schema@.tokens WHERE id > %(after)s{whose}"  # noqa: S608 - constants
            f" ORDER BY {'' if account_id is None else 'account_id, '}id LIMIT %(most)s",
            {"after": after, "most": most, "account": account_id},
        )
    ]


def revoke_token(connection: Connection, token_id: int) -> Token:
    """Have a token be good no more; its connections end. Revoking it again changes nothing.

    Raises:
        NotFound: there is none with that id.
    """
    revoked = connection.execute(
        "UPDATE @schema@.tokens SET revoked_at = coalesce(revoked_at, clock_timestamp())"  # noqa: S608
        f" WHERE id = %s RETURNING {_COLUMNS}",
        (token_id,),
    )
    if not (row := revoked.fetchone()):
        raise NotFound("Token not found")
    return _token(row)


_COLUMNS = (
    "id, account_id, scopes, @schema@.wire_time(created_at),"
    " @schema@.wire_time(expires_at), @schema@.wire_time(revoked_at)"
)


def _account(row: Row) -> Account:
    number, name, created_at = row
    return Account(id=number, name=name, created_at=created_at)


def _token(row: Row) -> Token:
    number, account_id, scopes, created_at, expires_at, revoked_at = row
    return Token(
        id=number,
        account_id=account_id,
        scopes=_in_order(scopes),
        created_at=created_at,
        expires_at=UNSET if expires_at is None else expires_at,
        revoked_at=UNSET if revoked_at is None else revoked_at,
    )


def _in_order(scopes: Collection[str]) -> list[Scope]:
    return [scope for scope in (*SCOPES, ADMIN) if scope in scopes]
