"""What `--help` teaches is so, and a shell completes it."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cyclopts import App

from tests.cli.test_main import trio_ws_command
from tests.requirements import need
from trio_ws.cli.main import app


def commands(parent: App, *names: str) -> Iterator[tuple[str, ...]]:
    """Each command that is shown, as it is typed."""
    for name in parent:
        if name.startswith("-") or not parent[name].show:
            continue
        inner = list(commands(parent[name], *names, name))
        yield from inner or [(*names, name)]


COMMANDS = sorted(commands(app))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_says_what_it_does_and_shows_examples_that_can_be_typed(
    command: tuple[str, ...],
) -> None:
    done = trio_ws_command(*command, "--help", COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, "")
    usage, _, rest = done.stdout.partition("\n\n")
    assert usage.startswith(f"Usage: trio-ws {' '.join(command)}")
    assert rest.strip()[0].isupper()
    shown = done.stdout.partition("Examples:")[2]
    examples = re.findall(r"trio-ws [^\n)#]+", shown)
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert tuple(words[1 : 1 + len(command)]) == command
        app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_the_first_page_names_all_of_them_and_its_examples_can_be_typed() -> None:
    done = trio_ws_command("--help", COLUMNS="200")
    for command in COMMANDS:
        assert re.search(rf"│ {command[0]} +[A-Z]", done.stdout), command
    for example in re.findall(r"trio-ws ([^\n#]+)", done.stdout.partition("Examples:")[2]):
        app.parse_args(shlex.split(example), exit_on_error=False, print_error=False)
    assert trio_ws_command().stdout == trio_ws_command("--help").stdout


@pytest.mark.parametrize("columns", ["40", "80"])
def test_where_no_terminal_is_nothing_is_coloured_nor_too_wide(columns: str) -> None:
    for command in ((), ("serve",), ("top",)):
        text = trio_ws_command(*command, "--help", COLUMNS=columns).stdout
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= int(columns)


@pytest.mark.parametrize("command", ["serve --help", "check-config", "asyncapi", "--help"])
def test_who_reads_no_further_gets_no_traceback(command: str) -> None:
    shell = f"{sys.executable} -m trio_ws {command} 2>&1 >&3 3>&- | cat >&2"
    done = subprocess.run(
        ["bash", "-c", f"{{ {shell}; }} 3>&1 | head -c 10 >/dev/null"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""


# What is typed, and what it becomes: commands, flags, and the values of what can only be some words.
COMPLETED = [
    ("ser", "serve"),
    ("serve --por", "--port"),
    ("token rev", "revoke"),
    ("listen inv", "invoice"),
    ("serve --log-level war", "warning"),
    ("serve --log-format js", "json"),
    ("serve --auth tok", "token"),
    ("invoices list --status conf", "confirming"),
    ("webhooks list --state hel", "held"),
    ("webhooks forward --events payment.cr", "payment.created"),
    ("call record_p", "record_payment"),
    ("call record_payment ref", "reference="),
    ("call record_payment uid= am", "amount="),
    ("trigger over", "overpaid"),
    ("context use sh", "shop"),
    ("call ping --context sh", "shop"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a shell which finds `trio-ws`, and of a user who has saved a server."""
    (tmp_path / "trio-ws").mkdir()
    (tmp_path / "trio-ws/contexts.toml").write_text('[contexts.shop]\nurl = "wss://ws.example"')
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of each shell's script, which is called as that shell wants it."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell, name in (("bash", "completion"), ("zsh", "_trio-ws"), ("fish", "trio-ws.fish")):
        (folder / name).write_text(trio_ws_command("completion", shell).stdout)
    return folder


def run(program: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(program, check=True, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stderr == ""
    return done.stdout


Complete = Callable[[str], set[str]]


@pytest.fixture
def complete_in_bash(scripts: Path, environment: dict[str, str]) -> Complete:
    """Completes in bash: returns what may be meant, and `nospace` if no space comes after it."""

    def complete(typed: str) -> set[str]:
        words = ["trio-ws", *typed.split(" ")]
        line = " ".join(word or "''" for word in words)
        program = (
            f"source {scripts}/completion; compopt() {{ echo $2; }}; COMP_WORDS=({line});"
            f" COMP_CWORD={len(words) - 1}; $(complete -p trio-ws | cut -d' ' -f3);"
            ' printf "%s\\n" "${COMPREPLY[@]}"'
        )
        return {word.strip() for word in run(["bash", "--norc", "-c", program], environment).split()}

    return complete


def test_bash_completes_all_that_there_is(complete_in_bash: Complete) -> None:
    assert {"top", "doctor", "bench", "trigger"} <= complete_in_bash("")
    assert complete_in_bash("listen a") == {"account", "address"}
    assert complete_in_bash("call fetch_invoice ") == {"id=", "nospace"}
    left = complete_in_bash("call record_payment uid = x reference = y status = settled ")
    assert left == {"amount=", "currency=", "nospace"}


@pytest.mark.parametrize(("typed", "meant"), COMPLETED)
def test_bash_completes_words(complete_in_bash: Complete, typed: str, meant: str) -> None:
    assert complete_in_bash(typed) - {"nospace"} == {meant}


# What zsh makes of a line is known in its editor: a terminal of its own types a tab, and a key that shows it.
# The terminal shows what is typed, too: what is waited for is not written like that there.
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f
zpty -w shell 'PS1="READY>"; autoload -Uz compinit; compinit -u -d %(folder)s/dump; %(load)s'
zpty -w shell $'show() { print -r -- "[""[$BUFFER]""]" }; zle -N show; bindkey "^G" show; echo LOA""DED'
repeat 200 { zpty -r -t shell line && print -r -- $line && [[ $line = *LOADED* ]] && break; sleep 0.05 }
zpty -n -w shell $'trio-ws %(words)s\\t\\a'
repeat 200 { zpty -r -t shell line && print -rn -- $line && [[ $line = *']]'* ]] && break; sleep 0.05 }
zpty -d shell
"""


@pytest.mark.parametrize("way", ["eval", "fpath"])
@pytest.mark.parametrize(("typed", "meant"), COMPLETED)
def test_zsh_completes_words(
    scripts: Path, environment: dict[str, str], way: str, typed: str, meant: str
) -> None:
    zsh = need("zsh")
    load = f"source {scripts}/_trio-ws" if way == "eval" else "true"
    paths = run([zsh, "-fc", "print $FPATH"], {"PATH": os.environ["PATH"]}).strip()
    environment["FPATH"] = f"{paths}:{scripts}" if way == "fpath" else paths
    program = ZSH % {"folder": environment["HOME"], "load": load, "words": typed}
    shown = run([zsh, "-fc", program], environment)
    *before, _ = typed.split(" ")
    line = " ".join(["trio-ws", *before, meant]) + ("" if meant.endswith("=") else " ")
    assert f"[[{line}]]" in shown, shown


@pytest.mark.parametrize(("typed", "meant"), COMPLETED)
def test_fish_completes_words(scripts: Path, environment: dict[str, str], typed: str, meant: str) -> None:
    program = f"source {scripts}/trio-ws.fish; complete --do-complete 'trio-ws {typed}'"
    shown = run([need("fish"), "--no-config", "-c", program], environment)
    assert meant in {line.partition("\t")[0] for line in shown.splitlines()}


def test_fish_says_what_a_word_means(scripts: Path, environment: dict[str, str]) -> None:
    shown = set()
    for typed in ("call set_price val", "call set_pr", "trigger twi"):
        program = f"source {scripts}/trio-ws.fish; complete --do-complete 'trio-ws {typed}'"
        shown |= set(run([need("fish"), "--no-config", "-c", program], environment).splitlines())
    assert {
        "value=\tThe price of one unit, in major units of `base_currency`.",
        "set_price\tSet the price of a currency.",
        "twice\tIt is paid, and then once more.",
    } <= shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = trio_ws_command("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "doctor" in done.stdout


def test_a_server_loads_nothing_that_it_has_no_use_for() -> None:
    program = (
        "import sys; sys.argv = ['trio-ws', 'serve', '--port', 'x']\n"
        "from trio_ws.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "trio_ws.cli.serving" in loaded
    spared = {
        "trio_ws.testing",
        "trio_ws.cli.top",
        "trio_ws.cli.bench",
        "rich.live",
        "prometheus_client.parser",
    }
    assert spared & loaded == set()
