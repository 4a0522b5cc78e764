"""The table of commands, and how they end: errors become a line and an exit status here.

Exit status: 0 done, 1 can't (the line says what to do), 2 wrong usage or settings.
"""

import signal
import sys

from cyclopts import App, CycloptsError

import trio_ws
from trio_ws.cli.accounts import create_account, create_token, list_tokens, revoke_token
from trio_ws.cli.asking import call, listen
from trio_ws.cli.database import database_url, migrate
from trio_ws.cli.events import tail
from trio_ws.cli.options import check_config
from trio_ws.cli.serving import serve, work
from trio_ws.cli.webhooks import list_deliveries, retry, secret
from trio_ws.errors import StartupError
from trio_ws.settings import SettingsError

app = App(
    name="trio-ws",
    help="A WebSocket event server for invoices and prices.",
    version=trio_ws.__version__,
    result_action="return_value",
)
account = App(name="account", help="Accounts.", result_action="return_value")
token = App(name="token", help="Tokens: who may come, and do what.", result_action="return_value")
webhooks = App(name="webhooks", help="Invoices' events, POSTed.", result_action="return_value")
events = App(name="events", help="The event log in the database.", result_action="return_value")

for command in (serve, migrate, check_config, database_url, listen, call):
    app.command(command)
# Loaded when they are asked for: a server has no use for them.
app.command("trio_ws.cli.describing:asyncapi", help="The interface, described for machines.")
app.command("trio_ws.cli.doctor:doctor", help="Look at all that a server needs, and say what to do.")
app.command("trio_ws.cli.simulating:simulate", help="Hours of servers, clients and faults, in seconds.")
for group in (account, token, webhooks, events):
    app.command(group)
account.command(create_account, name="create")
token.command(create_token, name="create")
token.command(list_tokens, name="list")
token.command(revoke_token, name="revoke")
webhooks.command(list_deliveries, name="list")
webhooks.command(retry)
webhooks.command(secret)
events.command(tail)
app.command(work, name="worker", show=False)  # what `serve --workers` starts


def main() -> None:
    """Run the command line."""
    try:
        app(exit_on_error=False, print_error=False)
    except (CycloptsError, SettingsError) as error:
        _fail(2, error)
    except StartupError as error:
        _fail(1, error)
    except KeyboardInterrupt:  # in a command other than `serve`
        sys.exit(128 + signal.SIGINT)


def _fail(status: int, error: Exception) -> None:
    # In one piece, which print does not write where Python is unbuffered: workers share stderr.
    sys.stderr.write(f"trio-ws: {' '.join(str(error).split())}\n")
    sys.exit(status)
