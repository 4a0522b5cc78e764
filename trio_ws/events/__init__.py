"""From the event log to the clients: the tail reads it, the dispatcher finds followers, outboxes queue."""
