"""Lanes: who may use how many connections, so that no work keeps other work waiting.

A lane has connections of its own. What waits in one, for up to `statement_seconds`, delays no other.
"""

import enum


class Lane(enum.Enum):
    """What a query is for.

    Attributes:
        AHEAD: The end of the event log, which all clients wait for.
        IDENTIFY: Tokens: who comes, and whose token has ended.
        CATCH_UP: Older parts of the event log, for clients that resume.
        UPKEEP: Expiry, retention and webhooks.
        CLIENTS: Clients' requests.
        LISTS: Clients' snapshots and lists. They use half of the connections of CLIENTS at most.
    """

    AHEAD = enum.auto()
    IDENTIFY = enum.auto()
    CATCH_UP = enum.auto()
    UPKEEP = enum.auto()
    CLIENTS = enum.auto()
    LISTS = enum.auto()


SINGLE = (Lane.AHEAD, Lane.IDENTIFY, Lane.CATCH_UP, Lane.UPKEEP)  # one connection each


def connections(database_connections: int) -> dict[Lane, int]:
    """Return how many connections each lane may use.

    Args:
        database_connections: The setting, which is for clients' requests.
    """
    return {
        **dict.fromkeys(SINGLE, 1),
        Lane.CLIENTS: database_connections,
        Lane.LISTS: max(1, database_connections // 2),
    }


def sessions(database_connections: int) -> int:
    """Return how many sessions one process has at most in PostgreSQL, the one that listens included."""
    return 1 + len(SINGLE) + database_connections
