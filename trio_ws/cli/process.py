"""A process that serves: what signals do to it, the settings in force, and who hears how it fares."""

import logging
import math
import os
import signal
from collections.abc import Callable
from typing import Protocol

import trio

from trio_ws.logs import configure_logs
from trio_ws.settings import FIXED, Settings, SettingsError, reloaded

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Listener(Protocol):
    """Who hears how a process fares: systemd, or the parent of a worker."""

    def ready(self) -> None:
        """Clients can connect."""

    def reloading(self) -> None:
        """Settings are being reloaded; `ready` ends it."""

    def stopping(self) -> None:
        """It drains."""

    def alive(self) -> None:
        """It makes progress; called far more often than anybody wants to know."""


class Process:
    """One process, from its first signal to its last.

    Args:
        settings: Those in force.
        listener: Who hears how it fares.
        load: Reloads settings; None: they come from elsewhere, and SIGHUP does nothing.
        has_terminal: Whether it was started from a terminal, whose end is SIGHUP too.

    Attributes:
        shutdown: Set when it has to stop.
        reloads: Settings that come into force, as they do.
    """

    def __init__(
        self,
        settings: Settings,
        listener: Listener,
        load: Callable[[], Settings] | None = None,
        *,
        has_terminal: bool = False,
    ) -> None:
        self.settings = settings
        self.shutdown = trio.Event()
        self.ready, self.alive = listener.ready, listener.alive
        self._listener = listener
        self._load = load
        self._has_terminal = has_terminal
        # Nobody need wait to be told: signals are few.
        self._to_reloads, self.reloads = trio.open_memory_channel[Settings](math.inf)

    async def heed_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Do what signals say, until cancelled."""
        with trio.open_signal_receiver(*STOPPING, signal.SIGHUP) as received:
            task_status.started()
            async for number in received:
                # A terminal that is closed sends it too, and then means the end.
                if number == signal.SIGHUP and not self._has_terminal:
                    self._reload()
                    continue
                if self.shutdown.is_set():  # end as if we had no handler; what we have started ends with us
                    signal.signal(number, signal.SIG_DFL)
                    os.kill(os.getpid(), number)
                logger.info("stopping on %s", signal.Signals(number).name)
                self._listener.stopping()
                self.shutdown.set()

    def take(self, new: Settings) -> None:
        """Put settings into force, as far as that goes without a new start."""
        # What was not set is not what is in force: `auth` depends on the address, for one.
        waiting = [
            name for name in sorted(FIXED) if getattr(new, name) not in (None, getattr(self.settings, name))
        ]
        if waiting:
            logger.warning("a new start is needed for %s", ", ".join(waiting))
        self.settings = reloaded(self.settings, new)
        configure_logs(self.settings)
        self._to_reloads.send_nowait(self.settings)

    def _reload(self) -> None:
        if self._load is None:
            return
        self._listener.reloading()
        try:
            self.take(self._load())
        except SettingsError as error:
            logger.warning("SIGHUP changes nothing: %s", error)
        self._listener.ready()
