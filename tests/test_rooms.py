"""A room imports only from floors below its own, or from its own room: nothing below calls up."""

import ast
import re
from pathlib import Path

import pytest

import trio_ws

FLOORS = {
    "__main__": 14,
    "pytest_plugin": 13,
    "cli": 13,
    "testing": 12,
    "server": 11,
    "tracing": 10,
    "workers": 11,
    "web": 10,
    "connection": 9,
    "documents": 9,
    "http": 8,
    "websocket": 7,
    "line": 6,
    "answers": 6,
    "actions": 5,
    "expiry": 5,
    "webhooks": 5,
    "events": 4,
    "database": 3,
    "codec": 3,
    "places": 3,
    "checkout": 3,
    "client": 3,
    "wire": 2,
    "background": 2,
    "messages": 2,
    "logs": 2,
    "paging": 1,
    "topics": 1,
    "settings": 1,
    "identity": 1,
    "currencies": 1,
    "metrics": 1,
    "systemd": 1,
    "limits": 1,
    "siblings": 1,
    "pulse": 1,
    "endpoint": 0,
    "errors": 0,
    "": 0,  # trio_ws itself: its version
}
PACKAGE = Path(trio_ws.__file__).parent


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def imports(source: str) -> set[str]:
    """The modules of ours that a source imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "trio_ws":
            found |= {f"trio_ws.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "trio_ws"}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_lead_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0].removesuffix("__init__")
    for module in imports(path.read_text()):
        other = room(module)
        assert other == own or FLOORS[other] < FLOORS[own], f"{own} imports {module}"


def test_no_deadline_goes_by_the_time_of_day() -> None:
    """It may jump; who asks for it tells it, to clients, in signatures, to people, and does nothing else."""
    asks = re.compile(r"\btime\.time(_ns)?\b|\bdatetime\.(now|utcnow|today)\b")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if asks.search(path.read_text())
    }
    assert found == {"actions/services.py", "cli/doctor.py", "cli/forwarding.py", "webhooks/delivery.py"}


def test_an_import_that_leads_up_would_be_seen() -> None:
    assert imports("def f():\n    from trio_ws.server import serve\n    import trio_ws.cli") == {
        "trio_ws.server",
        "trio_ws.cli",
    }
