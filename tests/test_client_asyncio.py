"""The client on asyncio, with a real server: it asks, watches, follows, and is cancelled as asyncio does."""

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.serving import PATIENCE_SECONDS, Server, execute, free_port, serving
from trio_ws.client.asyncio import Client, Disconnected, Event, Refused, connect

INVOICE = {"amount": 1000, "currency": "USD", "account_id": 1}
WAIT_SECONDS = 2 * PATIENCE_SECONDS  # a loaded machine's server may take its time to come back


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test on asyncio in its debug mode; no thread of the client's may be left."""

    async def in_time() -> None:
        async with asyncio.timeout(2 * WAIT_SECONDS):
            await main()

    asyncio.run(in_time(), debug=True)
    gc.collect()
    assert [thread for thread in threading.enumerate() if thread.name == "trio_ws client"] == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served")) as server:
        yield server


async def change(server: Server, uid: str, memo: str) -> None:
    """What another program does."""
    statement = f"UPDATE invoices SET memo = '{memo}' WHERE uid = '{uid}'"  # noqa: S608
    await asyncio.to_thread(execute, server.data_dir, statement)


def test_requests_of_many_tasks_are_answered(server: Server) -> None:
    async def main() -> None:
        async with connect(server.url) as client, asyncio.TaskGroup() as group:
            asked = [
                group.create_task(client.create_invoice(**{**INVOICE, "amount": n})) for n in range(1, 21)
            ]
            for number, invoice in enumerate([await one for one in asked], start=1):
                assert invoice["amount"] == number
                assert await client.fetch_invoice(invoice["uid"]) == invoice
            assert {type(price["value"]) for price in await client.list_prices()} <= {Decimal}
            with pytest.raises(Refused, match="Invalid value") as error:
                await client.create_invoice(**{**INVOICE, "amount": 0})
            assert error.value.code == "invalid_value"

    run(main)


def test_what_is_followed_comes_once_and_in_order_across_a_kill_9(tmp_path: Path) -> None:
    port = str(free_port())

    async def main() -> None:
        memos: list[str] = []

        async def read(client: Client, uid: str, after: str) -> None:
            async for event in client.follow(("invoice", uid), after=after):
                assert isinstance(event, Event)
                if event.type == "invoice.updated":
                    memos.append(event.data["memo"])
                if len(memos) == 30:
                    break

        async with connect(f"ws://127.0.0.1:{port}") as client, asyncio.TaskGroup() as group:
            with serving(tmp_path, port=port) as server:
                uid = (await client.create_invoice(**INVOICE))["uid"]
                here = await client.call("subscribe", type="invoice", id=uid)
                reader = group.create_task(read(client, uid, here["position"]))
                for number in range(10):
                    await change(server, uid, str(number))
                await asyncio.to_thread(server.stop, signal.SIGKILL)
            with serving(tmp_path, "--no-migrate", port=port) as server:
                for number in range(10, 30):
                    await change(server, uid, str(number))
                async with asyncio.timeout(WAIT_SECONDS):
                    await reader
        assert memos == [str(number) for number in range(30)]

    run(main)


def test_watching_yields_the_state_now_and_each_newer_one(server: Server) -> None:
    async def main() -> None:
        async with connect(server.url) as client, asyncio.timeout(WAIT_SECONDS):
            uid = (await client.create_invoice(**INVOICE))["uid"]
            states = client.watch("invoice", uid)
            assert (await anext(states))["version"] == 1
            await change(server, uid, "newer")
            assert (await anext(states))["memo"] == "newer"

    run(main)


@pytest.fixture
def stopped(server: Server) -> Iterator[Callable[[int], None]]:
    """Send the server a signal; in the end it goes on."""
    yield lambda number: os.kill(server.process.pid, number)
    os.kill(server.process.pid, signal.SIGCONT)


def test_a_call_that_times_out_or_is_cancelled_ends_at_once_and_the_next_is_answered(
    server: Server, stopped: Callable[[int], None]
) -> None:
    async def main() -> None:
        async with connect(server.url) as client:
            await client.call("ping")
            stopped(signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.call("ping")
            asked = asyncio.create_task(client.call("ping"))
            await asyncio.sleep(0)  # it has begun
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            stopped(signal.SIGCONT)
            assert (await client.call("ping"))["type"] == "pong"

    run(main)


def test_a_task_group_that_fails_cancels_what_its_tasks_wait_for(server: Server) -> None:
    async def main() -> None:
        async def wait_for_ever(client: Client) -> None:
            async for _ in client.follow(("address", "nobody")):
                pass

        with pytest.RaisesGroup(ZeroDivisionError):
            async with connect(server.url) as client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(wait_for_ever(client)) for _ in range(3)]
                await client.call("ping")
                raise ZeroDivisionError
        assert all(task.cancelled() for task in tasks)

    run(main)


def test_a_client_may_belong_to_a_task_that_is_cancelled(server: Server) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def follow() -> None:
            async with connect(server.url) as client:
                await client.call("ping")
                begun.set()
                await anext(client.follow(("address", "nobody")))

        task = asyncio.create_task(follow())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_iterations_that_time_out_lose_nothing(server: Server) -> None:
    async def main() -> None:
        memos: list[str] = []
        async with connect(server.url) as client, asyncio.timeout(WAIT_SECONDS):
            uid = (await client.create_invoice(**INVOICE))["uid"]
            states = client.watch("invoice", uid)
            await anext(states)
            writer = asyncio.create_task(write(uid))
            while len(memos) < 40:
                try:
                    async with asyncio.timeout(0.002):
                        memos.append((await anext(states))["memo"])
                except TimeoutError:
                    pass
            await writer
        assert memos == [str(number) for number in range(40)]

    async def write(uid: str) -> None:
        for number in range(40):
            await change(server, uid, str(number))

    run(main)


def test_what_came_in_the_moment_of_its_cancellation_comes_with_the_next_iteration(server: Server) -> None:
    async def main() -> None:
        async with connect(server.url) as client, asyncio.timeout(WAIT_SECONDS):
            uid = (await client.create_invoice(**INVOICE))["uid"]
            states = client.watch("invoice", uid)
            await anext(states)
            was_cancelled = False
            for number in range(20):
                waits = asyncio.create_task(anext_of(states))
                await asyncio.sleep(0)  # it has begun
                execute(server.data_dir, f"UPDATE invoices SET memo = '{number}' WHERE uid = '{uid}'")  # noqa: S608
                time.sleep(0.05)  # noqa: ASYNC251 - so both are news to the loop, in the same moment
                waits.cancel()
                await asyncio.wait([waits])
                was_cancelled |= waits.cancelled()
                found = await anext(states) if waits.cancelled() else waits.result()
                assert found["memo"] == str(number)
            assert was_cancelled

    async def anext_of(states: Any) -> Any:
        return await anext(states)

    run(main)


def test_leaving_the_block_ends_iterations_and_disconnects_whoever_asks(
    server: Server, stopped: Callable[[int], None]
) -> None:
    async def main() -> None:
        async def follow() -> list[Any]:
            return [event async for event in events]

        async with asyncio.TaskGroup() as group, connect(server.url) as client:
            await client.call("ping")
            events = client.follow(("address", "nobody"))
            follows = group.create_task(follow())
            stopped(signal.SIGSTOP)
            asks = asyncio.create_task(client.call("ping"))
            await asyncio.sleep(0)  # both have begun
        assert await follows == []
        with pytest.raises(Disconnected, match="the client was closed"):
            await asks
        with pytest.raises(Disconnected, match="the client was closed"):
            await client.call("ping")

    run(main)


def test_break_ends_the_line(server: Server) -> None:
    async def main() -> None:
        async with connect(server.url) as client, asyncio.timeout(WAIT_SECONDS):
            uid = (await client.create_invoice(**INVOICE))["uid"]
            for _ in range(3):
                async for _ in client.watch("invoice", uid):
                    break
            gc.collect()
            while lines_of_this_process(server) > 1:  # noqa: ASYNC110 - that of requests is left
                await asyncio.sleep(0.01)

    run(main)


def lines_of_this_process(server: Server) -> int:
    """How many sockets of ours are connected to the server's port."""
    port = f"{int(server.url.rpartition(':')[2].strip('/')):04X}"
    ours = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # as the one that lists them
            ours.add(path.stat().st_ino)
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[9]) in ours and row[2].endswith(f":{port}") for row in rows)


def test_what_can_not_be_followed_is_refused_and_iterating_ends(server: Server) -> None:
    async def main() -> None:
        async with connect(server.url) as client, client.follow(("weather", "today")) as events:
            with pytest.raises(Refused) as error:
                await anext(events)
            assert error.value.code == "invalid_topic"
            assert [event async for event in events] == []

    run(main)


def test_no_server_is_said_at_once_where_there_is_no_patience() -> None:
    async def main() -> None:
        async with connect(f"ws://127.0.0.1:{free_port()}", is_patient=False) as client:
            with pytest.raises(Disconnected, match="can't connect"):
                await client.call("ping")

    run(main)


def test_who_follows_without_patience_is_told_at_once_that_there_is_no_server() -> None:
    async def main() -> None:
        async with connect(f"ws://127.0.0.1:{free_port()}", is_patient=False) as client:
            with pytest.raises(Disconnected, match="can't connect"):
                await anext(client.follow(("account", 1)))

    run(main)


def test_a_url_that_leads_nowhere_is_an_error() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="is no ws:// or wss:// URL"):
            async with connect("localhost:8080"):
                pass

    run(main)
