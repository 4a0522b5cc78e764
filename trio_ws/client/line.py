"""Messages on an open WebSocket, and requests and their replies, which share one."""

import itertools
from typing import Any

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trio_ws.client.errors import Disconnected, Refused

SILENCE_SECONDS = 40.0  # the server pings each 20 s by default; we ask after so long


class Line:
    """A WebSocket on which requests and replies pass, matched by request_id."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.is_lost = False
        self._running = trio.CancelScope()
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}

    async def run(self) -> None:
        """Hand out replies until the line is lost."""
        try:
            with self._running:
                while True:
                    reply = await next_message(self._socket)
                    if answered := self._waiting.get(reply.get("request_id", 0)):
                        answered.send_nowait(reply)
        except ConnectionClosed:
            pass
        finally:
            self.is_lost = True
            for waiting in self._waiting.values():
                waiting.close()

    def give_up(self) -> None:
        """Lose the line now."""
        self.is_lost = True
        self._running.cancel()

    async def ask(self, request: dict[str, Any]) -> Any:
        """Send a request, and return its reply's data."""
        number = next(self._numbers)
        self._waiting[number], reply_channel = trio.open_memory_channel[dict[str, Any]](1)
        try:
            if self.is_lost:
                raise Disconnected("the line was lost")
            await self._socket.send_message(encode({**request, "request_id": number}))
            reply = await reply_channel.receive()
        except (ConnectionClosed, trio.EndOfChannel):
            raise Disconnected("the line was lost before the reply came") from None
        finally:
            del self._waiting[number]
        if reply["status"] != "success":
            raise Refused(reply)
        return reply.get("data", reply)


async def next_message(socket: WebSocketConnection) -> dict[str, Any]:
    """Return the next message; a line on which nothing comes is tried, and given up if it is dead.

    Raises:
        ConnectionClosed: there is none.
    """
    while True:
        with trio.move_on_after(SILENCE_SECONDS):
            message = await socket.get_message()
            return msgspec.json.decode(message, type=dict[str, Any])
        with trio.move_on_after(SILENCE_SECONDS):
            await socket.ping()
            continue
        raise ConnectionClosed(None)


def encode(message: dict[str, Any]) -> str:
    """Return a message as it is sent."""
    return msgspec.json.encode(message).decode()
