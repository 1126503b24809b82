"""Packing of text: tokens, holdout and validation, and the proportions in which files are sampled."""

import json
import math
import re
import threading
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.llm_models import WORDS, write_text
from tokenizers import Tokenizer, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from subquad.errors import SubquadError
from subquad.llm.cli import app
from subquad.llm.data import shared_text
from subquad.llm.data.packing import Mixture, epoch_batches, prepare_text
from subquad.llm.data.readers import Document
from subquad.llm.data.tokens import _split, _StreamBuilder, tokenize
from subquad.llm.settings import LinearizeSettings
from subquad.runs.storage import write_json


def test_the_last_tenth_is_held_out_of_training(tokenizer, text):
    made = prepare_text(tokenizer, [text], sequence_length=17)
    together = torch.cat((made.training.ids.flatten(), made.holdout.ids.flatten()))
    whole = tokenizer(text.read_text())["input_ids"]
    assert made.training.ids.flatten().tolist() == whole[: made.training.ids.numel()]
    assert 0.08 < made.holdout.ids.numel() / len(together) < 0.12
    assert made.holdout_source == "the last tenth of words.txt"


def test_with_an_evaluation_text_all_of_the_training_text_is_used(tokenizer, text, tmp_path):
    other = write_text(tmp_path / "other.txt", words=211, seed=1)
    made = prepare_text(tokenizer, [text], [other], sequence_length=17)
    assert made.training.ids.numel() > 0.99 * len(tokenizer(text.read_text())["input_ids"]) - 17
    assert made.holdout.ids[0].tolist() == tokenizer(other.read_text())["input_ids"][:17]


def test_documents_end_with_the_end_of_text_token(tokenizer, tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "the bird"}\n{"text": "the river"}\n' * 20)
    made = prepare_text(tokenizer, [path], sequence_length=2)
    assert int((made.training.ids == tokenizer.eos_token_id).sum()) >= 30


@cache
def metaspace_tokenizer():
    """Return a tokenizer like SentencePiece: a space before every text, and no division into words."""
    core = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=89, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    core.train_from_iterator([" ".join(WORDS).replace(" ", "▁") + ".\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=60, max_size=90),
    separators=st.lists(
        st.sampled_from([" ", "\n", "\n\n", " \n ", ". ", "  ", "\n\n\n", ".\n"]), min_size=1, max_size=7
    ),
)
def test_a_text_in_chunks_has_the_same_tokens_as_the_whole_text(tokenizer, kind, words, separators):
    used = tokenizer if kind == "byte-level" else metaspace_tokenizer()
    text = "".join(word + separators[number % len(separators)] for number, word in enumerate(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subquad.llm.data.tokens.CHUNK_CHARACTERS", 40)
        blocks = [text[start : start + 7] for start in range(0, len(text), 7)]
        stream = _StreamBuilder(used, "all")
        stream.add(Document(blocks=blocks))
        chunks = len(stream.waiting)
        stream.flush()
    # without a division into words, a text can be split at line ends only
    assert chunks > 1 or (kind == "metaspace" and "\n" not in text)
    assert stream.finish((), has_answers=False).ids.tolist() == [
        *used(text, add_special_tokens=False)["input_ids"],
        used.eos_token_id,
    ]


def test_a_text_without_boundaries_is_not_split(tokenizer, monkeypatch):
    monkeypatch.setattr("subquad.llm.data.tokens.CHUNK_CHARACTERS", 5)
    assert list(_split(tokenizer, ["bird"] * 23)) == [("", "bird" * 23, True)]


def test_many_documents_are_tokenized_in_several_batches(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.llm.data.tokens.BATCH_TEXTS", 7)
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"the {word}"}) + "\n" for word in WORDS * 3))
    expected = [[*tokenizer(f"the {word}")["input_ids"], tokenizer.eos_token_id] for word in WORDS * 3]
    made = tokenize(tokenizer, [path])
    assert made.ids.tolist() == [token for ids in expected for token in ids]
    assert made.starts.tolist() == [sum(map(len, expected[:number])) for number in range(len(expected))]


def test_tokens_take_four_bytes_and_document_numbers_two(tokenizer, text):
    made = prepare_text(tokenizer, [text], sequence_length=17)
    assert (made.training.ids.dtype, made.training.documents.dtype) == (torch.int32, torch.int16)
    # without a limit to answers the loss mask is one expanded value
    assert made.training.loss_mask.all()
    assert made.training.loss_mask.untyped_storage().nbytes() == 1


def test_one_document_has_one_number(tokenizer, text):
    made = prepare_text(tokenizer, [text], sequence_length=17)
    assert not made.training.documents.any()
    assert not made.holdout.documents.any()


def equal(first, second):
    names = ("ids", "documents", "loss_mask")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


@pytest.mark.parametrize("weights", [(), (2.0, 1.0)])
def test_tokens_in_files_are_those_in_memory_and_leave_no_file(tokenizer, text, tmp_path, monkeypatch, weights):
    # several writes of each row, and several blocks of documents
    monkeypatch.setattr("subquad.llm.data.mapped.MOST_IN_MEMORY", 97)
    monkeypatch.setattr("subquad.llm.data.packing.BLOCK_TOKENS", 89)
    monkeypatch.setattr("subquad.llm.data.tokens.BATCH_TEXTS", 3)
    other, folder = tmp_path / "other.jsonl", tmp_path / "files"
    other.write_text("".join(json.dumps({"text": f"the {word}"}) + "\n" for word in WORDS * 20))
    folder.mkdir()
    how = {"sequence_length": 17, "has_validation": True, "weights": weights}
    inside, outside = (prepare_text(tokenizer, [text, other], folder=own, **how) for own in (None, folder))
    for name in ("training", "validation", "holdout"):
        assert equal(getattr(inside, name), getattr(outside, name)), name
    assert inside.training.documents.any()
    assert not [*folder.iterdir()]


def test_the_answers_of_conversations_are_marked_in_files_too(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("subquad.llm.data.mapped.MOST_IN_MEMORY", 5)
    rows = [
        {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "yes"}]} for word in WORDS
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 5))
    inside, outside = (
        prepare_text(tokenizer, [path], sequence_length=7, train_on="answers", folder=own).training
        for own in (None, tmp_path)
    )
    assert equal(inside, outside)
    assert 0 < int(inside.loss_mask.sum()) < inside.loss_mask.numel()


def test_several_processes_map_what_the_first_one_has_read(tokenizer, text, tmp_path, monkeypatch):
    both, found = threading.Barrier(2), {}
    ranks = [
        SimpleNamespace(num_processes=2, is_main_process=is_main, wait_for_everyone=both.wait)
        for is_main in (True, False)
    ]
    own = threading.local()
    monkeypatch.setattr(shared_text, "processes", lambda: own.rank)
    monkeypatch.setattr(shared_text, "broadcast_object", lambda value: "a key of this start")
    out = tmp_path / "runs" / "out"
    read = []

    def prepare(folder, *, error=None):
        read.append(own.rank.is_main_process)
        if error is not None:
            raise SubquadError(error)
        return prepare_text(tokenizer, [text], sequence_length=17, has_validation=True, folder=folder)

    def process(rank, make):
        own.rank = rank
        try:
            found[rank.is_main_process] = shared_text.read_once(make, out)
        except SubquadError as error:
            found[rank.is_main_process] = str(error)

    def run(make):
        threads = [threading.Thread(target=process, args=(rank, make)) for rank in ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    # of a start that was killed
    left = out.with_name(".subquad-out.tokens-earlier")
    left.mkdir(parents=True)
    write_json(left / "index.json", {"key": "an earlier key"})
    run(prepare)
    expected = prepare_text(tokenizer, [text], sequence_length=17, has_validation=True)
    for made in (found[True], found[False]):
        for name in ("training", "validation", "holdout"):
            assert equal(getattr(made, name), getattr(expected, name)), name
        assert (made.holdout_source, made.descriptions) == (expected.holdout_source, expected.descriptions)
    run(partial(prepare, error="words.txt: no text"))
    assert found == {True: "words.txt: no text", False: "words.txt: no text"}
    assert read == [True, True]
    assert not [*out.parent.iterdir()]
    # another run that was started in its own folder
    other = out.with_name(".subquad-.tokens-x1")
    other.mkdir()
    out.mkdir()
    monkeypatch.chdir(out)
    out = Path()
    run(prepare)
    assert other.is_dir()


@given(sizes=st.lists(st.integers(0, 9), min_size=8, max_size=23), length=st.sampled_from([3, 5, 7]))
def test_documents_are_numbered_from_0_in_each_sequence(tokenizer, tmp_path_factory, sizes, length):
    path = tmp_path_factory.mktemp("numbers") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": " bird" * size}) + "\n" for size in sizes))
    (path.parent / "b.txt").write_text(" river" * length)
    evaluation = [path.parent / "b.txt"]
    made = prepare_text(tokenizer, [path], evaluation, sequence_length=length).training if sum(sizes) else None
    if made is None:
        return
    owners = [number for number, size in enumerate(sizes) for _ in range(len(tokenizer(" bird" * size).input_ids) + 1)]
    for row, numbers in enumerate(made.documents.tolist()):
        own = owners[row * length : (row + 1) * length]
        assert numbers == [sorted(set(own)).index(owner) for owner in own]


def test_each_file_begins_a_document(tokenizer, text, tmp_path):
    other = write_text(tmp_path / "other.txt", words=53, seed=1)
    evaluation = write_text(tmp_path / "evaluation.txt", words=1_009, seed=2)
    made = prepare_text(tokenizer, [other, text], [evaluation], sequence_length=1_009)
    second = len(tokenizer(other.read_text())["input_ids"]) + 1
    assert made.training.documents[0].tolist() == [0] * second + [1] * (1_009 - second)


@given(sequences=st.integers(1, 40), batch=st.integers(1, 7), seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_the_batches_of_an_epoch_are_a_reproducible_shuffle(sequences, batch, seed, epoch):
    plan = epoch_batches(sequences, batch_size=batch, seed=seed, epoch=epoch)
    again = epoch_batches(sequences, batch_size=batch, seed=seed, epoch=epoch)
    assert [rows.tolist() for rows in plan] == [rows.tolist() for rows in again]
    sampled = torch.cat(plan).tolist()
    assert len(set(sampled)) == len(sampled) >= max(1, sequences - batch + 1) or len(plan) == 1


def test_without_weights_an_epoch_is_a_plain_shuffle():
    generator = torch.Generator().manual_seed(3 * 1_000_003 + 2)
    shuffled = torch.randperm(17, generator=generator)
    assert torch.equal(torch.cat(epoch_batches(17, batch_size=1, seed=3, epoch=2)), shuffled)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    parts=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_every_prefix_of_an_epoch_has_the_files_in_proportion(sizes, parts, seed):
    mixture = Mixture(sizes=tuple(sizes), weights=tuple(map(float, parts[: len(sizes)])))
    total, ends = sum(sizes), torch.tensor(sizes).cumsum(0)
    plan = epoch_batches(total, batch_size=1, seed=seed, epoch=0, mixture=mixture)
    assert [rows.tolist() for rows in plan] == [
        rows.tolist() for rows in epoch_batches(total, batch_size=1, seed=seed, epoch=0, mixture=mixture)
    ]
    drawn = torch.cat(plan)
    files = torch.searchsorted(ends, drawn, right=True)
    assert len(drawn) == total
    for stop in range(1, total + 1):
        for number, weight in enumerate(mixture.weights):
            expected = stop * weight / sum(mixture.weights)
            assert abs(int((files[:stop] == number).sum()) - expected) <= 2
    for number, size in enumerate(sizes):
        # no sequence is repeated before all of its file were sampled
        counts = torch.bincount(drawn[files == number] - (ends[number] - size), minlength=size)
        assert int(counts.max() - counts.min()) <= 1


def test_a_file_of_small_weight_contributes_other_sequences_in_each_epoch():
    mixture = Mixture(sizes=(1, 997), weights=(9.0, 1.0))
    sampled = [
        set(torch.cat(epoch_batches(998, batch_size=1, seed=0, epoch=epoch, mixture=mixture)).tolist())
        for epoch in range(3)
    ]
    assert all(90 < len(rows) < 110 for rows in sampled)
    assert len(set.union(*sampled)) > 250


def two_files(tmp_path):
    """Return files that repeat one word each, the second three times as long as the first."""
    paths = [tmp_path / "bird.txt", tmp_path / "river.txt"]
    for path, word, count in zip(paths, ("bird", "river"), (401, 1_201), strict=True):
        path.write_text(f" {word}" * count)
    return paths


def test_of_a_short_text_more_than_a_tenth_is_held_out_and_said_so(tokenizer, text):
    count = len(tokenizer(text.read_text(encoding="utf-8"))["input_ids"])
    made = prepare_text(tokenizer, [text], sequence_length=count // 3)
    assert made.holdout_source == "the end of words.txt"
    assert len(made.holdout) == 1


def test_files_with_weights_are_packed_and_held_out_separately(tokenizer, tmp_path):
    files = two_files(tmp_path)
    made = prepare_text(tokenizer, files, sequence_length=7, weights=(3, 1), has_validation=True)
    first = tokenizer(" bird")["input_ids"][0]
    assert made.mixture.weights == (3.0, 1.0)
    assert sum(made.mixture.sizes) == len(made.training.ids)
    cut = made.mixture.sizes[0]
    assert all(first in row.tolist() for row in made.training.ids[:cut])
    assert first not in made.training.ids[cut:].flatten().tolist()
    of_first = [first in row.tolist() for row in made.holdout.ids]
    assert of_first[:7] == [True, True, False, True, True, True, False]
    assert 0 < of_first.count(True) < of_first.count(False)
    assert len(made.validation.ids) == 8
    assert sum(first in row.tolist() for row in made.validation.ids) == 5
    repeated = ", of which 100% also stands in the training text"
    assert made.holdout_source == f"the last tenth of each of bird.txt, river.txt{repeated}"


def test_validation_is_the_end_of_the_training_text(tokenizer, text):
    with_it, without = (
        prepare_text(tokenizer, [text], sequence_length=17, has_validation=flag) for flag in (True, False)
    )
    assert len(with_it.validation.ids) == 8
    assert torch.equal(torch.cat((with_it.training.ids, with_it.validation.ids)), without.training.ids)


def test_there_is_one_positive_weight_per_file(tokenizer, tmp_path):
    files = two_files(tmp_path)
    with pytest.raises(SubquadError, match="3 weights for 2 training texts"):
        prepare_text(tokenizer, files, sequence_length=7, weights=(1, 2, 3))
    for value in (0.0, math.nan):
        with pytest.raises(SubquadError, match="--text-weights must be"):
            LinearizeSettings(text_weights=(1.0, value))
    with pytest.raises(SubquadError, match="0 training texts"):
        prepare_text(tokenizer, [], sequence_length=7)


def test_the_command_takes_a_weight_for_each_file(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(
        "subquad.llm.commands.linearize.linearize",
        lambda model, text, settings, **_: given.update(text=text, settings=settings),
    )
    monkeypatch.setattr("subquad.llm.cli.locate", Path)
    files = [str(path) for path in two_files(tmp_path)]
    app(
        [
            "linearize",
            "m",
            "--text",
            *files,
            "--text-weights",
            "3",
            "1.5",
            "--train-on",
            "answers",
            "--out",
            "o",
            "--quiet",
        ],
        result_action="return_value",
    )
    assert [str(path) for path in given["text"]] == files
    assert given["settings"].text_weights == (3.0, 1.5)
    assert given["settings"].train_on == "answers"


def test_text_for_evaluation_that_is_learned_is_refused_and_a_part_of_it_is_mentioned(tokenizer, tmp_path):
    lines = write_text(tmp_path / "corpus.txt", words=1_000, seed=3).read_text().split(" ")
    learned, other = " ".join(lines[500:]), write_text(tmp_path / "other.txt", words=3_000, seed=4).read_text()
    (tmp_path / "end.txt").write_text(learned)
    with pytest.raises(SubquadError, match=r"end.txt: \d+% of this held-out text also stands in corpus.txt"):
        prepare_text(tokenizer, [tmp_path / "corpus.txt"], [tmp_path / "end.txt"], sequence_length=64)
    (tmp_path / "mixed.txt").write_text(f"{other} {learned}")
    made = prepare_text(tokenizer, [tmp_path / "corpus.txt"], [tmp_path / "mixed.txt"], sequence_length=64)
    assert re.fullmatch(r"mixed.txt, of which 1\d% also stands in the training text", made.holdout_source)


def test_text_shorter_than_its_sequences_is_refused(tokenizer, text, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("the bird sings")
    with pytest.raises(SubquadError, match=r"short.txt: \d+ tokens, and two sequences of 1,024 are needed"):
        prepare_text(tokenizer, [path], sequence_length=1024)
    with pytest.raises(SubquadError, match=r"short.txt: \d+ tokens, shorter than one sequence of 64"):
        prepare_text(tokenizer, [path], [text], sequence_length=64)


def test_held_out_text_shorter_than_one_sequence_is_refused(tokenizer, text, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("the bird sings")
    with pytest.raises(SubquadError, match=r"short.txt: \d+ tokens, shorter than one sequence of 64"):
        prepare_text(tokenizer, [text], [path], sequence_length=64)
