"""The page of settings is that of the code."""

from tests.docs.configuration import GROUPS, page
from tests.docs.pages import DOCS
from trio_ws.settings import FIELDS


def test_the_page_is_made_from_the_settings() -> None:
    made = "python -m tests.docs.configuration > trio_ws/docs/configuration.md"
    assert (DOCS / "configuration.md").read_text() == page(), made


def test_each_setting_is_in_one_group() -> None:
    names = [name for group in GROUPS.values() for name in group.split()]
    assert sorted(names) == sorted(FIELDS)
