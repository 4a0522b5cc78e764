"""`trio-ws asyncapi`: the interface, described for machines."""

import sys

from trio_ws.asyncapi import encoded


def asyncapi() -> None:
    """Print the AsyncAPI 3 document of this server's interface, which is also at /asyncapi.json."""
    sys.stdout.write(encoded().decode())
    print()
