"""Clients of other libraries, and a browser, by themselves and behind real proxies, through kill -9."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
from playwright.sync_api import Page

from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, SERVE, free_port, running
from tests.end_to_end.test_reverse_proxies import HOST, proxying
from tests.requirements import lack, need
from tests.web.browser import chromium, page
from tests.web.test_client_js import node

__all__ = ["chromium", "page"]

Json = dict[str, Any]

# Each sends the lines that it reads, and prints what comes, a message a line; it ends with its connection.
WEBSOCKETS = """
import asyncio, os, sys, websockets

async def main():
    async with websockets.connect(sys.argv[1]) as socket:
        async def send():
            while line := await asyncio.to_thread(sys.stdin.readline):
                await socket.send(line.strip())
        sending = asyncio.create_task(send())
        try:
            async for message in socket:
                print(message, flush=True)
        finally:
            os._exit(0)  # for a thread waits for a line

asyncio.run(main())
"""
AIOHTTP = """
import aiohttp, asyncio, os, sys

async def main():
    async with aiohttp.ClientSession() as session, session.ws_connect(sys.argv[1]) as socket:
        async def send():
            while line := await asyncio.to_thread(sys.stdin.readline):
                await socket.send_str(line.strip())
        sending = asyncio.create_task(send())
        async for message in socket:
            print(message.data, flush=True)
        os._exit(0)

asyncio.run(main())
"""
NODE_WS = """
import { createInterface } from "node:readline";
import WebSocket from "ws";

const socket = new WebSocket(process.argv[2]);
socket.on("open", () => createInterface({ input: process.stdin }).on("line", (line) => socket.send(line)));
socket.on("message", (data) => console.log(String(data)));
socket.on("error", () => {});
socket.on("close", () => process.exit());
"""
WS = "ws@8.18.3"


class Client(Protocol):
    def send(self, message: Json) -> None: ...

    def receive(self) -> Json | None:
        """Return the next message; None: the connection has ended."""


class Program:
    """A client that is a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self._stdin, self._stdout = process.stdin, process.stdout

    def send(self, message: Json) -> None:
        self._stdin.write(json.dumps(message) + "\n")
        self._stdin.flush()

    def receive(self) -> Json | None:
        line = self._stdout.readline()
        return json.loads(line) if line else None


class InBrowser:
    """A client that is a page."""

    def __init__(self, shown: Page, url: str) -> None:
        self._page = shown
        shown.goto(
            url.replace("ws", "http", 1) + "/healthz"
        )  # a page of the server's own, as a browser wants
        shown.evaluate(
            """url => new Promise((opened) => {
                window.come = [];
                window.socket = new WebSocket(url);
                socket.onopen = opened;
                socket.onmessage = (event) => come.push(event.data);
                socket.onclose = () => come.push(null);
            })""",
            url,
        )

    def send(self, message: Json) -> None:
        self._page.evaluate("text => socket.send(text)", json.dumps(message))

    def receive(self) -> Json | None:
        self._page.wait_for_function("come.length > 0")
        text = self._page.evaluate("come.shift()")
        return None if text is None else json.loads(text)


Open = Callable[[str], AbstractContextManager[Client]]


@contextmanager
def running_program(command: list[str], url: str) -> Iterator[Client]:
    with subprocess.Popen(
        [*command, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = threading.Timer(PATIENCE_SECONDS, process.kill)
        deadline.start()
        try:
            yield Program(process)
        finally:
            deadline.cancel()
            process.kill()


@pytest.fixture(params=["websockets", "aiohttp", "node ws", "chromium"])
def open_client(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """What opens a connection with each client."""
    match request.param:
        case "websockets":
            return partial(running_program, [sys.executable, "-c", WEBSOCKETS])
        case "aiohttp":
            return partial(running_program, [sys.executable, "-c", AIOHTTP])
        case "chromium":
            shown: Page = request.getfixturevalue("page")
            return lambda url: nullcontext(InBrowser(shown, url))
    command = [need("npm"), "install", "--silent", "--no-audit", "--no-fund", WS]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    if done.returncode:
        lack("registry", done.stdout + done.stderr)
    (tmp_path / "client.mjs").write_text(NODE_WS)
    return partial(running_program, [*node(), str(tmp_path / "client.mjs")])


@pytest.mark.parametrize("way", ["directly", "nginx", "haproxy"])
def test_a_client_of_another_library_misses_nothing_through_kill_9(
    open_client: Open, way: str, conninfo: str, tmp_path: Path, checkout: Path
) -> None:
    server_port = free_port()
    command = [*SERVE, "--port", str(server_port), "--database-url", conninfo]
    before = nullcontext(server_port) if way == "directly" else proxying(way, server_port, tmp_path, checkout)
    with before as port:
        url = f"ws://{HOST}:{port}"
        with running(command, tmp_path) as server, open_client(url) as client:
            position = told(client, action="subscribe", type="account", id=1)["data"]["position"]
            uid = told(client, **INVOICE)["data"]["uid"]
            event = client.receive()
            assert event
            assert (event["type"], event["data"]["uid"]) == ("invoice.created", uid)
            server.process.kill()
            assert client.receive() is None
        change(conninfo, "while it is away")
        with running(command, tmp_path), open_client(url) as client:
            topics = [{"type": "account", "id": 1}]
            resumed = told(client, action="resume", after=position, topics=topics)
            assert resumed["data"]["recovered"]
            assert [memo_of(client), memo_of(client)] == [INVOICE["memo"], "while it is away"]
            change(conninfo, "once it is back")
            assert memo_of(client) == "once it is back"


def told(client: Client, **request: object) -> Json:
    """Send a request and return its reply; events may come before it."""
    client.send(request)
    while (reply := client.receive()) and "status" not in reply:
        pass
    assert reply
    assert reply["status"] == "success", reply
    return reply


def memo_of(client: Client) -> str:
    event = client.receive()
    assert event
    return str(event["data"]["memo"])


def change(conninfo: str, memo: str) -> None:
    with psycopg.connect(conninfo, connect_timeout=PATIENCE_SECONDS) as connection:
        connection.execute("UPDATE invoices SET memo = %s", [memo])
