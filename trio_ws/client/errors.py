"""What can go wrong with a request, or while following."""

from typing import Any

MOST_SECONDS = 300.0  # that a server can have us wait


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        code: The protocol's, section 5.
        detail: Which field, and why; None: the server did not say.
        retry_after_seconds (float | None): When to try again; None: not without a change.
    """

    def __init__(self, reply: dict[str, Any]) -> None:
        message, code, detail = reply.get("message"), reply.get("code"), reply.get("detail")
        super().__init__(message if isinstance(message, str) else "")
        self.code = code if isinstance(code, str) else "internal"
        self.detail = detail if isinstance(detail, str) else None
        seconds = reply.get("retry_after_seconds")
        self.retry_after_seconds = None if seconds is None else bounded_seconds(seconds)


class Disconnected(Exception):
    """The line was lost before the reply came; whether the request was done is not known.

    Attributes:
        code: The WebSocket's close code, 1006 where it broke; None: no line came about in time.
        reason: What the server said of it.
    """

    def __init__(self, message: str, code: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


def bounded_seconds(said: object) -> float:
    """Return how long a server wants to be left alone, of whatever it said: 0 where that makes no sense.

    Every such wish is read here, for what is slept for has to be a number, and neither negative nor endless.
    """
    try:
        seconds = float(
            str(said)
        )  # of its digits, because float() itself fails for an integer of 400 of them
    except ValueError:
        return 0.0
    return min(max(0.0, seconds), MOST_SECONDS)  # in this order: max() returns its first argument for NaN
