"""A server for all tests in the browser, and Chromium; the tests are skipped without the extra `e2e`."""

import sys
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
pytest.importorskip("axe_core_python.sync_playwright")

sys.path.insert(0, str(Path(__file__).parent))
from e2e_browser import CHROMIUM, EXPECTED_MESSAGES, Server, browser_of, wait_read


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium, server):
    """A new browser on the page; it must not complain."""
    with browser_of(chromium, server.address) as (page, complaints):
        wait_read(page)
        yield page
        assert not [text for text in complaints if not any(known in text for known in EXPECTED_MESSAGES)]
