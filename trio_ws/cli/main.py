"""The table of commands, and how they end: errors become a line and an exit status here.

Exit status: 0 done, 1 can't (the line says what to do), 2 wrong usage or settings.
"""

import signal
import sys

from cyclopts import App, CycloptsError, Group

import trio_ws
from trio_ws.cli.init import open_standard_files
from trio_ws.cli.printing import drop_stdout
from trio_ws.errors import StartupError
from trio_ws.settings import SettingsError


def _examples(*lines: str) -> str:
    return "\n".join(["Examples:", "```", *lines, "```"])


app = App(
    name="trio-ws",
    help="A WebSocket event server for invoices and prices.",
    help_epilogue=_examples(
        "trio-ws serve             # on ws://localhost:8080, with its own database",
        "trio-ws listen account 1  # prints its events",
        "trio-ws call create_invoice amount=1000 currency=USD account_id=1",
        "trio-ws top               # what the server is doing",
        "trio-ws doctor            # what is wrong, and what to do",
    ),
    version=trio_ws.__version__,
    result_action="return_value",
)

RUN = Group("Run it", sort_key=1)
ASK = Group("Ask it", sort_key=2)
LOOK = Group("Look at it", sort_key=3)
ADMINISTER = Group("Administer it", sort_key=4)
BUILD = Group("Build on it", sort_key=5)


def _add(parent: App, group: Group | None, command: str, name: str | None, *examples: str) -> None:
    """Add a command by its place: what the others need is not loaded, 0.2 to 0.5 s of processor time."""
    parent.command(command, name=name, group=group, help_epilogue=_examples(*examples))


def _group(name: str, about: str, group: Group = ADMINISTER) -> App:
    made = App(name=name, help=about, help_epilogue="", group=group, result_action="return_value")
    app.command(made)
    return made


_add(
    app,
    RUN,
    "trio_ws.cli.serving:serve",
    None,
    "trio-ws serve --port 9000",
    "trio-ws serve --config /etc/trio-ws.toml --workers 4",
)
_add(
    app,
    RUN,
    "trio_ws.cli.options:check_config",
    None,
    "trio-ws check-config --port 9000",
    "trio-ws check-config --schema",
)
_add(
    app,
    RUN,
    "trio_ws.cli.database:migrate",
    None,
    "trio-ws migrate --database-url postgresql://db.example/shop",
)
_add(app, RUN, "trio_ws.cli.doctor:doctor", None, "trio-ws doctor", "trio-ws doctor --port 9000 --json")
_add(
    app,
    ASK,
    "trio_ws.cli.asking:call",
    None,
    "trio-ws call create_invoice amount=1000 currency=USD account_id=1",
    "trio-ws call list_prices --url wss://ws.example",
)
_add(
    app,
    ASK,
    "trio_ws.cli.asking:listen",
    None,
    "trio-ws listen account 1",
    "trio-ws listen price '*' --json",
    "trio-ws listen invoice 5735e250-b53e-4ace-a025-afac1bc77ee2 --after b07d22e5.1042",
)
_add(
    app,
    ASK,
    "trio_ws.cli.triggering:trigger",
    None,
    "trio-ws trigger paid",
    "trio-ws trigger late --amount 250 --currency EUR --account 1",
)
_add(
    app,
    LOOK,
    "trio_ws.cli.top:top",
    None,
    "trio-ws top",
    "trio-ws top --once --interval 5",
    "trio-ws top http://localhost:9100/metrics http://localhost:9101/metrics",
)
_add(
    app,
    LOOK,
    "trio_ws.cli.bench:bench",
    None,
    "trio-ws bench ping",
    "trio-ws bench create --clients 16 --in-flight 16 --seconds 3",
    "trio-ws bench events --clients 200",
)
_add(
    app,
    LOOK,
    "trio_ws.cli.database:database_url",
    None,
    "trio-ws database-url",
    'psql "$(trio-ws database-url)"',
)
_add(app, BUILD, "trio_ws.cli.describing:asyncapi", None, "trio-ws asyncapi")
_add(app, BUILD, "trio_ws.cli.describing:openapi", None, "trio-ws openapi")
_add(
    app,
    BUILD,
    "trio_ws.cli.simulating:simulate",
    None,
    "trio-ws simulate --seeds 100",
    "trio-ws simulate --seed 7 --trace",
    "trio-ws simulate --seed 7 --plot run.svg",
)
_add(
    app,
    BUILD,
    "trio_ws.cli.completing:completion",
    None,
    "trio-ws completion bash",
    'eval "$(trio-ws completion bash)"',
)

invoices = _group("invoices", "Invoices of a running server.", ASK)
_add(
    invoices,
    None,
    "trio_ws.cli.invoices:list_invoices",
    "list",
    "trio-ws invoices list --account 1 --status unpaid",
    "trio-ws invoices list --account 1 --limit 1000 --json",
)
_add(
    invoices,
    None,
    "trio_ws.cli.invoices:show_invoice",
    "show",
    "trio-ws invoices show 5735e250-b53e-4ace-a025-afac1bc77ee2",
)
connections = _group("connections", "Connections of a running server.", ASK)
_add(
    connections,
    None,
    "trio_ws.cli.connections:list_connections",
    "list",
    "trio-ws connections list --account 1",
    "trio-ws connections list --waiting --json",
)
_add(connections, None, "trio_ws.cli.connections:end_connection", "end", "trio-ws connections end 4711-17")
context = _group("context", "Saved servers: a name for a URL and a token.", ASK)
_add(
    context,
    None,
    "trio_ws.cli.contexts:add",
    None,
    "trio-ws context add shop --url wss://ws.example --token -",
    "trio-ws context add local --url ws://localhost:9000 --replace",
)
_add(context, None, "trio_ws.cli.contexts:list_contexts", "list", "trio-ws context list --json")
_add(context, None, "trio_ws.cli.contexts:show", None, "trio-ws context show", "trio-ws context show shop")
_add(context, None, "trio_ws.cli.contexts:use", None, "trio-ws context use shop")
_add(context, None, "trio_ws.cli.contexts:remove", None, "trio-ws context remove shop")
events = _group("events", "The event log in the database.")
_add(
    events,
    None,
    "trio_ws.cli.events:tail",
    None,
    "trio-ws events tail --account 1",
    "trio-ws events tail --json",
)
account = _group("account", "Accounts.")
_add(
    account,
    None,
    "trio_ws.cli.accounts:create_account",
    "create",
    'trio-ws account create --name "The corner shop"',
)
_add(account, None, "trio_ws.cli.accounts:list_accounts", "list", "trio-ws account list --json")
_add(
    account,
    None,
    "trio_ws.cli.accounts:rename_account",
    "rename",
    'trio-ws account rename 1 "The corner shop"',
)
token = _group("token", "Tokens: who may connect, and what each may do.")
_add(
    token,
    None,
    "trio_ws.cli.accounts:create_token",
    "create",
    "trio-ws token create --account 1 --scope read,write --expires 30d",
    "trio-ws token create --scope admin --expires 12h --json",
)
_add(token, None, "trio_ws.cli.accounts:list_tokens", "list", "trio-ws token list")
_add(token, None, "trio_ws.cli.accounts:revoke_token", "revoke", "trio-ws token revoke 1")
webhooks = _group("webhooks", "Webhooks: what waits, failed or was delivered; retries; secrets; forwarding.")
_add(
    webhooks,
    None,
    "trio_ws.cli.webhooks:list_deliveries",
    "list",
    "trio-ws webhooks list --failed --account 1",
    "trio-ws webhooks list --state delivered --limit 10 --json",
)
_add(
    webhooks,
    None,
    "trio_ws.cli.webhooks:show",
    None,
    "trio-ws webhooks show 0b0a9f0e-8f0e-4a53-9f68-0c1e7a1f6a10 --json",
)
_add(
    webhooks,
    None,
    "trio_ws.cli.webhooks:retry",
    None,
    "trio-ws webhooks retry 0b0a9f0e-8f0e-4a53-9f68-0c1e7a1f6a10",
    "trio-ws webhooks retry --failed",
    "trio-ws webhooks retry --all",
)
_add(webhooks, None, "trio_ws.cli.webhooks:release", None, "trio-ws webhooks release")
_add(webhooks, None, "trio_ws.cli.webhooks:secret", None, "trio-ws webhooks secret --account 1 --new")
_add(
    webhooks,
    None,
    "trio_ws.cli.forwarding:forward",
    None,
    "trio-ws webhooks forward --to http://localhost:3000/hook",
    "trio-ws webhooks forward --to localhost:3000/hook --events invoice.updated,payment.created",
)

app.command("trio_ws.cli.serving:work", name="worker", show=False)  # what `serve --workers` starts


def main() -> None:
    """Run the command line."""
    open_standard_files()
    try:
        words = sys.argv[1:]
        if not words or not set(app.help_flags).isdisjoint(words):
            _load(words)
        app(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BrokenPipeError:  # as after `| head`
        drop_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is not None:  # it is not stdout that can't be written
            raise
        drop_stdout()
        _fail(1, StartupError(f"can't write to stdout: {error.strerror}"))
    except (CycloptsError, SettingsError) as error:
        _fail(2, error)
    except StartupError as error:
        _fail(1, error)
    except KeyboardInterrupt:  # in a command other than `serve`
        sys.exit(128 + signal.SIGINT)


def _load(words: list[str]) -> None:
    """Load the commands below the one that is named: its help says of each what it is."""
    about = app
    for word in words:
        if word in app.help_flags or word not in about:
            break
        about = about[word]
    for name in about:
        about[name]


def _fail(status: int, error: Exception) -> None:
    # In one piece, which print does not write where Python is unbuffered: workers share stderr.
    sys.stderr.write(f"trio-ws: {' '.join(str(error).split())}\n")
    sys.exit(status)
