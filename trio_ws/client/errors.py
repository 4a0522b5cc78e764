"""What can go wrong for one who asks or follows."""

from typing import Any


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        code: The protocol's, section 5.
        detail: Which field, and why; None: the server did not say.
        retry_after_seconds: When to try again; None: not without a change.
    """

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(reply.get("message", ""))
        self.code: str = reply.get("code", "internal")
        self.detail: str | None = reply.get("detail")
        self.retry_after_seconds: float | None = reply.get("retry_after_seconds")


class Disconnected(Exception):
    """The line was lost before the reply came; whether the request was done is not known."""
