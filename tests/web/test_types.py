"""The declarations for TypeScript are those of the structs and of the JSDoc."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import need
from trio_ws.documents import asyncapi

CHECKOUT = Path(__file__).parents[2]
KEPT = CHECKOUT / "trio_ws" / "web"
HOW = "run scripts/types"


def test_those_of_messages_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CHECKOUT / "scripts")
    declarations = runpy.run_path(str(CHECKOUT / "scripts/types"))["declarations"]
    document = json.loads(asyncapi.encoded())
    kept = (KEPT / "messages.d.ts").read_text()
    assert kept == declarations(document), HOW
    document["components"]["schemas"]["Invoice"]["properties"]["colour"] = {"type": "string"}
    assert kept != declarations(document), "a change would be seen"


def test_those_of_the_client_are_up_to_date(tmp_path: Path) -> None:
    need("npx")
    subprocess.run([sys.executable, CHECKOUT / "scripts/types", tmp_path], check=True, timeout=200)
    for file in sorted(tmp_path.iterdir()):
        assert (KEPT / file.name).read_text() == file.read_text(), HOW
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in KEPT.glob("*.d.ts")}
