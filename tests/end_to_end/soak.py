"""A server under clients that come, ask, follow and go, for as long as one likes; and what it keeps of them.

Its memory, descriptors and tasks are noted as they change: once it has warmed up, they have to stay what they
are, and with the last client they have to go. Whoever follows meanwhile must miss nothing. `scripts/soak
MINUTES` draws what was noted, as SVG.
"""

import argparse
import contextlib
import json
import random
import re
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from websockets.sync.client import ClientConnection

from tests import raw
from tests.end_to_end.serving import PATIENCE_SECONDS, Server, call, serving

VISITORS = 3  # threads of clients that come and go, one after the other
SAMPLE_SECONDS = 1.0
WARM_UP = 0.3  # of the whole time
MOST_GROWTH = 1.15  # of memory, from the end of the warm-up to the end
WATCHED = {
    "memory, MB": ("process_resident_memory_bytes", 1e6),
    "descriptors": ("process_open_fds", 1),
    "tasks": ("trio_ws_tasks", 1),
}
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito's, for all eyes
WIDTH, HEIGHT, MARGIN = 900, 220, 60


@dataclass
class Soak:
    """One run.

    Args:
        server: What is under test.
        seconds: How long.
    """

    server: Server
    seconds: float
    visits: int = 0
    events: int = 0
    troubles: list[str] = field(default_factory=list)
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def run(self) -> None:
        """Run it to the end."""
        before = self._measure()
        done = threading.Event()
        threads = [threading.Thread(target=self._visit, args=(done, number)) for number in range(VISITORS)]
        threads += [threading.Thread(target=work, args=(done,)) for work in (self._follow, self._write)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while time.monotonic() - began < self.seconds:
            time.sleep(SAMPLE_SECONDS)
            self.samples.append((time.monotonic() - began, self._measure()))
        done.set()
        for thread in threads:
            thread.join()
        self._judge(before)

    def _judge(self, before: dict[str, float]) -> None:
        warm = [values["memory, MB"] for at, values in self.samples if at >= WARM_UP * self.seconds]
        third = max(1, len(warm) // 3)
        first, last = sum(warm[:third]) / third, sum(warm[-third:]) / third
        if last > MOST_GROWTH * first:
            self.troubles.append(f"memory grew from {first:.0f} to {last:.0f} MB after the warm-up")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (after := self._measure())["tasks"] > before["tasks"]:
            if time.monotonic() > deadline:
                self.troubles.append(f"{after['tasks'] - before['tasks']:.0f} tasks are left behind")
                break
            time.sleep(0.1)

    def _measure(self) -> dict[str, float]:
        url = self.server.url.replace("ws://", "http://") + "/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - http, ours
            text = answer.read().decode()
        found = dict(re.findall(r"^(\w+) ([0-9.e+]+)$", text, re.MULTILINE))
        return {name: float(found[metric]) / unit for name, (metric, unit) in WATCHED.items()}

    def _visit(self, done: threading.Event, number: int) -> None:
        """Come and go: in good order, without a word, with garbage, or while much is on its way."""
        own = random.Random(number)
        port = int(self.server.url.rpartition(":")[2])
        request = raw.frame(raw.TEXT, b'{"action":"subscribe","type":"account","id":1}')
        endings = [raw.frame(raw.CLOSE, b"\x03\xe8"), b"", b"\xff" * 10, raw.frame(raw.TEXT, b"\xff")]
        while not done.is_set():
            with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)) as line:
                line.settimeout(PATIENCE_SECONDS)
                if own.random() < 0.05:
                    line.sendall(own.randbytes(own.randrange(1, 100)))
                else:
                    line.sendall(raw.head() + request * own.randrange(1, 5))
                    line.recv(4096)
                    line.sendall(own.choice(endings))
            self.visits += 1

    def _write(self, done: threading.Event) -> None:
        with self.server.connect() as client:
            while not done.is_set():
                reply = call(client, action="create_invoice", amount=1, currency="USD", account_id=1)
                if reply["status"] != "success":
                    self.troubles.append(f"creating an invoice: {reply}")
                time.sleep(0.02)

    def _follow(self, done: threading.Event) -> None:
        with self.server.connect() as client:
            reply = call(client, action="subscribe", type="account", id=1)
            last = int(reply["data"]["position"].rpartition(".")[2])
            while not done.is_set():
                if (seq := _next_seq(client)) is not None:
                    if seq != last + 1:
                        self.troubles.append(f"event {seq} came after {last}")
                    last = seq
                    self.events += 1

    def draw(self, path: Path) -> None:
        """Write the curves, each from 0 to its highest."""
        parts = []
        for place, (name, colour) in enumerate(zip(WATCHED, COLOURS, strict=True)):
            values = [values[name] for _, values in self.samples]
            top, most = max(values), self.samples[-1][0]
            low = MARGIN + place * HEIGHT + HEIGHT - 50
            points = " ".join(
                f"{MARGIN + at / most * (WIDTH - 2 * MARGIN):.1f},{low - now[name] / top * (HEIGHT - 80):.1f}"
                for at, now in self.samples
            )
            legend = f"{name}: at most {top:,.0f}, at the end {values[-1]:,.0f}"
            parts += [
                f'<text x="{MARGIN}" y="{low - HEIGHT + 65}">{legend}</text>',
                f'<path d="M{MARGIN} {low}H{WIDTH - MARGIN}" stroke="#888"/>',
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            ]
        title = f"{self.visits:,} connections, {self.events:,} events, {self.samples[-1][0]:,.0f} s"
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{MARGIN + 3 * HEIGHT}"'
            ' font-family="sans-serif" font-size="14"><rect width="100%" height="100%" fill="white"/>'
            f'<text x="{MARGIN}" y="30" font-size="18">{title}</text>{"".join(parts)}</svg>\n'
        )

    def __str__(self) -> str:
        memory = [values["memory, MB"] for _, values in self.samples]
        return (
            f"{self.visits:,} connections came and went, {self.events:,} events followed; memory"
            f" {memory[int(WARM_UP * len(memory))]:.0f} MB warm, {memory[-1]:.0f} MB at the end;"
            f" {len(self.troubles)} troubles"
        )


def _next_seq(client: ClientConnection) -> int | None:
    with contextlib.suppress(TimeoutError):
        return int(json.loads(client.recv(timeout=0.2))["position"].rpartition(".")[2])
    return None


def soak(folder: Path, seconds: float) -> Soak:
    """Run one, and return it."""
    with serving(folder, "--config", str(_unlimited(folder))) as server:
        run = Soak(server, seconds)
        run.run()
        assert server.stop() == 0
    return run


def _unlimited(folder: Path) -> Path:
    """Settings for many clients from one address, a log that says little, and few events kept in memory.

    These may grow to their limit, slowly: what else grows would hide behind them.
    """
    config = folder / "soak.toml"
    config.write_text(
        'connections_per_second = "none"\nlog_level = "warning"\nlog_memory_bytes = 1_000_000\n'
    )
    return config


def main() -> None:
    """Run it as a command."""
    options = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    options.add_argument("minutes", type=float, help="how long")
    options.add_argument("--plot", type=Path, default=Path("soak.svg"), help="where to draw; soak.svg")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = soak(Path(folder), given.minutes * 60)
    run.draw(given.plot)
    print(run, f"drawn in {given.plot}", *run.troubles[:20], sep="\n")  # noqa: T201
    sys.exit(bool(run.troubles))


if __name__ == "__main__":
    main()
