"""Who a client is, and what it may do: the protocol's section 7."""

import hashlib
import secrets
from typing import Literal

from msgspec import Struct

from trio_ws.errors import Forbidden, InvalidMessage, Unauthorized

Scope = Literal["read", "write", "process", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "process")  # of an account's token
ADMIN: Scope = "admin"  # of an operator's, who may do everything for any account

TOKEN_BYTES = 32
TOKEN_PREFIX = "trio_ws_"  # noqa: S105 - so that who finds one knows what it is


class Identity(Struct, frozen=True, kw_only=True):
    """What a token stands for.

    Args:
        token_id: Which token; None: there is none.
        account_id: Whose it is; None: nobody's in particular, as an operator's.
        scopes: What it allows.
        expires_at: When it ends, RFC 3339 in UTC; None: when it is revoked.
        seconds_left: How long that is from now on, by the database's clock.
        is_customer: Whether it has no token, and may see what a customer may: see `checkout`.
    """

    token_id: int | None = None
    account_id: int | None = None
    scopes: tuple[Scope, ...] = ()
    expires_at: str | None = None
    seconds_left: float | None = None
    is_customer: bool = False

    def allows(self, scope: Scope) -> bool:
        """Return whether it may do that."""
        return scope in self.scopes or ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Raise unless it may do that.

        Raises:
            Unauthorized: there is no token.
            Forbidden: the token does not allow it.
        """
        if self.allows(scope):
            return
        if self.token_id is None:
            raise Unauthorized("Authentication required")
        raise Forbidden(f"The token lacks the scope `{scope}`")

    def require_account(self, account_id: int | str) -> None:
        """Raise unless it may act for that account.

        Raises:
            Forbidden: it is another one's.
        """
        if self.account_id is not None and str(self.account_id) != str(account_id):
            raise Forbidden("The token is another account's")

    def account_asked_for(self, account_id: int | None) -> int | None:
        """Return the account whose things are to be listed; None: all accounts'.

        Raises:
            Forbidden: it is another one's.
        """
        if account_id is not None:
            self.require_account(account_id)
        return account_id if self.account_id is None else self.account_id

    def account_for(self, account_id: int | None) -> int:
        """Return the account that an action is for, which may be left out where the token names it.

        Raises:
            Forbidden: it is another one's.
            InvalidMessage: nothing names one.
        """
        if account_id is not None:
            self.require_account(account_id)
            return account_id
        if self.account_id is None:
            raise InvalidMessage("Object missing required field `account_id`")
        return self.account_id


ANYBODY = Identity(scopes=(*SCOPES, ADMIN))  # where `auth` is open
CUSTOMER = Identity(is_customer=True)  # where the setting `checkout` is on
NOBODY = Identity()


def new_token() -> str:
    """Return a token that nobody has yet."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def hash_token(token: str) -> bytes:
    """Return what is stored of a token. It is random, so nobody can guess it from a plain SHA-256."""
    return hashlib.sha256(token.encode()).digest()
