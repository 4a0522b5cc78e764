"""The page on webhooks tells receivers enough to verify a signature. So do others' libraries."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import stripe
from standardwebhooks import Webhook, WebhookVerificationError
from stripe import SignatureVerificationError, WebhookSignature

from trio_ws.webhooks.signature import headers, sign, standard_secret

BODY = '{"type":"invoice.created","data":{"memo":"☕"}}'.encode()
Verifier = Callable[[str, bytes, str], bool]


@pytest.fixture
def is_from_trio_ws(checkout: Path) -> Verifier:
    """The page's own code."""
    page = (checkout / "trio_ws/docs/webhooks.md").read_text()
    code = page[page.index("    import hashlib") :].partition("\n\nAn account")[0]
    names: dict[str, Verifier] = {}
    exec("\n".join(line.removeprefix("    ") for line in code.splitlines()), names)  # noqa: S102 - the page's
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


# Receivers that are not ours


HEXADECIMAL = "whsec_" + "0123456789abcdef" * 4  # as PostgreSQL makes them
STANDARD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # that of the specification's example
ANOTHER = "whsec_" + "fedcba9876543210" * 4


@pytest.mark.parametrize("secrets", [(HEXADECIMAL,), (ANOTHER, HEXADECIMAL), (HEXADECIMAL, ANOTHER)])
def test_the_library_of_standard_webhooks_takes_a_secret_as_it_is(secrets: tuple[str, ...]) -> None:
    sent = headers("delivery-1", BODY, int(time.time()), secrets)
    assert Webhook(HEXADECIMAL).verify(BODY, sent) == json.loads(BODY)
    assert standard_secret(HEXADECIMAL) == HEXADECIMAL
    with pytest.raises(WebhookVerificationError):
        Webhook(HEXADECIMAL).verify(BODY + b" ", sent)
    with pytest.raises(WebhookVerificationError):
        Webhook(HEXADECIMAL).verify(BODY, {**sent, "webhook-id": "delivery-2"})
    with pytest.raises(WebhookVerificationError):
        Webhook(STANDARD).verify(BODY, sent)


def test_the_libraries_refuse_what_was_sent_long_ago() -> None:
    sent = headers("delivery-1", BODY, int(time.time()) - 301, [STANDARD])
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(STANDARD).verify(BODY, sent)
    with pytest.raises(SignatureVerificationError, match="Timestamp"):
        WebhookSignature.verify_header(BODY, sent["trio-ws-signature"], STANDARD, tolerance=300)


@pytest.mark.parametrize(
    "secret",
    ["whsec_", "whsec_old", "whsec_wörter", "a secret of my own", "no-base64", "whsec_abc", "YWJj!", "é"],
)
def test_a_secret_that_is_no_base64_has_another_form_for_libraries_and_goes_on_as_it_is(
    secret: str, is_from_trio_ws: Verifier
) -> None:
    sent = headers("delivery-1", BODY, int(time.time()), [secret])
    given = standard_secret(secret)
    assert given.startswith("whsec_")
    assert given != secret
    Webhook(given).verify(BODY, sent)
    assert is_from_trio_ws(sent["trio-ws-signature"], BODY, secret)
    assert WebhookSignature.verify_header(BODY, sent["trio-ws-signature"], secret, tolerance=300)


@pytest.mark.parametrize("secret", [HEXADECIMAL, STANDARD])
def test_the_library_of_stripe_takes_the_older_header(secret: str) -> None:
    sent = headers("delivery-1", BODY, int(time.time()), [ANOTHER, secret])
    assert WebhookSignature.verify_header(BODY, sent["trio-ws-signature"], secret, tolerance=300)
    event = stripe.Webhook.construct_event(BODY, sent["trio-ws-signature"], secret)
    assert event["data"]["memo"] == "☕"
    with pytest.raises(SignatureVerificationError):
        WebhookSignature.verify_header(BODY + b" ", sent["trio-ws-signature"], secret, tolerance=300)


def test_a_standard_signature_is_that_of_the_specifications_example() -> None:
    # https://github.com/standard-webhooks/standard-webhooks, the tests of its libraries
    body = b'{"test": 2432232314}'
    sent = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", body, 1614265330, [STANDARD])
    assert sent["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
