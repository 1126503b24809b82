"""A real server on a free port, queried by OpenAI's own client and by plain HTTP."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import torch
from subquad.llm.serving.state_files import read_state
from support.llm_models import byte_tokenizer, linear_model
from support.servers import Server, ask, wait_for

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.models.loading import load
from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import GenerateSettings, ServeSettings

CONTEXT = 50_000
ASKED = {"role": "user", "content": "the green bird"}


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("bytewise"))


@pytest.fixture(scope="module")
def server(bytewise):
    settings = ServeSettings(max_batch_size=4, max_context=CONTEXT, prefill_chunk_size=16)
    with Server(make_app(linear_model(), bytewise, settings, name="tiny")) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def completion(client, prompt="the green bird", **how):
    return client.completions.create(**{"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 23, **how})


def chat(client, said="the river", **how):
    messages = [{"role": "system", "content": "old"}, {"role": "user", "content": said}]
    return client.chat.completions.create(
        **{"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 23, **how}
    )


def test_the_server_lists_its_model(server, client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "subquad"
    assert ask(server, "/health") == (200, {"status": "ok", "active": 0, "waiting": 0})
    with pytest.raises(openai.NotFoundError, match="no model 'huge'; this server has 'tiny'"):
        client.models.retrieve("huge")


def test_a_completion_is_the_models_greedy_text(client, bytewise):
    reply = completion(client)
    ids = bytewise("the green bird", return_tensors="pt")["input_ids"]
    made = linear_model().generate(ids, max_new_tokens=23, do_sample=False, eos_token_id=None, pad_token_id=1)
    (choice,) = reply.choices
    assert choice.text == bytewise.decode(made[0, ids.shape[1] :])
    assert choice.finish_reason == "length"
    assert reply.usage.prompt_tokens == ids.shape[1]
    assert reply.usage.completion_tokens == 23
    assert reply.usage.total_tokens == ids.shape[1] + 23
    assert completion(client, ids[0].tolist()).choices[0].text == choice.text
    assert completion(client, max_tokens=openai.NOT_GIVEN).usage.completion_tokens == 16


def test_a_chat_goes_through_the_models_template(client):
    reply = chat(client)
    same = completion(client, "<|system|>old</s><|user|>the river</s><|assistant|>")
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content == same.choices[0].text
    assert reply.usage == same.usage
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "river"}]
    messages = [{"role": "developer", "content": "old"}, {"role": "user", "content": parts}]
    assert chat(client, messages=messages).choices[0].message.content == reply.choices[0].message.content


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 1.2, "seed": 7, "n": 3, "stop": ["e", "r"]}])
def test_a_stream_adds_up_to_the_whole_text(client, how):
    whole = completion(client, **how)
    texts, finishes, last = ["", "", ""], {}, None
    for event in completion(client, **how, stream=True, stream_options={"include_usage": True}):
        for choice in event.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
        last = event
    assert texts[: len(whole.choices)] == [choice.text for choice in whole.choices]
    assert finishes == {choice.index: choice.finish_reason for choice in whole.choices}
    assert last.usage == whole.usage
    assert not last.choices


def test_a_chat_stream_names_the_role_once(client):
    events = list(chat(client, stream=True, n=2))
    deltas = [choice for event in events for choice in event.choices]
    assert sorted(choice.index for choice in deltas if choice.delta.role == "assistant") == [0, 1]
    whole = chat(client, n=2)
    for index in (0, 1):
        text = "".join(choice.delta.content or "" for choice in deltas if choice.index == index)
        assert text == whole.choices[index].message.content
    assert {event.object for event in events} == {"chat.completion.chunk"}
    assert all(event.usage is None for event in events)


def reference_logprobs(bytewise, text):
    """Return the tokens of a text and the log-probabilities of all tokens at each place, by one forward pass."""
    ids = bytewise(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return ids[0].tolist(), linear_model()(ids).logits[0].log_softmax(-1)


def test_an_echoed_prompt_has_the_log_probabilities_of_one_forward_pass(client, bytewise):
    # longer than a chunk of the prefill
    text = "the green bird sings under the old river and over the house, quickly seen"
    ids, expected = reference_logprobs(bytewise, text)
    assert len(ids) > 2 * 16
    reply = completion(client, text, echo=True, logprobs=2, max_tokens=0)
    found = reply.choices[0].logprobs
    assert reply.choices[0].text == text == "".join(found.tokens)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 0
    assert found.token_logprobs[0] is None
    assert found.top_logprobs[0] is None
    own = [float(row[token]) for row, token in zip(expected, ids[1:], strict=False)]
    assert found.token_logprobs[1:] == pytest.approx(own, abs=1e-3)
    best = [max(one.values()) for one in found.top_logprobs[1:]]
    assert best == pytest.approx(expected[:-1].amax(-1).tolist(), abs=1e-3)
    assert found.text_offset == [len("".join(found.tokens[:place])) for place in range(len(ids))]


@pytest.mark.slow
def test_lm_eval_scores_answers_through_the_server_as_in_memory(server, bytewise, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    pairs = [("the green bird", " sings"), ("the river", " falls under the house"), ("a", " a a a")]
    bytewise.save_pretrained(tmp_path)
    remote = LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions", model="tiny", tokenizer=str(tmp_path), max_length=CONTEXT
    )
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=place) for place, pair in enumerate(pairs)
    ]
    local = HFLM(pretrained=linear_model(), tokenizer=bytewise).loglikelihood(requests)
    for (value, is_greedy), (expected, is_greedy_here) in zip(remote.loglikelihood(requests), local, strict=True):
        assert value == pytest.approx(expected, abs=1e-2)
        assert is_greedy == is_greedy_here


def test_generated_tokens_have_log_probabilities_in_both_interfaces(client, bytewise):
    reply = completion(client, logprobs=0, max_tokens=5, temperature=0.7, seed=1).choices[0]
    ids, expected = reference_logprobs(bytewise, "the green bird" + reply.text)
    prompt = len(bytewise("the green bird")["input_ids"])
    if len(ids) == prompt + 5:
        own = [float(row[token]) for row, token in zip(expected[prompt - 1 :], ids[prompt:], strict=False)]
        assert reply.logprobs.token_logprobs == pytest.approx(own, abs=1e-3)
    echoed = completion(client, logprobs=0, max_tokens=5, temperature=0.7, seed=1, echo=True).choices[0]
    assert echoed.text == "the green bird" + reply.text
    assert echoed.logprobs.token_logprobs[prompt:] == pytest.approx(reply.logprobs.token_logprobs, abs=1e-4)
    answer = chat(client, logprobs=True, top_logprobs=3, max_tokens=5).choices[0].logprobs.content
    assert len(answer) == 5
    for one in answer:
        assert [other.logprob for other in one.top_logprobs] == sorted(
            (other.logprob for other in one.top_logprobs), reverse=True
        )
        # greedy
        assert one.logprob == pytest.approx(one.top_logprobs[0].logprob, abs=1e-5)
    streamed = [event.choices[0].logprobs for event in chat(client, logprobs=True, max_tokens=5, stream=True)]
    values = [one.logprob for part in streamed if part for one in part.content]
    assert values == pytest.approx([one.logprob for one in answer], abs=1e-4)


def test_a_stop_string_ends_the_text_and_is_left_out(client):
    text = completion(client, max_tokens=61).choices[0].text
    stop = text[len(text) // 2 :][:3]
    reply = completion(client, max_tokens=61, stop=stop)
    assert reply.choices[0].text == text[: text.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens < 61


def test_a_seed_gives_the_same_texts_again_and_another_gives_others(client):
    def texts(**how):
        return [choice.text for choice in completion(client, temperature=1.5, **how).choices]

    first = texts(seed=5, n=2)
    assert first == texts(seed=5, n=2)
    assert first[0] == texts(seed=5)[0]
    assert first[0] != first[1]
    assert first[0] != texts(seed=6)[0]
    assert texts()[0] != texts()[0]


def test_requests_at_the_same_time_get_what_they_get_alone(server):
    prompts = [f"the old house {'falls over ' * place}" for place in range(6)]

    def answer(place):
        with server.client() as client:
            how = {"temperature": 1.1 * (place % 2), "seed": place, "max_tokens": 11 + 7 * place}
            return completion(client, prompts[place], **how).choices[0].text

    alone = [answer(place) for place in range(6)]
    with ThreadPoolExecutor(6) as pool:
        # two more than the batch holds
        assert list(pool.map(answer, range(6))) == alone


def test_several_prompts_in_one_request_are_answered_in_their_order(client):
    reply = completion(client, ["the bird", "a river"], n=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    for place, prompt in enumerate(["the bird", "a river"]):
        assert reply.choices[2 * place].text == completion(client, prompt).choices[0].text
    assert reply.usage.completion_tokens == 4 * 23


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"prompt": ""}, "prompt", "there is no text to continue"),
        ({"prompt": [[5, 283]]}, "prompt", "283 is not a token; the model's tokens are 0 to 282"),
        ({"prompt": "bird " * 60_000}, "prompt", r"exceed the maximum of 50,000 tokens \(--max-context\)"),
        ({"max_tokens": CONTEXT}, "max_tokens", r"and the answer \(50,000\) exceed the maximum of 50,000"),
        ({"max_tokens": 0}, "max_tokens", "must be at least 1, or with echo at least 0, got 0"),
        ({"max_tokens": -1, "echo": True}, "max_tokens", "must be at least 1, or with echo at least 0, got -1"),
        ({"temperature": 2.5}, "temperature", "temperature: must be at most 2, got 2.5"),
        ({"temperature": float("nan")}, "temperature", "temperature: must be a number, got NaN"),
        ({"temperature": "hot"}, "temperature", 'temperature: must be a number, got "hot"'),
        ({"top_p": 0}, "top_p", "must be greater than 0, got 0"),
        ({"n": 5}, "n", "must be at most 4, got 5"),
        ({"seed": 1.5}, "seed", "seed: must be a whole number, got 1.5"),
        ({"stream": "often"}, "stream", 'stream: must be true or false, got "often"'),
        ({"stop": list("abcde")}, "stop", "stop: at most 4 stop strings are allowed, got 5"),
        ({"stop": ["a", ""]}, "stop", 'stop: must not be empty, got ""'),
        ({"logprobs": 21}, "logprobs", "must be at most 20, got 21"),
        ({"min_p": 1.5}, "min_p", "must be at most 1, got 1.5"),
        ({"top_k": -2}, "top_k", "must be at least -1, got -2"),
        ({"response_format": {"type": "json_object"}}, "response_format", "response_format is not supported; leave it"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "logit_bias is not supported"),
        ({"temprature": 0.5}, "temprature", "no field 'temprature'; did you mean 'temperature'?"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "requires stream: true"),
        ({"stream": True, "stream_options": {"usage": 1}}, "stream_options.usage", "usage: there is no such field"),
        ({"prompt": None}, "prompt", "prompt: must be a string, a list of strings, a list of tokens .*, got null"),
        ({"prompt": [1, {"a": 2}]}, "prompt", "or a list of such lists, got "),
        ({"messages": []}, "messages", r"messages: must not be empty, got \[\]"),
        ({"messages": "hello"}, "messages", 'messages: must be a list, got "hello"'),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing; give the text of the message"),
        ({"messages": [ASKED, "x"]}, "messages[1]", r'messages\[1\]: must be an object, got "x"'),
        ({"messages": [ASKED, {"role": "wizard"}]}, "messages[1].role", "must be 'system', 'dev.*, got \"wizard\""),
        ({"messages": [ASKED, {"role": "user", "content": 3}]}, "messages[1].content", "parts of type text, got 3"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}]},
            "messages[0].content[1].type",
            "must be 'text', got \"image_url\"",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
            "messages[0].tool_calls",
            "is not supported",
        ),
    ],
)
def test_an_invalid_request_is_rejected_with_the_fields_name(server, change, field, message):
    path, given = ("/v1/chat/completions", {}) if "messages" in change else ("/v1/completions", {"prompt": "the"})
    status, body = ask(server, path, {"model": "tiny", "max_tokens": 3, **given, **change})
    assert status == 400
    error = body["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error["message"])


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": "a \ud800 b"}, "prompt"),
        ("/v1/completions", {"prompt": ["a", "\ud800"]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "stop": "\udfff"}, "stop"),
        ("/v1/completions", {"prompt": "a", "\ud800": 1}, None),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ],
)
def test_a_lone_surrogate_is_an_error_of_the_request(server, path, body, field):
    status, reply = ask(server, path, {"model": "tiny", "max_tokens": 2, **body})
    assert status == 400
    assert reply["error"]["type"] == "invalid_request_error"
    assert reply["error"]["param"] == field
    assert "surrogate" in reply["error"]["message"]


def test_a_server_with_a_key_answers_only_those_who_send_it(bytewise, monkeypatch):
    settings = ServeSettings(max_batch_size=1, max_context=CONTEXT, api_key="s3cret")
    with Server(make_app(linear_model(), bytewise, settings, name="tiny")) as server:
        asked = {"model": "tiny", "prompt": "the", "max_tokens": 3}
        status, body = ask(server, "/v1/completions", asked)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert "no Authorization header with a Bearer key" in body["error"]["message"]
        assert "send the header `Authorization: Bearer KEY`" in body["error"]["message"]
        other = urllib.request.Request(f"{server.url}/v1/models", headers={"Authorization": "Basic czNjcmV0"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(other)
        with refused.value as error:
            assert b"no Authorization header with a Bearer key" in error.read()
        # who may not use the model does not learn what is wrong with a request either
        assert ask(server, "/v1/models")[0] == ask(server, "/v1/completions", {**asked, "prompt": ""})[0] == 401
        assert ask(server, "/health")[0] == 200
        with server.client() as client, pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
            client.models.list()
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="s3cret", max_retries=0) as client:
            assert completion(client, max_tokens=3).choices[0].text
    monkeypatch.setenv("SUBQUAD_API_KEY", "other")
    with Server(make_app(linear_model(), bytewise, ServeSettings(max_context=9), name="tiny")) as server:
        assert ask(server, "/v1/models")[0] == 401
    # a secret that was not filled in must not open the server
    monkeypatch.setenv("SUBQUAD_API_KEY", "")
    with pytest.raises(SubquadError, match="SUBQUAD_API_KEY is set but empty"):
        make_app(linear_model(), bytewise, ServeSettings(max_context=9))
    monkeypatch.delenv("SUBQUAD_API_KEY")
    with pytest.raises(SubquadError, match="--max-context 100004: the model supports at most 100,003 tokens"):
        make_app(linear_model(), bytewise, ServeSettings(max_context=100_004))


def test_the_metrics_count_requests_and_tokens(bytewise):
    settings = ServeSettings(max_batch_size=2, max_context=CONTEXT)
    with Server(make_app(linear_model(), bytewise, settings, name="tiny")) as server:
        with server.client() as client:
            reply = completion(client, max_tokens=7)
        ask(server, "/v1/completions", {"model": "huge", "prompt": "a"})
        ask(server, "/nowhere")
        # the end of an answer is still to be read by the engine when its client has it
        wait_for(lambda: server.engine.active == server.engine.waiting == 0)
        with urllib.request.urlopen(f"{server.url}/metrics") as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            lines = answer.read().decode().splitlines()
    values = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
    assert values["subquad_prompt_tokens_total"] == reply.usage.prompt_tokens
    assert values["subquad_generated_tokens_total"] == 7
    assert values["subquad_active_sequences"] == values["subquad_waiting_requests"] == 0
    counted = {name: value for name, value in values.items() if name.startswith("subquad_requests_total")}
    assert counted == {
        'subquad_requests_total{route="/v1/completions",status="200"}': 1,
        'subquad_requests_total{route="/v1/completions",status="404"}': 1,
        'subquad_requests_total{route="other",status="404"}': 1,
    }
    assert values['subquad_request_seconds_count{route="/v1/completions"}'] == 2


def test_fields_without_an_effect_are_accepted(server):
    body = {"model": "tiny", "prompt": "the", "user": "me", "echo": False, "best_of": 1, "logprobs": None, "seed": None}
    assert ask(server, "/v1/completions", {**body, "stop": None, "temperature": None, "max_tokens": 2})[0] == 200


def test_other_errors_have_the_same_body(server):
    for body, message in (
        (b'{"model": "tiny" 3}', "the body is not JSON: Expecting ',' delimiter at character 17"),
        (b'{"model": "caf\xe9"}', "the body is not UTF-8"),
    ):
        status, reply = ask(server, "/v1/completions", body)
        assert (status, reply["error"]["message"]) == (400, message)
    status, body = ask(server, "/v1/embeddings", {})
    assert (status, body["error"]["message"]) == (404, "POST /v1/embeddings: Not Found")
    status, body = ask(server, "/v1/completions", {"model": "huge", "prompt": "the"})
    assert (status, body["error"]["code"]) == (404, "model_not_found")


def test_a_chat_that_the_template_rejects_is_an_error_of_the_request(server, client):
    with pytest.raises(openai.BadRequestError, match="template rejects the messages: no nonsense"):
        chat(client, messages=[{"role": "system", "content": "nonsense"}])
    with pytest.raises(openai.BadRequestError, match="messages"):
        chat(client, messages=[{"role": "tool", "content": "x", "tool_call_id": "1"}])
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        chat(client, tools=[{"type": "function", "function": {"name": "f"}}])
    assert server.engine.active == 0


def test_a_client_that_disconnects_frees_its_row(server, client):
    stream = completion(client, max_tokens=40_000, stream=True, n=2)
    next(iter(stream))
    wait_for(lambda: server.engine.active == 2)
    stream.close()
    wait_for(lambda: server.engine.active == 0)
    # and one that waits for a whole reply
    with pytest.raises(openai.APITimeoutError):
        completion(client, max_tokens=40_000, timeout=0.5)
    wait_for(lambda: server.engine.active == 0)


def test_too_many_waiting_requests_get_status_429(bytewise):
    settings = ServeSettings(max_batch_size=4, max_waiting=2)
    with Server(make_app(linear_model(), bytewise, settings, name="tiny")) as server, server.client() as client:
        streams = [completion(client, max_tokens=40_000, stream=True, n=4)]
        wait_for(lambda: server.engine.active == 4)
        streams += [completion(client, max_tokens=40_000, stream=True) for _ in range(2)]
        wait_for(lambda: server.engine.waiting == 2)
        with pytest.raises(openai.RateLimitError, match="2 prompts are waiting already") as refused:
            completion(client)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert ask(server, "/health") == (200, {"status": "ok", "active": 4, "waiting": 2})
        for stream in streams:
            stream.close()
        wait_for(lambda: server.engine.active == server.engine.waiting == 0)
        assert completion(client).choices


def test_a_body_that_could_fill_the_memory_is_refused_before_it_is_read(server):
    host, port = server.url.removeprefix("http://").split(":")
    for header, value, status, message in (
        ("content-length", "99000000", 413, "the body has more than 4 MiB"),
        ("transfer-encoding", "chunked", 411, "a request has to say how long it is (Content-Length)"),
    ):
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.putrequest("POST", "/v1/completions")
        connection.putheader(header, value)
        connection.endheaders()
        reply = connection.getresponse()
        assert (reply.status, json.load(reply)["error"]["message"]) == (status, message)
        connection.close()


def test_a_model_without_a_chat_template_only_completes(tmp_path):
    app = make_app(linear_model(), byte_tokenizer(tmp_path, template=None), name="tiny")
    with Server(app) as server, server.client() as client:
        with pytest.raises(openai.BadRequestError, match="has no chat template"):
            chat(client)
        assert completion(client, max_tokens=2).usage.completion_tokens == 2


def test_clients_get_an_error_when_the_engine_stops(bytewise):
    with Server(make_app(linear_model(), bytewise, name="tiny")) as server, server.client() as client:
        stream = completion(client, max_tokens=40_000, stream=True)
        next(iter(stream))
        server.engine.stop()
        with pytest.raises(openai.APIError, match="the server was stopped, or has failed"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match="was stopped"):
            completion(client)
        with pytest.raises(openai.APIError, match="was stopped"):
            list(completion(client, stream=True))
        assert ask(server, "/health") == (503, {"status": "failed", "active": 0, "waiting": 0})


def test_a_request_whose_logits_are_not_finite_gets_an_error_and_the_server_goes_on(bytewise):
    model, prompt = linear_model(), "the green bird"
    with torch.no_grad():
        model.model.embed_tokens.weight[bytewise("?")["input_ids"][0]] = float("nan")
    with Server(make_app(model, bytewise, name="tiny")) as server, server.client() as client:
        expected = completion(client, prompt).choices[0].text
        stream = completion(client, prompt, stream=True)
        first = next(iter(stream)).choices[0].text
        for how in ({"logprobs": 1, "echo": True, "max_tokens": 0}, {"n": 2}, {"temperature": 1.3, "top_p": 0.5}):
            with pytest.raises(openai.InternalServerError, match="the model's logits are not finite") as error:
                completion(client, prompt + "?", **how)
            assert error.value.status_code == 500
        with pytest.raises(openai.APIError, match="the model's logits are not finite"):
            list(completion(client, prompt + "?", stream=True))
        assert first + "".join(event.choices[0].text for event in stream) == expected
        assert completion(client, prompt).choices[0].text == expected
        wait_for(lambda: ask(server, "/health") == (200, {"status": "ok", "active": 0, "waiting": 0}))


@pytest.fixture(scope="module")
def served(tmp_path_factory, bytewise):
    folder = tmp_path_factory.mktemp("served") / "small"
    model = linear_model()
    model.config.trained_length = 64
    model.save_pretrained(folder)
    bytewise.save_pretrained(folder)
    return folder


@pytest.mark.long
def test_a_saved_state_answers_prompts_that_begin_with_its_text(served, bytewise, tmp_path):
    text, model = "the green bird in the old house", load(served)[0]
    subquad.llm.generate(served, text, GenerateSettings(max_new_tokens=1), save_state=tmp_path / "state")
    app = make_app(model, bytewise, ServeSettings(max_batch_size=2), name="tiny")
    app.state.engine.keep(read_state(tmp_path / "state", served, model))
    with Server(app) as server, server.client() as client:
        given = completion(client, prompt=text + " and")
        assert given.usage.prompt_tokens_details.cached_tokens == len(bytewise(text)["input_ids"])
        for number in range(20):
            # more than the states of prompts that are kept
            completion(client, prompt=f"{number} birds", max_tokens=1)
        assert completion(client, prompt=text + " a").usage.prompt_tokens_details.cached_tokens > 0
        without = completion(client, prompt=" and")
        assert without.usage.prompt_tokens_details.cached_tokens == 0
    with (
        Server(make_app(model, bytewise, ServeSettings(max_batch_size=2), name="tiny")) as other,
        other.client() as client,
    ):
        assert completion(client, prompt=text + " and").choices[0].text == given.choices[0].text


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(served, how):
    command = [sys.executable, "-c", "import sys; from subquad.cli import main; sys.exit(main())"]
    state = served.parent / f"{how.name}.state"
    settings = GenerateSettings(max_new_tokens=1, dtype="bfloat16")
    subquad.llm.generate(served, "the green", settings, save_state=state)
    arguments = ["llm", "serve", str(served), "--port", "0", "--max-batch-size", "2", "--dtype", "bfloat16"]
    arguments += ["--state", str(state)]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    with process:
        line = process.stderr.readline()
        assert line.startswith("small at http://127.0.0.1:"), line + process.stderr.read()
        assert "(up to 2 sequences together, " in line
        assert "more than the 64 of the training sequences" in process.stderr.readline()
        with openai.OpenAI(base_url=line.split()[2], api_key="none", max_retries=5) as client:
            stream = completion(client, model="small", max_tokens=300, stream=True)
            next(iter(stream))
            os.kill(process.pid, how)
            # what was begun is ended
            assert [event.choices[0].finish_reason for event in stream][-1] == "length"
        message = process.stderr.read()
    assert process.returncode == (0 if how == signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in message


@pytest.mark.long
def test_a_request_that_outlasts_the_shutdown_gets_an_error(served):
    command = [sys.executable, "-c", "import sys; from subquad.cli import main; sys.exit(main())"]
    arguments = ["llm", "serve", str(served), "--port", "0", "--shutdown-timeout", "1"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    with process:
        address = process.stderr.readline().split()[2]
        with openai.OpenAI(base_url=address, api_key="none", max_retries=5) as client:
            stream = completion(client, model="small", max_tokens=40_000, stream=True)
            next(iter(stream))
            os.kill(process.pid, signal.SIGINT)
            with pytest.raises(openai.APIError, match="the server was stopped, or has failed"):
                list(stream)
        message = process.stderr.read()
    assert process.returncode == 0
    assert message.count("1 unfinished request was ended") == 1
    assert "Traceback" not in message


def test_a_port_in_use_is_an_error_before_anything_slow_is_imported(capsys, monkeypatch):
    # with which the import of the server fails
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["llm", "serve", "linear", "--port", port]) == 2
    assert f"cannot listen on port {port} of 127.0.0.1 (Address already in use)" in capsys.readouterr().err
    assert main(["llm", "serve", "linear", "--port", "0"]) == 2
    assert "uvicorn is not installed" in capsys.readouterr().err


def test_a_port_in_use_is_an_error(served, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["llm", "serve", str(served), "--port", port]) == 2
    assert f"cannot listen on port {port} of 127.0.0.1 (Address already in use)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["generate", "--prompt", "a"], ["chat"], ["serve", "--port", "0"], ["evaluate", "--passkey", "900", "--out", "x"]],
)
def test_a_softmax_checkpoint_gets_the_command_that_linearizes_it(folder, capsys, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").touch()
    for model in (str(folder), "smollm2", "model.gguf"):
        assert main(["llm", command[0], model, *command[1:]]) == 2
        message = capsys.readouterr().err
        assert f"{model}: a checkpoint with softmax attention, which is not linearized yet" in message
        assert f"subquad llm linearize {model} --text TEXT --out linear" in message


def test_invalid_settings_are_rejected():
    with pytest.raises(SubquadError, match="--max-batch-size must be at least 1, got 0"):
        ServeSettings(max_batch_size=0)
    with pytest.raises(SubquadError, match="--port must be from 0 to 65535"):
        ServeSettings(port=70_000)
    with pytest.raises(SubquadError, match="--dtype must be one of float32, bfloat16"):
        ServeSettings(dtype="int8")  # pyright: ignore[reportArgumentType]
