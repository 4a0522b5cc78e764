"""`call --http` and `listen --sse`: what a program sees that has no WebSocket."""

import http.client
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from trio_ws.cli.printing import while_read
from trio_ws.cli.target import Place
from trio_ws.client import encode
from trio_ws.client.line import request_of
from trio_ws.errors import StartupError
from trio_ws.http.actions import JSON
from trio_ws.http.paths import ACTIONS, EVENTS
from trio_ws.settings import SettingsError

SECONDS = 60.0  # for anything to come: a stream has a comment each `ping_seconds`, which are 20
RETRY_SECONDS = 1.0  # before it reconnects, unless the server says another time
_PLAIN = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
_OK, _COME_AGAIN = 200, (429, 503)


class Server:
    """Where requests go.

    Args:
        place: The server; its URL may be `ws://` or `http://`.

    Raises:
        SettingsError: it is no URL, or `ca` can't be read.
    """

    def __init__(self, place: Place) -> None:
        url, token, _ = place
        parts = urlsplit(url)
        if parts.scheme not in _PLAIN or not parts.hostname:
            raise SettingsError(f"{url!r} is no ws:// or http:// URL")
        self._host, self._port = parts.hostname, parts.port
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._context = None if _PLAIN[parts.scheme] == "http" else place.tls()

    @contextmanager
    def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield a response, of which the head has come.

        Raises:
            OSError: the server can't be reached, or goes.
        """
        if self._context is None:
            line = http.client.HTTPConnection(self._host, self._port, timeout=SECONDS)
        else:
            line = http.client.HTTPSConnection(self._host, self._port, timeout=SECONDS, context=self._context)
        with closing(line):
            line.request(method, target, body, {**self._headers, **headers})
            yield line.getresponse()


def call(server: Server, action: str, given: Mapping[str, Any], hint: str = "") -> Any:
    """Do one action and return its reply's data.

    Raises:
        SettingsError: there is no such request.
        StartupError: it was not done, or the server can't be reached.
    """
    try:
        body = encode(request_of(action, given)).encode()
    except ValueError as error:
        raise SettingsError(str(error)) from None
    try:
        with server.ask("POST", ACTIONS, {"Content-Type": JSON}, body) as response:
            text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise StartupError(f"{error}: is the server running, and are --url and --ca right?") from None
    if response.status != _OK:
        raise StartupError(_in_words(response.status, text) + hint)
    reply = msgspec.json.decode(text)
    return reply.get("data", reply)


def listen(server: Server, topic: str, after: str | None) -> None:
    """Print a stream as it comes, until Ctrl-C; come back by itself, as browsers do.

    Raises:
        StartupError: the server will not have us follow.
    """
    last, retry = after, RETRY_SECONDS
    while True:
        headers = {} if last is None else {"Last-Event-ID": last}
        try:
            with server.ask("GET", f"{EVENTS}?topic={quote(topic, safe=':')}", headers) as response:
                if response.status != _OK:
                    text = response.read()
                    if response.status not in _COME_AGAIN:
                        raise StartupError(_in_words(response.status, text))
                    retry = float(response.headers.get("Retry-After", RETRY_SECONDS))
                else:
                    for block in _blocks(response):
                        with while_read():
                            sys.stdout.buffer.write(block)
                            sys.stdout.flush()
                        fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n"))
                        last = fields.get("id", last)
                        retry = int(fields["retry"]) / 1000 if "retry" in fields else retry
        except (OSError, http.client.HTTPException) as error:
            print(f"lost: {error}", file=sys.stderr)
        time.sleep(retry)
        retry = RETRY_SECONDS


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each block once it is whole: half of one says nothing, and the server sends it again."""
    block = b""
    for line in lines:
        block += line
        if line == b"\n":
            yield block
            block = b""


def _in_words(status: int, text: bytes) -> str:
    """Return what the server has against a request, in one line."""
    try:
        failure = json.loads(text)
        detail = f" ({failure['detail']})" if "detail" in failure else ""
        return f"{failure['message']}{detail}"
    except (ValueError, KeyError, TypeError):
        return f"{status} {http.client.responses.get(status, '')}: {text.decode(errors='replace').strip()}"
