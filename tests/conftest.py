"""Real PostgreSQL for all tests that ask for it, and the rule that an ERROR in the log fails a test.

Each process of a run, be it the only one or one of several (`pytest -n`), makes PostgreSQL's data once, and
copies it: for the PostgreSQL of its own that its tests share, where each of them gets a database of its own,
and for each server of a test that has a PostgreSQL of its own (`tests/end_to_end/serving.py`).
"""

import functools
import itertools
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast

import hypothesis
import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

import trio_ws
from tests import clusters
from tests.plain import PlainWorld
from tests.programs import OtherProgram, postgres_program, simulated_program
from trio_ws import codec
from trio_ws.actions import table
from trio_ws.database.embedded import embedded_postgres
from trio_ws.database.gateway import Database, Gateway
from trio_ws.http import actions
from trio_ws.messages import Action
from trio_ws.settings import Settings
from trio_ws.testing import SimulatedDatabase, World, simulated_server

# A shared machine may be slow at any moment, which says nothing of the code.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

# A shell's job in the background ignores Ctrl-C, and so would all processes that our tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _no_contexts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commands ask our own servers, whichever context the developer uses."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The conninfo of a real PostgreSQL, the embedded one, with a migrated database to copy."""
    folder = os.environ.get("TEST_POSTGRES_BINDIR")  # another PostgreSQL than the one that comes with us
    bindir = Path(folder) if folder else None
    with embedded_postgres(clusters.copy_to(tmp_path_factory.mktemp("data"), bindir), bindir) as postgres:
        yield postgres.conninfo


@pytest.fixture
def empty_database(postgres: str) -> str:
    """The conninfo of a new database without anything in it."""
    return _create_database(postgres, f"empty_{next(_numbers)}")


@pytest.fixture
def conninfo(postgres: str) -> str:
    """The conninfo of a new, migrated database."""
    return _create_database(postgres, f"test_{next(_numbers)}", template=clusters.TEMPLATE)


def _create_database(conninfo: str, name: str, template: str = "template0") -> str:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    return make_conninfo(conninfo, dbname=name)


@pytest.fixture
async def database() -> SimulatedDatabase:
    """A simulated database."""
    return SimulatedDatabase()


@pytest.fixture
async def world(database: SimulatedDatabase) -> AsyncIterator[World]:
    """A server on a simulated network and a simulated database."""
    async with simulated_server(database) as world:
        yield world


@pytest.fixture(params=["simulated", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database a test of the contract runs on: it runs on both."""
    return str(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of the contract over both ways to speak to the server, if it says that it can.

    A module says so with the mark `both_ways`; what in it needs a connection that lasts, `needs_websocket`.
    """
    if "transport" in metafunc.fixturenames:
        marks = {mark.name for mark in metafunc.definition.iter_markers()}
        has_both = "both_ways" in marks and "needs_websocket" not in marks
        metafunc.parametrize("transport", ["websocket", "http"] if has_both else ["websocket"])


@asynccontextmanager
async def _speaking(transport: str, world: World) -> AsyncIterator[World]:
    """Yield a world whose clients speak to the server in that way."""
    if transport == "websocket":
        yield world
        return
    async with trio.open_nursery() as nursery:
        plain = PlainWorld(world, nursery)
        yield cast("World", plain)
        await plain.vanish()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def contract(
    kind: str, transport: str, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[World, OtherProgram]]:
    """A server on a simulated network, and a program that writes to the same database."""
    async with (
        _contract(kind, request) as (database, program),
        simulated_server(database) as world,
        _speaking(transport, world) as spoken_to,
    ):
        yield spoken_to, program


@pytest.fixture
async def guarded(
    kind: str, transport: str, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[World, OtherProgram]]:
    """The same, where the server demands tokens; there is an account 2 beside account 1."""
    async with (
        _contract(kind, request) as (database, program),
        simulated_server(database, auth="token") as world,
        _speaking(transport, world) as spoken_to,
    ):
        assert await program.create_account() == 2
        yield spoken_to, program


@pytest.fixture
async def serverless(
    kind: str, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Database, OtherProgram]]:
    """A database as a server sees it, and a program that writes to it; no server runs."""
    async with _contract(kind, request) as (database, program):
        yield database, program


@asynccontextmanager
async def _contract(
    kind: str, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Database, OtherProgram]]:
    if kind == "simulated":
        simulated = SimulatedDatabase()
        yield simulated, simulated_program(simulated)
        return
    conninfo = request.getfixturevalue("conninfo")
    with closing(Gateway(conninfo, Settings())) as gateway:
        yield gateway, postgres_program(conninfo)


@pytest.fixture(autouse=True)
def _errors_fail_the_test(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that logged an error, unless it is marked `logs_errors` and looks at them itself."""
    yield
    if "logs_errors" not in request.keywords:
        errors = [
            record.getMessage()
            for when in ("setup", "call", "teardown")
            for record in caplog.get_records(when)
            if record.levelno >= logging.ERROR
        ]
        assert errors == []


@pytest.fixture(autouse=True)
def _logs_keep_secrets(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that logged, at any level, what a client sent, or a token or memo in it."""
    secrets: set[str] = set()

    def decode(frame: str | bytes) -> Action:
        text = frame if isinstance(frame, str) else frame.decode(errors="replace")
        secrets.add(text)
        secrets.update(match[1] for match in _SECRET_FIELDS.finditer(text))
        return codec.decode(frame)

    for module in (table, actions):
        monkeypatch.setattr(module, "decode", decode)
    caplog.set_level(logging.DEBUG, "trio_ws")
    yield
    for when in ("setup", "call", "teardown"):
        for record in caplog.get_records(when):
            line = _FORMATTER.format(record)
            told = [secret for secret in secrets if len(secret) > len("secret") and secret in line]
            # What a client sent may be our own words: hypothesis finds them in our sources, too.
            assert [secret for secret in told if secret not in _our_sources()] == [], line


@functools.cache
def _our_sources() -> str:
    return "".join(path.read_text() for path in Path(trio_ws.__file__).parent.rglob("*.py"))


_SECRET_FIELDS = re.compile(r'"(?:token|memo)"\s*:\s*"([^"]+)"')
_FORMATTER = logging.Formatter()  # the message, and the traceback


@pytest.fixture
def checkout() -> Path:
    """The project's folder."""
    return Path(__file__).parent.parent
