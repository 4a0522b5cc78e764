"""`trio-ws asyncapi` and `openapi`: the interface, described for machines."""

import sys

from trio_ws.documents import asyncapi as websocket
from trio_ws.documents import openapi as http


def asyncapi() -> None:
    """Print the AsyncAPI 3 document of this server's interface, which is also at /asyncapi.json."""
    _print(websocket.encoded())


def openapi() -> None:
    """Print the OpenAPI 3.1 document of the same over plain HTTP, which is also at /openapi.json."""
    _print(http.encoded())


def _print(document: bytes) -> None:
    sys.stdout.write(document.decode())
    print()
