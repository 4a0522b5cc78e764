"""`trio-ws completion`: what has a shell complete commands and flags."""

from typing import Annotated, Literal

from cyclopts import Parameter

# What ends in =, as a field's name does, goes on with its value: no space after it. fish knows it by itself.
BASH_END = """\
_trio_ws_words() {
    _trio_ws
    if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -F _trio_ws_words trio-ws"""
_ZSH_WORDS = "-d _cyc_disp -a _cyc_vals"
ZSH_ADD = f"compadd {_ZSH_WORDS}"
ZSH_ADD_FIELDS = f"{{ [[ $_cyc_vals[1] == *= ]] && compadd -S '' {_ZSH_WORDS} || {ZSH_ADD}; }}"

# What is generated only defines a function: nobody would call it.
ZSH_END = """\
if [ "$funcstack[1]" = "_trio-ws" ]; then
    _cyclopts_trio-ws "$@"
else
    compdef _cyclopts_trio-ws trio-ws
fi"""


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="bash, zsh or fish.")], /
) -> None:
    """Print the completion script for a shell.

    In bash, put `eval "$(trio-ws completion bash)"` into ~/.bashrc. In zsh, put the same with `zsh` into
    ~/.zshrc, after `compinit`, or the output into a file `_trio-ws` in a folder of $fpath. In fish, put the
    output into ~/.config/fish/completions/trio-ws.fish.
    """
    from trio_ws.cli.main import app  # noqa: PLC0415 - which is there once we are asked

    script = app.generate_completion(shell=shell)
    ends = {"bash": BASH_END, "zsh": ZSH_END}
    print(script.replace(ZSH_ADD, ZSH_ADD_FIELDS) + ends.get(shell, ""))
