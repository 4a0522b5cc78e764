"""Who a client is: no one in particular, a customer, or whom its token names, for as long as that is good.

Where tokens are needed, most clients are merchants. An operator's token names no account. A customer comes
without, where the setting `checkout` is on, and is a merchant from when it authenticates until its line ends.
"""

import math
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from trio_ws.identity import ADMIN, SCOPES, Scope
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.testing.simulation.scenario import ACCOUNTS
from trio_ws.testing.simulation.truth import Told, View, Violation

if TYPE_CHECKING:
    from trio_ws.testing.simulation.client import Client

END_SECONDS = 1.01  # PROTOCOL 7: in calm times, whose token has ended is ended within 1 s
SHARED = 0.5  # of the tokens that lines begin with
EARLY_SECONDS = 0.001  # PostgreSQL's moments have six digits
READERS = 5  # of so many clients one may only read
READ: tuple[Scope, ...] = ("read",)
OPERATORS: tuple[Scope, ...] = (ADMIN,)
KINDS, CUSTOMER, OPERATOR = 12, 5, 11  # of so many clients one is a customer, and one an operator


class Token(msgspec.Struct, eq=False):
    """One of an account's, or an operator's, which several clients may have.

    Args:
        id: Its number, there.
        text: What a client brings.
        scopes: What it is good for.
        database: Where it was made: elsewhere it may be unknown, or another's.
        ends_at: When it is good no more.
        holders: Who had it on a line.
    """

    id: int
    text: str
    scopes: tuple[Scope, ...]
    database: SimulatedDatabase
    ends_at: float = math.inf
    holders: dict["Credentials", None] = msgspec.field(default_factory=dict)


class _Authenticated(msgspec.Struct):
    account_id: int | None
    scopes: tuple[str, ...]


class Credentials:
    """Those of one client.

    Args:
        client: Whose they are.
        number: Of the client; says its account.

    Attributes:
        view: What it may see, as far as it has been answered.
        scopes: What it may do, likewise.
        is_operator: Whether it may do everything, for any account.
        comes_without: Whether it is a customer on each new line.
        own_account: Whose tokens it brings.
        own_scopes: What these are good for.
    """

    def __init__(self, client: "Client", number: int) -> None:
        settings = client.run.scenario.settings
        self.needs_token = settings.get("auth") == "token"
        self.is_operator = self.needs_token and number % KINDS == OPERATOR
        has_checkout = self.needs_token and settings.get("checkout", False)
        self.comes_without = has_checkout and number % KINDS == CUSTOMER
        self.own_account: int | None = number % ACCOUNTS + 1
        self.own_scopes: tuple[Scope, ...] = READ if number % READERS == 0 else SCOPES
        if self.is_operator or not self.needs_token:
            self.own_account, self.own_scopes = None, OPERATORS
        self.scopes = self.own_scopes
        self._client = client
        self._next: Token | None = None  # what a new line begins with
        self._held: Token | None = None  # what the line has
        self._asked: list[Token] = []  # what it may have by now: there was no reply yet
        self._start()

    def _start(self) -> None:
        """Be who it is on a new line."""
        self._held, self._asked = None, []
        self.view = View(is_customer=True) if self.comes_without else View(self.own_account)
        if self.comes_without:
            self.scopes = ()

    @property
    def account(self) -> int | None:
        """Whose events and invoices alone it may see; None: all."""
        return self.view.account

    @property
    def held(self) -> Token | None:
        """What the line has, and is still good."""
        return self._held if self._is_good(self._held) and not self._asked else None

    @property
    def is_becoming(self) -> bool:
        """Return whether it is a customer, and may be a merchant by now."""
        return self.view.is_customer and bool(self._asked)

    @property
    def are_good(self) -> bool:
        """Return whether nothing has ended them."""
        held = () if self.view.is_customer else (self._held,)
        return not self.needs_token or all(map(self._is_good, (*held, *self._asked)))

    def allow(self, scope: Scope | None) -> bool:
        """Return whether they are good for something."""
        return scope is None or scope in self.scopes or ADMIN in self.scopes

    def refuse(self, scope: Scope | None, *, for_customers: bool) -> str | None:
        """Return the code that a request is refused with, by what it takes; None: it is not."""
        if self.allow(scope) or (for_customers and self.view.is_customer):
            return None
        return "unauthorized" if self.view.is_customer else "forbidden"

    def bring(self) -> str | None:
        """Return the token to open a line with; None: it comes without, or authenticates there."""
        self._start()
        self._client.following.reader.views = (self.view,)
        if self.comes_without or not self.needs_token:
            return None
        if not self._is_good(self._next):
            self._next = self._share() if self._client.own.random() < SHARED else self._make()
        if self._client.own.random() < 0.5:  # noqa: PLR2004 - either way
            return None
        self._hold(self._next)
        return None if self._held is None else self._held.text

    def begin(self) -> None:
        """Say who it is, where it did not while it opened the line."""
        if self._next is not None and self._held is None and not self.comes_without:
            self._client.ask("list_prices", "as nobody", must="unauthorized")
            self._authenticate(self._next)

    def lose(self) -> None:
        """Take it that they are refused.

        Raises:
            Violation: they are good.
        """
        if self.are_good:
            raise Violation(f"{self._client.name} was refused, and its token is good")
        self._next = None

    def authenticate(self, how: str) -> None:
        """Bring a token of the same account: another, the same again, one without `read`, or a wrong one."""
        if self._held is None and (not self.view.is_customer or self.is_becoming):
            return
        if how == "wrong":
            self._client.ask("authenticate", "wrong", {"token": "wrong"}, must="unauthorized")
        elif self._held is None:
            self._authenticate(self._make(float(how) if how.isdecimal() else None))
        elif self._is_good(self._held):
            self._authenticate(self._another(how, self._held), instead_of=self._held)

    def _another(self, how: str, held: Token) -> Token:
        """Return a token to bring instead of the one that is held: perhaps the same."""
        if how == "again":
            return held
        if how == "blind" and "write" in self.own_scopes:  # which would leave none
            return self._make(scopes=tuple(scope for scope in self.own_scopes if scope != "read"))
        return self._make(float(how) if how.isdecimal() else None)

    def revoke(self) -> None:
        """Have its token be good no more."""
        if self._held is not None and self._is_good(self._held):
            self._end(self._held)

    def _make(self, seconds: float | None = None, scopes: tuple[Scope, ...] | None = None) -> Token:
        database, scopes = self._client.run.database, scopes or self.own_scopes
        text = database.create_token(self.own_account, scopes, seconds)
        ends_at = trio.current_time() + (math.inf if seconds is None else seconds)
        return Token(int(text.removeprefix("token-")), text, scopes, database, ends_at)

    def _share(self) -> Token:
        """Return the token that clients like this one share."""
        shared, whose = self._client.run.shared_tokens, (self.own_account, self.own_scopes)
        if not self._is_good(shared.get(whose)):
            shared[whose] = self._make()
        return shared[whose]

    def _end(self, token: Token) -> None:
        token.database.revoke_token(token.text)
        self.note_end(token)

    def note_end(self, token: Token) -> None:
        """Have the lines that hold a token end soon: it was revoked."""
        token.ends_at = trio.current_time()
        for holder in token.holders:
            holder.watch(token)

    def take(self, token: Token) -> None:
        """Bring a token that an operator has made for it."""
        if self._is_good(self._held):
            self._authenticate(token, instead_of=self._held)

    def _authenticate(self, token: Token, instead_of: Token | None = None) -> None:
        self._asked.append(token)
        if self.view.is_customer:
            self._client.following.reader.views = self.view, View(self.own_account)
        self._client.ask(
            "authenticate",
            f"token-{token.id}",
            {"token": token.text},
            done=partial(self._authenticated, token, instead_of),
            again=partial(self._failed, token),
        )

    def _authenticated(self, token: Token, instead_of: Token | None, told: Told) -> None:
        became = msgspec.json.decode(told.data, type=_Authenticated)
        if (became.account_id, became.scopes) != (self.own_account, token.scopes):
            raise Violation(f"a token of account {self.own_account} made it {became}")
        self._asked.remove(token)
        was_blind = not self.allow("read")
        self._hold(token)
        if not self.allow("read"):
            self._client.following.pause()
            return
        if instead_of is None:
            return
        if was_blind:
            self._client.following.begin()
        self._next = token
        if self._is_good(instead_of) and self._client.own.random() < 0.5:  # noqa: PLR2004 - or goes on
            self._end(instead_of)

    def _failed(self, token: Token) -> None:
        """Go on as before, or, where that was nobody, begin anew."""
        self._asked.remove(token)
        if self._held is None:
            self._client.cut()

    def _hold(self, token: Token | None) -> None:
        self._held = token
        if token is None:
            return
        self.scopes, self.view = token.scopes, View(self.own_account)
        self._client.following.reader.views = (self.view,)
        token.holders[self] = None
        if token.ends_at < math.inf:
            self.watch(token)

    def watch(self, token: Token) -> None:
        """Have the line end soon after its token does."""
        seconds = max(0.0, token.ends_at - trio.current_time()) + END_SECONDS
        self._client.ends_within(
            seconds, "has no token any more", unless=lambda: self._held is not token or bool(self._asked)
        )

    def _is_good(self, token: Token | None) -> bool:
        return (
            token is not None
            and token.id not in self._client.run.revoked
            and token.database is self._client.run.database
            and trio.current_time() < token.ends_at - EARLY_SECONDS
        )
