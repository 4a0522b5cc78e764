"""How events are spelled: as a WebSocket's frames or an event stream's blocks, in full or for customers.

Nobody else knows of these: an event goes the same way to all, and each gets it in the spelling of its line.
"""

from collections.abc import Callable

import msgspec

from trio_ws.checkout import hide_in
from trio_ws.codec import encode_event
from trio_ws.topics import Event
from trio_ws.wire.frames import TEXT, encode_frame


class Spelling:
    """One way to spell an event. Those who share it are sent the same bytes.

    Args:
        spell: Returns the bytes.

    Attributes:
        for_customers: The same for customers, who see less of each event.
    """

    __slots__ = ("for_customers", "spell")

    def __init__(self, spell: Callable[[Event], bytes]) -> None:
        self.spell = spell
        self.for_customers: Spelling = self


def spelling(spell: Callable[[Event], bytes]) -> Spelling:
    """Return a spelling that has one for customers, too."""
    full = Spelling(spell)
    full.for_customers = Spelling(lambda event: spell(hide_in(event)))
    return full


def _frame(event: Event) -> bytes:
    """Return an event as a WebSocket is sent it: encoded once, however often it is told or replayed."""
    if not event.frame:
        msgspec.structs.force_setattr(event, "frame", encode_frame(TEXT, encode_event(event)))
    return event.frame


FRAMES = spelling(_frame)
