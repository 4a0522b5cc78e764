"""Messages on an open WebSocket, and requests and their replies, which share one."""

import itertools
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trio_ws.client.closing import ABNORMAL, Lost, broken
from trio_ws.client.errors import Refused

REPLY_SECONDS = 30.0  # the server answers within 5 s or so, or its line is dead
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

    async def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Send a request, and return its reply, which is no error."""
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
        return reply


async def next_message(socket: WebSocketConnection) -> dict[str, Any]:
    """Return the next message; a silent connection is tested with a ping, and ended if it is dead.

    Raises:
        ConnectionClosed: there is none, or what came is no message of this protocol.
    """
    while True:
        with trio.move_on_after(SILENCE_SECONDS):
            message = await socket.get_message()
            try:
                return _decoder.decode(message)
            # msgspec's errors are ValueErrors; a Decimal's, as of 1e9999999999999999999, are not.
            except (ValueError, ArithmeticError, RecursionError):
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


def request_of(action: str, fields: Mapping[str, object]) -> dict[str, object]:
    """Return an action and its fields as a request, whose `request_id` the line will add.

    Raises:
        ValueError: the fields can't be said so.
    """
    for name in ("action", "request_id"):
        if name in fields:
            raise ValueError(f"no field can be called {name!r}: each request has one already")
    _check_numbers(fields)
    return {"action": action, **fields}


def _check_numbers(value: object) -> None:
    """Raise ValueError for a number that JSON has not: it would go as null, or as no JSON at all."""
    if isinstance(value, (float, Decimal)) and not math.isfinite(value):
        raise ValueError(f"{value} is no number that can be sent")
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for part in value:
        _check_numbers(part)


def encode(message: object) -> str:
    """Return a message, or a part of one, as it is sent: decimals are numbers."""
    return _encoder.encode(message).decode()
