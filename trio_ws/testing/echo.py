"""An echo through the server's own wire and connection, limits lifted: `python -m trio_ws.testing.echo PORT`.

For conformance suites, which want back what they send, and in the kind of message that they sent it in.
"""

import sys
from functools import partial

import trio

from trio_ws.actions.services import Services
from trio_ws.actions.table import Request
from trio_ws.connection import Connection
from trio_ws.events.dispatcher import Dispatcher
from trio_ws.events.log import Log
from trio_ws.events.prices import Prices
from trio_ws.events.tail import Tail
from trio_ws.http.pages import Pages
from trio_ws.pulse import Pulse
from trio_ws.settings import Settings
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.websocket import WebSocket
from trio_ws.wire.ear import open_ear
from trio_ws.wire.frames import BINARY, TEXT, encode_frame

LIFTED = Settings(
    auth="open",
    connections=None,
    connections_per_address=None,
    connections_per_second=None,
    head_bytes=None,
    message_bytes=None,
    message_fragments=None,
    control_frames_per_second=None,
    requests_per_second=None,
    outbox_bytes=2**31,
    ping_seconds=86400.0,
)


class _Echoed(Request):
    """A request that is answered with itself, in the kind of message that it came in."""

    def __init__(self, content: str | bytes) -> None:
        if isinstance(content, str):
            self._frame = encode_frame(TEXT, content.encode())
        else:
            self._frame = encode_frame(BINARY, content)

    def begin(self) -> bytes:
        return self._frame


class Echo(Connection):
    """A connection that answers each message with itself."""

    def _make_line(self, _: object) -> WebSocket:
        return WebSocket(self._wire, self._services, self._pulse, self._log_fields, _Echoed)


async def serve_echo(port: int) -> None:
    """Serve on loopback until cancelled; 0: any free port, and a line on stdout says which."""
    database = SimulatedDatabase()
    dispatcher = Dispatcher(Log(database, LIFTED.log_memory_bytes))
    tail = Tail(database, dispatcher, LIFTED.poll_seconds)
    prices, ear = Prices(database, dispatcher), open_ear()
    services = Services(LIFTED, database, dispatcher, tail, prices, ear=ear)

    pulse = Pulse()

    async def serve(stream: trio.SocketStream) -> None:
        await Echo(stream, services, pulse, Pages({})).run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        nursery.start_soon(ear.run)
        listeners = await nursery.start(partial(trio.serve_tcp, serve, port, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        print(f"Echoing on ws://127.0.0.1:{port}", flush=True)  # noqa: T201 - it is a command, too


if __name__ == "__main__":
    trio.run(serve_echo, int(sys.argv[1]))
