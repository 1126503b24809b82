"""Answers of a real server on a free port: what the model says, whatever else is asked at the same time."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import torch
from support.llm_models import byte_tokenizer, linear_model
from support.servers import Server, ask, wait_for

from subquad.llm.serving.server import make_app
from subquad.llm.serving.settings import ServeSettings

CONTEXT = 50_000
PROMPT = "the green bird"
ASKED = [{"role": "system", "content": "old"}, {"role": "user", "content": "the river"}]


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("bytewise"))


@pytest.fixture(scope="module")
def server(bytewise):
    settings = ServeSettings(max_batch_size=4, max_context=CONTEXT)
    with Server(make_app(linear_model(), bytewise, settings, name="tiny")) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def completion(client, prompt=PROMPT, **how):
    return client.completions.create(**{"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 23, **how})


def chat(client, messages=ASKED, **how):
    how = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 23, **how}
    return client.chat.completions.create(**how)


def test_a_completion_is_the_models_greedy_text(client, bytewise):
    reply = completion(client)
    ids = bytewise(PROMPT, return_tensors="pt")["input_ids"]
    made = linear_model().generate(ids, max_new_tokens=23, do_sample=False, eos_token_id=None, pad_token_id=1)
    (choice,) = reply.choices
    assert choice.text == bytewise.decode(made[0, ids.shape[1] :])
    assert choice.finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (ids.shape[1], 23)
    assert reply.usage.total_tokens == ids.shape[1] + 23
    for same in ([PROMPT], ids[0].tolist(), ids.tolist()):
        assert completion(client, same).choices[0].text == choice.text
    assert completion(client, max_tokens=openai.NOT_GIVEN).usage.completion_tokens == 16
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_chat_goes_through_the_models_template(client):
    reply = chat(client)
    same = completion(client, "<|system|>old</s><|user|>the river</s><|assistant|>")
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content == same.choices[0].text
    assert reply.usage.total_tokens == same.usage.total_tokens


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 1.2, "seed": 7, "stop": ["e", "r"]}])
def test_a_stream_adds_up_to_the_whole_answer(client, how):
    whole, streamed = completion(client, **how), {"stream": True, "stream_options": {"include_usage": True}}
    *events, last = completion(client, **how, **streamed)
    assert "".join(event.choices[0].text for event in events) == whole.choices[0].text
    assert events[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage.total_tokens == whole.usage.total_tokens
    whole, events = chat(client, **how), list(chat(client, **how, stream=True))
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole.choices[0].message.content
    assert [event.choices[0].delta.role for event in events if event.choices[0].delta.role] == ["assistant"]
    assert {event.object for event in events} == {"chat.completion.chunk"}
    assert all(event.usage is None for event in events)


def test_a_stop_string_ends_the_text_and_is_left_out(client):
    text = completion(client, max_tokens=61).choices[0].text
    stop = text[len(text) // 2 :][:3]
    reply = completion(client, max_tokens=61, stop=stop)
    assert reply.choices[0].text == text[: text.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens < 61


def test_a_seed_gives_the_same_text_again_and_another_gives_another(client):
    def text(**how):
        return completion(client, temperature=1.5, **how).choices[0].text

    assert text(seed=5) == text(seed=5) != text(seed=6)
    assert text() != text()


def test_requests_at_the_same_time_get_what_they_get_alone(server):
    prompts = [f"the old house {'falls over ' * place}" for place in range(6)]

    def answer(place):
        with server.client() as client:
            how = {"temperature": 1.1 * (place % 2), "seed": place, "max_tokens": 11 + 7 * place, "stream": place > 2}
            reply = completion(client, prompts[place], **how)
            return "".join(event.choices[0].text for event in reply) if how["stream"] else reply.choices[0].text

    alone = [answer(place) for place in range(6)]
    with ThreadPoolExecutor(6) as pool:
        # two more than the batch holds
        assert list(pool.map(answer, range(6))) == alone


def test_the_next_turn_of_a_chat_is_read_from_its_question_on(bytewise):
    turn = [{"role": "user", "content": "the bird"}]
    with Server(make_app(linear_model(), bytewise, name="tiny")) as server, server.client() as client:
        first = chat(client, turn)
        assert first.usage.prompt_tokens_details.cached_tokens == 0
        # the answer in tokens, since its bytes are not always characters
        tokens = [*bytewise("<|user|>the bird</s><|assistant|>")["input_ids"], 21, 22, 23]
        completion(client, tokens, max_tokens=9)
        second = completion(client, [*tokens, 24, 25], max_tokens=9)
        assert second.usage.prompt_tokens_details.cached_tokens == len(tokens)
    with Server(make_app(linear_model(), bytewise, ServeSettings(prefix_states=0), name="tiny")) as server:
        with server.client() as client:
            again = completion(client, [*tokens, 24, 25], max_tokens=9)
        assert again.usage.prompt_tokens_details.cached_tokens == 0
        assert again.choices[0].text == second.choices[0].text


@pytest.mark.slow
def test_lm_eval_gets_its_answers_through_the_server(server, bytewise, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    bytewise.save_pretrained(tmp_path)
    how = {"model": "tiny", "max_length": CONTEXT}
    remote = LocalCompletionsAPI(base_url=f"{server.url}/v1/completions", tokenizer=str(tmp_path), **how)
    chats = LocalChatCompletion(base_url=f"{server.url}/v1/chat/completions", **how)
    asked = {"until": ["e"], "max_gen_toks": 11}

    def answers(interface, prompts):
        instances = [
            Instance(request_type="generate_until", doc={}, arguments=(prompt, dict(asked)), idx=place)
            for place, prompt in enumerate(prompts)
        ]
        return interface.generate_until(instances)

    prompts = [PROMPT, "the river falls"]
    with server.client() as client:
        expected = [completion(client, prompt, stop="e", max_tokens=11).choices[0].text for prompt in prompts]
        assert answers(remote, prompts) == expected
        expected = chat(client, stop="e", max_tokens=11).choices[0].message.content
        assert answers(chats, [chats.apply_chat_template(ASKED)]) == [expected]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": [[5, 283]]}, "0 to 282"),
        ({"prompt": ["a", "b"]}, "one text"),
        ({"prompt": [{}] * 100_000}, "one text"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a \ud800 b"}, "half a character"),
        ({"prompt": "bird " * 60_000}, "exceed the maximum of 50,000 tokens"),
        ({"max_tokens": CONTEXT}, r"the answer \(50,000\)"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"n": 2}, "n: "),
        ({"logprobs": 1}, "logprobs is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "system", "content": "nonsense"}]}, "no nonsense"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_a_sentence(server, body, word):
    path, usual = ("/v1/chat/completions", {}) if "messages" in body else ("/v1/completions", {"prompt": "the"})
    status, reply = ask(server, path, {"model": "tiny", "max_tokens": 3, **usual, **body})
    assert (status, reply["error"]["type"]) == (400, "invalid_request_error")
    with pytest.raises(AssertionError, match=word):
        raise AssertionError(reply["error"]["message"])


def test_other_errors_have_the_same_body_and_fields_without_effect_are_accepted(server):
    for status, path, body in (
        (400, "/v1/completions", b'{"model": "tiny" 3}'),
        (400, "/v1/completions", b'{"model": "caf\xe9"}'),
        (400, "/v1/completions", b"[" * 100_000),
        (404, "/v1/embeddings", b"{}"),
        (404, "/v1/completions", json.dumps({"model": "huge", "prompt": "the"}).encode()),
    ):
        found, reply = ask(server, path, body)
        assert (found, reply["error"]["type"], bool(reply["error"]["message"])) == (
            status,
            "invalid_request_error",
            True,
        )
    body = {"model": "tiny", "prompt": "the", "max_tokens": 2, "user": "me", "echo": False, "best_of": 1}
    assert ask(server, "/v1/completions", {**body, "logprobs": None, "seed": None, "stop": None})[0] == 200


def test_a_model_without_a_chat_template_only_completes(tmp_path):
    app = make_app(linear_model(), byte_tokenizer(tmp_path, template=None), name="tiny")
    with Server(app) as server, server.client() as client:
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            chat(client)
        assert completion(client, max_tokens=2).usage.completion_tokens == 2


def test_a_request_whose_logits_are_not_finite_gets_an_error_and_the_others_go_on(bytewise):
    model = linear_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[bytewise("?")["input_ids"][0]] = float("nan")
    with Server(make_app(model, bytewise, name="tiny")) as server, server.client() as client:
        expected = completion(client).choices[0].text
        stream = completion(client, stream=True)
        first = next(iter(stream)).choices[0].text
        with pytest.raises(openai.InternalServerError, match="logits are not finite"):
            completion(client, PROMPT + "?")
        with pytest.raises(openai.APIError, match="logits are not finite"):
            list(completion(client, PROMPT + "?", stream=True))
        assert first + "".join(event.choices[0].text for event in stream) == expected
        wait_for(lambda: ask(server, "/health") == (200, {"status": "ok", "active": 0, "waiting": 0}))
