"""What the README says of settings and files is so."""

import re
from pathlib import Path

import msgspec

from trio_ws.settings import FIELDS


def settings_table() -> str:
    """The README's table of settings, made from the settings themselves."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in FIELDS.items():
        default = "none" if field.default is None else msgspec.json.encode(field.default).decode().strip('"')
        rows.append(f"| `{name}` | {default} | {field.type.__metadata__[-1].description} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_that_of_the_code(checkout: Path) -> None:
    assert settings_table() in (checkout / "README.md").read_text(), settings_table()


def test_the_files_it_names_are_there(checkout: Path) -> None:
    readme = (checkout / "README.md").read_text()
    named = re.findall(r"(?:trio_ws|tests|scripts|\.ci)/[\w/.-]+", readme)
    assert named
    assert [name for name in named if not (checkout / name.rstrip(".")).exists()] == []
