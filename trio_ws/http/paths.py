"""The paths of the protocol's section 9."""

ACTIONS = "/actions"
EVENTS = "/events"
