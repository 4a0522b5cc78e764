"""What can go wrong for one who asks or follows."""

from decimal import Decimal
from typing import Any


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        code: The protocol's, section 5.
        detail: Which field, and why; None: the server did not say.
        retry_after_seconds (float | None): When to try again; None: not without a change.
    """

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(reply.get("message", ""))
        self.code: str = reply.get("code", "internal")
        self.detail: str | None = reply.get("detail")
        seconds = reply.get("retry_after_seconds")
        self.retry_after_seconds = float(seconds) if isinstance(seconds, (int, float, Decimal)) else None


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
