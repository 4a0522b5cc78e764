"""`trio-ws completion`: what has a shell complete commands and flags."""

from typing import Annotated, Literal

from cyclopts import Parameter


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="bash, zsh or fish.")], /
) -> None:
    """Print the completion script for a shell.

    In bash, put `eval "$(trio-ws completion bash)"` into ~/.bashrc. In zsh, the output goes into a file
    `_trio-ws` of a folder in $fpath; in fish, into ~/.config/fish/completions/trio-ws.fish.
    """
    from trio_ws.cli.main import app  # noqa: PLC0415 - which is there once we are asked

    print(app.generate_completion(shell=shell))
