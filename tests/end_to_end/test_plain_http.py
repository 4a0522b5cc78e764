"""Plain HTTP as others speak it: through real proxies, other libraries, SIGTERM and kill -9."""

import json
import signal
import subprocess
import sys
import threading
from contextlib import aclosing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from tests.end_to_end.event_stream import EventSource
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, SERVE, free_port, running, start_process
from tests.end_to_end.test_reverse_proxies import ELSEWHERE, HERE, HOST, proxying
from tests.requirements import need

EVENTS = 30
KILLED_AT = (10, 20)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(params=["nginx", "haproxy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def post(line: HTTPConnection, **fields: object) -> tuple[int, dict[str, Any]]:
    """Ask in a body without a length: in chunks."""
    text = json.dumps(fields).encode()
    line.request("POST", "/actions", iter([text[:9], text[9:]]), JSON, encode_chunked=True)
    response = line.getresponse()
    return response.status, json.loads(response.read())


async def test_each_event_comes_at_once_through_a_proxy_and_once_through_kill_9_of_the_server(
    kind: str, conninfo: str, tmp_path: Path, checkout: Path
) -> None:
    server_port = free_port()
    command = [*SERVE, "--port", str(server_port), "--database-url", conninfo]
    memos: list[str] = []

    def write(number: int) -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO invoices (account_id, amount, currency, memo) VALUES (1, 1, 'USD', %s)",
                [str(number)],
            )

    with proxying(kind, server_port, tmp_path, checkout) as port:
        process = await trio.to_thread.run_sync(start_process, command)
        source = EventSource(port, "topic=account:1")
        number = 0
        try:
            with trio.fail_after(3 * PATIENCE_SECONDS):
                while len(memos) < EVENTS:
                    async with aclosing(source.events()) as blocks:
                        async for block in blocks:
                            if block.kind == "invoice.created":
                                memos.append(block.data["data"]["memo"])
                            elif source.lines > 1:
                                assert block.data["data"]["recovered"]
                                continue
                            if len(memos) == EVENTS:
                                break
                            # Written once the one before has come: none is pushed out by another.
                            if number in KILLED_AT:
                                process.kill()
                                process.wait()
                            await trio.to_thread.run_sync(write, number)
                            number += 1
                            if process.returncode is not None:
                                process = await trio.to_thread.run_sync(start_process, command)
        finally:
            process.kill()
            process.wait()
    assert memos == [str(number) for number in range(EVENTS)]


def test_a_proxy_keeps_connections_and_each_client_has_its_own_limit(
    kind: str, conninfo: str, tmp_path: Path, checkout: Path
) -> None:
    server_port = free_port()
    command = [*SERVE, "--port", str(server_port), "--database-url", conninfo]
    settings = {
        "TRIO_WS_TRUSTED_PROXIES": HOST,
        "TRIO_WS_REQUESTS_PER_SECOND": "0.01",
        "TRIO_WS_REQUESTS_BURST": "3",
    }
    with (
        proxying(kind, server_port, tmp_path, checkout) as port,
        running(command, tmp_path, settings),
    ):
        for address in (HERE, ELSEWHERE):
            statuses = []
            for _ in range(2):  # over as many connections as it likes
                line = HTTPConnection(HOST, port, PATIENCE_SECONDS, (address, 0))
                statuses += [post(line, **INVOICE)[0] for _ in range(2)]
                line.close()
            assert statuses == [200, 200, 200, 429], address


NODE = """
const url = process.argv[2];
const ask = async (body) => {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`${url}/actions`, { method: "POST", headers, body: JSON.stringify(body) });
  return response.json();
};
const stream = await fetch(`${url}/events?topic=account:1`);
const made = await ask(JSON.parse(process.argv[3]));
let text = "";
for await (const part of stream.body.pipeThrough(new TextDecoderStream())) {
  if (/event: invoice.created\\n.*\\n\\n/.test((text += part))) break;
}
const listed = await ask({ action: "list_invoices", account_id: 1 });
console.log(JSON.stringify([made, text, listed]));
process.exit();
"""
AIOHTTP = """
import aiohttp, asyncio, json, sys

async def main():
    url = sys.argv[1]
    async with aiohttp.ClientSession() as session:
        async def ask(body):
            async with session.post(url + "/actions", json=body) as response:
                return await response.json()
        async with session.get(url + "/events?topic=account:1") as stream:
            made = await ask(json.loads(sys.argv[2]))
            text = ""
            while not ("event: invoice.created" in text and text.endswith("\\n\\n")):
                text += (await stream.content.readany()).decode()
        listed = await ask({"action": "list_invoices", "account_id": 1})
    print(json.dumps([made, text, listed]))

asyncio.run(main())
"""
PHP = """<?php
[, $url, $invoice] = $argv;
function ask($url, $body) {
    $options = ["method" => "POST", "header" => "Content-Type: application/json", "content" => $body];
    return json_decode(file_get_contents("$url/actions", false, stream_context_create(["http" => $options])));
}
$stream = fopen("$url/events?topic=account:1", "r");
$made = ask($url, $invoice);
$text = "";
while (!str_contains($text, '"invoice.created"')) {
    $text .= fgets($stream);
}
echo json_encode([$made, $text, ask($url, '{"action":"list_invoices","account_id":1}')]);
"""


@pytest.mark.parametrize("library", ["aiohttp", "node", "php"])
def test_another_library_creates_follows_and_lists(library: str, conninfo: str, tmp_path: Path) -> None:
    source, command = {
        "aiohttp": (AIOHTTP, [sys.executable]),
        "node": (NODE, ["node"]),
        "php": (PHP, ["php"]),
    }[library]
    if library != "aiohttp":
        need(library)
    program = tmp_path / f"program.{'mjs' if library == 'node' else library}"
    program.write_text(source)
    with running([*SERVE, "--port", "0", "--database-url", conninfo], tmp_path) as server:
        url = server.url.replace("ws", "http", 1)
        done = subprocess.run(
            [*command, program, url, json.dumps(INVOICE)],
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    made, text, listed = json.loads(done.stdout)
    uid = made["data"]["uid"]
    assert uid in text
    assert uid in json.dumps(listed["data"])


def test_what_sigterm_meets_under_way_is_answered_or_was_not_begun(conninfo: str, tmp_path: Path) -> None:
    command = [*SERVE, "--port", "0", "--workers", "2", "--database-url", conninfo]
    answered: set[str] = set()
    unanswered: set[str] = set()
    told = threading.Semaphore(0)

    def ask(port: int, name: str) -> None:
        line = HTTPConnection(HOST, port, PATIENCE_SECONDS)
        number = 0
        while True:
            number += 1
            key = f"{name}-{number}"
            try:
                status, _ = post(line, **INVOICE, idempotency_key=key)
            except (OSError, HTTPException):
                unanswered.add(key)
                return
            if status == 200:
                answered.add(key)
            told.release()

    with running(command, tmp_path) as server:
        port = int(server.url.rpartition(":")[2])
        clients = [threading.Thread(target=ask, args=(port, f"client{n}"), daemon=True) for n in range(16)]
        for client in clients:
            client.start()
        for _ in range(100):
            assert told.acquire(timeout=PATIENCE_SECONDS)
        assert server.stop(signal.SIGTERM) == 0
        for client in clients:
            client.join(PATIENCE_SECONDS)
            assert not client.is_alive()
    with psycopg.connect(conninfo) as database:
        done = {
            key
            for (key,) in database.execute(
                "SELECT idempotency_key FROM invoices WHERE idempotency_key IS NOT NULL"
            )
        }
    assert answered == done, "none was done whose client was not told, and none told that was not done"
    assert not unanswered & done
