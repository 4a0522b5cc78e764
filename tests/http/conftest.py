"""A server for tests of plain HTTP."""

from collections.abc import AsyncIterator

import pytest

from trio_ws.testing import SimulatedDatabase, World, simulated_server


@pytest.fixture
async def guarded_world(database: SimulatedDatabase) -> AsyncIterator[World]:
    """A server that demands tokens; account 2 beside account 1."""
    database.create_account()
    async with simulated_server(database, auth="token") as world:
        yield world
