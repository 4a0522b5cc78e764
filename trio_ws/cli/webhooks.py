"""Webhooks: what waits or was given up, and their secrets, in the database of a server that runs."""

from typing import Annotated

from cyclopts import Parameter

from trio_ws.cli.database import run_query
from trio_ws.cli.options import NO_OPTIONS, Options
from trio_ws.database import webhooks
from trio_ws.settings import SettingsError

Account = Annotated[int, Parameter(help="Id of the account.")]


def list_deliveries(
    *,
    account: Annotated[int | None, Parameter(help="Only what concerns this account.")] = None,
    failed: Annotated[bool, Parameter(negative=(), help="Only what was given up.")] = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Print a line for each webhook that waits or was given up, id first, the oldest first."""
    for seq, owner, invoice, type_, endpoint, attempts, when, given_up, error in run_query(
        options, lambda connection: webhooks.list_deliveries(connection, account, failed=failed)
    ):
        state = f"{'failed' if given_up else 'due'} {when}"
        why = f"  {error}" if error else ""
        print(f"{seq}  account {owner}  {type_}  {invoice}  {endpoint}  attempts {attempts}  {state}{why}")


def retry(
    delivery: Annotated[int | None, Parameter(name="ID", help="As `trio-ws webhooks list` shows it.")] = None,
    /,
    *,
    failed: Annotated[bool, Parameter(negative=(), help="All that were given up.")] = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Have a webhook be sent now; the time of one that was given up begins anew."""
    if failed is (delivery is not None):
        raise SettingsError("webhooks retry: give either an ID or --failed")
    print(f"retrying {run_query(options, webhooks.retry, delivery)}")


def secret(
    *,
    account: Account,
    new: Annotated[bool, Parameter(negative=(), help="Make one first; the older one goes on.")] = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Print the secrets that sign an account's webhooks, each alone on a line, the newest first."""
    if new:
        run_query(options, webhooks.add_secret, account)
    print("\n".join(run_query(options, webhooks.active_secrets, account)))
