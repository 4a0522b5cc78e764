"""`python -m trio_ws` is `trio-ws`."""

from trio_ws.cli import main

main()
