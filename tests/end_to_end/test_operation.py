"""A server that runs, as whoever operates it sees it: systemd's messages, and settings read anew."""

import contextlib
import fcntl
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import termios
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests import clusters
from tests.cli.test_main import assert_one_line, trio_ws_command
from tests.database.test_embedded import wait_until_gone
from tests.end_to_end.serving import (
    INVOICE,
    PATIENCE_SECONDS,
    SERVE,
    Server,
    call,
    free_port,
    running,
    serving,
)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_settings_are_read_anew_on_sighup_and_systemd_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    config = tmp_path / "trio-ws.toml"
    config.write_text("subscriptions = 1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")

        def told(word: str) -> None:
            while not systemd.recv(1000).startswith(word.encode()):
                pass

        with serving(tmp_path / "data", "--workers", workers, "--config", str(config)) as server:
            told("READY=1")
            told("WATCHDOG=1")
            told("WATCHDOG=1")
            assert how_many_topics(server) == 1
            config.write_text("subscriptions = 3\npoll_seconds = 1")
            server.process.send_signal(signal.SIGHUP)
            told("RELOADING=1")
            told("READY=1")
            server.wait_for_line("a new start is needed for poll_seconds")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while {how_many_topics(server) for _ in range(8)} != {3}:  # every worker has heard of it
                assert time.monotonic() < deadline
            config.write_text("subscriptions = 'many'")
            server.process.send_signal(signal.SIGHUP)
            told("READY=1")
            server.wait_for_line("SIGHUP changes nothing: subscriptions in ")
            assert how_many_topics(server) == 3
            assert server.stop() == 0
            told("STOPPING=1")


def how_many_topics(server: Server) -> int:
    """How many topics a new connection may follow."""
    with server.connect() as client:
        count = 0
        while call(client, action="subscribe", type="invoice", id=f"i{count}")["status"] == "success":
            count += 1
        return count


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - http, ours
        return str(answer.read().decode())


def test_pages_are_beside_the_websockets(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.connect() as client:
        url = server.url.replace("ws://", "http://")
        call(client, **INVOICE)
        assert (fetch(f"{url}/healthz"), fetch(f"{url}/readyz")) == ("ok\n", "ok\n")
        measured = fetch(f"{url}/metrics")
        assert "process_resident_memory_bytes " in measured
        assert 'trio_ws_requests_total{action="create_invoice",code="success"} 1.0' in measured
        assert 'trio_ws_database_query_seconds_count{query="create_invoice"} 1.0' in measured
        assert "_created" not in measured, "it would double what Prometheus keeps"


def test_each_worker_has_an_address_for_its_measurements(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, "--workers", "2", "--metrics-listen", f"127.0.0.1:{port}") as server:
        found = {
            re.search(
                r'trio_ws_info\{version="[^"]+"\} 1.0', fetch(f"http://127.0.0.1:{port + number}/metrics")
            )
            for number in range(2)
        }
        assert None not in found
        assert server.stop() == 0


def test_limits_are_for_clients_and_not_for_the_proxy_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_WS_TRUSTED_PROXIES", "127.0.0.0/8, ::1")
    monkeypatch.setenv("TRIO_WS_CONNECTIONS_PER_ADDRESS", "1")

    def come_from(address: str) -> ClientConnection:
        return connect(server.url, additional_headers={"X-Forwarded-For": address})

    with serving(tmp_path) as server, come_from("198.51.100.1") as first, come_from("198.51.100.2"):
        with pytest.raises(InvalidStatus) as refused, come_from("198.51.100.1"):
            pass
        assert refused.value.response.status_code == 503
        measured = fetch(server.url.replace("ws://", "http://") + "/metrics")
        assert 'trio_ws_connections_rejected_total{limit="connections_per_address"} 1.0' in measured
        first.close()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(InvalidStatus), come_from("198.51.100.1") as again:
                assert call(again, **INVOICE)["status"] == "success"
                break
            time.sleep(0.01)  # the server does not know yet that the first one's socket has gone
        else:
            pytest.fail("the place of who left is not given to another")


CERTIFICATES = Path(__file__).parent.parent / "webhooks" / "keys"  # of receiver.test, for tests alone


def test_tls_is_spoken_and_its_certificate_is_read_anew(tmp_path: Path, checkout: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes((CERTIFICATES / "receiver.pem").read_bytes())
    trust = ssl.create_default_context(cafile=CERTIFICATES / "authority.pem")
    with serving(tmp_path / "data", "--tls-cert", str(certificate)) as server:
        assert server.url.startswith("wss://")
        for _ in range(2):
            with connect(server.url, ssl=trust, server_hostname="receiver.test") as client:
                assert call(client, **INVOICE)["status"] == "success"
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_line("new settings are in force")
        certificate.write_text("none")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line("the certificate was not reloaded")
        certificate.write_bytes((checkout / "tests/cli/encrypted.pem").read_bytes())
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line("its key is encrypted")
        with connect(server.url, ssl=trust, server_hostname="receiver.test") as client:
            call(client, action="subscribe", type="account", id=1)
            assert server.stop() == 0
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=PATIENCE_SECONDS)
            assert closed.value.rcvd
            assert closed.value.rcvd.code == 1001


def test_who_speaks_no_tls_is_hung_up_on(tmp_path: Path) -> None:
    with serving(tmp_path, "--tls-cert", str(CERTIFICATES / "receiver.pem")) as server:
        port = int(server.url.rpartition(":")[2])
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b"\0" * 1000):
            with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as line:
                line.sendall(garbage)
                line.shutdown(socket.SHUT_WR)
                try:
                    while line.recv(1000):
                        pass
                except ConnectionResetError:
                    pass  # hung up on, too
        assert server.stop() == 0


def test_a_certificate_that_is_none_is_said(tmp_path: Path) -> None:
    done = trio_ws_command("serve", "--port", "0", "--data-dir", str(tmp_path), "--tls-cert", "/nowhere.pem")
    assert_one_line(
        done, 1, r"can't use /nowhere\.pem for TLS \(.*No such file.*\): check tls_cert and tls_key"
    )


def test_a_server_whose_stdin_is_closed_reads_its_settings_anew_all_the_same(tmp_path: Path) -> None:
    command = [*SERVE, "--port", "0", "--data-dir", str(clusters.copy_to(tmp_path))]
    with running(["sh", "-c", 'exec "$@" <&-', "sh", *command], tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_line("new settings are in force")
        assert server.stop() == 0


def test_a_log_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    command = [*SERVE, "--port", "0", "--data-dir", str(clusters.copy_to(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        try:
            url = process.stdout.readline().removeprefix("Listening on ").strip()
            for _ in range(100):  # each of which ends with a line
                with connect(url, open_timeout=PATIENCE_SECONDS) as client:
                    assert call(client, **INVOICE)["status"] == "success"
            process.terminate()
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()


def test_as_many_descriptors_are_had_as_clients_may_come(tmp_path: Path) -> None:
    command = [*SERVE, "--port", "0", "--data-dir", str(clusters.copy_to(tmp_path))]
    for hard, soft in ((4096, 456), (300, 300)):
        limited = ["sh", "-c", f'ulimit -Sn 128 && ulimit -Hn {hard} && exec "$@"', "sh", *command]
        with running(limited, tmp_path, {"TRIO_WS_CONNECTIONS": "200"}) as server:
            assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (soft, hard)
            assert server.stop() == 0
        too_few = [line for line in server.log() if "file descriptors are allowed, too few" in line]
        assert len(too_few) == (hard == 300)


def test_an_encrypted_key_is_refused_by_name_and_nobody_is_asked(tmp_path: Path, checkout: Path) -> None:
    encrypted = str(checkout / "tests/cli/encrypted.pem")
    done = subprocess.run(
        [*SERVE, "--port", "0", "--data-dir", str(tmp_path), "--tls-cert", encrypted],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 1
    assert f"can't use {encrypted} for TLS (its key is encrypted" in done.stderr


def test_a_server_ends_with_the_terminal_that_it_was_started_from(tmp_path: Path) -> None:
    """The kernel sends SIGHUP then, and says of the terminal's descriptor that it is none."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [*SERVE, "--port", "0", "--data-dir", str(tmp_path)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads run here
    ) as process:
        server = Server(process, tmp_path)
        os.close(theirs)
        os.close(ours)
        assert process.wait(PATIENCE_SECONDS) == 0
        server.wait_for_line("stopping on SIGHUP")
    wait_until_gone(tmp_path)


@pytest.mark.parametrize("closed", ["0", "12", "012"])
def test_a_server_whose_standard_files_are_closed_serves_and_lends_their_numbers_to_nobody(
    tmp_path: Path, closed: str
) -> None:
    port = free_port()
    command = [*SERVE, "--port", str(port), "--data-dir", str(tmp_path), "--workers", "2"]
    redirected = " ".join(f"{number}<&-" for number in closed)
    with subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with connect_patiently(f"ws://127.0.0.1:{port}") as client:
                assert call(client, **INVOICE)["status"] == "success"
                for number in range(3):
                    assert Path(f"/proc/{process.pid}/fd/{number}").readlink() == Path(os.devnull)
            process.terminate()
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
    wait_until_gone(tmp_path)


def connect_patiently(url: str) -> ClientConnection:
    """Connect to a server that does not say when it listens."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return connect(url)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
