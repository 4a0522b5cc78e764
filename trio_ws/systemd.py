"""What systemd is told, where it has started us: that we serve, reload, stop, and are alive: sd_notify(3)."""

import os
import socket
import time
from collections.abc import MutableMapping

SOCKET_VARIABLE, WATCHDOG_VARIABLE = "NOTIFY_SOCKET", "WATCHDOG_USEC"
MICROSECONDS = 1_000_000
BEATS = 3  # in the time that systemd waits for one


class Notifier:
    """Notifies the service manager that started us; without one, everything here does nothing.

    Args:
        environment: `os.environ`, out of which the address is taken: what we start is not to speak for us.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop(SOCKET_VARIABLE, "").replace("@", "\0", 1)
        watchdog = environment.pop(WATCHDOG_VARIABLE, "")
        self._pause = int(watchdog) / MICROSECONDS / BEATS if watchdog.isdigit() else None
        self._next_beat = 0.0

    def ready(self) -> None:
        """Say that clients can connect."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Say that we drain."""
        self._tell("STOPPING=1")

    def reloading(self) -> None:
        """Say that settings are being reloaded; `ready` ends it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self) -> None:
        """Say that we make progress; call it as often as that is so."""
        if self._pause is not None and time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self._pause
            self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)  # noqa: FBT003 - the standard library's
                line.sendto(f"{message}\nMAINPID={os.getpid()}".encode(), self._address)
        except OSError:
            pass  # Nobody listens, or not now: there is nothing better to do.
