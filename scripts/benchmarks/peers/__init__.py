"""Servers that ours is held against: each sends a text back, or to all others where it begins with "publish".

Each is a program on a free port of its choice, which a line on its stdout tells; without compression, and
otherwise as its library comes.
"""

import importlib.util
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarks.programs import build, compiler
from scripts.benchmarks.target import Target

PEERS = {  # what each runs on, and the module that has to be there for it
    "bare C": None,
    "picows": "picows",
    "aiohttp": "aiohttp",
    "websockets": "websockets",
    "websockets.trio": "websockets",
    "trio-websocket": "trio_websocket",
}
FOLDER = Path(__file__).parent


def missing(name):
    """Return why a peer can't run here; None: it can."""
    module = PEERS[name]
    if module is None:
        return None if compiler() else "there is no C compiler"
    return None if importlib.util.find_spec(module) else f"{module} is not installed"


@contextmanager
def running(name):
    """Run a peer."""
    with subprocess.Popen(_command(name), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Target(process)
        finally:
            process.kill()  # it has nothing to put in order


def _command(name):
    if PEERS[name] is None:
        return [build(FOLDER / "bare.c")]
    module = "with_" + name.replace(".", "_").replace("-", "_")
    return [sys.executable, "-m", f"{__name__}.{module}"]
