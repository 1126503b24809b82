"""A server on a free port, and plain requests to it."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request

import openai
import uvicorn

COMPLETION = {"model": "tiny", "prompt": "the green bird", "max_tokens": 3, "temperature": 0}
POSTS = {
    "/v1/completions": COMPLETION,
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "the green bird"}],
        "max_tokens": 3,
        "temperature": 0,
    },
}
"""Path of each interface that takes a body → a request with one prompt and few tokens."""


class Server:
    """An application on a port of its own."""

    def __init__(self, app):
        self.app, self.engine = app, app.state.engine
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        wait_for(lambda: self.server.started)

    def client(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()


def wait_for(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def ask(server, path, body=None):
    """Return the status and the body of a reply, without a client's help."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}{path}", data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
