"""The client for programs on asyncio: `trio_ws.client` in a thread of its own, asked from asyncio's tasks.

    async with connect("ws://localhost:8080", token=TOKEN) as client:
        invoice = await client.create_invoice(amount=1000, currency="USD", account_id=1)
        async for invoice in client.watch("invoice", invoice["uid"]):
            if invoice["status"] == "paid":
                break

There is one implementation, that on trio. It is not made with anyio, because that would be a dependency, and
because what is tested under trio's mock clock would then be another program than what runs. trio's guest mode
allows one run in each thread, and ends badly where asyncio's loop ends first. The price is a thread for each
`connect`, and the way there and back: 0.2 to 0.6 ms for each request and event, measured on two busy cores.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

import trio

from trio_ws import client as on_trio
from trio_ws.client import Disconnected, Event, Gap, Refused
from trio_ws.client.following import State, TopicName
from trio_ws.client.pages import Items
from trio_ws.client.requests import Requests

__all__ = ["Client", "Disconnected", "Event", "Following", "Gap", "Items", "Refused", "connect"]

T = TypeVar("T")


class _Closed(Disconnected):
    def __init__(self) -> None:
        super().__init__("the client was closed")


@asynccontextmanager
async def connect(
    url: str, *, token: str | None = None, ca: str | None = None, is_patient: bool = True
) -> AsyncIterator["Client"]:
    """Yield a client of the server at a `ws://` or `wss://` URL: as `trio_ws.client.connect`, on asyncio.

    Cancelling a task of asyncio's that waits for the client cancels what it waits for. Leaving the block ends
    all connections, and what still waits for them is `Disconnected`.

    Args:
        url: Where the server is.
        token: Who we are; None: nobody, for a server that asks for none.
        ca: PEM file of the certificates to trust for `wss://`; None: those that the system trusts.
        is_patient: Whether to try again where no connection can be opened; false: `Disconnected` says why.

    Raises:
        ValueError: the URL is none of these, the token can be none, or `ca` can't be read.
    """
    run = _Run(partial(on_trio.connect, url, token=token, ca=ca, is_patient=is_patient))
    try:
        await run.start()
        yield Client(run)
    finally:
        await run.stop()  # noqa: ASYNC102 - which takes a second at most, also when it is cancelled


class Client(Requests):
    """Asks and follows; made by `connect`."""

    def __init__(self, run: "_Run") -> None:
        self._run = run

    async def request(self, action: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Do an action and return its whole reply: see `Requests`."""
        return await self._run.do(partial(self._run.client.request, action, fields))

    def watch(self, type_: str, id_: str | int) -> "Following[State]":
        """Iterate over the state of what a topic is about, now and each newer one: see `trio_ws.client`."""
        return Following(self._run, lambda: self._run.client.watch(type_, id_))

    def follow(self, *topics: TopicName, after: str | None = None) -> "Following[Event | Gap]":
        """Iterate over the events of topics, each once and in order: see `trio_ws.client`."""
        return Following(self._run, lambda: self._run.client.follow(*topics, after=after))


class Following(Generic[T]):
    """What `Client.follow` and `Client.watch` return: an iterator over what comes.

    Iterating raises `Refused` where the server will not have us follow. An iteration that is cancelled, as by
    `asyncio.timeout`, loses nothing: the next one returns what came.
    """

    def __init__(self, run: "_Run", start: Callable[[], on_trio.Following[T]]) -> None:
        self._run = run
        self._kept: list[T] = []  # what came just as its consumer was cancelled
        self._started: list[on_trio.Following[T]] = []  # one, once trio's thread has begun it
        run.post(_start, self._started, start)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._kept:
            return self._kept.pop(0)
        try:
            return await self._run.do(partial(_next, self._started), self._kept.append)
        except _Closed:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Follow no more."""
        with contextlib.suppress(_Closed):
            await self._run.do(partial(_close, self._started))

    def __del__(self) -> None:
        """Follow no more, as after a `break`."""
        with contextlib.suppress(_Closed):
            self._run.post(self._run.spawn, partial(_close, self._started))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _start(started: list[T], start: Callable[[], T]) -> None:
    started.append(start())


async def _next(started: list[on_trio.Following[T]]) -> T:
    return await anext(started[0])


async def _close(started: list[on_trio.Following[T]]) -> None:
    await started[0].aclose()


class _Outcome(NamedTuple, Generic[T]):
    value: T | None = None
    error: BaseException | None = None


class _Run:
    """trio's run of one client, in a thread of its own, and the way there and back.

    Args:
        connect: Connects, in that thread.

    Attributes:
        client: trio's, which is for that thread alone.
    """

    client: on_trio.Client

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[on_trio.Client]]) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._error: BaseException | None = None
        self._is_open = False
        # A daemon, for a program may end without leaving the block.
        self._thread = threading.Thread(target=self._run, name="trio_ws client", daemon=True)

    # In asyncio's thread

    async def start(self) -> None:
        """Begin; raises what connecting raises."""
        self._thread.start()
        await _outlast(self._begun)
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """End, which may take a second; raises what trio's run ended with, which would be a bug."""
        with contextlib.suppress(_Closed):
            self.post(self._leave)
        try:
            await _outlast(self._ended)
        finally:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in trio's thread, after those that were posted before.

        Raises:
            Disconnected: the client was closed.
        """
        self._soon(self._call, function, args)

    async def do(self, ask: Callable[[], Awaitable[T]], keep: Callable[[T], object] | None = None) -> T:
        """Await something in trio's thread, and cancel it where we are cancelled.

        Args:
            ask: Returns what to await.
            keep: Takes what came though we were cancelled: both may happen in the same moment.

        Raises:
            Disconnected: the client was closed.
        """
        done: asyncio.Future[_Outcome[T]] = self._loop.create_future()
        scope = trio.CancelScope()

        def cancel() -> None:
            with contextlib.suppress(_Closed):
                self.post(scope.cancel)

        self._soon(self._begin, ask, scope, done)
        try:
            await _outlast(done, cancel)
        except asyncio.CancelledError:
            value, error = done.result()
            if keep is not None and error is None:
                keep(cast(T, value))
            raise
        value, error = done.result()
        if error is not None:
            raise error
        return cast(T, value)

    def _soon(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            raise _Closed() from None

    # In trio's thread

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:  # noqa: BLE001,ASYNC103 - it is raised in asyncio's thread
            self._error = error
        self._tell(self._begun, None)
        self._tell(self._ended, None)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with self._connect() as self.client, trio.open_nursery() as self._nursery:
            self._is_open = True
            self._tell(self._begun, None)
            try:
                await trio.sleep_forever()
            finally:
                self._is_open = False

    def _call(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        if self._is_open:
            function(*args)

    def _leave(self) -> None:
        self._nursery.cancel_scope.cancel()

    def spawn(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Do something that nobody waits for."""
        self._nursery.start_soon(ask)

    def _begin(
        self, ask: Callable[[], Awaitable[T]], scope: trio.CancelScope, done: "asyncio.Future[_Outcome[T]]"
    ) -> None:
        if self._is_open:
            self._nursery.start_soon(self._do, ask, scope, done)
        else:
            self._tell(done, _Outcome[T](error=_Closed()))

    async def _do(
        self, ask: Callable[[], Awaitable[T]], scope: trio.CancelScope, done: "asyncio.Future[_Outcome[T]]"
    ) -> None:
        outcome = _Outcome[T](error=_Closed())  # where all is cancelled
        try:
            with scope:
                outcome = _Outcome(await ask())
        except Exception as error:  # noqa: BLE001 - it is raised in asyncio's thread
            outcome = _Outcome(error=error)
        finally:
            self._tell(done, outcome)

    def _tell(self, future: "asyncio.Future[T]", result: T) -> None:
        def settle() -> None:
            if not future.done():
                future.set_result(result)

        with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody waits any more
            self._loop.call_soon_threadsafe(settle)


async def _outlast(future: "asyncio.Future[Any]", cancel: Callable[[], object] = lambda: None) -> None:
    """Wait until something is over, also where we are cancelled meanwhile: that is raised then."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:  # noqa: ASYNC103 - it is raised below
            cancelled = error
            cancel()
    if cancelled is not None:
        raise cancelled
