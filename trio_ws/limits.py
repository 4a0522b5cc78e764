"""What is counted so that one client, or one address, can't use up what is there for all. No I/O."""

import math
from collections import Counter

FEW = 1000  # clients, of whom those that have gone are looked for again and again: 0.3 ms
ROUNDING = 1e-6  # a client that waits exactly as long as asked must not fail by the last bit of a float


class Bucket:
    """A token bucket: so many at once, and then so many a second.

    Args:
        per_second: How many; None: any number.
        burst: How many at once; None: any number.
    """

    __slots__ = (
        "_burst",
        "_left",
        "_per_second",
        "_then",
    )

    def __init__(self, per_second: float | None, burst: float | None) -> None:
        self._per_second = per_second or 0.0  # of what is unlimited, nothing is counted
        self._burst = math.inf if per_second is None or burst is None else burst
        self._left = self._burst
        self._then = -math.inf

    def take(self, now: float, cost: float = 1.0) -> float:
        """Take so many and return 0; or return in how many seconds there will be as many.

        Args:
            now: The time, in seconds, which never goes back.
            cost: How many; what costs more than the bucket holds can be taken from a full one.
        """
        burst = self._burst
        if burst == math.inf:
            return 0.0
        self._left = min(burst, self._left + (now - self._then) * self._per_second)
        self._then = now
        lacking = min(cost, burst) - self._left
        if lacking > ROUNDING:
            return lacking / self._per_second
        self._left -= cost
        return 0.0

    def is_full(self, now: float) -> bool:
        """Return whether nothing is missing, so that a new one would be the same."""
        return self._left + (now - self._then) * self._per_second >= self._burst

    def spend(self, cost: float) -> None:
        """Take so many more, there or not; fewer than 0 gives some back."""
        self._left = min(self._burst, self._left - cost)


class Allowance:
    """What one client may ask: so many requests, and as many more that are refused before it is ended.

    Args:
        per_second: How many; None: any number.
        burst: How many at once; None: any number.
    """

    __slots__ = ("refusals", "requests")

    def __init__(self, per_second: float | None, burst: float | None) -> None:
        self.requests = Bucket(per_second, burst)
        self.refusals = Bucket(per_second, burst)


class Allowances:
    """Those of clients that are known by name, over however many connections they ask."""

    def __init__(self) -> None:
        # With the limits, which are reloaded: new limits apply to new clients.
        self._by_name: dict[tuple[str, float | None, float | None], Allowance] = {}
        self._tidy_at = FEW

    def of(self, name: str, per_second: float | None, burst: float | None, now: float) -> Allowance:
        """Return one; it is there as long as anything of it is used up."""
        if len(self._by_name) >= self._tidy_at:
            self._by_name = {
                known: one
                for known, one in self._by_name.items()
                if not (one.requests.is_full(now) and one.refusals.is_full(now))
            }
            self._tidy_at = max(FEW, 2 * len(self._by_name))
        key = name, per_second, burst
        if (allowance := self._by_name.get(key)) is None:
            allowance = self._by_name[key] = Allowance(per_second, burst)
        return allowance


class Census:
    """The connections that are there, by address, and how fast they come."""

    def __init__(self) -> None:
        self._all = 0
        self._by_address: Counter[str] = Counter()
        self.limit(None, None, None)

    def limit(self, most: int | None, most_of_address: int | None, per_second: int | None) -> None:
        """Set limits for those that come; None lifts one.

        Args:
            most: How many there may be.
            most_of_address: How many of them from one address.
            per_second: How many may come a second.
        """
        self._most = math.inf if most is None else most
        self._most_of_address = math.inf if most_of_address is None else most_of_address
        self._coming = Bucket(per_second, per_second)

    def enter(self, address: str | None, now: float) -> str | None:
        """Count a connection in; or return why there is no room for it, and count nothing.

        Args:
            address: Where it comes from; None: not known, or not yet.
            now: The time, in seconds.
        """
        if self._all >= self._most:
            return "connections"
        if not self._has_room_for(address):
            return "connections_per_address"
        if self._coming.take(now):
            return "connections_per_second"
        self._all += 1
        self._by_address.update([address] if address else [])
        return None

    def locate(self, address: str) -> str | None:
        """Count where one comes from who was let in without; or return why there is no room for it."""
        if not self._has_room_for(address):
            return "connections_per_address"
        self._by_address[address] += 1
        return None

    def _has_room_for(self, address: str | None) -> bool:
        return address is None or self._by_address[address] < self._most_of_address

    def leave(self, address: str | None) -> None:
        """Count one out that was let in."""
        self._all -= 1
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
