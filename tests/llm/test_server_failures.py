"""Computations that fail: requests that need them get an error, others go on, and a server that cannot go on ends."""

import json
import subprocess
import sys
import urllib.error
import urllib.request

import openai
import pytest
from support.llm_models import byte_tokenizer, linear_model
from support.servers import Server, ask, wait_for

from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

ORDINARY = {"model": "tiny", "prompt": "the green bird", "max_tokens": 3, "temperature": 0}
FAILED = "the computation failed, for example because memory ran out; see the server's log"


class Failures:
    """Errors of a model's forward passes."""

    def __init__(self, model):
        self.left = 0
        model.model.layers[1].register_forward_pre_hook(self.fail)

    def fail(self, *_):
        if self.left:
            self.left -= 1
            raise MemoryError("no memory left")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("bytewise"))


@pytest.fixture
def served(tokenizer):
    model = linear_model()
    app = make_app(model, tokenizer, ServeSettings(max_batch_size=2, max_context=40_000), name="tiny")
    failures = Failures(model)
    with Server(app) as server:
        yield server, failures


def test_a_request_whose_forward_pass_fails_gets_an_error_and_the_next_one_an_answer(served, capfd):
    server, failures = served
    expected = ask(server, "/v1/completions", ORDINARY)[1]["choices"]
    failures.left = 1
    status, body = ask(server, "/v1/completions", ORDINARY)
    assert (status, body["error"]["type"], body["error"]["message"]) == (500, "server_error", FAILED)
    assert "MemoryError: no memory left" in capfd.readouterr().err
    status, body = ask(server, "/v1/completions", ORDINARY)
    assert (status, body["choices"]) == (200, expected)
    wait_for(lambda: ask(server, "/health") == (200, {"status": "ok", "active": 0, "waiting": 0}))


def test_streams_end_with_an_error_when_a_step_of_the_batch_fails(served):
    server, failures = served
    with server.client() as client:
        streams = [client.completions.create(**{**ORDINARY, "max_tokens": 30_000}, stream=True) for _ in range(2)]
        for stream in streams:
            next(iter(stream))
        failures.left = 1
        for stream in streams:
            with pytest.raises(openai.APIError, match="the computation failed"):
                list(stream)
    assert ask(server, "/v1/completions", ORDINARY)[0] == 200
    wait_for(lambda: ask(server, "/health") == (200, {"status": "ok", "active": 0, "waiting": 0}))


@pytest.mark.long
def test_the_command_ends_with_an_error_when_the_model_cannot_compute_any_more(tokenizer, tmp_path):
    linear_model().save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    program = (
        "import sys; from subquad.cli import main; from subquad.llm.serving import engine\n"
        "def forward(*arguments): raise RuntimeError('the device is lost')\n"
        "engine.forward = forward; sys.exit(main())"
    )
    arguments = ["llm", "serve", str(tmp_path / "small"), "--port", "0"]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)
    with process:
        address = process.stderr.readline().split()[2]
        body = json.dumps({**ORDINARY, "model": "small"}).encode()
        request = urllib.request.Request(f"{address}/completions", body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with refused.value as error:
            assert (error.code, json.load(error)["error"]["message"]) == (500, FAILED)
        message = process.stderr.read()
    assert process.returncode == 2
    assert "RuntimeError: the device is lost" in message
    assert message.rstrip().endswith(
        "the server has ended, since its model cannot compute any more (see above); start it again"
    )
