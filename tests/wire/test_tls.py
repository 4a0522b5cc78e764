"""TLS from outside: what a client is told, and the log, when hands can't be shaken."""

import logging
import ssl
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from trio_ws.settings import Settings
from trio_ws.wire.stream import Wire
from trio_ws.wire.tls import TlsStream, make_context

KEYS = Path(__file__).parent.parent / "webhooks" / "keys"  # of receiver.test, for tests alone
PATIENCE_SECONDS = 30


async def serve_one(stream: trio.abc.HalfCloseableStream) -> None:
    """Do what a connection does: ask for a head, and hang up when there is none."""
    wire = Wire(TlsStream(stream, make_context(str(KEYS / "receiver.pem"), None)), Settings())
    assert await wire.receive_head() is None
    await wire.hang_up()


async def say(*words: bytes) -> bytes:
    """Say something to a server that expects TLS, and return all that it answers until it hangs up."""
    client, server = memory_stream_pair()
    answer = b""
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, server)
            for word in words:
                await client.send_all(word)
            while data := await client.receive_some():
                answer += bytes(data)
            await client.send_all(b"what nobody looks at")
            await client.aclose()
    return answer


async def shake(tls: ssl.SSLContext) -> ssl.SSLError:
    """Shake hands with a server, in vain, and return what OpenSSL says of it on the client's side."""
    client, server = memory_stream_pair()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, server)
            stream = trio.SSLStream(client, tls, server_hostname="receiver.test", https_compatible=True)
            with pytest.raises(trio.BrokenResourceError) as broken:
                await stream.do_handshake()
            await trio.aclose_forcefully(client)
    assert isinstance(broken.value.__cause__, ssl.SSLError)
    return broken.value.__cause__


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert all(vars(record).get("repeats") for record in records), "they are summed up"
    return [record.getMessage() for record in records]


async def test_who_shares_no_way_with_us_is_sent_the_alert(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ssl.create_default_context(cafile=KEYS / "authority.pem")
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # our key is of another kind
    assert (await shake(tls)).reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"
    assert said(caplog) == ["a TLS handshake failed: NO_SHARED_CIPHER"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_who_does_not_trust_our_certificate_is_in_the_log_with_what_it_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    tls = ssl.create_default_context()
    tls.minimum_version = tls.maximum_version = version
    client, server = memory_stream_pair()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, server)
            await distrust(client, tls)
    assert said(caplog) == ["a TLS handshake failed: TLSV1_ALERT_UNKNOWN_CA"]


async def distrust(client: trio.abc.HalfCloseableStream, tls: ssl.SSLContext) -> None:
    """Shake hands as clients do that send their alert, as trio does not."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    words = tls.wrap_bio(incoming, outgoing, server_hostname="receiver.test")
    while True:
        try:
            words.do_handshake()
        except ssl.SSLWantReadError:
            await client.send_all(outgoing.read())
            incoming.write(await client.receive_some())
        except ssl.SSLCertVerificationError:
            break
    await client.send_all(outgoing.read())
    await client.aclose()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
async def test_plain_http_is_answered_in_plain_http(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    answer = await say(f"{method} / HTTP/1.1\r\nHost: receiver.test\r\n\r\n".encode(), b"x" * 100_000)
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert body == "This port speaks TLS: call it by https:// or wss://\n"
    assert said(caplog) == ["a TLS handshake failed: HTTP_REQUEST"]


async def test_what_is_neither_is_hung_up_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await say(b"\0" * 1000)
    assert said(caplog) == ["a TLS handshake failed: WRONG_VERSION_NUMBER"]


@pytest.mark.parametrize("said_first", [b"", b"\x16\x03\x01"])
async def test_who_only_tries_whether_the_port_is_open_is_no_failure(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, said_first: bytes
) -> None:
    client, server = memory_stream_pair()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, server)
            if said_first:
                await client.send_all(said_first)
            await client.aclose()
    assert said(caplog) == []
