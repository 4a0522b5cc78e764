"""Each promise names a test, and that test is there."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

ROWS = [
    line
    for line in (DOCS / "guarantees.md").read_text().splitlines()
    if re.match(r"\| (?!promise|---)", line)
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:60])
def test_what_is_promised_is_shown_by_a_test(row: str, checkout: Path) -> None:
    (named,) = re.findall(r"`(tests/\S+\.py::\w+)`", row)
    file, _, name = named.partition("::")
    found = [
        node
        for node in ast.parse((checkout / file).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]
    assert found, named
    marks = {ast.unparse(mark) for mark in found[0].decorator_list}
    assert not [mark for mark in marks if "skip" in mark or "xfail" in mark]


def test_it_has_rows() -> None:
    assert len(ROWS) > 30
