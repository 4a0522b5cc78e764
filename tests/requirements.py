"""Programs that some tests need, and that a machine may lack: then they are skipped, and say what to install.

Where all of it has to be there, as in CI, `TEST_REQUIRES=chromium,node` makes the lack a failure.
"""

import os
import shutil

import pytest

PACKAGES = {"chromium": "chromium", "node": "nodejs", "npx": "npm"}  # Debian's


def need(program: str) -> str:
    """Return where a program is; without it, skip the test, or fail it where it is required."""
    found = shutil.which(program)
    if found is not None:
        return found
    reason = f"needs {program}: apt install {PACKAGES[program]}"
    if is_required(program):
        pytest.fail(reason)
    pytest.skip(reason)


def is_required(name: str) -> bool:
    """Whether a test has to run that needs this."""
    return name in os.environ.get("TEST_REQUIRES", "").split(",")
