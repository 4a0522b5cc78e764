"""Messages on an open WebSocket, and requests and their replies, which share one."""

import itertools
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trio_ws.client.closing import ABNORMAL, Lost, broken
from trio_ws.client.errors import Refused

SILENCE_SECONDS = 40.0  # the server pings each 20 s by default; we ask after so long
NO_MESSAGE = "what came is no message of the protocol"

T = TypeVar("T")

_decoder = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)  # prices are exact, and stay so
_encoder = msgspec.json.Encoder(decimal_format="number")


class Line:
    """A WebSocket on which requests and replies pass, matched by request_id.

    Attributes:
        lost: How it ended; None: it has not.
    """

    def __init__(self, socket: WebSocketConnection) -> None:
        self.lost: Lost | None = None
        self._running = trio.CancelScope()
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        # A task of its own sends: who asks may be cancelled, and half a frame would swallow the next ones.
        self._to_send, self._requests = trio.open_memory_channel[str](0)

    async def run(self) -> Lost:
        """Send requests and hand out replies until the line is lost; return how."""
        try:
            with self._running:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    self.lost = await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self.lost = self.lost or Lost(ABNORMAL, "the client was closed")
            self._requests.close()
            for waiting in self._waiting.values():
                waiting.close()
        return self.lost

    async def _write(self) -> None:
        try:
            async for request in self._requests:
                await self._socket.send_message(request)
        except ConnectionClosed:
            pass  # Who reads finds it so, too.

    async def _read(self) -> Lost:
        try:
            while True:
                reply = await next_message(self._socket)
                number = reply.get("request_id")
                if "status" in reply and isinstance(number, int) and number in self._waiting:
                    self._waiting.pop(number).send_nowait(reply)
        except ConnectionClosed as closed:
            return Lost.of(closed)

    def give_up(self, reason: str) -> None:
        """Lose the line now."""
        self.lost = self.lost or Lost(ABNORMAL, reason)
        self._running.cancel()

    async def ask(self, request: dict[str, Any]) -> Any:
        """Send a request, and return its reply's data."""
        number = next(self._numbers)
        text = encode({**request, "request_id": number})
        self._waiting[number], reply_channel = trio.open_memory_channel[dict[str, Any]](1)
        try:
            if self.lost is not None:
                raise self.lost.error()
            await self._to_send.send(text)
            reply = await reply_channel.receive()
        except (trio.BrokenResourceError, trio.EndOfChannel):
            assert self.lost is not None  # noqa: S101 - which is why the channels were closed
            raise self.lost.error() from None
        finally:
            self._waiting.pop(number, None)
        if reply["status"] != "success":
            raise Refused(reply)
        return reply.get("data", reply)


async def next_message(socket: WebSocketConnection) -> dict[str, Any]:
    """Return the next message; a line on which nothing comes is tried, and given up if it is dead.

    Raises:
        ConnectionClosed: there is none, or what came is no message of this protocol.
    """
    while True:
        with trio.move_on_after(SILENCE_SECONDS):
            message = await socket.get_message()
            try:
                return _decoder.decode(message)
            except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
                raise broken(NO_MESSAGE) from None
        with trio.move_on_after(SILENCE_SECONDS):
            await socket.ping()
            continue
        raise broken(f"nothing came for {2 * SILENCE_SECONDS:.0f} s, and no answer to a ping")


def understood(message: Any, type_: type[T]) -> T:
    """Return a part of a message as what it has to be.

    Raises:
        ConnectionClosed: it is something else, so who sent it is no server of ours.
    """
    try:
        return msgspec.convert(message, type_)
    except msgspec.ValidationError:
        raise broken(NO_MESSAGE) from None


def encode(message: object) -> str:
    """Return a message, or a part of one, as it is sent: decimals are numbers."""
    return _encoder.encode(message).decode()
