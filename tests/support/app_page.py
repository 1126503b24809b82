"""The web page in a process of its own, as `subquad app` serves it."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

PROGRAM = """
import resource, sys
import subquad.app.server as server
from subquad.cli import main

server.BODY_SECONDS = float(sys.argv.pop(1))
files = int(sys.argv.pop(1))
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
sys.exit(main())
"""


class Page:
    """A page that is served."""

    def __init__(self, process, log, host, port):
        self.process, self.log, self.host, self.port = process, log, host, port

    @property
    def messages(self):
        """What the process has written so far."""
        return self.log.read_text()


@contextmanager
def served_page(folder, *flags, body_seconds=60.0, files=0):
    """Serve the page from a workspace in a folder; a limit on its open files is optional."""
    log = folder / "page.log"
    command = [sys.executable, "-u", "-c", PROGRAM, str(body_seconds), str(files), "app", "--port", "0"]
    environment = {key: value for key, value in os.environ.items() if key != "SUBQUAD_APP_PASSWORD"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--workspace", str(folder / "work"), *flags], stdout=output, stderr=subprocess.STDOUT,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        while not (found := re.search(r"http://([\d.]+):(\d+)", log.read_text())):
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(log.read_text())
        yield Page(process, log, found[1], int(found[2]))
    finally:
        process.terminate()
        process.wait(60)
