"""A real browser, and the world of the other tiers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from serving.demo.browser import launch
from tests.integration.conftest import world

__all__ = ["world"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()
