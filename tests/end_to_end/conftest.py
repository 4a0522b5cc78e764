"""What the end-to-end tests share."""

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet_client() -> None:
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
