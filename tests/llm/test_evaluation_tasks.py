"""Tasks from local files: what lm-eval asks for each item, and what the model answers."""

import bz2
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.llm_models import SMALL, small_attention, tiny_model

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.commands.evaluate import evaluate
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.task_items import find, read
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.settings import AttentionSettings
from subquad.runs import unpacking

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'subquad[eval]')")

from subquad.llm.evaluation.harness import HarnessModel
from subquad.llm.evaluation.tasks import build, item_rows, questions

DATA = Path(os.environ.get("SUBQUAD_DATA", "no data")) / "llm" / "eval"

WRAPPED = (
    "Please choose the correct answer to the question: Which is the river?\n\n"
    "Answer1: the house Answer2: the old river Answer3: a bird\n\nAnswer format: answer1/answer2/answer3"
)
SIX_LINES = """Roof shingle removal: A man is sitting on a roof. he
3
is attention_mode wrap to wrap a pair of skis.
is ripping level tiles off.
is holding a rubik's cube.
starts pulling up roofing on a roof.
"""
WINOGRANDE = {"sentence": "The bird left the house since _ was old.", "option1": "the bird", "option2": "the house"}


@pytest.fixture
def data(tmp_path):
    """Return a folder with one or a few items of each task."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    rows = [{"goal": "See a bird", "sol1": "the old house", "sol2": "a green river"}] * 2
    write("piqa/valid.jsonl", "\n".join(map(json.dumps, rows)))
    write("piqa/valid-labels.lst", "1\n0\n")
    for name in ("Easy", "Challenge"):
        write(f"arc/ARC-{name}.test.json", json.dumps([{"instruction": WRAPPED, "answer": "answer2"}]))
    write("hellaswag/hellaswag_val_full.txt", SIX_LINES)
    write("winogrande/dev.jsonl", json.dumps({**WINOGRANDE, "answer": "2"}))
    head = "question,choice0,choice1,choice2,choice3,answer\n"
    write("mmlu/test/anatomy_test.csv", head + '"Which, of all?",a,b,c,d,2\n')
    write("mmlu/dev/anatomy_dev.csv", head + "".join(f"Q{number}?,w,x,y,z,{number % 4}\n" for number in range(5)))
    return tmp_path


def asked(folder, task, subject=None):
    (question, *_) = questions(build(folder, task, subject))
    return list(question.pairs)


def test_piqa_is_asked_as_lm_eval_asks_it(data):
    context = "Question: See a bird\nAnswer:"
    assert asked(data, "piqa") == [(context, " the old house"), (context, " a green river")]


@pytest.mark.parametrize("task", ["arc_easy", "arc_challenge"])
def test_arc_is_taken_out_of_its_instruction(data, task):
    context = "Question: Which is the river?\nAnswer:"
    assert asked(data, task) == [(context, " the house"), (context, " the old river"), (context, " a bird")]


def test_hellaswag_begins_the_unfinished_sentence_with_a_capital(data):
    context = "Roof shingle removal: A man is sitting on a roof. He"
    assert asked(data, "hellaswag") == [
        (context, " is attention_mode wrap to wrap a pair of skis."),
        (context, " is ripping level tiles off."),
        (context, " is holding a rubik's cube."),
        (context, " starts pulling up roofing on a roof."),
    ]


def test_winogrande_scores_the_rest_behind_each_option(data):
    assert asked(data, "winogrande") == [
        ("The bird left the house since the bird", " was old."),
        ("The bird left the house since the house", " was old."),
    ]


def test_mmlu_shows_the_five_examples_in_their_order(data):
    choices = "A. w\nB. x\nC. y\nD. z\nAnswer:"
    examples = "".join(f"Q{number}?\n{choices} {'ABCDA'[number]}\n\n" for number in range(5))
    head = "The following are multiple choice questions (with answers) about anatomy.\n\n"
    context = f"{head}{examples}Which, of all?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    assert asked(data, "mmlu", "anatomy") == [(context, f" {letter}") for letter in "ABCD"]


def test_the_authors_own_files_give_the_same_items(data):
    row = {"activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he"}
    endings = SIX_LINES.splitlines()[2:]
    six = asked(data, "hellaswag")
    (data / "hellaswag" / "hellaswag_val.jsonl").write_text(json.dumps({**row, "endings": endings, "label": 3}))
    assert asked(data, "hellaswag") == six
    texts = ("the house", "the old river", "a bird")
    choices = [{"text": text, "label": str(number)} for number, text in enumerate(texts, start=1)]
    question = {"stem": "Which is the river?", "choices": choices}
    wrapped = asked(data, "arc_easy")
    (data / "arc" / "ARC-Easy-Test.jsonl").write_text(json.dumps({"question": question, "answerKey": "2"}))
    assert asked(data, "arc_easy") == wrapped
    (data / "mmlu" / "test" / "anatomy_test.csv").write_text('"Which, of all?",a,b,c,d,C\n')
    assert read(data, "mmlu", "anatomy")["test"] == [
        {"question": "Which, of all?", "choices": ["a", "b", "c", "d"], "answer": 2}
    ]


def test_an_unknown_subject_is_rejected(data):
    for split in ("test", "dev"):
        (data / f"mmlu/{split}/anatomy_{split}.csv").rename(data / f"mmlu/{split}/anatomie_{split}.csv")
    with pytest.raises(SubquadError, match="no subject of mmlu 'anatomie'; did you mean 'anatomy'"):
        build(data, "mmlu", "anatomie")


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("piqa/valid-labels.lst", "1\n", "piqa", r"valid-labels.lst: 1 labels for the 2 items of valid.jsonl"),
        ("piqa/valid-labels.lst", "1\n2\n", "piqa", r"valid-labels.lst, line 2: the answer 2 is not from 0 to 1"),
        ("piqa/valid.jsonl", '{"goal": "a", "sol1": "b"}', "piqa", r"valid.jsonl, line 1: no 'sol2'"),
        ("arc/ARC-Easy.test.json", '[{"instruction": "Which?"}]', "arc_easy", r"item 1: its instruction is not"),
        ("hellaswag/hellaswag_val_full.txt", "one\ntwo\n", "hellaswag", r"2 lines is not a multiple of 6"),
        ("winogrande/dev.jsonl", '{"sentence": "none"}', "winogrande", r"line 1: no _ in the sentence"),
        (
            *("arc/ARC-Easy.test.json", json.dumps([{"instruction": WRAPPED, "answer": 5}]), "arc_easy"),
            r"ARC-Easy.test.json, item 1: the answer 5 is not one of answer1 to answer3",
        ),
        *(
            (
                *("hellaswag/hellaswag_val.jsonl", f'{{"endings": ["", "", "", ""], "label": {label}}}', "hellaswag"),
                f"hellaswag_val.jsonl, line 1: the answer {shown} is not a whole number",
            )
            for label, shown in [("Infinity", "inf"), ("NaN", "nan"), ("1.5", "1.5"), ("null", "None")]
        ),
    ],
)
def test_invalid_files_are_rejected_with_the_place_of_the_error(data, name, content, task, message):
    (data / name).write_text(content)
    with pytest.raises(SubquadError, match=message):
        read(data, task)


def test_a_quotation_mark_of_mmlu_that_is_not_closed_is_rejected(data):
    (data / "mmlu/test/anatomy_test.csv").write_text('"Which?,a,b,c,d,2\n' + "Which?,a,b,c,d,2\n" * 10_000)
    with pytest.raises(SubquadError, match=r"anatomy_test.csv: not a CSV file .*; close all quotation marks"):
        read(data, "mmlu", "anatomy")


def test_a_packed_file_that_expands_or_is_cut_short_is_rejected(data, monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", 2**16)
    (data / "hellaswag/hellaswag_val_full.txt").unlink()
    packed = bz2.compress(b"\n" * 10**6)
    for content, message in [
        (packed, "expands to more than 65,536 bytes"),
        (bz2.compress(b"a")[:-9], "cannot be read: C"),
    ]:
        (data / "hellaswag/hellaswag_val_full.txt.bz2").write_bytes(content)
        with pytest.raises(SubquadError, match=rf"hellaswag_val_full.txt.bz2: ({message})"):
            read(data, "hellaswag")


def test_missing_files_are_named_in_all_forms(tmp_path):
    with pytest.raises(SubquadError, match=r"hellaswag: no .*hellaswag_val.jsonl or .*hellaswag_val_full.txt.bz2 or"):
        read(tmp_path, "hellaswag")
    assert find(tmp_path, "piqa") == []


def direct(model, context, continuation):
    tokens = torch.tensor([context + continuation])
    chances = model(tokens, use_cache=False).logits.log_softmax(-1)[0, len(context) - 1 : -1]
    wanted = torch.tensor(continuation)
    return float(chances.gather(1, wanted[:, None]).sum()), bool((chances.argmax(-1) == wanted).all())


@pytest.mark.parametrize("mode", ["hybrid", "window", "softmax"])
@torch.no_grad()
def test_log_likelihoods_equal_one_pass_for_each(mode, tokenizer):
    model = convert(tiny_model("llama", vocab_size=len(tokenizer)), small_attention())
    pairs = [
        ("the green bird sings", " over the river"),
        ("the green bird sings", " a"),
        ("the green bird sings", " the"),
        ("a river", " falls under the old house. seen quickly"),
    ]
    given = HarnessModel(model, tokenizer, mode=mode, batch_tokens=40).score(pairs)
    with attention_mode(model, mode):
        for (context, continuation), (chance, is_likeliest, length) in zip(pairs, given, strict=True):
            whole = tokenizer.encode(context + continuation)
            start = tokenizer.encode(context)
            expected, expected_likeliest = direct(model, start, whole[len(start) :])
            assert chance == pytest.approx(expected, abs=1e-4)
            assert is_likeliest == expected_likeliest
            assert length == len(whole) - 1


def test_logits_that_are_not_finite_name_the_model_and_the_text(tokenizer):
    model = convert(tiny_model("llama", vocab_size=len(tokenizer)), small_attention())
    model.name_or_path = "runs/linear"
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.encode("the green")[-1]] = float("nan")
    harness = HarnessModel(model, tokenizer, mode="window")
    assert harness.score([("a river", " falls"), ("the", " bird")])
    message = r"runs/linear \(window\): the logits of the text that ends with 'the green bird' are not finite"
    with pytest.raises(SubquadError, match=message):
        harness.score([("a river", " falls"), ("the green", " bird")])


@pytest.mark.parametrize(
    ("family", "mode"), [("llama", "hybrid"), ("llama", "window"), ("llama", "softmax"), ("gemma3", "hybrid")]
)
@torch.no_grad()
def test_examples_that_all_questions_begin_with_are_read_once(family, mode, tokenizer):
    model = convert(tiny_model(family, vocab_size=len(tokenizer)), small_attention())
    examples = "the green bird sings over the old river. " * 14
    pairs = [
        (examples + "the green bird", " sings"),
        (examples + "the green bird", " a river falls"),
        (examples + "a river falls under the old house. seen", " quickly"),
        (examples + "quickly", " seen"),
    ]
    harness, read = HarnessModel(model, tokenizer, mode=mode, batch_tokens=400), []
    watch = model.register_forward_pre_hook(
        lambda _, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    together = harness.score(pairs)
    watch.remove()
    shared = len(tokenizer.encode(examples))
    assert shared > 100
    assert sum(read) < 1.5 * shared
    for pair, (chance, is_likeliest, length) in zip(pairs, together, strict=True):
        ((alone, alone_likeliest, alone_length),) = harness.score([pair])
        assert (is_likeliest, length) == (alone_likeliest, alone_length)
        assert chance == pytest.approx(alone, abs=1e-4)


def test_answers_are_those_of_lm_evals_own_model(data, tokenizer):
    from lm_eval.models.huggingface import HFLM

    model = convert(tiny_model("llama", vocab_size=len(tokenizer)), small_attention())
    made = build(data, "piqa")
    pairs = [pair for question in questions(made) for pair in question.pairs]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu").loglikelihood(
        made.instances, disable_tqdm=True
    )
    ours = HarnessModel(model, tokenizer).score(pairs)
    for (chance, is_likeliest, _), (expected, expected_likeliest) in zip(ours, theirs, strict=True):
        assert chance == pytest.approx(expected, abs=1e-4)
        assert is_likeliest == expected_likeliest


def test_accuracies_are_those_that_lm_eval_computes_with_the_model(data, tokenizer):
    from lm_eval.evaluator import evaluate

    harness = HarnessModel(convert(tiny_model("llama", vocab_size=len(tokenizer)), AttentionSettings()), tokenizer)
    made = build(data, "piqa")
    rows = item_rows(harness, made, questions(made))
    theirs = evaluate(lm=harness, task_dict={"piqa": made}, bootstrap_iters=0, log_samples=False)["results"]["piqa"]
    for name in ("acc", "acc_norm"):
        assert sum(row[name] for row in rows) / len(rows) == theirs[f"{name},none"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("attention", "expected_counts"),
    [
        (small_attention(window=23), [("softmax", 4), ("window", 2), ("without_linear", 4), ("hybrid", 2)]),
        (
            AttentionSettings(window=12, cache=11),
            [("softmax", 4), ("window", 2), ("without_linear", 2), ("without_linear", 4), ("hybrid", 2)],
        ),
    ],
    ids=["feature maps", "cache and moments"],
)
def test_items_seen_exactly_are_computed_once_for_variants_that_agree(
    text, tokenizer, tmp_path, monkeypatch, *, attention, expected_counts
):
    from subquad.llm.evaluation import tasks

    rows = [
        {"goal": "See" + " the old bird" * repeats, "sol1": "the house", "sol2": "a river"}
        for repeats in (1, 20, 1, 25)
    ]
    files = tmp_path / "data"
    (files / "piqa").mkdir(parents=True)
    (files / "piqa" / "valid.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (files / "piqa" / "valid-labels.lst").write_text("1\n0\n1\n0\n")
    # with room for a passkey
    folder = tmp_path / "checkpoint"
    tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=400).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = replace(SMALL, attention=attention, sequence_length=61)
    subquad.llm.linearize(folder, text, settings, out=tmp_path / "linear", quiet=True)
    real, counts = tasks.item_rows, []

    def counted(harness, task, asked):
        counts.append((harness.mode, len(asked)))
        return real(harness, task, asked)

    monkeypatch.setattr(tasks, "item_rows", counted)
    how = EvaluateSettings(tasks=("piqa",), speed=())
    evaluate(tmp_path / "linear", how, data=files, out=tmp_path / "evaluation", quiet=True)
    assert counts == expected_counts
    made, student = build(files, "piqa"), subquad.llm.load(tmp_path / "linear")[0]
    measured = {"hybrid": HarnessModel(student, tokenizer)}
    if attention.cache:
        teacher = convert(open_checkpoint(folder), attention)
        measured["cache"] = HarnessModel(teacher, tokenizer, mode="without_linear")
    for name, harness in measured.items():
        (path,) = (tmp_path / "evaluation" / "measurements").glob(f"{name}-*task-piqa.json")
        expected = real(harness, made, questions(made))
        for found, wanted in zip(json.loads(path.read_text())["rows"], expected, strict=True):
            assert found.pop("loglikelihoods") == pytest.approx(wanted.pop("loglikelihoods"), rel=1e-4)
            assert found == wanted
    # in another type all is measured anew
    halves = replace(how, dtype="bfloat16", passkey=(300,), passkey_trials=1, passkey_depths=(0.5,))
    evaluate(tmp_path / "linear", halves, extend=True, data=files, out=tmp_path / "evaluation", quiet=True)
    assert counts[len(expected_counts) :] == expected_counts
    assert ", in bfloat16." in (tmp_path / "evaluation" / "report.html").read_text()


def test_a_context_that_is_too_long_is_truncated_at_its_start(tokenizer):
    model = convert(tiny_model("llama", vocab_size=len(tokenizer)), small_attention())
    harness = HarnessModel(model, tokenizer)
    harness.max_length = 7
    ((chance, _, length),) = harness.score([("the green bird sings over the old river", " quickly falls")])
    tokens = tokenizer.encode("the green bird sings over the old river quickly falls")
    tail = tokens[len(tokenizer.encode("the green bird sings over the old river")) :]
    with torch.no_grad():
        expected, _ = direct(model, tokens[-8 : -len(tail)], tail)
    assert length == 7
    assert chance == pytest.approx(expected, abs=1e-4)


@pytest.mark.long
@pytest.mark.data
@pytest.mark.skipif(not (DATA / "piqa").is_dir(), reason="SUBQUAD_DATA is not set: PIQA is not here")
def test_smollm2_is_better_than_chance_on_piqa(smollm2):
    model, tokenizer = open_checkpoint(smollm2), open_tokenizer(smollm2)
    convert(model, AttentionSettings(), check=False)
    made = build(DATA, "piqa")
    rows = item_rows(HarnessModel(model, tokenizer, mode="softmax"), made, questions(made, limit=20))
    assert len(rows) == 20
    # a coin has 14 right once in 17 times
    assert sum(row["acc"] for row in rows) >= 14


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="SUBQUAD_DATA is not set: the files of the tasks are not here")
def test_the_files_contain_the_published_numbers_of_items():
    counts = {"piqa": 1838, "arc_easy": 2376, "arc_challenge": 1172, "hellaswag": 10042}
    assert {task: len(next(iter(read(DATA, task).values()))) for task in counts} == counts
