"""The JavaScript client and a real server that sends what none should: later it gets what it asked for."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from tests.hostile_servers import FINAL, POSITION, SCRIPTS, Close, Raw, Request, reply
from tests.web.test_client_js import run

HOSTILE_LINES = 2  # of each use's, and each of these lines takes so many requests
REQUESTS = 2
MOST_LINES = 12
GOOD = {"uid": "good", "version": 1}
EVENT = json.dumps({"type": "invoice.updated", "data": GOOD, "position": "e-1.9"})


def good(request: Request) -> list[Any]:
    """Return what a server sends."""
    match request["action"]:
        case "resume":
            return [reply(request, data=POSITION), EVENT]
        case "subscribe":
            return [reply(request, data={**POSITION, "snapshot": [GOOD]}), EVENT]
        case "list_invoices":
            return [reply(request, data=[GOOD])]
        case _:
            return [reply(request, data=GOOD)]


class Changing:
    """A server that answers by the script that the path names, and after some lines as it should."""

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()
        self._lock = threading.Lock()

    def serve(self, line: ServerConnection) -> None:
        assert line.request
        path = unquote(line.request.path)
        with self._lock:
            self.lines[path] += 1
            is_good = self.lines[path] > HOSTILE_LINES
        script = good if is_good else SCRIPTS[path.split("/")[1]]
        with contextlib.suppress(ConnectionClosed, OSError):
            for number, request in enumerate(line, 1):
                for sent in script(json.loads(request)):
                    if isinstance(sent, Close):
                        line.close(*sent)
                    elif isinstance(sent, Raw):
                        line.socket.sendall(sent.data)
                    else:
                        line.send(sent)
                if number == REQUESTS and not is_good:
                    return

    @contextmanager
    def running(self) -> Iterator[str]:
        with serve(self.serve, "127.0.0.1", 0, compression=None, subprotocols=["trio-ws"]) as server:  # type: ignore[list-item]
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
            finally:
                server.shutdown()
                thread.join()


def play() -> tuple[Changing, list[str]]:
    """Play all scripts; again, where Node 20 fails in a timer of its own parser after a broken head."""
    for last in (False, False, True):
        server = Changing()
        with server.running() as url:
            try:
                said = run(Path(__file__).parent / "hostile.mjs", url, json.dumps(list(SCRIPTS)))
            except AssertionError as error:
                if last or "onParserTimeout" not in str(error):
                    raise
            else:
                return server, said.splitlines()
    raise AssertionError


def test_whatever_a_server_sends_who_asks_has_it_later_or_an_error_of_the_client_s() -> None:
    server, said = play()
    endings = [json.loads(line) for line in said]
    assert len(endings) == 4 * len(SCRIPTS)
    wrong = [one for one in endings if one["ended"] != "good" and one["name"] not in FINAL]
    assert wrong == []
    assert {one["ended"] for one in endings} == {"good", "Refused"}
    assert max(server.lines.values()) <= MOST_LINES, "it backs off"
