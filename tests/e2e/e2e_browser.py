"""The page in a real browser: a server in a process of its own, and Chromium."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from axe_core_python.sync_playwright import Axe

SCREENSHOTS = Path(__file__).parent / "screenshots"
CHROMIUM = os.environ.get("SUBQUAD_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SLOW = float(os.environ.get("SUBQUAD_E2E_PATIENCE", "1"))
"""Factor on all waiting times, for machines that are busy."""
EXPECTED_MESSAGES = ("net::ERR_ABORTED", "/gradio_api/queue/data")


def patience(seconds):
    """Return a waiting time in milliseconds."""
    return 1000 * seconds * SLOW


class Server:
    """A server with a workspace of its own."""

    def __init__(self, folder, *flags, **variables):
        self.folder, self.flags, self.variables = folder, flags, variables
        self.log = folder / "server.log"

    def start(self):
        words = [sys.executable, "-m", "subquad", "app", "--port", "0", "--workspace", str(self.folder / "work")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*words, *self.flags], stdout=log, stderr=log, env={**os.environ, **self.variables}
            )
        end = time.monotonic() + 120 * SLOW
        while not (found := re.findall(r"subquad is at (http://\S+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)
        self.address = found[-1].replace("0.0.0.0", "127.0.0.1")
        return self

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    @property
    def uploads(self):
        """Files with content of users, whatever their names are; gradio leaves empty ones."""
        folders = [one for place in ("received", "sessions/*/uploads") for one in (self.folder / "work").glob(place)]
        return [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


@contextmanager
def browser_of(chromium, address, *, width=1280, scheme="light", storage=None):
    """Yield the page of a new browser with what it complained about; requests to other hosts are failures."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, storage_state=storage)
    page, complaints = context.new_page(), []
    page.set_default_timeout(patience(60))
    page.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda one: None if one.url.startswith((address, "data:", "blob:")) else complaints.append(one.url),
    )
    page.goto(address)
    yield page, complaints
    context.close()


def keep(page, name):
    """Keep a picture of the whole page."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def check(page, name):
    """Keep a picture of a page, which must fit its screen and have no serious fault of accessibility."""
    keep(page, name)
    faults = faults_of(page, name, page.viewport_size["width"])
    assert not faults, "\n".join(faults)


def faults_of(page, place, width):
    """Return what is wrong with a page: wider than the screen, or a serious fault of accessibility."""
    found = [
        f"{place}: {one['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for one in Axe().run(page)["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
    wide = page.evaluate("document.documentElement.scrollWidth")
    return [*([f"{place}: {wide} pixels wide"] if wide > width else []), *dict.fromkeys(found)]


def wait_read(page):
    """Wait until a table is described, for which the server starts two processes with a minute each."""
    page.get_by_text("What was read").wait_for(timeout=patience(180))


def wait_finished(page, panel, seconds=420):
    """Wait until the job of a panel has finished."""
    page.locator(f"#sq-{panel}").get_by_text("finished in").wait_for(timeout=patience(seconds))
