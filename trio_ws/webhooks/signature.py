"""The header that lets a receiver know that it was us, and when: by a secret that only it and we have."""

import hashlib
import hmac
from collections.abc import Iterable

HEADER = "trio-ws-signature"


def sign(body: bytes, timestamp: int, secrets: Iterable[str]) -> str:
    """Return `t=TIMESTAMP,v1=HEX`, with a v1 for each secret.

    HEX is the HMAC-SHA256 of the timestamp, in Unix seconds, a dot and the body: so nobody can send an old
    body again as a new one.
    """
    message = b"%d." % timestamp + body
    digests = (hmac.new(secret.encode(), message, hashlib.sha256).hexdigest() for secret in secrets)
    return ",".join([f"t={timestamp}", *(f"v1={digest}" for digest in digests)])
