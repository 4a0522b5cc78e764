"""`python -m trio_ws` is `trio-ws`."""

from trio_ws.cli.main import main

main()
