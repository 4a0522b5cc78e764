"""What a client manages: as an operator that of all accounts, as a merchant its own; and whether it is so.

Where no tokens are needed, each client is an operator.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from random import Random
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import msgspec

from trio_ws.identity import ADMIN, Scope
from trio_ws.testing.database import EPOCH
from trio_ws.testing.lines import SimulatedLine
from trio_ws.testing.simulation.credentials import Token
from trio_ws.testing.simulation.scenario import ACCOUNTS
from trio_ws.testing.simulation.truth import Told, Violation
from trio_ws.topics import Position

if TYPE_CHECKING:
    from trio_ws.testing.simulation.client import Client

FEW = 4  # accounts on a page
END_SECONDS = 5.0  # until a connection has ended that is closed: what waits for its client is sent before


class _Account(msgspec.Struct):
    id: int


class _Token(msgspec.Struct):
    id: int
    account_id: int | None
    scopes: tuple[Scope, ...]
    token: str = ""
    expires_at: datetime | None = msgspec.field(name="expiresAt", default=None)


class _Webhook(msgspec.Struct):
    id: str
    account_id: int
    invoice: str
    state: str
    url: str = ""
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Connected(msgspec.Struct):
    id: str
    account_id: int | None
    token_id: int | None


class _History(NamedTuple):
    """A page of events that was asked for, and how the log was then."""

    uid: UUID
    limit: int
    after: int
    changes: int
    numbered: int


class _There(NamedTuple):
    """A client with a connection."""

    client: "Client"
    line: SimulatedLine | None
    token: Token | None

    def is_still(self) -> bool:
        """Return whether it still has it, and nothing may have ended that which it has not heard of."""
        there = self.client.line is self.line and self.client.is_steady
        return there and self.client.credentials.held is self.token


class Managing:
    """What one client asks about the server, and about accounts and what is theirs.

    Args:
        client: Who asks.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._run = client.run

    # The history of an invoice

    def list_events(self, uid: UUID, limit: int, cursor: str | None = None, after: int = 0) -> None:
        """Read all events of an invoice, page by page.

        Args:
            uid: The invoice.
            limit: How many events a page has at most.
            cursor: Of the next page.
            after: The number of the last event of the page before.
        """
        asked = _History(uid, limit, after, self._run.truth.changes, self._run.database.numbered)
        self._client.ask(
            "list_events",
            f"{uid} {limit} after {after}",
            {"uid": str(uid), "limit": limit, "cursor": cursor},
            scope="read",
            may={"not_found"},
            done=partial(self._events_listed, asked),
            refused=partial(self._client.asking.not_found, str(uid)),
        )

    def _events_listed(self, asked: _History, told: Told) -> None:
        uid, truth, view = asked.uid, self._run.truth, self._client.credentials.view
        if truth.changes != asked.changes:
            return
        first, topic = max(asked.after + 1, truth.first), f"invoice:{uid}"
        due = [event for event in truth.events[first - 1 :] if topic in event.topics and view.has(event)]
        listed = [
            (position, one.shown)
            for one in msgspec.json.decode(told.data, type=list[Told])
            if (position := Position.parse(one.position)).seq >= truth.first  # else it was trimmed meanwhile
        ]
        left = due[len(listed) :]
        if listed != [(event.position, view.event(event)) for event in due[: len(listed)]]:
            raise Violation(f"events of {uid} after {asked.after} are listed as {listed}, and are {due}")
        if told.next is None and any(event.seq <= asked.numbered for event in left):
            raise Violation(f"events of {uid} end with {listed[-1:]}, and there are {left}")
        if told.next is not None and listed:
            self.list_events(uid, asked.limit, told.next, listed[-1][0].seq)

    # Webhooks

    def list_webhooks(self, uid: UUID | None, state: str | None, limit: int) -> None:
        """Read a page of webhooks: of an invoice, in some state, or those that are not delivered."""
        credentials = self._client.credentials
        if credentials.account is not None:
            others = {"action": "list_webhooks", "account_id": credentials.account % ACCOUNTS + 1}
            self._client.ask("list_others_webhooks", fields=others, scope="read", must="forbidden")
        self._client.ask(
            "list_webhooks",
            f"{uid or ''} {state or ''} {limit}",
            {"uid": uid and str(uid), "state": state, "limit": limit},
            scope="read",
            done=partial(self._webhooks_listed, uid, state, self._run.deliveries.of_invoice(uid)),
        )

    def _webhooks_listed(self, uid: UUID | None, state: str | None, came: Sequence[str], told: Told) -> None:
        listed = msgspec.json.decode(told.data, type=list[_Webhook])
        for webhook in listed:
            self._check_webhook(webhook)
            if uid not in (None, UUID(webhook.invoice)) or state not in (None, webhook.state):
                raise Violation(f"webhooks of {uid} that are {state} are asked for, and listed is {webhook}")
        ids = [webhook.id for webhook in listed]
        if len({*ids}) < len(ids):
            raise Violation(f"webhooks are listed twice: {ids}")
        own = [id_ for id_ in came if self._is_own(id_)]
        if told.next is None and not self._run.was_restored and not {*own} <= {*ids}:
            raise Violation(f"webhooks {own} of {uid} have come, and {ids} are listed")

    def fetch_webhook(self, id_: str) -> None:
        """Read a webhook that has come, with what is sent."""
        self._ask_about("fetch_webhook", id_, "read", self._webhook_fetched)

    def _webhook_fetched(self, told: Told) -> None:
        webhook = msgspec.json.decode(told.data, type=_Webhook)
        self._check_webhook(webhook)
        self._run.deliveries.check_content(webhook.id, webhook.url, bytes(webhook.body))

    def retry_webhook(self, id_: str) -> None:
        """Have a webhook that has come be sent again."""
        deliveries = self._run.deliveries
        may = self._is_own(id_) and self._client.credentials.refuse("write", for_customers=False) is None
        times = deliveries.let_come_again(id_) if may else 0
        self._ask_about(
            "retry_webhook", id_, "write", lambda _: deliveries.see_again(id_, times, self._run.truth.changes)
        )

    def _ask_about(self, what: str, id_: str, scope: Scope, done: Callable[[Told], None]) -> None:
        """Ask about a webhook, which is not to be found where it is another account's."""
        must, may = (None, {"not_found"}) if self._is_own(id_) else ("not_found", set[str]())
        self._client.ask(
            what, id_, {"id": id_}, scope=scope, must=must, may=may, done=done, refused=self._webhook_missing
        )

    def _is_own(self, id_: str) -> bool:
        return self._client.credentials.account in (None, self._run.deliveries.account_of(id_))

    def _webhook_missing(self, told: Told) -> None:
        if not self._run.was_restored:
            raise Violation(f"a webhook that has come is not there: {told.message}")

    def _check_webhook(self, webhook: _Webhook) -> None:
        if self._client.credentials.account not in (None, webhook.account_id):
            raise Violation(f"it is shown another account's webhook: {webhook}")
        self._run.deliveries.check_listed(webhook.id, webhook.account_id, webhook.invoice, webhook.state)

    # Accounts and tokens

    def list_accounts(self, cursor: str | None = None, before: Sequence[int] = ()) -> None:
        """Read all accounts, page by page."""
        self._client.ask(
            "list_accounts",
            f"after {len(before)}",
            {"limit": FEW, "cursor": cursor},
            scope="read",
            done=partial(self._accounts_listed, before),
        )

    def _accounts_listed(self, before: Sequence[int], told: Told) -> None:
        ids = [*before, *(one.id for one in msgspec.json.decode(told.data, type=list[_Account]))]
        own = self._client.credentials.account
        if told.next is not None:
            self.list_accounts(told.next, ids)
        elif ids != (due := [*range(1, ACCOUNTS + 1)] if own is None else [own]):
            raise Violation(f"accounts {ids} are listed, and there are {due}")

    def create_token(self, other: "Client", seconds: float | None) -> None:
        """Make a token for a client, which brings it from then on."""
        database, whose = self._run.database, other.credentials
        fields = {
            "account_id": whose.own_account,
            "scopes": whose.own_scopes,
            "expires_in_seconds": seconds,
        }

        def hand_over(told: Told) -> None:
            made = msgspec.json.decode(told.data, type=_Token)
            if (made.account_id, made.scopes) != (whose.own_account, whose.own_scopes):
                raise Violation(f"a token of {whose.own_scopes} for {whose.own_account} is {made}")
            ends_at = made.expires_at and made.expires_at.timestamp() - EPOCH.timestamp()
            whose.take(Token(made.id, made.token, made.scopes, database, ends_at or math.inf))

        must = None if self._client.credentials.needs_token else "forbidden"
        self._client.ask("create_token", f"for {other.name}", fields, scope=ADMIN, must=must, done=hand_over)

    def revoke_token(self, other: "Client") -> None:
        """Have the token of a client be good no more."""
        if (token := other.credentials.held) is None:
            return
        if self._client.credentials.allow(ADMIN):
            self._run.revoked[token.id] = None  # by now or soon, whatever the reply is
        self._client.ask(
            "revoke_token",
            str(token.id),
            {"id": token.id},
            scope=ADMIN,
            done=lambda _: other.credentials.note_end(token),
        )

    # Connections

    def list_connections(self, own: Random | None = None) -> None:
        """Read the connections to this server, and perhaps close one.

        Args:
            own: Says which; None: none.
        """
        there = [
            _There(client, client.line, client.credentials.held)
            for client in self._run.clients
            if client.world is self._client.world and client.is_steady
        ]
        self._client.ask(
            "list_connections",
            fields={"limit": 100},
            scope="read",
            done=partial(self._connections_listed, there, own),
        )

    def _connections_listed(self, there: Sequence[_There], own: Random | None, told: Told) -> None:
        view, needs_token = self._client.credentials.view, self._client.credentials.needs_token
        listed = msgspec.json.decode(told.data, type=list[_Connected])
        if any(view.account not in (None, one.account_id) for one in listed):
            raise Violation(f"it is shown connections of accounts {[one.account_id for one in listed]}")
        still = [one for one in there if one.is_still() and (one.token or not needs_token)]
        due = Counter(
            one.token and one.token.id
            for one in still
            if view.account in (None, one.client.credentials.account)
        )
        if told.next is None and (missing := due - Counter(one.token_id for one in listed)):
            raise Violation(f"connections with tokens {[*missing]} are not listed")
        if own is None or not listed:
            return
        if not self._client.credentials.allow(ADMIN):
            self._client.ask("end_connection", fields={"id": listed[0].id}, scope=ADMIN)
            return
        tokens = Counter(one.token_id for one in listed)  # of shared ones nobody knows who is who
        ids = {one.token_id: one.id for one in listed if one.token_id and tokens[one.token_id] == 1}
        known = [(one, ids[one.token.id]) for one in still if one.token and one.token.id in ids]
        if known:
            self._end(*own.choice(known))

    def _end(self, there: _There, id_: str) -> None:
        """Close the connection of a client, which comes back."""
        there.client.may_be_sent_away()
        self._client.ask(
            "end_connection",
            f"of {there.client.name}",
            {"id": id_},
            scope=ADMIN,
            may={"not_found"},
            done=lambda _: self._see_it_end(there),
            refused=lambda _: self._check_it_is_gone(there),
        )

    def _see_it_end(self, there: _There) -> None:
        if there.client.line is there.line:
            there.client.ends_within(END_SECONDS, "was sent away")

    def _check_it_is_gone(self, there: _There) -> None:
        if there.is_still():
            raise Violation(f"the connection of {there.client.name} is not found, and is there")
