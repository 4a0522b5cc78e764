"""What some tests need, and a machine may lack: then they are skipped, and say what to install.

Where all of it has to be there, as in CI, `TEST_REQUIRES=chromium,node` makes the lack a failure.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import pytest
from _pytest.mark.structures import ParameterSet

Test = TypeVar("Test", bound=Callable[..., Any])

PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "fish": "fish",
    "git": "git",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "node": "nodejs",
    "npm": "npm",
    "npx": "npm",
    "pgbouncer": "pgbouncer",
    "php": "php-cli",
    "podman": "podman",
    "promtool": "prometheus",
    "zsh": "zsh",
}  # Debian's


def need(program: str) -> str:
    """Return where a program is; without it, skip the test, or fail it where it is required."""
    found = shutil.which(program)
    if found is None:
        lack(program, f"apt install {PACKAGES[program]}")
    return found


def lack(name: str, reason: str) -> NoReturn:
    """Skip a test that needs what isn't there, or fail it where that is required."""
    (pytest.fail if is_required(name) else pytest.skip)(f"needs {name}: {reason}")


def is_required(name: str) -> bool:
    """Whether a test has to run that needs this."""
    return name in os.environ.get("TEST_REQUIRES", "").split(",")


SLOW = pytest.mark.skipif(not is_required("slow"), reason="takes long: TEST_REQUIRES=slow")
ONE_IN = 6  # of the bugs that are planted in turn, each a few seconds of simulated runs


def one_in_some(cases: Iterable[object], name: Callable[[Any], str] | None = None) -> list[ParameterSet]:
    """Return a test's parameters: one of `ONE_IN` is for each run, the others for `.ci/run --long`."""
    return [
        pytest.param(case, id=name and name(case), marks=[SLOW] if number % ONE_IN else [])
        for number, case in enumerate(cases)
    ]


def slow(test: Test) -> Test:
    """Leave a test that takes a quarter of a minute to `.ci/run --long`."""
    marked: Test = SLOW(test)
    return marked
