"""The container is made of what is in the checkout, and serves, stops and comes back as it should.

It is built and run only where `TEST_REQUIRES` contains `container`, for that takes minutes.
`TEST_CONTAINER_BASE` is the base image, if it isn't to be the Containerfile's; what else podman needs on a
machine is told by `CONTAINERS_CONF`.
"""

import json
import re
import shlex
import subprocess
import time
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import closing
from os import environ
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import connect

from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, call, free_port
from tests.requirements import is_required, need
from tests.test_packaging import tracked
from trio_ws import __version__

STOP_SECONDS = 30  # more than drain_seconds: an exit status of 0 tells that it was not killed
FILE = "scripts/Containerfile"


@pytest.fixture
def instructions(checkout: Path) -> list[tuple[str, str]]:
    """The lines of the Containerfile: an instruction and its words."""
    text = re.sub(r"^#.*\n", "", (checkout / FILE).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line]
    return [(instruction, " ".join(words.split())) for instruction, words in lines]


def of(instructions: list[tuple[str, str]], wanted: str) -> list[str]:
    return [words for instruction, words in instructions if instruction == wanted]


def test_what_it_copies_is_in_the_checkout_and_not_ignored(
    checkout: Path, instructions: list[tuple[str, str]]
) -> None:
    copied = {
        name
        for words in of(instructions, "COPY")
        if not words.startswith("--from=build ")
        for name in words.split()[:-1]
    }
    files = tracked()
    assert [name for name in copied if name not in files and f"{name}/__init__.py" not in files] == []
    rules = [
        line for line in (checkout / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert (rules[0], rules[-1]) == ("*", "**/__pycache__")
    assert {rule.removeprefix("!") for rule in rules[1:-1]} == copied


def test_all_that_it_installs_is_pinned_by_hash(checkout: Path, instructions: list[tuple[str, str]]) -> None:
    installs = re.findall(r"pip install ([^&]*)", " && ".join(of(instructions, "RUN")))
    pinned, ours = (install.split() for install in installs)
    assert pinned[-3:] == ["--require-hashes", "-r", "scripts/serve.lock"]
    assert {"--no-deps", "--no-build-isolation", "."} <= set(ours)
    assert "--hash=sha256:" in (checkout / "scripts/serve.lock").read_text()


def test_it_is_not_root_and_its_server_is_told_to_stop(instructions: list[tuple[str, str]]) -> None:
    assert len(of(instructions, "FROM")) == 2  # what builds it stays behind
    last = dict(instructions)  # the last of each instruction
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert json.loads(last["CMD"]) == ["trio-ws", "serve"]  # no shell between
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["EXPOSE"] == "8080"
    variables = dict(word.split("=", 1) for word in shlex.split(last["ENV"]))
    assert variables["TRIO_WS_HOST"] == "0.0.0.0"  # noqa: S104 - it is the container's
    assert variables["TRIO_WS_DATA_DIR"] == last["VOLUME"]
    assert not [name for name in variables if re.search("TOKEN|SECRET|PASSWORD|URL", name)]


def test_its_labels_are_those_of_the_package(checkout: Path, instructions: list[tuple[str, str]]) -> None:
    said = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    labels = dict(word.split("=", 1) for word in shlex.split(dict(instructions)["LABEL"]))
    assert {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()} == {
        "title": said["name"],
        "description": said["description"],
        "authors": said["authors"][0]["name"],
        "url": said["urls"]["Homepage"],
        "source": said["urls"]["Source"],
        "documentation": said["urls"]["Documentation"],
        "licenses": said["license"],
        "version": __version__,
    }


def test_it_carries_the_licences_of_what_is_in_it(instructions: list[tuple[str, str]]) -> None:
    last = of(instructions, "RUN")[1].split(" && ")[-1]  # of what is installed then, and nothing after
    assert last == "/opt/trio-ws/bin/python scripts/licences /opt/trio-ws/share/licences"
    assert "--from=build /opt/trio-ws /opt/trio-ws" in of(instructions, "COPY")


def podman(*arguments: str | Path) -> str:
    done = subprocess.run([need("podman"), *map(str, arguments)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture
def image(checkout: Path) -> Iterator[str]:
    if not is_required("container"):
        pytest.skip("needs minutes: TEST_REQUIRES=container")
    name = f"localhost/trio-ws-test:{uuid.uuid4().hex}"
    base = environ.get("TEST_CONTAINER_BASE")
    podman(
        *(
            "build",
            "--quiet",
            "--layers=false",
            "--format",
            "docker",
            "--file",
            checkout / FILE,
            "--tag",
            name,
        ),
        *(["--build-arg", f"BASE={base}"] if base else []),
        checkout,
    )
    yield name
    podman("rmi", name)


class Container:
    """One that runs, on a volume and a port of this machine's loopback."""

    def __init__(self, image: str, volume: str) -> None:
        self._port = free_port()
        where = ("--publish", f"127.0.0.1:{self._port}:8080", "--volume", f"{volume}:/var/lib/trio-ws")
        self.id = podman("run", "--detach", "--pull", "never", *where, image).splitlines()[-1]

    def do(self, command: str, *arguments: str) -> str:
        return podman(command, self.id, *arguments)

    def call(self, token: str | None, **fields: object) -> dict[str, Any]:
        """Ask its server, as soon as that answers."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"ws://127.0.0.1:{self._port}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with connect(url, additional_headers=headers, proxy=None) as client:
                    return call(client, **fields)
            except (OSError, EOFError, InvalidHandshake):  # it has yet to begin
                assert time.monotonic() < deadline, self.do("logs")
                time.sleep(0.1)

    def close(self) -> None:
        podman("rm", "--force", self.id)


@pytest.fixture
def volume() -> Iterator[str]:
    name = f"trio-ws-test-{uuid.uuid4().hex}"
    yield name
    podman("volume", "rm", "--force", name)


def test_it_serves_who_has_a_token_stops_in_time_and_finds_its_data_again(image: str, volume: str) -> None:
    with closing(Container(image, volume)) as first:
        assert first.call(None, **INVOICE)["code"] == "unauthorized"
        said = first.do("exec", "trio-ws", "token", "create", "--account", "1", "--scope", "read,write")
        token = said.splitlines()[-1]
        made = first.call(token, **INVOICE)["data"]
        podman("healthcheck", "run", first.id)
        assert first.do("exec", "id", "-u") == "10001"
        assert "PostgreSQL" in first.do("exec", "cat", "/opt/trio-ws/share/licences/LICENCES.txt")
        first.do("stop", "--time", str(STOP_SECONDS))
        assert first.do("inspect", "--format", "{{.State.ExitCode}}") == "0"
    with closing(Container(image, volume)) as second:
        assert second.call(token, action="fetch_invoice", id=made["uid"])["data"] == made
        second.do("kill", "--signal", "KILL")
    with closing(Container(image, volume)) as third:
        assert third.call(token, action="fetch_invoice", id=made["uid"])["data"] == made
