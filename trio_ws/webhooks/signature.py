"""The headers that let a receiver know that it was us, and when: by a secret that only it and we have.

There are two schemes, so that receivers need no code of their own. `trio-ws-signature` has the form that
Stripe's libraries verify. The three `webhook-*` headers are those of https://www.standardwebhooks.com.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

HEADER = "trio-ws-signature"
PREFIX = "whsec_"  # of a secret; Standard Webhooks has the same


def headers(id_: str, body: bytes, timestamp: int, secrets: Iterable[str]) -> dict[str, str]:
    """Return the headers of both schemes, with a signature for each secret.

    Args:
        id_: The delivery's; the same each time it is sent.
        body: What is sent.
        timestamp: When, in Unix seconds: so nobody can send an old body again as a new one.
        secrets: The account's.
    """
    secrets = tuple(secrets)
    message = f"{id_}.{timestamp}.".encode() + body
    digests = (hmac.digest(standard_key(secret), message, hashlib.sha256) for secret in secrets)
    return {
        HEADER: sign(body, timestamp, secrets),
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }


def sign(body: bytes, timestamp: int, secrets: Iterable[str]) -> str:
    """Return `t=TIMESTAMP,v1=HEX`, with a v1 for each secret.

    HEX is the HMAC-SHA256 of the timestamp, in Unix seconds, a dot and the body. The
    key is the secret's text.
    """
    message = b"%d." % timestamp + body
    digests = (hmac.new(secret.encode(), message, hashlib.sha256).hexdigest() for secret in secrets)
    return ",".join([f"t={timestamp}", *(f"v1={digest}" for digest in digests)])


def standard_key(secret: str) -> bytes:
    """Return the key that signs for Standard Webhooks.

    What follows `whsec_` is the key's base64, as that specification says. The secrets that PostgreSQL makes
    have 64 hexadecimal digits there, which are base64 of 48 bytes, too. Any other secret is the key itself.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):  # ValueError: it is not ASCII
        key = b""
    return key or secret.encode()


def standard_secret(secret: str) -> str:
    """Return what a receiver gives to a library of Standard Webhooks: nearly always the secret as it is."""
    key = standard_key(secret)
    return PREFIX + base64.b64encode(key).decode() if key == secret.encode() else secret
