"""`trio-ws completion`: what has a shell complete commands and flags."""

from typing import Annotated, Literal

from cyclopts import Parameter

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

    print(app.generate_completion(shell=shell))
    if shell == "zsh":
        print(ZSH_END)
