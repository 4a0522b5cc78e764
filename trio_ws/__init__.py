"""trio_ws: a WebSocket event server for invoices and prices, on trio and PostgreSQL.

To follow one event through it, read in this order: `database/schema/` (a trigger writes it down),
`events/tail.py` (it is numbered and read), `events/dispatcher.py` (its followers are found),
`events/follower.py`, `events/outbox.py` and `connection.py` (it is queued, and written to each of them).
"""

__version__ = "0.2.0"
