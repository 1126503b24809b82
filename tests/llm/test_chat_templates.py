"""Chat templates are programs of a checkpoint, run in a sandbox: their errors name the model."""

import pytest
from support.llm_models import byte_tokenizer

from subquad.errors import SubquadError
from subquad.llm.data.chat_templates import render_chat
from subquad.llm.data.conversations import render
from subquad.llm.serving.tokenization import chat_text

MESSAGES = [{"role": "user", "content": "the bird"}]
# with what templates of common models use: counted loops, joined texts, namespaces, macros, tags of transformers
USUAL = """{%- macro named(message) %}<|{{ message['role'] + '|>' }}{{ message.content | trim }}{% endmacro -%}
{%- set ns = namespace(last=messages | length - 1, seen=0) -%}
{%- for i in range(messages | length) -%}
{%- set ns.seen = ns.seen + 1 -%}
{{ named(messages[i]) + '\n' * (2 if i % 2 else 1) }}{{ '%s:%d' % (i, 2 ** 5) }}{{ '=' * 10 }}
{%- generation %}{{ bos_token }}{% endgeneration -%}
{%- if i == 3 %}{% break %}{% endif -%}
{%- endfor -%}
{{ {'a': [1] + [2] * 2} | tojson }}{% if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.fixture
def tokenizer(tmp_path):
    made = byte_tokenizer(tmp_path)
    made.save_pretrained(tmp_path / "model")
    made.name_or_path = str(tmp_path / "model")
    return made


def test_usual_templates_are_rendered_as_transformers_does(tokenizer):
    tokenizer.chat_template = USUAL
    messages = [{"role": "user", "content": f" {number} " * 1000} for number in range(3)]
    for is_prompt in (False, True):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_prompt)
        assert render_chat(tokenizer, messages, is_prompt=is_prompt) == text
        assert text.endswith("<|assistant|>") == is_prompt
    # one of several
    tokenizer.chat_template = {"default": USUAL, "tool_use": "tools"}
    assert chat_text(tokenizer, messages) == text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ range(99999999) | length }}", "Range too big"),
        ("{% macro again(n) %}{{ again(n) }}{% endmacro %}{{ again(1) }}", "recursion"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.mro() }}", "unsafe"),
    ],
)  # fmt: skip
def test_a_template_that_fails_is_an_error_that_names_its_model(tokenizer, template, reason):
    tokenizer.chat_template = template
    with pytest.raises(SubquadError, match=rf"model: .*rejects the messages: .*({reason})"):
        chat_text(tokenizer, MESSAGES)
    # training texts are written by it too
    with pytest.raises(SubquadError, match=rf"model: .*rejects the roles user: .*({reason})"):
        render(tokenizer, MESSAGES, with_answers=False)
