"""For pytest with pytest-trio: the fixture `trio_ws_world`, a server on a simulated network and database.

    @pytest.mark.trio_ws(requests_burst=None)  # settings that differ from the defaults, where some do
    async def test_a_till_sees_its_invoice_paid(autojump_clock, trio_ws_world):
        async with trio_ws_world.client() as till:
            ...

It is loaded wherever trio-ws is installed, so it imports nothing that no test asks for. The test itself has
to ask for `autojump_clock`: pytest-trio takes the clock from the test's own arguments.
"""

import inspect
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

try:
    from pytest_trio import trio_fixture  # type: ignore[import-untyped]
except ImportError:  # not installed where it is not used
    trio_fixture = None

if TYPE_CHECKING:
    from trio_ws.testing.world import World

FIXTURE = "trio_ws_world"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "trio_ws(**settings): those of the server of `trio_ws_world`")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say what is missing where pytest-trio won't run a test that asks for the fixture."""
    if isinstance(item, pytest.Function) and FIXTURE in item.fixturenames and (missing := _missing(item)):
        pytest.fail(f"{FIXTURE} {missing}: see trio_ws/docs/testing.md", pytrace=False)


def _missing(item: pytest.Function) -> str | None:
    if not item.config.pluginmanager.hasplugin("trio"):
        return "needs pytest-trio: pip install 'trio-ws[testing]'"
    test = getattr(item.obj, "hypothesis", item.obj)
    if not inspect.iscoroutinefunction(getattr(test, "inner_test", test)):
        return f"runs in trio: make it `async def {item.originalname}`"
    if item.get_closest_marker("trio") is None:
        return "needs trio mode: write `trio_mode = true` under [tool.pytest.ini_options] in pyproject.toml"
    return None


if trio_fixture is None:

    @pytest.fixture
    def trio_ws_world() -> None:
        """Is here so that a test that asks for it learns what is missing."""

else:

    @trio_fixture  # type: ignore[untyped-decorator] # pytest-trio has no types
    async def trio_ws_world(request: pytest.FixtureRequest) -> "AsyncIterator[World]":
        """A server, its network, its database and its clients: `trio_ws.testing.World`."""
        from trio_ws.testing.world import simulated_server  # noqa: PLC0415 - see above

        marker = request.node.get_closest_marker("trio_ws")
        async with simulated_server(**(marker.kwargs if marker else {})) as world:
            yield world  # noqa: ASYNC119 - pytest-trio goes on with it, whatever the test does
