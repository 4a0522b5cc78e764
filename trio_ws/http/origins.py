"""Which pages' requests are served, and what their browsers are told: CORS, by the setting `origins`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from trio_ws.http.pages import Page
from trio_ws.settings import Settings
from trio_ws.wire.admission import check_host, check_origin
from trio_ws.wire.head import Head, Refusal

ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
# Of what we say, what a page may read beside the few that it always may.
EXPOSED_HEADERS = "Retry-After"
# For how long a browser need not ask again. Chromium takes up to two hours.
MAX_AGE_SECONDS = 7200


def admit_page(head: Head, settings: Settings) -> Mapping[str, str]:
    """Return what the response says to the page that calls, if one does.

    Raises:
        Refusal: that page may not call.
    """
    is_open = settings.auth == "open"
    check_origin(head, settings.origins, is_open=is_open)
    if not (origins := head.values("origin")):
        if is_open:
            check_host(head, settings.origins)
        return MappingProxyType({"Vary": "Origin"})
    return {
        "Access-Control-Allow-Origin": origins[0],
        "Access-Control-Expose-Headers": EXPOSED_HEADERS,
        "Vary": "Origin",
    }


@contextmanager
def telling(told: Mapping[str, str]) -> Iterator[None]:
    """Have a refusal say the same, or the page could not read why.

    Args:
        told: What `admit_page` returned.
    """
    try:
        yield
    except Refusal as refusal:
        refusal.headers.update(told)
        raise


def answer_preflight(methods: Sequence[str], told: Mapping[str, str]) -> Page:
    """Return the headers that a browser needs before it sends a page's request.

    Args:
        methods: Those that are known at this path.
        told: What `admit_page` returned.
    """
    allowed = ", ".join(methods)
    return Page(
        b"",
        headers={
            "Allow": allowed,
            "Access-Control-Allow-Methods": allowed,
            "Access-Control-Allow-Headers": ALLOWED_HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
            **told,
        },
    )
