"""What `--help` teaches is so, and a shell completes it."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
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


def test_bash_completes_commands_and_flags(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(trio_ws_command("completion", "bash").stdout)

    def complete(*words: str) -> set[str]:
        line = " ".join(shlex.quote(word) for word in words)
        program = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _trio_ws;"
            ' printf "%s\\n" "${COMPREPLY[@]}"'
        )
        found = subprocess.run(
            ["bash", "--norc", "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        assert found.stderr == ""
        return {word.strip() for word in found.stdout.split()}

    assert complete("trio-ws", "ser") == {"serve"}
    assert complete("trio-ws", "serve", "--po") == {"--port"}
    assert complete("trio-ws", "token", "re") == {"revoke"}
    assert {"top", "doctor", "bench"} <= complete("trio-ws", "")
    assert complete("trio-ws", "listen", "a") == {"account", "address"}


# What zsh has found is known once it has shown it: a terminal of its own types a tab.
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f
zpty -w shell 'PS1="READY>"; autoload -Uz compinit; compinit -u -d %(folder)s/dump; %(load)s; echo LOA''DED'
repeat 200 { zpty -r -t shell line && print -r -- $line && [[ $line = *LOADED* ]] && break; sleep 0.05 }
zpty -n -w shell $'trio-ws %(words)s\\t'
repeat 60 { zpty -r -t shell line && print -rn -- $line; sleep 0.05 }
zpty -d shell
"""


@pytest.mark.parametrize("way", ["eval", "fpath"])
@pytest.mark.parametrize(
    ("words", "found"), [("serve --por", "--port"), ("token rev", "revoke"), ("listen inv", "invoice")]
)
def test_zsh_completes_commands_flags_and_values(tmp_path: Path, way: str, words: str, found: str) -> None:
    zsh = need("zsh")
    (tmp_path / "_trio-ws").write_text(trio_ws_command("completion", "zsh").stdout)
    load = f"source {tmp_path}/_trio-ws" if way == "eval" else "true"
    environment = {"PATH": os.environ["PATH"], "FPATH": str(tmp_path), "HOME": str(tmp_path)}
    paths = subprocess.run([zsh, "-fc", "print $FPATH"], check=True, capture_output=True, text=True).stdout
    environment["FPATH"] = f"{paths.strip()}{f':{tmp_path}' if way == 'fpath' else ''}"
    program = ZSH % {"folder": tmp_path, "load": load, "words": words}
    done = subprocess.run(
        [zsh, "-fc", program], check=True, capture_output=True, text=True, timeout=60, env=environment
    )
    assert found in done.stdout.rpartition("LOADED")[2], done.stdout


@pytest.mark.parametrize(
    ("words", "found"), [("serve --por", "--port"), ("token rev", "revoke"), ("listen inv", "invoice")]
)
def test_fish_completes_commands_flags_and_values(tmp_path: Path, words: str, found: str) -> None:
    fish = need("fish")
    script = tmp_path / "trio-ws.fish"
    script.write_text(trio_ws_command("completion", "fish").stdout)
    done = subprocess.run(
        [fish, "--no-config", "-c", f"source {script}; complete --do-complete 'trio-ws {words}'"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert found in {line.partition("\t")[0] for line in done.stdout.splitlines()}


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
