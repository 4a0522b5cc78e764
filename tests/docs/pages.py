"""The programs on our pages, and where they are told to go here."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "trio_ws" / "docs"
_BLOCK = re.compile(
    r"^```(?:python|html|js|sql)\n(?:#|<!--|//|--) (\S+\.\w+)(?: -->)?\n(.*?)^```", re.MULTILINE | re.DOTALL
)


def programs(page: str) -> dict[str, str]:
    """The programs of a page, by the names that their first lines say."""
    return dict(_BLOCK.findall((DOCS / page).read_text()))


def write(page: str, name: str, folder: Path, url: str = "") -> Path:
    """Write a program of a page into a folder, with a server's place in it; return the file."""
    text = programs(page)[name].replace("localhost:8080", url.removeprefix("ws://"))
    file = folder / name
    file.write_text(text)
    return file
