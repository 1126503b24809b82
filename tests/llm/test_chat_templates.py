"""Chat templates are programs of a checkpoint: what they may make is limited, and errors name their file."""

import pytest
from support.llm_models import byte_tokenizer

from subquad.errors import SubquadError
from subquad.llm.data import chat_templates
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


def test_what_usual_templates_do_is_within_the_limits(tokenizer):
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
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "ranges have more"),
        ("{{ range(99999999) | length }}", "ranges have more than 1,000,000 numbers"),
        ("{{ ('a' * 3000000000) | length }}", "result of its operator . is too large"),
        ("{{ ([0] * 10**13) | length }}", "result of its operator . is too large"),
        ("{{ 3000000000 * 'a' }}", "result of its operator . is too large"),
        ("{{ (9 ** 99999) is odd }}", "result of its operator .. is too large"),
        ("{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}", "too large"),
        ("{% set ns = namespace(x='a') %}{% for i in range(50) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "is too"),
        ("{{ '%3000000000d' % 1 }}", "result of its operator % is too large"),
        ("{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}", "it writes more than 1,048,7.. characters"),
        ("{% macro again(n) %}{{ again(n) }}{% endmacro %}{{ again(1) }}", "recursion"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.mro() }}", "unsafe"),
        (" " * (2**20 + 1), "it has 1,048,577 characters, more than 1,048,576"),
    ],
)  # fmt: skip
def test_a_template_that_makes_too_much_or_fails_is_an_error_that_names_its_file(tokenizer, template, reason):
    tokenizer.chat_template = template
    with pytest.raises(SubquadError, match=rf"model/chat_template.jinja: .*rejects the messages: .*({reason})"):
        chat_text(tokenizer, MESSAGES)
    # training texts are written by it too
    with pytest.raises(SubquadError, match=rf"model/chat_template.jinja: .*rejects the roles user: .*({reason})"):
        render(tokenizer, MESSAGES, with_answers=False)


def test_too_little_memory_for_a_template_is_an_error_that_names_its_file(tokenizer, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(chat_templates, "_run_within_limits", fail)
    with pytest.raises(SubquadError, match=r"model/chat_template.jinja: .*rejects the messages: MemoryError"):
        chat_text(tokenizer, MESSAGES)
