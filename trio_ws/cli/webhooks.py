"""Webhooks: what waits, failed or is held, which endpoints fail, and secrets, of a server that runs."""

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
    failed: Annotated[bool, Parameter(negative=(), help="Only webhooks that failed for good.")] = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Print a line for each endpoint that fails, then one for each webhook that waits, failed or is held."""
    if not failed:
        for owner, endpoint, is_dead, since, next_at, error in run_query(
            options, webhooks.list_failing_endpoints, account
        ):
            state = f"{'dead, ' if is_dead else ''}failing since {since}"
            then = f"  next attempt {next_at}" if next_at else ""
            print(f"endpoint {endpoint}  account {owner}  {state}{then}  {error}")
    for id_, owner, invoice, type_, endpoint, attempts, state, when, error in run_query(
        options, lambda connection: webhooks.list_deliveries(connection, account, failed=failed)
    ):
        found = f"{type_}  {invoice}  {endpoint}  attempts {attempts}  {state} {when}"
        print(f"{id_}  account {owner}  {found}" + (f"  {error}" if error else ""))


def retry(
    delivery: Annotated[str | None, Parameter(name="ID", help="As `trio-ws webhooks list` shows it.")] = None,
    /,
    *,
    failed: Annotated[bool, Parameter(negative=(), help="All that failed for good.")] = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Have a webhook be sent now, with all its time again; its endpoint is no longer dead."""
    if failed is (delivery is not None):
        raise SettingsError("webhooks retry: give either an ID or --failed")
    print(f"retrying {run_query(options, webhooks.retry, delivery)}")


def release(*, options: Options = NO_OPTIONS) -> None:
    """Have all that is held be sent: this database is no copy, but the place that another one moved to."""
    print(f"released {run_query(options, webhooks.release)}")


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
