"""Which addresses a server listens on."""

import errno
import socket
from typing import Any

import pytest

from trio_ws.cli import sockets
from trio_ws.cli.sockets import PortTaken, bind, who_may_come
from trio_ws.errors import StartupError
from trio_ws.settings import Settings

LOOPBACK = {"127.0.0.1", "::1"}


@pytest.fixture
def both() -> None:
    """Skip a test where the machine has no IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs IPv6 on the loopback interface")


def names(opened: list[socket.socket]) -> set[str]:
    """Return on which hosts these listen, all on one port, and close them."""
    addresses = [one.getsockname()[:2] for one in opened]
    for one in opened:
        one.close()
    assert len({port for _, port in addresses}) == 1
    return {host for host, _ in addresses}


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("host", "listens_on"),
    [
        (Settings().host, LOOPBACK),
        ("localhost", LOOPBACK),
        ("*", {"0.0.0.0", "::"}),  # noqa: S104
        ("::", {"0.0.0.0", "::"}),  # noqa: S104
        ("0.0.0.0", {"0.0.0.0"}),  # noqa: S104
        ("127.0.0.1", {"127.0.0.1"}),
        ("::1", {"::1"}),
    ],
)
def test_a_host_that_stands_for_both_families_is_listened_on_in_both(
    host: str, listens_on: set[str], workers: int
) -> None:
    assert names(bind(Settings(host=host, port=0, workers=workers))) == listens_on


@pytest.mark.parametrize("lacking", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_family_that_the_machine_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch, lacking: int, family: socket.AddressFamily
) -> None:
    def take(its_family: int, address: Any, *, alone: bool) -> socket.socket:
        if its_family == family or not alone:
            raise OSError(lacking, "lacking")
        return socket.create_server(("127.0.0.1", address[1]))

    monkeypatch.setattr(sockets, "_take", take)
    assert len(names(bind(Settings(port=0)))) == 1
    with pytest.raises(StartupError, match="lacking"):
        bind(Settings(port=0, workers=2))
    with pytest.raises(StartupError, match="lacking"):
        bind(Settings(port=0, host={socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}[family]))


@pytest.mark.usefixtures("both")
def test_a_port_that_is_taken_in_one_family_is_taken() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other, pytest.raises(PortTaken):
        bind(Settings(port=other.getsockname()[1]))


@pytest.mark.parametrize(("host", "auth"), [("localhost", "open"), ("*", "token"), ("::", "token")])
def test_only_loopback_is_open_by_itself(host: str, auth: str) -> None:
    opened = bind(Settings(host=host, port=0))
    assert who_may_come(Settings(host=host), {"auth": "default"}, opened) == auth
    names(opened)
