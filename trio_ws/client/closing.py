"""How a connection ended: in words, whether for good, and how long to leave the server alone after it."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import trio
from trio_websocket import CloseReason, ConnectionClosed

from trio_ws.client.errors import Disconnected, Refused, bounded_seconds
from trio_ws.errors import CloseCode

# Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): a random time up to a doubling bound.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0
HELD_SECONDS = 10.0  # a line that was lost sooner is no reason to come back sooner

ABNORMAL = 1006  # RFC 6455 section 7.4.1: there was no close frame
# What we did wrong. Codes of RFC 6455 section 7.4.1, for which a server need not say more.
FAULTS = {
    CloseCode.PROTOCOL_ERROR: "the server could not read a frame",
    CloseCode.INVALID_TEXT: "the server could not read a message as UTF-8",
    CloseCode.MESSAGE_TOO_BIG: "the message was larger than the server takes",
}
TOO_BIG_FOR_US = "Exceeded maximum message size"  # how trio-websocket begins its own reason for 1009
# The protocol's section 6: not again without a change.
FINAL_CODES = {*FAULTS, *range(4400, 5000)}


class Lost(NamedTuple):
    """How a connection ended.

    Args:
        code: The WebSocket's close code.
        reason: What the server says of it, or what we found.
    """

    code: int
    reason: str

    @classmethod
    def of(cls, closed: ConnectionClosed) -> "Lost":
        """Return what an error of trio-websocket says."""
        if closed.reason is None:
            return cls(ABNORMAL, "")
        return cls(int(closed.reason.code), closed.reason.reason or "")

    def __str__(self) -> str:
        if self.code == ABNORMAL:
            return self.reason or "the connection broke"
        fault = FAULTS.get(CloseCode(self.code)) if self.code in FAULTS else None
        if self.reason.startswith(TOO_BIG_FOR_US):
            fault = "the server's message was larger than this client takes"
        reason = f" ({self.reason})" if self.reason else ""
        return f"closed with {self.code}{reason}" + (f": {fault}" if fault else "")

    @property
    def asked_seconds(self) -> float:
        """How long the server wants to be left alone."""
        name, _, seconds = self.reason.partition("=")
        return bounded_seconds(seconds) if name == "retry_after" else 0.0

    def check(self) -> None:
        """Return where another connection may fare better.

        Raises:
            Refused: it would fare as this one did.
        """
        if self.code in FINAL_CODES:
            code = "unauthorized" if self.code == CloseCode.UNAUTHORIZED else "forbidden"
            raise Refused({"message": str(self), "code": "invalid_message" if self.code in FAULTS else code})

    def error(self) -> Refused | Disconnected:
        """Return the error for a request that was under way: `Refused`, where it would fare so again."""
        try:
            self.check()
        except Refused as refused:
            return refused
        return Disconnected(f"the line was lost before the reply came: {self}", self.code, self.reason)


class Backoff:
    """How long to wait before each next connection: longer and longer, until one has held."""

    def __init__(self) -> None:
        self._pauses = pauses()

    def pause_after(self, begin: float, asked_seconds: float) -> float:
        """Return how long to wait after a connection that is lost now, in seconds.

        Args:
            begin: When it was open, or was tried, by trio's clock.
            asked_seconds: How long the server wants to be left alone, as `bounded_seconds` returns it.
        """
        if trio.current_time() - begin >= HELD_SECONDS:
            self._pauses = pauses()
        return asked_seconds + next(self._pauses)


def pauses() -> Iterator[float]:
    """Yield how long to wait before each next try, in seconds."""
    bound = FIRST_PAUSE_SECONDS
    while True:
        yield random.uniform(0, bound)  # noqa: S311 - spreads, hides nothing
        bound = min(2 * bound, LONGEST_PAUSE_SECONDS)


def broken(reason: str) -> ConnectionClosed:
    """Return the error for a connection that we find to be of no use, and why."""
    return ConnectionClosed(CloseReason(ABNORMAL, reason))
