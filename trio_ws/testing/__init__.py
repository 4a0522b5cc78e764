"""The server on a simulated network and database, for tests under trio's mock clock.

    async def test_a_till_sees_its_invoice_paid(autojump_clock):
        async with simulated_server() as world:
            till = await world.connect()
            invoice = await till.request(
                action="create_invoice", amount=1000, currency="USD", account_id=1
            )
            ...

Request `autojump_clock` in the test itself: pytest-trio takes the clock from the test's own arguments. Time
stands still while nobody sleeps, so a test that asks for much at once lifts a limit of the server's:
`simulated_server(requests_burst=None)`.
"""

from trio_ws.testing.database import SimulatedDatabase
from trio_ws.testing.gateway import SimulatedGateway
from trio_ws.testing.network import SimulatedClient, SimulatedNetwork
from trio_ws.testing.postgres import PostgresSession
from trio_ws.testing.receiver import SimulatedReceiver
from trio_ws.testing.session import Session
from trio_ws.testing.world import World, simulated_server

__all__ = [
    "PostgresSession",
    "Session",
    "SimulatedClient",
    "SimulatedDatabase",
    "SimulatedGateway",
    "SimulatedNetwork",
    "SimulatedReceiver",
    "World",
    "simulated_server",
]
