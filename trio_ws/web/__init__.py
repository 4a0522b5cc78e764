"""What a browser is given: the JavaScript client, and the console, which is made with it.

The console is one page without a build step. It takes nothing from elsewhere, no script can be put into it:
its Content-Security-Policy has it run these files alone, and Trusted Types leave no way from text to markup.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from trio_ws.currencies import EXPONENTS
from trio_ws.documents import asyncapi, openapi
from trio_ws.http.pages import HOME, Page

FOLDER = Path(__file__).parent
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
GUARDED_BY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
FOR_ANY_PAGE = {"Access-Control-Allow-Origin": "*"}  # which asks for a module with CORS


def _file(name: str, headers: Mapping[str, str]) -> Callable[[], Page]:
    return _constant((FOLDER / name).read_bytes(), Path(name).suffix, headers)


def _constant(body: bytes, suffix: str, headers: Mapping[str, str]) -> Callable[[], Page]:
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    page = Page(body, CONTENT_TYPES[suffix], etag=etag, headers=headers)
    return lambda: page


_console = _file("console/console.html", GUARDED_BY)


def _document(encoded: Callable[[], bytes]) -> Callable[[], Page]:
    def page() -> Page:
        return _constant(encoded(), ".json", FOR_ANY_PAGE)()  # made when it is first asked for

    return page


# A module made of Python's table, so that there is no second one to keep.
_currencies = f"export const EXPONENTS = Object.freeze({json.dumps(EXPONENTS)});\n"

PAGES = {
    HOME: _file("home.html", GUARDED_BY),
    "/asyncapi.json": _document(asyncapi.encoded),
    "/currencies.js": _constant(_currencies.encode(), ".js", FOR_ANY_PAGE),
    "/openapi.json": _document(openapi.encoded),
    "/trio-ws.js": _file("trio-ws.js", FOR_ANY_PAGE),
}
CHECKOUT = {
    "/pay.css": _file("checkout/pay.css", {}),
    "/pay.js": _file("checkout/pay.js", {}),
}
CONSOLE_PAGES = ("invoices", "webhooks", "connections", "accounts", "tokens", "live", "try")
CONSOLE = {
    "/console": _console,
    **{f"/console/{name}": _console for name in CONSOLE_PAGES},
    **{f"/console/{name}/": _console for name in ("invoice", "invoices", "webhooks")},
    **{
        f"/console/{path.name}": _file(f"console/{path.name}", GUARDED_BY)
        for path in sorted((FOLDER / "console").iterdir())
        if path.suffix != ".html"
    },
}
