"""Requests of operators, and of merchants about their own: history, webhooks, accounts, tokens, connections.

Requests first, then what is in their replies. The order of fields is the order on the wire.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from trio_ws.identity import Scope
from trio_ws.messages.fields import MAX_EXPIRY_SECONDS, AccountId, Asked, Word

Limit = Annotated[int, Meta(ge=1, le=100)]
Id = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
WebhookState = Literal["waiting", "failed", "delivered"]


class ListEvents(Asked, tag="list_events"):
    """Read the events of an invoice and its payments, the oldest first, page by page.

    The log keeps events for as long as the setting `retention_seconds` says.

    Args:
        uid: The invoice.
        cursor: The `next` of the page before.
        limit: Maximum number of events. Default: 50. A page also ends after 128 KiB.
    """

    uid: str
    cursor: str | None = None
    limit: Limit | None = None


class ListWebhooks(Asked, tag="list_webhooks"):
    """Read webhooks, the newest first, page by page.

    Without `state` and `uid` these are the ones in the queue: waiting or failed. A page can be empty and
    still have a `next`: then there is more to look through.

    Args:
        account_id: Only webhooks of this account.
        state: Only webhooks in this state.
        uid: Only webhooks of this invoice, delivered ones too.
        cursor: The `next` of the page before.
        limit: Maximum number of webhooks. Default: 50.
    """

    account_id: AccountId | None = None
    state: WebhookState | None = None
    uid: str | None = None
    cursor: str | None = None
    limit: Limit | None = None


class FetchWebhook(Asked, tag="fetch_webhook"):
    """Read a webhook with its URL and body.

    Args:
        id: As `list_webhooks` shows it; receivers know it as `trio-ws-delivery`.
    """

    id: Word


class RetryWebhook(Asked, tag="retry_webhook"):
    """Send a webhook now: one that waits or has failed, or once more one that was delivered.

    Args:
        id: As `list_webhooks` shows it.
    """

    id: Word


class ListAccounts(Asked, tag="list_accounts"):
    """Read accounts by id, page by page. An account's token sees its own.

    Args:
        cursor: The `next` of the page before.
        limit: Maximum number of accounts. Default: 50.
    """

    cursor: str | None = None
    limit: Limit | None = None


class CreateAccount(Asked, tag="create_account"):
    """Create an account.

    Args:
        name: Its name.
    """

    name: Name


class RenameAccount(Asked, tag="rename_account"):
    """Give an account another name.

    Args:
        account_id: The account.
        name: Its new name.
    """

    account_id: AccountId
    name: Name


class ListTokens(Asked, tag="list_tokens"):
    """Read tokens by id, page by page, without the secrets. An account's token sees the account's.

    Args:
        account_id: Only tokens of this account.
        cursor: The `next` of the page before.
        limit: Maximum number of tokens. Default: 50.
    """

    account_id: AccountId | None = None
    cursor: str | None = None
    limit: Limit | None = None


class CreateToken(Asked, tag="create_token"):
    """Create a token. The reply shows it; it cannot be shown again.

    Args:
        scopes: `read`, `write` and `process`; or `admin`, for an operator.
        account_id: The account. Leave out with `admin`.
        expires_in_seconds: How long it is valid. Default: until it is revoked.
    """

    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=4)]
    account_id: AccountId | None = None
    expires_in_seconds: Annotated[float, Meta(gt=0, le=10 * MAX_EXPIRY_SECONDS)] | None = None


class RevokeToken(Asked, tag="revoke_token"):
    """Revoke a token. Its connections end within a second.

    Args:
        id: As `list_tokens` shows it.
    """

    id: Id


class ListConnections(Asked, tag="list_connections"):
    """Read the open WebSockets and event streams of all processes of this server, the newest first.

    An account's token sees the account's. If a process does not answer, `message` says so.

    Args:
        account_id: Only connections with a token of this account.
        address: Only connections from this address.
        waiting: Only connections with data that the client has not read yet.
        cursor: The `next` of the page before.
        limit: Maximum number of connections. Default: 50. A page also ends after 128 KiB.
    """

    account_id: AccountId | None = None
    address: str | None = None
    waiting: bool | None = None
    cursor: str | None = None
    limit: Limit | None = None


class EndConnection(Asked, tag="end_connection"):
    """Close a connection with code 1001. Clients reconnect: to keep one out, revoke its token.

    Args:
        id: As `list_connections` shows it.
    """

    id: str


class FetchFigures(Asked, tag="fetch_figures"):
    """Read the metrics of all processes of this server, summed."""


class Webhook(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """A webhook.

    Args:
        id: Receivers know it as `trio-ws-delivery`.
        account_id: Its account.
        invoice: The uid of its invoice.
        type: The type of its event.
        endpoint: Scheme, host and port of its URL.
        state: waiting, failed, delivered; or held, in a copy of the database that queued it.
        attempts: The number of attempts since it was queued or retried.
        status: The HTTP status of the last response, if there was one.
        error: Why the last attempt failed.
        is_behind: Whether it waits for an older webhook of its invoice.
        queued_at: When it was queued or retried.
        next_attempt_at: When the next attempt may be made.
        ended_at: When it failed or was delivered.
        url: Its URL; not in lists.
        body: Its body; not in lists.
    """

    id: str
    account_id: int = msgspec.field(name="account_id")
    invoice: str
    type: str
    endpoint: str
    state: str
    attempts: int
    status: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    is_behind: bool = msgspec.field(name="is_behind", default=False)
    queued_at: str
    next_attempt_at: str | UnsetType = UNSET
    ended_at: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    body: Raw | UnsetType = UNSET


class Account(Struct, kw_only=True, rename="camel"):
    """An account.

    Args:
        id: Its number.
        name: Its name.
    """

    id: int
    name: str
    created_at: str


class Token(Struct, kw_only=True, rename="camel"):
    """A token.

    Args:
        id: Its number.
        account_id: Its account. null: an operator's token.
        scopes: What it allows.
        expires_at: When it ends, if it does.
        revoked_at: When it was revoked, if it was.
        token: The secret; only in the reply to `create_token`.
    """

    id: int
    account_id: int | None = msgspec.field(name="account_id")
    scopes: list[Scope]
    created_at: str
    expires_at: str | UnsetType = UNSET
    revoked_at: str | UnsetType = UNSET
    token: str | UnsetType = UNSET


class Connected(Struct, kw_only=True, rename="camel"):
    """An open WebSocket or event stream.

    Args:
        id: Its id, valid as long as it is open.
        kind: websocket or event_stream.
        address: The client's IP address, or its IPv6 network, if known.
        account_id: The account of its token. null: no token, or an operator's.
        token_id: The id of its token, if it has one.
        scopes: What it may do.
        opened_at: When it was opened.
        topics: The first 20 topics that it follows, as `type:id`.
        topic_count: The number of topics that it follows.
        waiting_bytes: Bytes that the client has not read yet.
        is_catching_up: Whether it is behind, and reads older events from the log.
        requests: The number of requests that it has sent.
        messages: The number of messages sent to it.
    """

    id: str
    kind: str
    address: str | None
    account_id: int | None = msgspec.field(name="account_id")
    token_id: int | None = msgspec.field(name="token_id")
    scopes: tuple[str, ...]
    opened_at: str
    topics: list[str]
    topic_count: int = msgspec.field(name="topic_count")
    waiting_bytes: int = msgspec.field(name="waiting_bytes")
    is_catching_up: bool = msgspec.field(name="is_catching_up")
    requests: int
    messages: int


class LoggedEvent(Struct, kw_only=True):
    """An event of the log, as followers get it.

    Args:
        type: As `invoice.updated`.
        data: The whole new state.
        previous: The changed fields' old values.
        position: Its place in the log.
    """

    type: str
    data: Raw
    previous: Raw | UnsetType = UNSET
    position: str


class Figures(Struct, kw_only=True):
    """The metrics of this server's processes.

    Args:
        version: The version of trio_ws.
        processes: The process ids. Counters begin at 0 in each process.
        missing: The number of processes that did not answer.
        values: The metrics by name, summed over labels and processes; for some, the largest.
    """

    version: str
    processes: list[int]
    missing: int
    values: dict[str, float]
