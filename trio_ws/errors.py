"""Errors, which are sent as replies and keep the connection open, and close codes, which end it.

The codes are those of the protocol: sections 5 (errors) and 6 (how a connection ends).
"""

import enum
from typing import ClassVar

# Of a message or a detail: some quote the client's input, which may be 64 KiB. A longer text does not help.
MAX_CHARACTERS = 500


class ActionError(Exception):
    """An action failed: the reply has the code of its class. All but `Unavailable` have changed nothing.

    Args:
        message: What went wrong, in words for the client's developer.
        detail: Which field, and why.
    """

    code: ClassVar[str]
    retry_after_seconds: float | None = None

    def __init__(self, message: str, detail: str | None = None) -> None:
        self.message = _shortened(message)
        self.detail = None if detail is None else _shortened(detail)
        super().__init__(self.message)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


class InvalidMessage(ActionError):
    """The message is no known action, or lacks a required field."""

    code = "invalid_message"

    def __init__(self, detail: str) -> None:
        super().__init__("Invalid message format", detail)


class InvalidValue(ActionError):
    """A field has an invalid value."""

    code = "invalid_value"

    def __init__(self, detail: str) -> None:
        super().__init__("Invalid value", detail)


class InvalidTopic(ActionError):
    """The topic's type or id is invalid."""

    code = "invalid_topic"


class Unauthorized(ActionError):
    """The token is missing, unknown, expired or revoked."""

    code = "unauthorized"


class Forbidden(ActionError):
    """The token does not allow it."""

    code = "forbidden"


class NotFound(ActionError):
    """The object does not exist."""

    code = "not_found"


class Conflict(ActionError):
    """The object's state does not allow the change."""

    code = "conflict"


class IdempotencyMismatch(ActionError):
    """The idempotency key was used for another request."""

    code = "idempotency_mismatch"


class TooManySubscriptions(ActionError):
    """The connection has reached its limit of subscriptions."""

    code = "too_many_subscriptions"


class RateLimited(ActionError):
    """The client has reached its rate limit."""

    code = "rate_limited"
    retry_after_seconds = 1.0

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ActionError):
    """PostgreSQL could not be reached. It may be unknown whether a write was done."""

    code = "unavailable"
    retry_after_seconds = 1.0


class Outage(Unavailable):
    """PostgreSQL can't be reached; the reason has been logged."""


class Timeout(ActionError):
    """PostgreSQL took too long. Nothing has changed."""

    code = "timeout"
    retry_after_seconds = 1.0


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors in a group of groups of errors."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


class StartupError(Exception):
    """The server can't start; the message is one line that says what to do."""


class CloseCode(enum.IntEnum):
    """Why the server ends a connection: RFC 6455 section 7.4.1 and the protocol's own 4000s."""

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    UNRESPONSIVE = 4000
    LOG_LOST = 4008
    RATE_LIMITED = 4029
    UNAUTHORIZED = 4401
