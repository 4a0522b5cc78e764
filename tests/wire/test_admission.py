"""Whose page calls, and whether it may."""

import pytest

from trio_ws.wire.admission import check_origin
from trio_ws.wire.head import Head, Refusal


@pytest.mark.parametrize(
    ("host", "origin", "welcome"),
    [
        ("localhost:8080", "http://localhost:8080", True),
        ("till.localhost", "http://till.localhost", True),
        ("127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("evil.example:8080", "http://evil.example:8080", False),  # a name that leads here
        ("localhost.evil.example", "http://localhost.evil.example", False),
        ("evil.example", "https://shop.example", True),  # this page is welcome by name
        ("[", "http://[", False),
        ("localhost:443", "https://localhost", True),  # the port that need not be said
        ("localhost", "http://localhost:80", True),
        ("localhost:80", "https://localhost", False),
        ("LOCALHOST:8080", "HTTP://localhost:8080", True),
        ("evil.example", "https://shop.example:443", True),
        ("evil.example", "https://shop.example:8443", False),
        ("evil.example", "http://shop.example", False),
        ("evil.example", "https://till.example", True),  # it stands in the list with a slash
        ("", "null", False),
        ("", "", False),
        ("", "://", False),
    ],
)
def test_without_tokens_a_name_that_anybody_may_lead_here_is_not_our_own(
    host: str,
    origin: str,
    welcome: bool,  # noqa: FBT001
) -> None:
    head = Head("GET", "/", "1.1", {"host": [host], "origin": [origin]})
    origins = ["https://shop.example", "https://Till.example/"]
    if welcome:
        check_origin(head, origins, is_open=True)
    else:
        with pytest.raises(Refusal) as refused:
            check_origin(head, origins, is_open=True)
        assert refused.value.status == 403
