"""The programs in C, compiled on first use into a folder that goes away with this process."""

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


def compiler():
    """Return the C compiler; None: there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@cache
def build(source):
    """Return the program that a C file makes."""
    if not compiler():
        sys.exit(f"bench: {source.name} needs a C compiler, and there is none: apt install gcc, or the like")
    program = Path(_folder().name) / source.stem
    done = subprocess.run([compiler(), "-O2", "-o", program, source], check=False)
    if done.returncode:
        sys.exit(f"bench: {source} could not be compiled; what {compiler()} said stands above")
    return str(program)


@cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="trio-ws-bench-")
