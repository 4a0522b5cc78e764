"""Saved servers: who may read them, what stands in for what, and that no token goes where it is not for."""

import json
import os
import pty
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from tests.cli.test_main import assert_one_line, trio_ws_command
from tests.end_to_end.serving import INVOICE, PATIENCE_SECONDS, call, serving
from tests.end_to_end.test_accounts import ask, connect_as
from trio_ws.cli import contexts
from trio_ws.cli.contexts import Context, Contexts, changing
from trio_ws.cli.target import DEFAULT_URL, Credentials, Place, Target
from trio_ws.settings import SettingsError

SHOP, OTHER = "wss://ws.example", "ws://other.example"
MEETING_SECONDS = 0.5  # in which two threads meet, if nothing keeps them apart
HERE = {"TRIO_WS_CONTEXT": "", "TRIO_WS_URL": "", "TRIO_WS_TOKEN": ""}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of settings, with nothing in it, in an environment without ours."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in HERE:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def add(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trio_ws", "context", "add", *arguments],
        check=False,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def save(**found: Context) -> None:
    with changing() as there_are:
        there_are.contexts |= found


def test_a_server_is_saved_listed_shown_used_and_removed_and_its_token_is_never_printed(home: Path) -> None:
    saved = add("shop", "--url", SHOP, "--token", "-", stdin="a-secret\nmore\n")
    assert saved.stdout == "saved shop; `trio-ws context use shop` makes it the current one\n"
    assert add("local", "--url", "ws://localhost:9000").returncode == 0
    outputs = [trio_ws_command("context", "list").stdout]
    assert outputs[0] == f"  shop  {SHOP}  token ***\n  local  ws://localhost:9000\n"
    assert_one_line(trio_ws_command("context", "show"), 2, "no context is in use: .*")
    assert trio_ws_command("context", "use", "shop").stdout == "using shop\n"
    outputs += [trio_ws_command("context", *words).stdout for words in (["show"], ["show", "shop"], ["list"])]
    assert outputs[1] == outputs[2] == f"name: shop\nurl: {SHOP}\ntoken: ***\n"
    assert outputs[3].startswith(f"* shop  {SHOP}")
    in_use = trio_ws_command("context", "list", TRIO_WS_CONTEXT="local").stdout
    assert [line[0] for line in in_use.splitlines()] == [" ", "*"]
    listed = [json.loads(line) for line in trio_ws_command("context", "list", "--json").stdout.splitlines()]
    shown = json.loads(trio_ws_command("context", "show", "shop", "--json").stdout)
    assert (
        listed[0] == shown == {"name": "shop", "url": SHOP, "ca": None, "has_token": True, "is_in_use": True}
    )
    assert not any("a-secret" in text for text in [*outputs, str(listed)])
    assert (home / "trio-ws/contexts.toml").read_text() == (
        f'current = "shop"\n\n[contexts.shop]\nurl = "{SHOP}"\ntoken = "a-secret"\n'
        '\n[contexts.local]\nurl = "ws://localhost:9000"\n'
    )
    assert trio_ws_command("context", "remove", "shop").stdout == "removed shop\n"
    assert contexts.load() == Contexts(None, {"local": Context("ws://localhost:9000")})


def test_only_its_owner_may_read_the_file_and_it_is_replaced_in_one_piece(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "trio-ws/contexts.toml"
    file.parent.mkdir()
    file.touch(mode=0o644)
    elsewhere = home / "dotfiles.toml"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    old = elsewhere.stat().st_ino
    save(shop=Context(SHOP, "a-secret"))
    assert file.is_symlink()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o600
    assert elsewhere.stat().st_ino != old
    before = file.read_text()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SettingsError, match=r"can't write .*dotfiles\.toml: No space left on device"):
        save(other=Context(OTHER))
    assert file.read_text() == before
    assert {path.name for path in home.iterdir()} == {"trio-ws", "dotfiles.toml"}


def test_two_that_are_saved_at_once_are_both_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_have_read, load = Barrier(2), contexts.load

    def load_and_meet() -> Contexts:
        found = load()
        with suppress(BrokenBarrierError):  # as is right: the other one waits until this one has written
            both_have_read.wait(MEETING_SECONDS)
        return found

    monkeypatch.setattr(contexts, "load", load_and_meet)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: save(**{name: Context(SHOP)}), ["one", "two"]))
    assert load().contexts.keys() == {"one", "two"}


def test_any_text_is_read_as_it_was_written(home: Path) -> None:
    odd = Context("ws://h/ü?q=\\\"'", "~!#\"\\'", "/a b/\t\x7f☕\U0001f600.pem")
    save(odd=odd)
    assert contexts.load().contexts == {"odd": odd}


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("current = ", "{file} is not TOML: .*"),
        ("\xff", "{file} is not TOML: .*"),
        ('[contexts.shop]\nurl = "x"\ntokn = "a-secret"', "{file}: .*tokn.*"),
        ("[contexts.shop]\nurl = 7", "{file}: .*"),
        ('[contexts."a b"]\nurl = "x"', "{file}: .*"),
        ('current = "shop"', "`current` in {file}: there is no context 'shop'; contexts: none"),
    ],
)
@pytest.mark.parametrize(
    "command", [["call", "ping"], ["context", "list"], ["context", "remove", "shop"], ["top", "--once"]]
)
def test_a_broken_file_is_named_and_stays_as_it_is(
    home: Path, command: list[str], text: str, pattern: str
) -> None:
    file = home / "trio-ws/contexts.toml"
    file.parent.mkdir()
    file.write_text(text, encoding="latin-1")
    done = trio_ws_command(*command)
    assert_one_line(done, 2, pattern.format(file=file))
    assert "a-secret" not in done.stderr
    assert file.read_text(encoding="latin-1") == text


def test_a_broken_file_is_no_matter_where_the_server_is_named(home: Path) -> None:
    (home / "trio-ws").mkdir()
    (home / "trio-ws/contexts.toml").write_text("?")
    assert Target(url=OTHER).server == Place(OTHER)


@pytest.mark.parametrize(
    ("arguments", "stdin", "pattern"),
    [
        (["a b", "--url", SHOP], "", "'a b' is no name of a context: .*"),
        (["shop\n", "--url", SHOP], "", "'shop.n' is no name of a context: .*"),
        (["shop", "--url", "http://ws.example"], "", "'http://ws.example' is no ws:// or wss:// URL"),
        (["shop", "--url", SHOP, "--ca", "/nowhere.pem"], "", "/nowhere.pem holds no certificates .*"),
        (["shop", "--url", SHOP, "--token", "a b"], "", "the token holds a space.*"),
        (["shop", "--url", SHOP, "--token", "-"], "\n", "--token -: stdin holds no token"),
        (["shop"], "", ".*--url.*"),
        (["old", "--url", SHOP], "", "there is a context 'old' already: .*"),
    ],
)
def test_what_can_t_be_saved_is_said_and_is_not(
    home: Path, arguments: list[str], stdin: str, pattern: str
) -> None:
    save(old=Context(OTHER))
    assert_one_line(add(*arguments, stdin=stdin), 2, pattern)
    assert contexts.load().contexts == {"old": Context(OTHER)}
    assert add("old", "--url", SHOP, "--replace").returncode == 0
    assert contexts.load().contexts == {"old": Context(SHOP)}


def test_at_a_terminal_a_token_is_asked_for_and_not_shown(home: Path) -> None:
    pid, screen = pty.fork()
    if pid == 0:
        words = ["context", "add", "shop", "--url", SHOP, "--token", "-"]
        os.execv(sys.executable, [sys.executable, "-m", "trio_ws", *words])  # noqa: S606
    shown = b""
    while b"token: " not in shown:
        shown += os.read(screen, 1024)
    os.write(screen, b"a-secret\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    shown += os.read(screen, 1024)
    os.close(screen)
    assert b"a-secret" not in shown
    assert contexts.load().contexts == {"shop": Context(SHOP, "a-secret")}


def test_without_a_home_there_are_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: Path) -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert Target().server == Place(DEFAULT_URL)
    with pytest.raises(SettingsError, match="set XDG_CONFIG_HOME"):
        save(shop=Context(SHOP))


TOKENS = {"shop": "of-shop", "bare": None, "now": "of-now"}
SHOP_IN_ENVIRONMENT = {"TRIO_WS_CONTEXT": "shop"}
URL_IN_ENVIRONMENT = {"TRIO_WS_URL": OTHER}
TOKEN_IN_ENVIRONMENT = {"TRIO_WS_TOKEN": "of-environment"}


@pytest.mark.parametrize(
    ("given", "environment", "place"),
    [
        # The context in use counts as a whole,
        ({}, {}, Place("ws://now", "of-now", "now.pem")),
        ({}, SHOP_IN_ENVIRONMENT, Place("ws://shop", "of-shop", "shop.pem")),
        # and only where nothing else names a server: its token is for no other.
        ({"url": OTHER}, {}, Place(OTHER, None, None)),
        ({"url": OTHER}, SHOP_IN_ENVIRONMENT, Place(OTHER, None, None)),
        ({}, URL_IN_ENVIRONMENT, Place(OTHER, None, None)),
        ({}, URL_IN_ENVIRONMENT | SHOP_IN_ENVIRONMENT, Place(OTHER, None, None)),
        ({}, URL_IN_ENVIRONMENT | TOKEN_IN_ENVIRONMENT, Place(OTHER, "of-environment", None)),
        # What the command line names counts before the environment,
        ({"context": "shop"}, {}, Place("ws://shop", "of-shop", "shop.pem")),
        (
            {"context": "shop"},
            URL_IN_ENVIRONMENT | TOKEN_IN_ENVIRONMENT,
            Place("ws://shop", "of-shop", "shop.pem"),
        ),
        ({"context": "shop"}, {"TRIO_WS_CONTEXT": "now"}, Place("ws://shop", "of-shop", "shop.pem")),
        ({"context": "bare"}, TOKEN_IN_ENVIRONMENT, Place("ws://bare", "of-environment", None)),
        ({"context": "bare"}, {}, Place("ws://bare", None, None)),
        # and so it may name a server and the token of another one.
        ({"context": "shop", "url": OTHER}, {}, Place(OTHER, "of-shop", "shop.pem")),
        # A single value counts before a context's.
        ({"token": "mine"}, {}, Place("ws://now", "mine", "now.pem")),
        (
            {"token": "mine", "ca": Path("my.pem"), "context": "shop"},
            {},
            Place("ws://shop", "mine", "my.pem"),
        ),
        ({}, TOKEN_IN_ENVIRONMENT, Place("ws://now", "of-environment", "now.pem")),
        ({"token": "mine"}, TOKEN_IN_ENVIRONMENT, Place("ws://now", "mine", "now.pem")),
        # What is empty in the environment is not there; on the command line, it is.
        ({}, HERE, Place("ws://now", "of-now", "now.pem")),
        ({"token": ""}, {}, Place("ws://now", "", "now.pem")),
        ({"url": ""}, {}, Place("", None, None)),
    ],
)
def test_what_stands_in_for_what(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    environment: dict[str, str],
    place: Place,
) -> None:
    def saved(name: str) -> Context:
        return Context(f"ws://{name}", TOKENS[name], f"{name}.pem" if TOKENS[name] else None)

    save(**{name: saved(name) for name in TOKENS})
    with changing() as there_are:
        there_are.current = "now"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Target(**given).server == place
    who = Credentials(**{name: value for name, value in given.items() if name != "url"})
    assert who.place(given.get("url")) == place


def test_to_a_server_a_context_is_no_setting(home: Path) -> None:
    save(shop=Context(SHOP))
    done = trio_ws_command("check-config", TRIO_WS_CONTEXT="shop")
    assert (done.returncode, done.stderr) == (0, "")


def test_with_none_in_use_it_is_this_machine(home: Path) -> None:
    save(shop=Context(SHOP, "of-shop"))
    assert Target().server == Place(DEFAULT_URL)


@pytest.mark.parametrize(
    "command",
    [
        ["call", "ping"],
        ["listen", "account", "1"],
        ["invoices", "list"],
        ["invoices", "show", "x"],
        ["bench", "ping"],
        ["top", "--once"],
        ["trigger", "paid"],
        ["webhooks", "forward", "--to", "http://localhost/"],
    ],
    ids=" ".join,
)
def test_each_command_that_asks_a_server_takes_a_context(home: Path, command: list[str]) -> None:
    save(shop=Context(SHOP))
    done = trio_ws_command(*command, "--context", "shp")
    assert_one_line(done, 2, "--context: there is no context 'shp'; did you mean shop\\?")
    done = trio_ws_command(*command, TRIO_WS_CONTEXT="dance")
    assert_one_line(done, 2, "TRIO_WS_CONTEXT: there is no context 'dance'; contexts: shop")


def test_a_context_leads_to_its_server_with_its_token(home: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--auth", "token") as server:
        token = ask(server.data_dir, "token", "create", "--account", "1", "--scope", "read,write")[-1]
        assert add("shop", "--url", server.url, "--token", "-", stdin=token).returncode == 0
        with connect_as(server, token) as client:
            uid = call(client, **INVOICE)["data"]["uid"]
        for command in (["invoices", "list"], ["call", "fetch_invoice", f"id={uid}"]):
            done = trio_ws_command(*command, "--context", "shop")
            assert (done.returncode, done.stderr) == (0, "")
            assert uid in done.stdout
        assert trio_ws_command("context", "use", "shop").returncode == 0
        assert trio_ws_command("call", "fetch_invoice", f"id={uid}", "--http").returncode == 0
        assert trio_ws_command("top", "--interval", "0.1").returncode == 0
        refused = trio_ws_command("invoices", "list", "--url", server.url)
        assert_one_line(refused, 1, "Authentication required")


def test_a_context_names_the_certificates_to_trust_wherever_a_command_is_typed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    files = ["-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command, *names, *files], check=True, capture_output=True, cwd=home)
    pair = ("--tls-cert", str(home / "cert.pem"), "--tls-key", str(home / "key.pem"))
    with serving(home / "data", *pair) as server:
        url = f"wss://localhost:{server.url.rpartition(':')[2]}"
        monkeypatch.chdir(home)
        assert add("shop", "--url", url, "--ca", "cert.pem").returncode == 0
        monkeypatch.chdir("/")
        for words in (
            ["call", "ping"],
            ["call", "ping", "--http"],
            ["bench", "ping", "--clients", "1", "--seconds", "0.1"],
            ["top", "--interval", "0.1"],
            ["trigger", "cancelled"],
        ):
            done = trio_ws_command(*words, "--context", "shop")
            assert (done.returncode, done.stderr) == (0, ""), words
            refused = trio_ws_command(*words, *([url] if "top" in words else ["--url", url]))
            assert_one_line(refused, 1, ".*certificate.*")
