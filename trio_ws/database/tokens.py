"""Every SQL statement about accounts and their tokens."""

from collections.abc import Sequence

from trio_ws.database.sessions import Connection, Row
from trio_ws.errors import NotFound, Unauthorized
from trio_ws.identity import ADMIN, SCOPES, Identity


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
            scopes=tuple(scope for scope in (*SCOPES, ADMIN) if scope in scopes),
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


def create_account(connection: Connection, name: str) -> int:
    """Store a new account, and return its id."""
    ((account_id,),) = connection.execute(
        "INSERT INTO @schema@.accounts (name) VALUES (%s) RETURNING id", (name,)
    )
    return int(account_id)


def list_accounts(connection: Connection) -> list[Row]:
    """Return each account's id and name, and when it was made."""
    return connection.execute(
        "SELECT id, name, @schema@.wire_time(created_at) FROM @schema@.accounts ORDER BY id"
    ).fetchall()


def rename_account(connection: Connection, account_id: int, name: str) -> None:
    """Give an account another name.

    Raises:
        NotFound: the account does not exist.
    """
    renamed = connection.execute("UPDATE @schema@.accounts SET name = %s WHERE id = %s", (name, account_id))
    if not renamed.rowcount:
        raise NotFound("Account not found")


def create_token(
    connection: Connection, account_id: int | None, digest: bytes, scopes: list[str], seconds: float | None
) -> int:
    """Store a new token, and return its id.

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
        "INSERT INTO @schema@.tokens (account_id, hash, scopes, expires_at)"
        " SELECT a.id, %(hash)s, %(scopes)s, clock_timestamp() + make_interval(secs => %(seconds)s)"
        " FROM (SELECT id FROM @schema@.accounts WHERE id = %(account)s"
        " UNION ALL SELECT NULL WHERE %(account)s::bigint IS NULL) a"
        " RETURNING id",
        {"hash": digest, "scopes": scopes, "seconds": seconds, "account": account_id},
    )
    if not (row := created.fetchone()):
        raise NotFound("Account not found")
    return int(row[0])


def list_tokens(connection: Connection) -> list[Row]:
    """Return each token's id, account, scopes, and the times when it was made, expires, and was revoked."""
    return connection.execute(
        "SELECT id, account_id, scopes, @schema@.wire_time(created_at),"
        " @schema@.wire_time(expires_at), @schema@.wire_time(revoked_at)"
        " FROM @schema@.tokens ORDER BY id"
    ).fetchall()


def revoke_token(connection: Connection, token_id: int) -> None:
    """Have a token be good no more; its connections end. Revoking it again changes nothing.

    Raises:
        NotFound: there is none with that id.
    """
    revoked = connection.execute(
        "UPDATE @schema@.tokens SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = %s",
        (token_id,),
    )
    if not revoked.rowcount:
        raise NotFound("Token not found")
