"""`trio-ws webhooks forward`: an account's events as webhooks, to a receiver on the developer's machine.

It follows the account as any client does, and makes the same requests as the server's own deliveries. So a
receiver can be written where no server could reach it, and the server needs no setting for it.
"""

import itertools
import json
import secrets
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import trio
from cyclopts import Parameter
from cyclopts.types import PositiveInt

from trio_ws import client
from trio_ws.cli.asking import Account, account_of, ask_server, print_event
from trio_ws.cli.options import AsJson
from trio_ws.cli.printing import while_read
from trio_ws.cli.target import NO_TARGET, Target
from trio_ws.database.webhooks import PAUSE_SECONDS
from trio_ws.endpoint import Endpoint
from trio_ws.settings import Settings, SettingsError
from trio_ws.webhooks import signature
from trio_ws.webhooks.answer import GONE, Answer
from trio_ws.webhooks.attempt import Post, Webhook, attempt
from trio_ws.webhooks.post import Poster

TYPES = ("invoice.created", "invoice.updated", "payment.created", "payment.updated")
FIRST_PAUSE_SECONDS = PAUSE_SECONDS[0]  # as the server's; then twice as long each time, as there, but
LONGEST_PAUSE_SECONDS = 30.0  # a developer waits for it, and has no hour
SECRET_BYTES = 32  # as many as those that PostgreSQL makes
IDS = uuid.UUID("8f2ab3f6-9b0c-4d7e-8b1d-5c8f2a6f9e11")  # of deliveries: one for each position

_SETTINGS = Settings()  # the server's defaults: we have none of our own

Show = Callable[[str | None, dict[str, Any]], None]  # a line, or none; and what --json prints


def forward(
    *,
    to: Annotated[str, Parameter(help="URL to POST to, such as http://localhost:3000/hook.")],
    account: Account = None,
    events: Annotated[
        str | None,
        Parameter(help=f"Only these, separated by commas: {', '.join(TYPES)}.", completer=lambda _: TYPES),
    ] = None,
    secret: Annotated[
        str | None, Parameter(help="What signs them. Default: a secret that is made for this run.")
    ] = None,
    tries: Annotated[PositiveInt, Parameter(help="Attempts before an event is skipped.")] = 5,
    after: Annotated[str | None, Parameter(help="Position to resume from. Default: only new events.")] = None,
    as_json: AsJson = False,
    target: Target = NO_TARGET,
) -> None:
    """POST an account's events to a URL, signed as webhooks, until Ctrl-C: to develop a receiver.

    Each invoice's events are sent, whether it has a `webhook_url` or not. The requests are those of the
    server's own webhooks. They are sent one after the other. If the answer is not 200 to 299, the event is
    tried again, with pauses of 2 to 30 seconds.
    """
    wanted = _types(events)
    url = to if "://" in to else f"http://{to}"
    try:
        Endpoint.parse(url)
    except ValueError as error:
        raise SettingsError(f"--to: {error}") from None
    if secret == "":
        raise SettingsError("--secret: a secret can't be empty")
    signing = secret or signature.PREFIX + secrets.token_hex(SECRET_BYTES)
    post = Poster(private_addresses=True, answer_bytes=_SETTINGS.webhook_answer_bytes)
    forwarder = Forwarder(post, url, signing, tries, partial(_show, as_json=as_json))

    async def follow() -> None:
        server = target.server
        async with server.connect(is_patient=True) as connected:
            number = await account_of(connected, server, account)
            position = after or await _position(connected, number)
            async with connected.follow(("account", number), after=position) as found:
                forwarder.begin(number, position)
                async for event in found:
                    if isinstance(event, client.Gap):
                        print_event(event, as_json=as_json)
                    elif event.type in wanted:
                        await forwarder.send(event)

    ask_server(follow)


def _types(given: str | None) -> tuple[str, ...]:
    types = TYPES if given is None else tuple(part.strip() for part in given.split(","))
    if unknown := [one for one in types if one not in TYPES]:
        raise SettingsError(f"--events: {unknown[0]!r} is none of {', '.join(TYPES)}")
    return types


async def _position(server: client.Client, account: int) -> str:
    """Return where the log ends now, so that whatever comes after the first line that we print is sent."""
    position: str = (await server.call("subscribe", type="account", id=account))["position"]
    await server.call("unsubscribe", type="account", id=account)
    return position


def _show(line: str | None, fields: dict[str, Any], *, as_json: bool) -> None:
    text = json.dumps(fields) if as_json else line
    if text is not None:
        with while_read():
            print(text, flush=True)


class Forwarder:
    """Sends events, one after the other.

    Args:
        post: How a POST is made.
        url: Where they go.
        secret: What signs them.
        tries: Attempts before one is skipped.
        show: Prints what came of one.
    """

    def __init__(self, post: Post, url: str, secret: str, tries: int, show: Show) -> None:
        self._post = post
        self._url = url
        self._secret = secret
        self._tries = tries
        self._show = show

    def begin(self, account: int, position: str) -> None:
        """Say what is sent where, and which secret a receiver has to know."""
        self._show(
            f"events of account {account} go to {self._url}, signed with {self._secret}",
            {
                "kind": "begin",
                "account_id": account,
                "to": self._url,
                "secret": self._secret,
                "position": position,
            },
        )

    async def send(self, event: client.Event) -> None:
        """Send one until it is taken, is gone, or was tried often enough."""
        webhook = Webhook(str(uuid.uuid5(IDS, event.position)), self._url, body_of(event), (self._secret,))
        pause = FIRST_PAUSE_SECONDS
        for number in itertools.count(1):
            now = time.time()
            answer = await attempt(self._post, webhook, seconds=_SETTINGS.webhook_seconds, timestamp=int(now))
            state = self._state(answer, number)
            self._report(event, webhook, answer, state, number)
            if state != "waiting":
                return
            asked = 0.0 if isinstance(answer, str) else answer.wait_seconds(now)
            await trio.sleep(min(max(pause, asked), LONGEST_PAUSE_SECONDS))
            pause *= 2

    def _state(self, answer: Answer | str, number: int) -> str:
        """Return what has become of a webhook, in the words of `trio-ws webhooks list`."""
        if isinstance(answer, Answer) and answer.is_taken:
            return "delivered"
        is_gone = isinstance(answer, Answer) and answer.status == GONE
        return "failed" if is_gone or number == self._tries else "waiting"

    def _report(
        self, event: client.Event, webhook: Webhook, answer: Answer | str, state: str, number: int
    ) -> None:
        status, error = (None, answer) if isinstance(answer, str) else (answer.status, None)
        invoice = event.data.get("invoice") or event.data.get("uid")
        fields = {
            "kind": "attempt",
            "position": event.position,
            "type": event.type,
            "invoice": invoice,
            "delivery": webhook.id,
            "attempt": number,
            "status": status,
            "error": error,
            "state": state,
        }
        said = f"{event.position}  {event.type}  {invoice}  {error or status}"
        match state, number:
            case "delivered", 1:
                line: str | None = said
            case "delivered", _:
                line = f"{said}, at attempt {number}"
            case "failed", _:
                line = f"{said}: skipped after attempt {number}"
            case _, 1:
                line = f"{said}: trying up to {self._tries} times"
            case _:
                line = None  # it was said that we try again
        self._show(line, fields)


def body_of(event: client.Event) -> bytes:
    """Return what the server POSTs of an event: the text that a follower receives, byte for byte."""
    parts = {"type": event.type, "data": event.data, "previous": event.previous, "position": event.position}
    return client.encode({name: part for name, part in parts.items() if part is not None}).encode()
