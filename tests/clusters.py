"""PostgreSQL's data, ready to be started: made and migrated once in a process, copied for each server.

A server that makes its own runs initdb and all migrations, a second of processor time and five of a slow
disk. A copy is there in a fifth of a second. How a first start goes is tested where it is the idea:
`tests/database/test_embedded.py`, `tests/docs/test_commands.py`, `tests/test_packaging.py`.
"""

import functools
import subprocess
import tempfile
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from trio_ws.database import migrations
from trio_ws.database.embedded import embedded_postgres

TEMPLATE = "template"  # a migrated database beside the migrated `postgres`, to which nobody connects

# Nothing is flushed to the disk: a crash of the machine may take the test databases with it.
FAST_AND_FORGETFUL = "fsync = off\nfull_page_writes = off\n"


def copy_to(data_dir: Path, bindir: Path | None = None) -> Path:
    """Put a migrated cluster into a data directory that has none, as an earlier start would have; return it.

    Args:
        data_dir: Made if it is not there.
        bindir: The folder of PostgreSQL's programs; None: the embedded one's.
    """
    if not (data_dir / "postgres").exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # It keeps the owner, which shutil does not: where we are root, PostgreSQL runs as another user.
        subprocess.run(["cp", "-a", _original(bindir) / "postgres", data_dir], check=True)
    return data_dir


@functools.cache
def _original(bindir: Path | None) -> Path:
    folder = Path(_originals().name) / str(bindir).replace("/", "_")
    with embedded_postgres(folder, bindir, {"fsync": "off"}) as postgres:
        migrations.migrate(postgres.conninfo)
        elsewhere = make_conninfo(postgres.conninfo, dbname="template1")
        with psycopg.connect(elsewhere, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE postgres".encode())
    with (folder / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write(FAST_AND_FORGETFUL)
    return folder


@functools.cache
def _originals() -> "tempfile.TemporaryDirectory[str]":
    """Where they are, until the process ends."""
    return tempfile.TemporaryDirectory(prefix="trio-ws-test-")
