"""A browser for these tests."""

from tests.web.browser import chromium, page

__all__ = ["chromium", "page"]
