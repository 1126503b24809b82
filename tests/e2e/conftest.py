"""The page in Chromium, served by a process of its own; the tests are skipped without the extra `e2e`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_core_python.sync_playwright")
pytest.importorskip("gradio")

SCREENSHOTS = Path(__file__).parent / "screenshots"
CHROMIUM = os.environ.get("SUBQUAD_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SLOW = float(os.environ.get("SUBQUAD_E2E_PATIENCE", "1"))
"""Factor on all waiting times, for machines that are busy."""


class Server:
    """The page of a workspace."""

    def __init__(self, folder):
        self.folder = folder

    def start(self):
        words = [sys.executable, "-m", "subquad", "app", "--port", "0", "--workspace", str(self.folder / "work")]
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + 120 * SLOW
        while not (address := re.search(r"http://\S+", (self.folder / "server.log").read_text())):
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        self.address = address[0]
        return self

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(60)


class Page:
    """A page in a browser."""

    def __init__(self, page, address):
        self.page, self.complaints = page, []
        page.set_default_timeout(60_000 * SLOW)
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        # nothing is loaded from other hosts
        page.on("request", lambda sent: self.complaints.append(sent.url) if not self.is_local(sent.url) else None)
        self.address = address
        page.goto(address)

    def is_local(self, url):
        return url.startswith((self.address, "data:", "blob:"))

    def open(self, tab, task=None):
        self.page.get_by_role("tab", name=tab, exact=True).click()
        if task:
            self.page.get_by_label(task, exact=True).locator("visible=true").check()

    def unfold(self, name):
        # the name of the button ends with an arrow
        self.page.get_by_role("button", name=re.compile(f"^{name}")).locator("visible=true").click()

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def enter(self, label, text):
        # the label of a text has its help too
        self.page.get_by_label(re.compile(rf"^\s*{label}\b")).locator("visible=true").first.fill(text)

    def wait(self, text, seconds=300):
        """Wait until the state of the shown job says this."""
        state = self.page.locator(".sq-state >> visible=true")
        state.filter(has_text=text).wait_for(timeout=1000 * seconds * SLOW)

    def wait_for_choice(self, label, value):
        """Wait until a list shows a value that begins so."""
        script = '([label, value]) => document.querySelector(`input[aria-label="${label}"]`)?.value.startsWith(value)'
        self.page.wait_for_function(script, arg=[label, value])

    def wait_for_answer(self):
        """Wait for the first words of an answer, and stop it."""
        answer = self.page.locator(".message.bot").last
        answer.filter(has_text=re.compile(r"^\s*(?!Opening)\w[^…]{20}")).wait_for(timeout=300_000 * SLOW)
        stop = self.page.get_by_test_id("stop-button")
        if stop.is_visible():
            stop.click()
        stop.wait_for(state="hidden")

    @property
    def report(self):
        return self.page.frame_locator("iframe.sq-report >> visible=true")

    def check(self, name):
        """Keep a picture of the page, which must fit its screen and have no serious fault of accessibility."""
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
        width = self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= self.page.viewport_size["width"]
        faults = [
            f"{fault['id']}: {node['html'][:200]}"
            for fault in axe.Axe().run(self.page)["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
        assert not faults, "\n".join(faults)


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
def opened(chromium, server):
    """Return a function that opens the page in a new browser; the page must not complain."""

    @contextmanager
    def opened(width=1300, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = Page(context.new_page(), server.address)
        yield page
        context.close()
        assert not [text for text in page.complaints if "ERR_" not in text]

    return opened
