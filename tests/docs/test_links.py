"""Each link from one page to another leads somewhere."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

README = DOCS.parents[1] / "README.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")


def broken(page: Path) -> list[str]:
    """Return the links of a page to files that are not there."""
    links = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    return [link for link in links if link and not (page.parent / link).exists()]


FORGE = README.parent / ".github"  # what a forge shows who opens an issue, or looks for the security policy


@pytest.mark.parametrize(
    "page", [README, *sorted(FORGE.rglob("*.md")), *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name
)
def test_each_link_leads_to_a_file(page: Path) -> None:
    assert broken(page) == []


def test_the_index_leads_to_each_page_and_the_readme_to_the_index() -> None:
    named = {Path(link).name for link in LINK.findall((DOCS / "index.md").read_text())}
    assert {page.name for page in DOCS.glob("*.md")} == named | {"index.md"}
    assert "trio_ws/docs/index.md)" in README.read_text()


def test_the_pages_that_forges_look_for_lead_to_ours() -> None:
    for name in ("CONTRIBUTING", "SECURITY"):
        assert f"(../trio_ws/docs/{name.lower()}.md)" in (FORGE / f"{name}.md").read_text()


def test_a_broken_link_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[there](page.md#below), [elsewhere](https://example.org), [nowhere](none.md)")
    assert broken(page) == ["none.md"]
