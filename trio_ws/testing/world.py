"""A server in this process, its network and its database, and the clients that call it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from trio_ws import server
from trio_ws.database.gateway import Database
from trio_ws.settings import Settings
from trio_ws.testing.database import SimulatedDatabase
from trio_ws.testing.network import SimulatedClient, SimulatedNetwork
from trio_ws.testing.webhooks import SimulatedReceiver


@dataclass
class World:
    """What a test holds in its hands.

    Attributes:
        settings: The server's.
        network: Where it listens.
        shutdown: Set it to have the server drain.
        receiver: Whom webhooks go to.
    """

    settings: Settings
    network: SimulatedNetwork
    shutdown: trio.Event
    receiver: SimulatedReceiver
    _nursery: trio.Nursery
    _clients: list[SimulatedClient] = field(default_factory=list)

    async def connect(self, path: str = "/", **headers: str) -> SimulatedClient:
        """Return a new client, connected.

        Raises:
            trio_websocket.ConnectionRejected: the server turned it away.
        """
        client = await SimulatedClient.open(self.network, self._nursery, path, **headers)
        self._clients.append(client)
        return client

    async def vanish(self) -> None:
        """Cut all clients' lines."""
        for client in self._clients:
            await client.vanish()


@asynccontextmanager
async def simulated_server(
    database: Database | None = None, receiver: SimulatedReceiver | None = None, **settings: Any
) -> AsyncIterator[World]:
    """Run a server until the block ends, and drain it then.

    Args:
        database: What it serves from; None: a `SimulatedDatabase`.
        receiver: Whom its webhooks go to; None: one that takes them all.
        settings: Those that differ from the defaults.
    """
    network = SimulatedNetwork()
    in_force = Settings(**{"auth": "open", **settings})
    shutdown = trio.Event()
    source = SimulatedDatabase() if database is None else database
    receiver = receiver or SimulatedReceiver()
    serve = partial(server.serve, post=receiver.post)
    async with trio.open_nursery() as servers:
        await servers.start(serve, in_force, source, [network], shutdown)
        async with trio.open_nursery() as clients:
            world = World(in_force, network, shutdown, receiver, clients)
            yield world
            await world.vanish()
            clients.cancel_scope.cancel()
        shutdown.set()
