"""For pytest with pytest-trio: the fixture `trio_ws_world`, a server on a simulated network and database.

    @pytest.mark.trio_ws(requests_burst=None)  # settings that differ from the defaults, where some do
    async def test_a_till_sees_its_invoice_paid(autojump_clock, trio_ws_world):
        async with trio_ws_world.client() as till:
            ...

It is loaded wherever trio-ws is installed, so it imports nothing that no test asks for. The test itself has
to ask for `autojump_clock`: pytest-trio takes the clock from the test's own arguments.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

try:
    from pytest_trio import trio_fixture  # type: ignore[import-untyped]
except ImportError:  # whoever has no use for it
    trio_fixture = None

if TYPE_CHECKING:
    from trio_ws.testing.world import World


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "trio_ws(**settings): those of the server of `trio_ws_world`")


if trio_fixture is not None:

    @trio_fixture  # type: ignore[untyped-decorator] # pytest-trio has no types
    async def trio_ws_world(request: pytest.FixtureRequest) -> "AsyncIterator[World]":
        """A server, its network, its database and its clients: `trio_ws.testing.World`."""
        from trio_ws.testing.world import simulated_server  # noqa: PLC0415 - see above

        marker = request.node.get_closest_marker("trio_ws")
        async with simulated_server(**(marker.kwargs if marker else {})) as world:
            yield world  # noqa: ASYNC119 - pytest-trio goes on with it, whatever the test does
