"""Clients of the server: without a key, too many, gone, with drawn requests; and `subquad llm serve` until its end."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from support.llm_models import byte_tokenizer, linear_model
from support.servers import COMPLETION, POSTS, Server, ask, wait_for

from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.serving.engine import FAILED
from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

EXAMPLES = 10
"""Drawn requests of each kind to each interface."""
IDLE = {"status": "ok", "active": 0, "waiting": 0}
LONG = {**COMPLETION, "max_tokens": 40_000}
"""A request whose answer does not end by itself."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("bytewise"))


@pytest.fixture(scope="module")
def small(tokenizer):
    """Return a server whose contexts are short."""
    with Server(make_app(linear_model(), tokenizer, ServeSettings(max_context=128), name="tiny")) as server:
        yield server


@pytest.fixture
def server(tokenizer):
    """Return a server with two rows and a queue of two, whose contexts are long."""
    app = make_app(linear_model(), tokenizer, ServeSettings(max_batch_size=2, max_waiting=2), name="tiny")
    with Server(app) as server:
        yield server


def is_idle(server):
    return ask(server, "/health") == (200, IDLE)


def stream(client, **how):
    """Return a stream that does not end by itself."""
    return client.completions.create(**LONG, **how, stream=True)


def test_a_server_with_a_key_answers_only_those_who_send_it(tokenizer, monkeypatch):
    monkeypatch.setenv("SUBQUAD_API_KEY", "s3cret")
    with Server(make_app(linear_model(), tokenizer, ServeSettings(max_context=128), name="tiny")) as server:
        for path, body in (("/v1/models", None), ("/v1/completions", COMPLETION), ("/nowhere", None), ("//v1/x", None)):
            assert ask(server, path, body)[0] == 401
        with server.client() as client, pytest.raises(openai.AuthenticationError, match="the API key is missing or"):
            client.completions.create(**COMPLETION)
        # before the body is read
        connection = http.client.HTTPConnection(*server.socket.getsockname(), timeout=60)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("content-length", str(2**30))
        connection.endheaders(b"{")
        assert connection.getresponse().status == 401
        connection.close()
        assert ask(server, "/health")[0] == 200
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="s3cret", max_retries=0) as client:
            assert client.completions.create(**COMPLETION).usage.completion_tokens == 3
    assert ServeSettings(host="0.0.0.0").key == "s3cret"
    monkeypatch.delenv("SUBQUAD_API_KEY")
    with pytest.raises(SubquadError, match="give an API key"):
        ServeSettings(host="0.0.0.0")


def test_a_page_whose_name_resolves_to_this_computer_is_refused(small):
    for host, status in (("localhost:8000", 200), ("rebound.example.org", 400)):
        connection = http.client.HTTPConnection(*small.socket.getsockname(), timeout=60)
        connection.request("GET", "/v1/models", headers={"host": host})
        assert connection.getresponse().status == status
        connection.close()


def test_the_metrics_count_requests_and_tokens(tokenizer):
    with Server(make_app(linear_model(), tokenizer, name="tiny")) as server:
        _, reply = ask(server, "/v1/completions", COMPLETION)
        ask(server, "/v1/completions", {**COMPLETION, "model": "huge"})
        ask(server, "/nowhere")
        # the end of an answer is still to be read by the engine when its client has it
        wait_for(lambda: server.engine.active == 0)
        with urllib.request.urlopen(f"{server.url}/metrics") as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            lines = answer.read().decode().splitlines()
    values = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
    assert values["subquad_prompt_tokens_total"] == reply["usage"]["prompt_tokens"]
    assert values["subquad_generated_tokens_total"] == 3
    assert values["subquad_active_sequences"] == values["subquad_waiting_requests"] == 0
    counted = {name: value for name, value in values.items() if name.startswith("subquad_requests_total")}
    assert counted == {'subquad_requests_total{status="200"}': 1, 'subquad_requests_total{status="404"}': 2}


def test_a_client_that_disconnects_frees_its_row(server):
    with server.client() as client:
        streams = [stream(client) for _ in range(2)]
        for one in streams:
            next(iter(one))
        wait_for(lambda: server.engine.active == 2)
        # one that waits for a row, and one that waits for a whole reply
        streams.append(stream(client))
        wait_for(lambda: server.engine.waiting == 1)
        streams.pop().close()
        wait_for(lambda: server.engine.waiting == 0)
        streams.pop().close()
        wait_for(lambda: server.engine.active == 1)
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(**LONG, timeout=0.5)
        streams.pop().close()
    wait_for(lambda: is_idle(server))


@pytest.mark.parametrize("path", POSTS)
def test_too_many_waiting_requests_get_status_429(server, path):
    with server.client() as client:
        streams = [stream(client) for _ in range(2)]
        wait_for(lambda: server.engine.active == 2)
        streams += [stream(client) for _ in range(2)]
        wait_for(lambda: server.engine.waiting == 2)
        status, reply = ask(server, path, POSTS[path])
        assert (status, reply["error"]["type"]) == (429, "rate_limit_error")
        assert "2 requests are waiting" in reply["error"]["message"]
        with pytest.raises(openai.RateLimitError) as refused:
            stream(client)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert ask(server, "/health") == (200, {"status": "ok", "active": 2, "waiting": 2})
        for one in streams:
            one.close()
    wait_for(lambda: is_idle(server))
    assert ask(server, path, POSTS[path])[0] == 200


def test_clients_get_an_error_when_the_engine_stops(server):
    with server.client() as client:
        begun = stream(client)
        next(iter(begun))
        server.engine.stop()
        with pytest.raises(openai.APIError, match="the server was stopped"):
            list(begun)
        with pytest.raises(openai.APIError, match="the server was stopped"):
            list(stream(client))
    assert ask(server, "/v1/completions", COMPLETION)[0] == 503
    assert ask(server, "/health") == (503, {**IDLE, "status": "failed"})


def test_requests_whose_computation_fails_get_an_error_and_the_next_one_an_answer(tokenizer, capfd):
    model, failures = linear_model(), []
    model.model.layers[1].register_forward_pre_hook(lambda *_: failures.pop()() if failures else None)

    def fail():
        raise MemoryError("no memory left")

    with Server(make_app(model, tokenizer, name="tiny")) as server, server.client() as client:
        expected = ask(server, "/v1/completions", COMPLETION)[1]["choices"]
        failures.append(fail)
        status, reply = ask(server, "/v1/completions", {**COMPLETION, "prompt": "a river"})
        assert (status, reply["error"]["type"], reply["error"]["message"]) == (500, "server_error", FAILED)
        streams = [stream(client) for _ in range(2)]
        for one in streams:
            next(iter(one))
        failures.append(fail)
        for one in streams:
            with pytest.raises(openai.APIError, match="the computation failed"):
                list(one)
        assert ask(server, "/v1/completions", COMPLETION)[1]["choices"] == expected
        wait_for(lambda: is_idle(server))
    assert "MemoryError: no memory left" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", POSTS)
def test_every_drawn_request_gets_a_reply(small, path, mode):
    operation = schemathesis.openapi.from_url(f"{small.url}/openapi.json")[path]["POST"]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        reply = case.call()
        # the name of the model is drawn too
        assert reply.status_code in (200, 400, 404)
        assert reply.status_code == 200 or reply.json()["error"]["message"]

    send()
    assert ask(small, path, POSTS[path])[0] == 200


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comple", b"POST /v1/chat/completions HTTP/1.1\r\n\r\n{"])
def test_clients_that_send_half_a_request_do_not_hold_up_the_others(small, sent):
    connections = [socket.create_connection(small.socket.getsockname(), timeout=60) for _ in range(50)]
    for connection in connections:
        connection.sendall(sent)
    assert ask(small, "/v1/completions", COMPLETION)[0] == 200
    for connection in connections:
        connection.close()
    wait_for(lambda: not small.server.server_state.connections)
    wait_for(lambda: is_idle(small))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Return the folder of a linearized model, whose training sequences were short."""
    path, model = tmp_path_factory.mktemp("served") / "tiny", linear_model()
    model.config.trained_length = 64
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


class Command:
    """A process that serves a model on a free port, after a line of Python."""

    def __init__(self, folder, *flags, before=""):
        program = f"import sys; from subquad.cli import main\n{before}\nsys.exit(main())"
        command = [sys.executable, "-c", program, "llm", "serve", str(folder), "--port", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        self.first = self.process.stderr.readline()
        assert self.first.startswith("tiny at http://127.0.0.1:"), self.first + self.process.stderr.read()
        self.url = self.first.split()[2].removesuffix("/v1")
        return self

    def client(self, key="none"):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def end(self):
        """Return the exit status, and what was printed after the first line."""
        message = self.process.stderr.read()
        return self.process.wait(60), message

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_clients_at_the_same_time_until_it_is_stopped(folder, number):
    prompts = [f"the old house {'falls over ' * place}" for place in range(6)]
    with Command(folder, "--max-batch-size", "4", "--api-key", "s3cret") as server:
        assert "(up to 4 sequences together, " in server.first

        def answer(prompt):
            with server.client("s3cret") as client:
                events = client.completions.create(**{**COMPLETION, "prompt": prompt, "max_tokens": 40}, stream=True)
                return "".join(event.choices[0].text for event in events)

        alone = [answer(prompt) for prompt in prompts]
        with server.client("s3cret") as client, ThreadPoolExecutor(6) as pool:
            answers = pool.map(answer, prompts)
            gone = stream(client)
            next(iter(gone))
            gone.close()
            assert list(answers) == alone
            wait_for(lambda: is_idle(server))
            with server.client("wrong") as wrong, pytest.raises(openai.AuthenticationError, match="API key is missing"):
                wrong.models.list()
            begun = client.completions.create(**{**COMPLETION, "max_tokens": 300}, stream=True)
            next(iter(begun))
            server.process.send_signal(number)
            # what was begun is ended
            assert [event.choices[0].finish_reason for event in begun][-1] == "length"
        status, message = server.end()
    assert status == 0
    assert message.count("\n") == 1
    assert "more than the 64 of the training sequences" in message


@pytest.mark.long
def test_a_request_that_outlasts_the_shutdown_gets_an_error(folder):
    with Command(folder, before="from subquad.llm.commands import serve\nserve.SHUTDOWN_SECONDS = 0.5") as server:
        with server.client() as client:
            begun = stream(client)
            next(iter(begun))
            server.process.terminate()
            with pytest.raises(openai.APIError, match="the server was stopped"):
                list(begun)
        status, message = server.end()
    assert (status, "Traceback" in message) == (0, False)


@pytest.mark.long
def test_the_command_ends_with_an_error_when_the_model_cannot_compute_any_more(folder):
    lost = (
        "from subquad.llm.serving import engine\n"
        "work = engine.Engine.work\n"
        "def lost(*_): raise RuntimeError('the device is lost')\n"
        "def fail(own):\n"
        "    if own._waiting: engine.forward = lost\n"
        "    return work(own)\n"
        "engine.Engine.work = fail"
    )
    with Command(folder, before=lost) as server:
        status, reply = ask(server, "/v1/completions", COMPLETION)
        assert (status, reply["error"]["message"]) == (500, FAILED)
        status, message = server.end()
    assert status == 2
    assert "RuntimeError: the device is lost" in message
    assert "cannot compute any more" in message.splitlines()[-1]


def test_a_port_in_use_is_one_sentence(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["llm", "serve", str(folder), "--port", port]) == 2
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["generate", "--prompt", "a"], ["chat"], ["serve", "--port", "0"], ["evaluate", "--passkey", "900", "--out", "x"]],
)
def test_a_softmax_checkpoint_gets_the_command_that_linearizes_it(capsys, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").touch()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for model in ("plain", "smollm2", "model.gguf"):
        assert main(["llm", command[0], model, *command[1:]]) == 2
        assert f"subquad llm linearize {model} --text TEXT --out linear" in capsys.readouterr().err
