"""Real nginx and HAProxy before the server, set up as scripts/deploy has it."""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import trio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.end_to_end.serving import (
    INVOICE,
    PATIENCE_SECONDS,
    SERVE,
    call,
    free_port,
    receive,
    running,
    start_process,
)
from tests.requirements import need
from trio_ws.client import Event
from trio_ws.client import connect as follow

HOST = "127.0.0.1"
HERE, ELSEWHERE = "127.0.0.2", "127.0.0.3"  # where clients are
EVENTS = 60
KILLED_AT = (20, 40)

NGINX = """\
daemon off;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{server}
}}
"""


@contextmanager
def proxying(kind: str, server_port: int, folder: Path, checkout: Path) -> Iterator[int]:
    """Run a proxy before a server, and give its port."""
    program, port, config = need(kind.partition(" ")[0]), free_port(), folder / "proxy.conf"
    is_nginx = kind == "nginx"
    file = checkout / "scripts/deploy" / ("nginx.conf" if is_nginx else "haproxy.cfg")
    text = file.read_text().replace(f"{HOST}:8080", f"{HOST}:{server_port}")
    text = re.sub("(listen |bind :)80\\b", f"{'listen' if is_nginx else 'bind'} {HOST}:{port}", text)
    assert f"{HOST}:{port}" in text
    if kind == "haproxy with Forwarded":  # as proxies write it that go by RFC 7239
        text = text.replace("option forwardfor", "http-request del-header X-Forwarded-For")
        text = text.replace("del-header Forwarded", "set-header Forwarded for=%[src];proto=http")
    config.write_text(NGINX.format(folder=folder, server=text) if is_nginx else text)
    options = ["-e", "stderr", "-p", str(folder), "-c"] if is_nginx else ["-db", "-f"]
    with subprocess.Popen([program, *options, str(config)]) as process:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while True:
                assert process.poll() is None, "it has ended"
                assert time.monotonic() < deadline
                with suppress(ConnectionRefusedError):
                    socket.create_connection((HOST, port)).close()
                    break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()


@pytest.fixture(params=["nginx", "haproxy", "haproxy with Forwarded"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def come_from(address: str, port: int, **headers: str) -> ClientConnection:
    return connect(
        f"ws://{HOST}:{port}",
        source_address=(address, 0),
        additional_headers={name.replace("_", "-"): value for name, value in headers.items()},
        open_timeout=PATIENCE_SECONDS,
    )


def test_a_client_behind_a_proxy_is_where_it_is_and_nowhere_else(
    kind: str, conninfo: str, tmp_path: Path, checkout: Path
) -> None:
    server_port = free_port()
    command = [*SERVE, "--port", str(server_port), "--database-url", conninfo]
    settings = {"TRIO_WS_TRUSTED_PROXIES": HOST, "TRIO_WS_CONNECTIONS_PER_ADDRESS": "1"}
    with (
        proxying(kind, server_port, tmp_path, checkout) as port,
        running(command, tmp_path, settings) as server,
    ):
        # Whatever it says of itself.
        lies = {"X_Forwarded_For": "203.0.113.1", "Forwarded": "for=203.0.113.2"}
        with come_from(HERE, port, **lies) as client, come_from(ELSEWHERE, port):
            call(client, action="subscribe", type="account", id=1)
            assert call(client, **INVOICE)["status"] == "success"
            assert receive(client)["type"] == "invoice.created"
            with pytest.raises(InvalidStatus) as refused:
                come_from(HERE, port)
            assert refused.value.response.status_code == 503
        assert server.stop() == 0
        log = server.log()
    assert any("refused with 503" in line and f"address={HERE}" in line for line in log)
    assert {line.partition(" address=")[2].split()[0] for line in log if "ended: " in line} >= {
        HERE,
        ELSEWHERE,
    }
    assert not any("203.0.113" in line or "disagree" in line for line in log)


async def test_a_follower_behind_a_proxy_misses_nothing_through_kill_9_of_the_server(
    kind: str, conninfo: str, tmp_path: Path, checkout: Path
) -> None:
    server_port = free_port()
    command = [*SERVE, "--port", str(server_port), "--database-url", conninfo]
    memos: list[str] = []

    def write(number: int) -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("UPDATE invoices SET memo = %s", [str(number)])

    with proxying(kind, server_port, tmp_path, checkout) as port:
        process = await trio.to_thread.run_sync(start_process, command)
        try:
            with trio.fail_after(3 * PATIENCE_SECONDS):
                async with follow(f"ws://{HOST}:{port}") as client:
                    invoice = await client.create_invoice(amount=1, currency="USD", account_id=1)
                    position = (await client.call("subscribe", type="account", id=1))["position"]
                    events = client.follow(("invoice", invoice["uid"]), after=position)
                    for number in range(EVENTS):
                        await trio.to_thread.run_sync(write, number)
                        if number in KILLED_AT:
                            process.kill()
                            process.wait()
                            process = await trio.to_thread.run_sync(start_process, command)
                        if number % 2:
                            memos += memos_of(await anext(events))
                    while len(memos) < EVENTS:
                        memos += memos_of(await anext(events))
        finally:
            process.kill()
            process.wait()
    assert memos == [str(number) for number in range(EVENTS)]


def memos_of(event: object) -> list[str]:
    """Return what an event wrote, if it is not the invoice's first."""
    assert isinstance(event, Event), event
    return [str(event.data["memo"])] if event.type == "invoice.updated" else []
