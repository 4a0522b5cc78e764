"""A server in this process, its network and its database, and the clients that call it."""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import trio

from trio_ws import client, server
from trio_ws.connection import PARTS, Parts
from trio_ws.database.gateway import Database
from trio_ws.identity import SCOPES, Scope
from trio_ws.settings import Settings
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.testing.ear import SimulatedEar
from trio_ws.testing.gateway import SimulatedGateway
from trio_ws.testing.network import SimulatedClient, SimulatedNetwork
from trio_ws.testing.receiver import SimulatedReceiver
from trio_ws.wire.ear import Ear

URL = "ws://simulated.example"


class World:
    """What a test holds in its hands; made by `simulated_server`.

    Attributes:
        settings: The server's.
        network: Where it listens, and all lines to it.
        shutdown: Set it to have the server drain.
        receiver: Whom webhooks go to.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        receiver: SimulatedReceiver,
        servers: trio.Nursery,
        clients: trio.Nursery,
        *,
        ear: type[Ear],
        parts: Parts,
    ) -> None:
        self.settings = settings
        self.network = SimulatedNetwork()
        self.shutdown = trio.Event()
        self.receiver = receiver
        self._source = database
        self._ear = ear
        self._parts = parts
        self._servers = servers
        self._clients = clients
        self._known: list[SimulatedClient] = []
        self._life = trio.CancelScope()
        self._over = trio.Event()
        self._over.set()
        self._to_reloads, self._reloads = trio.open_memory_channel[Settings](math.inf)

    @property
    def database(self) -> SimulatedDatabase:
        """What is served from, to change rows as other programs do, and to fail as PostgreSQL does."""
        source = self._source.database if isinstance(self._source, SimulatedGateway) else self._source
        assert isinstance(source, SimulatedDatabase), "the server runs on another one"  # noqa: S101
        return source

    @property
    def is_running(self) -> bool:
        """Return whether the server has not ended."""
        return not self._over.is_set()

    async def connect(
        self,
        path: str = "/",
        *,
        account: int | None = None,
        scopes: Sequence[Scope] = SCOPES,
        **headers: str,
    ) -> SimulatedClient:
        """Return a new client, connected.

        Args:
            path: Where it calls.
            account: Whose it is: it comes with a new token of that account's; None: it comes with none.
            scopes: What the token is good for.
            headers: What else it says in its opening request.

        Raises:
            trio_websocket.ConnectionRejected: the server turned it away.
        """
        if account is not None:
            headers["authorization"] = f"Bearer {self.database.create_token(account, scopes)}"
        caller = await SimulatedClient.open(self.network, self._clients, path, **headers)
        self._known.append(caller)
        return caller

    def client(self, *, token: str | None = None) -> AbstractAsyncContextManager[client.Client]:
        """Return what `trio_ws.client.connect` does, on this network: `async with world.client() as till`."""
        return client.connect(URL, token=token, open_stream=self.network.call)

    async def vanish(self) -> None:
        """Have all clients that `connect` returned hang up without a word."""
        for known in self._known:
            await known.vanish()

    def cut(self) -> None:
        """Break all lines."""
        for line in self.network.lines:
            line.cut()

    def hold(self) -> None:
        """Let nothing arrive any more on any line, and tell nobody."""
        for line in self.network.lines:
            line.hold()

    def heal(self) -> None:
        """Let everything arrive again, first of all what was held."""
        for line in self.network.lines:
            line.heal()

    async def kill(self) -> None:
        """End the server as `kill -9` does: in the middle of whatever it does, without a word to anybody.

        What it has asked of the database is done all the same, and waited for: open its `gate` first.
        """
        self.cut()
        self.network.close()
        self._life.cancel()
        await self._over.wait()

    async def stop(self) -> None:
        """Have the server drain, as SIGTERM does, and wait until it has ended."""
        self.shutdown.set()
        await self._over.wait()

    def reload(self, **changes: Any) -> None:
        """Have settings come into force for new connections, as SIGHUP does."""
        self.settings = msgspec.structs.replace(self.settings, **changes)
        self._to_reloads.send_nowait(self.settings)

    async def start(self) -> None:
        """Start the server again after its end, on the same network and database.

        Raises:
            ActionError: it can't, for the database is away.
        """
        assert not self.is_running  # noqa: S101 - there is one of each
        self.shutdown, self._over = trio.Event(), trio.Event()
        self.network.listen()
        await self._servers.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        source = self._source
        now = source.now if isinstance(source, SimulatedDatabase | SimulatedGateway) else None
        serve = partial(
            server.serve,
            post=self.receiver.post,
            now=now,
            ear=self._ear(),
            reloads=self._reloads,
            parts=self._parts,
        )
        has_started = False
        try:
            async with trio.open_nursery() as nursery:
                self._life = nursery.cancel_scope
                await nursery.start(serve, self.settings, source, [self.network], self.shutdown)
                task_status.started()
                has_started = True
            if not has_started:  # it was killed meanwhile
                task_status.started()
        finally:
            self.network.close()  # also where it never came to listen
            self._over.set()


@asynccontextmanager
async def simulated_server(
    database: Database | None = None,
    receiver: SimulatedReceiver | None = None,
    *,
    ear: type[Ear] = SimulatedEar,
    parts: Parts = PARTS,
    **settings: Any,
) -> AsyncIterator[World]:
    """Run a server until the block ends, and drain it then.

    Args:
        database: What it serves from; None: a `SimulatedDatabase`. A `SimulatedGateway` fails for it alone.
        receiver: Whom its webhooks go to; None: one that takes them all.
        ear: Hears the clients; with `Deaf`, each reader waits for its own line, as under TLS.
        parts: What serves requests, as `trio_ws.tracing` has others.
        settings: Those that differ from the defaults; with `auth="token"`, clients need one.
    """
    async with trio.open_nursery() as servers:
        async with trio.open_nursery() as clients:
            world = World(
                Settings(**{"auth": "open", **settings}),
                SimulatedDatabase() if database is None else database,
                receiver or SimulatedReceiver(),
                servers,
                clients,
                ear=ear,
                parts=parts,
            )
            await world.start()
            yield world
            await world.vanish()
            clients.cancel_scope.cancel()
        world.shutdown.set()
