"""What a customer sees, who has an invoice's uid and no token: the protocol's section 7, "Checkout"."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from trio_ws.topics import NOTHING, Event

# Of INVOICE and of PAYMENT. Nothing of theirs has a field of another meaning by one of these names.
HIDDEN = frozenset({"account_id", "memo", "reference", "webhook_url"})

_decoder: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])


def hide(row: Raw) -> Raw:
    """Return an invoice or a payment, or `previous` of its event, without what is the merchant's alone."""
    if row in (NOTHING, b""):
        return row
    fields: Mapping[str, Raw] = _decoder.decode(row)
    return Raw(msgspec.json.encode({name: value for name, value in fields.items() if name not in HIDDEN}))


def hide_in(event: Event) -> Event:
    """Return an event as a customer receives it."""
    shown = {"data": hide(event.data), "previous": hide(event.previous), "frame": b""}
    return msgspec.structs.replace(event, **shown)
