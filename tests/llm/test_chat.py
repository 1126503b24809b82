"""The chat: a turn is processed once, commands work, and Ctrl-C stops only the answer."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from support.llm_models import TEMPLATE, byte_tokenizer, linear_model, small_attention, tiny_model

import subquad.llm
from subquad.cli import main
from subquad.errors import SubquadError
from subquad.llm.commands.chat import chat
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.models.loading import load, place
from subquad.llm.serving.chat import ChatSession
from subquad.llm.serving.settings import ChatSettings, GenerateSettings

# a shell lets what it starts in the background ignore Ctrl-C, and so these tests and what they start
PROGRAM = """
import signal, sys
from subquad.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
COMMAND = [sys.executable, "-c", PROGRAM, "llm", "chat"]
GREEDY = ChatSettings(temperature=0.0, max_new_tokens=13)


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("bytewise"))


@pytest.fixture(scope="module")
def model():
    return linear_model()


@pytest.fixture(scope="module")
def chatty(tmp_path_factory, model, bytewise):
    folder = tmp_path_factory.mktemp("chatty") / "small"
    model.save_pretrained(folder)
    bytewise.save_pretrained(folder)
    return folder


def greedy(model, ids, count):
    """Return what transformers' own generation says after some tokens."""
    ids = torch.tensor([ids])
    # without a mask, ends of turns would be taken for padding
    how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    made = model.generate(ids, max_new_tokens=count, **how)
    return made[0, ids.shape[1] :].tolist()


def asked(tokenizer, *messages):
    """Return the tokens of a chat, up to where the answer begins."""
    text = "".join(f"<|{role}|>{content}</s>" for role, content in messages)
    return tokenizer(f"{text}<|assistant|>")["input_ids"]


def read_tokens(session):
    """Return how many tokens of prompts the model has processed since the start of the session."""
    return session._engine.prompt_tokens - session._engine.cached_tokens


def test_an_answer_is_the_models_text_after_the_template(model, bytewise):
    session = ChatSession(model, bytewise, ChatSettings(temperature=0.0, max_new_tokens=13, system="old"))
    deltas = list(session.answer("the bird"))
    ids = asked(bytewise, ("system", "old"), ("user", "the bird"))
    assert "".join(deltas) == bytewise.decode(greedy(model, ids, 13))
    assert [message["role"] for message in session.messages] == ["system", "user", "assistant"]
    assert session.messages[-1]["content"] == "".join(deltas)


@pytest.mark.parametrize("kept", [(), (1,)])
def test_a_later_turn_processes_only_its_own_tokens(bytewise, kept):
    model = linear_model(softmax_layers=kept)
    session = ChatSession(model, bytewise, GREEDY)
    list(session.answer("the bird sings " * 20))
    before = read_tokens(session)
    second = "".join(session.answer("a river"))
    old = asked(bytewise, ("user", "the bird sings " * 20))
    answer = greedy(model, old, 13)
    # the state has read the answer but for its last token; that, the end of the turn and the question are new
    new = bytewise("</s><|user|>a river</s><|assistant|>")["input_ids"]
    assert read_tokens(session) - before == 1 + len(new)
    assert second == bytewise.decode(greedy(model, [*old, *answer, *new], 13))
    assert session.length == len(old) + 13 + len(new) + 13


def test_a_template_that_rewrites_earlier_turns_is_processed_from_the_start(model, tmp_path):
    # as templates do that leave the thoughts of earlier answers out
    template = TEMPLATE.replace("{{ m.content }}", "{{ m.content if loop.last else m.content[:3] }}")
    tokenizer = byte_tokenizer(tmp_path, template=template)
    session = ChatSession(model, tokenizer, GREEDY)
    list(session.answer("the bird"))
    before = read_tokens(session)
    second = "".join(session.answer("a river"))
    said = [(message["role"], message["content"][:3]) for message in session.messages[:2]]
    ids = asked(tokenizer, *said, ("user", "a river"))
    assert read_tokens(session) - before == len(ids)
    assert second == tokenizer.decode(greedy(model, ids, 13))


def test_a_stopped_answer_stays_in_the_chat(model, bytewise):
    whole, session = ChatSession(model, bytewise, GREEDY), ChatSession(model, bytewise, GREEDY)
    said, heard = "".join(whole.answer("the bird")), []
    for delta in session.answer("the bird", lambda: len(heard) == 5):
        heard.append(delta)
    assert session.messages[-1]["content"] == "".join(heard)
    assert said.startswith("".join(heard).rstrip("\ufffd"))
    assert len("".join(heard)) < len(said)
    before = read_tokens(session)
    list(session.answer("a river"))
    assert read_tokens(session) - before < 13


def test_a_turn_that_is_stopped_before_its_answer_leaves_nothing_behind(model, bytewise):
    session = ChatSession(model, bytewise, GREEDY)
    assert not list(session.answer("the bird", lambda: True))
    assert session.messages == []
    expected = "".join(ChatSession(model, bytewise, GREEDY).answer("a river"))
    assert "".join(session.answer("a river")) == expected


def test_an_answer_ends_at_an_end_of_text_token(model, bytewise, monkeypatch):
    free = greedy(model, asked(bytewise, ("user", "the bird")), 13)
    monkeypatch.setattr(model.generation_config, "eos_token_id", free[6])
    session = ChatSession(model, bytewise, GREEDY)
    assert "".join(session.answer("the bird")) == bytewise.decode(free[: free.index(free[6])])


def test_a_message_that_the_template_rejects_changes_nothing(model, bytewise):
    session = ChatSession(model, bytewise, GREEDY)
    list(session.answer("the bird"))
    before = (session.length, list(session.messages))
    with pytest.raises(SubquadError, match="no nonsense"):
        session.reset("nonsense")
    assert (session.length, session.messages) == before
    with pytest.raises(SubquadError, match="no nonsense"):
        ChatSession(model, bytewise, ChatSettings(system="nonsense"))


def test_a_model_without_a_chat_template_cannot_chat(model, tmp_path):
    with pytest.raises(SubquadError, match="has no chat template"):
        ChatSession(model, byte_tokenizer(tmp_path, template=None))


def test_half_a_character_is_an_error_of_the_turn_and_the_chat_goes_on(model, bytewise):
    session = ChatSession(model, bytewise, GREEDY)
    with pytest.raises(SubquadError, match="half a character"):
        list(session.answer("cut \ud83d"))
    assert session.messages == []
    first = "".join(session.answer("the bird"))
    assert first == "".join(ChatSession(model, bytewise, GREEDY).answer("the bird"))


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_standard_input_that_is_not_utf_8_is_an_error(chatty, monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 noir\n"), encoding="utf-8"))
    assert main(["llm", command, str(chatty)]) == 2
    assert "standard input" in capsys.readouterr().err


def chat_by_pipe(folder, lines, *flags):
    return subprocess.run(
        [*COMMAND, str(folder), *flags],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.long
def test_lines_of_a_pipe_are_turns_and_commands(chatty, model, bytewise):
    lines = ["the bird", "", "/system old", "the bird", "/rest", "/reset", "the bird", "/quit", "a river"]
    done = chat_by_pipe(chatty, lines, "--temperature", "0", "--max-new-tokens", "11")
    assert done.returncode == 0, done.stderr
    plain, with_system = (
        bytewise.decode(greedy(model, asked(bytewise, *system, ("user", "the bird")), 11))
        for system in ([], [("system", "old")])
    )
    shown = [
        "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160)) + "\n"
        for text in (plain, with_system, with_system)
    ]
    assert done.stdout == "".join(shown)
    assert "no command /rest: /reset starts a new chat" in done.stderr
    assert "new chat" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_chat_beyond_the_training_sequences_gets_one_warning(model, bytewise, tmp_path, monkeypatch, capsys):
    model.config.trained_length = 40
    model.save_pretrained(tmp_path / "small")
    del model.config.trained_length
    bytewise.save_pretrained(tmp_path / "small")
    monkeypatch.setattr(sys, "stdin", io.StringIO("the\nthe green old bird\nthe bird\n/quit\n"))
    chat(tmp_path / "small", GREEDY)
    shown = capsys.readouterr().err
    assert shown.count("more than the 40 of the training sequences") == 1


def test_a_chat_ends_where_the_models_positions_end(bytewise):
    model = linear_model()
    model.config.max_position_embeddings = 80
    session = ChatSession(model, bytewise, ChatSettings(temperature=0.0, max_new_tokens=500))
    list(session.answer("the"))
    assert session.length <= 80
    before = session.length, session.messages
    with pytest.raises(SubquadError, match="the model supports 80"):
        list(session.answer("the green bird " * 9))
    assert (session.length, session.messages) == before
    session.reset(None)
    assert list(session.answer("the"))


def read_until(terminal, pattern, seconds=400):
    """Read what a program writes to its terminal, up to what a pattern describes."""
    seen, end = "", time.monotonic() + seconds
    while not re.search(pattern, seen, re.DOTALL):
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")


def interrupt_until(process, terminal, pattern):
    """Press Ctrl-C; once more where it came in the moment before a line is waited for, in which Python loses it."""
    for _ in range(9):
        os.kill(process.pid, signal.SIGINT)
        with suppress(AssertionError):
            read_until(terminal, pattern, seconds=3)
            return
    raise AssertionError(f"no {pattern} after nine times Ctrl-C")


@pytest.mark.long
def test_in_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(chatty):
    ours, theirs = pty.openpty()
    command = [*COMMAND, str(chatty), "--max-new-tokens", "90000"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        read_until(ours, "> ")
        os.write(ours, b"the bird\n")
        # the answer is under way
        read_until(ours, "the bird.{300}")
        interrupt_until(process, ours, r"\(stopped\).*> ")
        # at the prompt it says how to leave
        interrupt_until(process, ours, "Ctrl-D. ends.*> ")
        os.write(ours, b"/quit\n")
        # a terminal that nobody holds any more gives an error
        with pytest.raises(OSError, match="Input/output error"):
            read_until(ours, "no such text")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator here")
def test_a_device_that_is_not_there_is_an_error(chatty):
    with pytest.raises(SubquadError, match="no device cuda"):
        subquad.llm.generate(chatty, "the", GenerateSettings(device="cuda"))


def test_a_model_in_bfloat16_keeps_its_feature_maps_in_float32(chatty):
    model = place(load(chatty)[0], GenerateSettings(dtype="bfloat16"))
    kinds = {".hybrid." in name: set() for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        kinds[".hybrid." in name].add(parameter.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    assert subquad.llm.generate(chatty, "the", GenerateSettings(dtype="bfloat16", max_new_tokens=5))


@pytest.fixture(scope="module")
def wide(smollm2, tmp_path_factory):
    """Return SmolLM2 with a window that is wider than the texts here: without training it equals its teacher."""
    folder = tmp_path_factory.mktemp("wide") / "wide"
    model, tokenizer = open_checkpoint(smollm2), open_tokenizer(smollm2)
    convert(model, small_attention(window=128), check=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.long
def test_smollm2_chats_and_remembers(wide, monkeypatch, capsys):
    lines = ["What is the capital of France? Answer in one word.", "And in which country is it?"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, ""])))
    assert main(["llm", "chat", str(wide), "--temperature", "0", "--max-new-tokens", "12"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert "Paris" in first
    assert "France" in " ".join(rest)


@pytest.mark.long
def test_smollm2_continues_a_text_with_facts(wide):
    settings = GenerateSettings(max_new_tokens=8, temperature=0.0)
    assert "Paris" in subquad.llm.generate(wide, "The capital of France is", settings)


def test_the_memory_of_a_chat_grows_with_softmax_attention_and_not_with_a_state(model, bytewise):
    teacher = tiny_model("llama", vocab_size=283)
    teacher.config.max_position_embeddings = 1000
    linear, softmax = (ChatSession(own, bytewise, GREEDY) for own in (model, teacher))
    assert linear.memory == softmax.memory == 0
    sizes = []
    for question in ("the bird sings " * 20, "a river " * 20):
        for session in (linear, softmax):
            list(session.answer(question))
        # the last token was not read
        sizes.append((linear.memory, softmax.memory, softmax.length - 1))
    (first, cache, short), (second, longer, long) = sizes
    assert first == second > 0
    assert longer / cache == long / short > 1
