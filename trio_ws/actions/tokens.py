"""The tokens that connections rely on: checked in the database again and again, so that they end in time.

It is a query of its own, not an event: so a revocation is in force within a second, whatever the log holds.
"""

from collections.abc import Callable

from trio_ws.database import tokens
from trio_ws.database.gateway import Database
from trio_ws.database.lanes import Lane
from trio_ws.identity import Identity

# Together with LAST_WORDS_SECONDS of a session, and a query, this is less than the second that is promised.
CHECK_SECONDS = 0.3


class Tokens:
    """Who relies on which token.

    Args:
        database: Where the tokens are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holders: dict[Identity, dict[Callable[[], None], None]] = {}

    def hold(self, identity: Identity, lose: Callable[[], None]) -> Callable[[], None]:
        """Have `lose` be called when the token is revoked, deleted or changed; return what ends that."""
        # How long it had left when it was read is no part of what it is: many hold one token.
        key = as_stored(identity)
        self._holders.setdefault(key, {})[lose] = None

        def let_go() -> None:
            holders = self._holders.get(key, {})
            holders.pop(lose, None)
            if not holders:
                self._holders.pop(key, None)

        return let_go

    def count(self) -> int:
        """Return how many tokens are relied on."""
        return len(self._holders)

    async def check(self) -> float:
        """Pass on which tokens have ended, as a background step."""
        if held := list(self._holders):
            for identity in await self._database.run(tokens.find_ended, held, lane=Lane.IDENTIFY):
                for lose in list(self._holders.get(identity, ())):
                    lose()
        return CHECK_SECONDS


def as_stored(identity: Identity) -> Identity:
    """Return what the database says of a token at any time."""
    return Identity(
        token_id=identity.token_id,
        account_id=identity.account_id,
        scopes=identity.scopes,
        expires_at=identity.expires_at,
    )
