"""What the README tells receivers to do is enough to know that it was us, and when."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trio_ws.webhooks.signature import sign

BODY = '{"type":"invoice.created","data":{"memo":"☕"}}'.encode()
Verifier = Callable[[str, bytes, str], bool]


@pytest.fixture
def is_from_trio_ws(checkout: Path) -> Verifier:
    """The README's own code."""
    _, _, section = (checkout / "README.md").read_text().partition("## Webhooks")
    code = section[section.index("    import hashlib") :].partition("\n\nAn account")[0]
    names: dict[str, Verifier] = {}
    exec("\n".join(line.removeprefix("    ") for line in code.splitlines()), names)  # noqa: S102 - the README's
    return names["is_from_trio_ws"]


def test_either_of_two_secrets_will_do(is_from_trio_ws: Verifier) -> None:
    header = sign(BODY, int(time.time()), ["new", "old"])
    assert is_from_trio_ws(header, BODY, "new")
    assert is_from_trio_ws(header, BODY, "old")
    assert not is_from_trio_ws(header, BODY, "older")


def test_another_body_another_time_or_no_signature_will_not(is_from_trio_ws: Verifier) -> None:
    now = int(time.time())
    header = sign(BODY, now, ["secret"])
    assert not is_from_trio_ws(header, BODY + b" ", "secret")
    assert not is_from_trio_ws(header.replace(str(now), str(now + 1)), BODY, "secret")
    assert not is_from_trio_ws(sign(BODY, now - 301, ["secret"]), BODY, "secret")
    assert not is_from_trio_ws(sign(BODY, now, []), BODY, "secret")


def test_a_signature_is_what_the_protocol_says() -> None:
    # `printf '1735571686.{}' | openssl dgst -sha256 -hmac whsec_1`
    digest = "06a71c1ad689f530bad6c0135efa7acb30f73c4ae5d6ff289a03f14e1635f05d"
    assert sign(b"{}", 1735571686, ["whsec_1"]) == f"t=1735571686,v1={digest}"
    assert sign(b"{}", 1735571686, ["whsec_1", "whsec_1"]) == f"t=1735571686,v1={digest},v1={digest}"
