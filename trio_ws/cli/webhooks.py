"""Webhooks of a server that runs: what waits, failed, is held or was delivered, and the secrets that sign."""

import json
import sys
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from trio_ws.cli.database import run_query
from trio_ws.cli.options import NO_OPTIONS, AsJson, Options
from trio_ws.codec import encode_event
from trio_ws.database import webhook_lists, webhooks
from trio_ws.database.webhook_lists import Listed
from trio_ws.settings import SettingsError
from trio_ws.webhooks.signature import standard_secret

Account = Annotated[int, Parameter(help="Id of the account.")]
State = Literal["waiting", "failed", "held", "delivered"]
Id = Annotated[
    str, Parameter(name="ID", help="As `trio-ws webhooks list` shows it, and as receivers know it.")
]

SHOWN = 1000  # unless another limit is given: what a screen or a script takes at once


def list_deliveries(
    *,
    account: Annotated[int | None, Parameter(help="Only webhooks of this account.")] = None,
    failed: Annotated[bool, Parameter(negative=(), help="Only webhooks that have failed.")] = False,
    state: Annotated[State | None, Parameter(help="Only webhooks in this state.")] = None,
    limit: Annotated[int, Parameter(help="Maximum number of webhooks.")] = SHOWN,
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Print a line for each endpoint that fails, then one for each webhook that waits, failed or is held.

    The oldest first. Those that were delivered are printed where --state asks for them, the latest first.
    """
    if failed and state not in (None, "failed"):
        raise SettingsError("webhooks list: give either --failed or --state")
    if limit < 1:
        raise SettingsError("webhooks list: --limit is at least 1")
    wanted = ("failed",) if failed else (state,) if state else webhook_lists.QUEUED
    if not failed and state is None:
        for endpoint in run_query(options, webhook_lists.list_failing_endpoints, account):
            print(_endpoint_json(endpoint) if as_json else _endpoint_text(endpoint))
    found = run_query(options, webhook_lists.list_deliveries, account, wanted, limit + 1)
    for listed in found[:limit]:
        print(_json("webhook", listed._asdict()) if as_json else _line(listed))
    if len(found) > limit:
        print(f"trio-ws: there are more than {limit}; see --limit", file=sys.stderr)


def show(id_: Id, /, *, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Print all about a webhook: its URL, attempts, last answer, next attempt, and body.

    The body is what is signed, byte for byte.
    """
    listed, url, event = run_query(options, webhook_lists.find_delivery, id_)
    body = encode_event(event)
    if as_json:
        print(_json("webhook", {**listed._asdict(), "url": url, "body": json.loads(body)}))
        return
    for name, value in {**listed._asdict(), "url": url}.items():
        if value is not None:
            print(f"{name}: {json.dumps(value) if isinstance(value, bool) else value}")
    print(f"\n{body.decode()}")


def retry(
    delivery: Annotated[str | None, Parameter(name="ID", help="As `trio-ws webhooks list` shows it.")] = None,
    /,
    *,
    failed: Annotated[bool, Parameter(negative=(), help="All that have failed.")] = False,
    every: Annotated[
        bool,
        Parameter(name="--all", negative=(), help="All that have failed, or wait for their next attempt."),
    ] = False,
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Have a webhook be sent now, with all its time again; its endpoint is no longer dead, nor waits.

    One that was delivered is sent once more, with the same id.
    """
    if [delivery is not None, failed, every].count(True) != 1:
        raise SettingsError("webhooks retry: give an ID, --failed or --all")
    retried = (
        run_query(options, webhooks.retry_all) if every else run_query(options, webhooks.retry, delivery)
    )
    print(json.dumps({"retrying": retried}) if as_json else f"retrying {retried}")


def release(*, as_json: AsJson = False, options: Options = NO_OPTIONS) -> None:
    """Have all that is held be sent: this database is no copy, but the place that another one moved to."""
    released = run_query(options, webhooks.release)
    print(json.dumps({"released": released}) if as_json else f"released {released}")


def secret(
    *,
    account: Account,
    new: Annotated[
        bool, Parameter(negative=(), help="Add a new one first; the newest of the older ones stays valid.")
    ] = False,
    as_json: AsJson = False,
    options: Options = NO_OPTIONS,
) -> None:
    """Print the secrets that sign an account's webhooks, each alone on a line, the newest first.

    Libraries of Standard Webhooks take them as they are. Where one is no base64, what these are given instead
    is said on stderr, and is `standard_webhooks` of --json.
    """
    if new:
        run_query(options, webhooks.add_secret, account)
    for text in run_query(options, webhooks.active_secrets, account):
        standard = standard_secret(text)
        print(json.dumps({"secret": text, "standard_webhooks": standard}) if as_json else text)
        if standard != text and not as_json:
            print(f"trio-ws: for Standard Webhooks, in place of {text}: {standard}", file=sys.stderr)


def _line(listed: Listed) -> str:
    when = listed.ended_at or listed.next_attempt_at or listed.since
    found = f"{listed.type}  {listed.invoice}  {listed.endpoint}  attempts {listed.attempts}"
    answered = f"  answered {listed.status}" if listed.state == "delivered" and listed.status else ""
    why = f"  {listed.error}" if listed.error else answered
    return f"{listed.id}  account {listed.account_id}  {found}  {listed.word} {when}{why}"


def _endpoint_text(endpoint: tuple[Any, ...]) -> str:
    owner, name, is_dead, since, next_at, error = endpoint
    state = f"{'dead, ' if is_dead else ''}failing since {since}"
    then = f"  next attempt {next_at}" if next_at else ""
    return f"endpoint {name}  account {owner}  {state}{then}  {error}"


def _endpoint_json(endpoint: tuple[Any, ...]) -> str:
    names = ("account_id", "endpoint", "is_dead", "failing_since", "next_attempt_at", "error")
    return _json("endpoint", dict(zip(names, endpoint, strict=True)))


def _json(kind: str, fields: dict[str, Any]) -> str:
    return json.dumps({"kind": kind, **fields}, ensure_ascii=False)
