"""A real browser, and the world of the other tiers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser import chromium
from tests.integration.conftest import world

__all__ = ["world"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    found = chromium.find()
    assert found is not None, "there is no Chromium here: `make test-browser` installs it"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found or None, args=["--no-sandbox"])
        yield started
        started.close()
