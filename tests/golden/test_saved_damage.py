"""Damaged and exchanged files of runs that this version saves: each is named, or the answers are exactly as before."""

import random
import shutil
from functools import partial

import pytest

pytest.importorskip("transformers")

from golden.answers import ANSWERS, bio_model, language_model
from golden.renew import RUNS
from subquad import llm
from subquad.errors import SubquadError

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

FLIPS = 40
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
OF_LLM = ("config.json", "model.safetensors", "generation_config.json", *TOKENIZER)
READ = {
    "bio_model": ("config.json", "model.safetensors", "ridge.skops", "boosting.skops", "gp.skops"),
    "bio_estimator": ("config.json", "model.safetensors"),
    "bio_embedded": ("config.json", "model.safetensors", "ridge.skops", "input.safetensors"),
    "hep_tagger": ("config.json", "model.safetensors"),
    "hep_auto": ("config.json", "model.safetensors"),
    "hep_card": ("config.json", "model.safetensors"),
    "llm_model": OF_LLM,
    "llm_default": (*OF_LLM, "state.safetensors"),
    "llm_adapter": ("config.json", "model.safetensors", "base/config.json"),
    "merged": ("config.json", "generation_config.json", *TOKENIZER),
}
"""Kind → the files that are read when it answers."""
NOT_CHECKED = {
    # the checkpoint of an adapter is that of its makers: its weights are compared at 64 places
    "llm_adapter": {"base/model.safetensors", "base/generation_config.json", *(f"base/{name}" for name in TOKENIZER)},
    # its numbers are the user's
    **{kind: {"input.csv"} for kind in ("bio_model", "bio_estimator", "bio_embedded")},
    **{kind: {"input.root"} for kind in ("hep_tagger", "hep_auto", "hep_card")},
    **{kind: {"input.txt"} for kind in ("llm_model", "llm_default")},
    # a model that transformers saves again has other weights; by its checksums that is recognised
    "merged": {"input.txt", "model.safetensors", "subquad_checksums.json"},
}
"""Kind → files that are read, and in which a change may go unnoticed."""
RECORDS = {
    *("README.md", "report.html", "history.jsonl", "metrics.json", "test.csv", "test_scores.safetensors"),
    *("bootstrap.json", "validation.json", "evaluations.json", "budget.json", "input.txt"),
    *(f"{name}.json" for name in ("ridge", "boosting", "gp")),
    # an adapter is opened with the tokenizer of its checkpoint
    *("generation_config.json", *TOKENIZER),
}
"""Files that are not read when a model answers, if they are not in `READ`."""


def merged(folder, work, *, seed):
    RUNS["llm_adapter"](work / "adapter", work, seed=seed)
    llm.merge(work / "adapter", out=folder, base=work / "adapter" / "base", quiet=True)
    shutil.copy(work / "adapter" / "input.txt", folder / "input.txt")


@pytest.fixture(scope="module", params=READ)
def saved(request, tmp_path_factory):
    """Kind, its folder, and one of another seed."""
    kind, folders = request.param, []
    for seed in (0, 1):
        work = tmp_path_factory.mktemp(f"{kind}_{seed}")
        {**RUNS, "merged": merged}[kind](work / "run", work, seed=seed)
        folders.append(work / "run")
    return kind, *folders


def answers_of(kind, file):
    """Return the function whose answers depend on a file."""
    if file.endswith(".skops"):
        # baselines are opened when they predict
        return ANSWERS[kind] if kind != "bio_model" else partial(bio_model, models=[file.removesuffix(".skops")])
    return merged_answers if kind == "merged" else ANSWERS[kind]


def merged_answers(folder):
    # it is no run
    return language_model(folder, llm.load(folder))


def damaged(content, seed):
    """Yield what is wrong, and the content."""
    draw = random.Random(seed)
    for _ in range(FLIPS):
        bit = draw.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(flipped)
    yield "cut", content[: len(content) // 2]


def test_all_files_of_a_saved_run_are_known(saved):
    kind, folder, _ = saved
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    controls = {name for name in files if name.startswith("controls/")}
    known = {*READ[kind], *NOT_CHECKED.get(kind, ())}
    assert known <= files
    assert files - known - controls <= RECORDS


def test_a_damaged_file_of_a_saved_run_is_named_or_changes_nothing(saved):
    kind, folder, other = saved
    wrong, refused = [], 0
    for file in READ[kind]:
        answers, path = answers_of(kind, file), folder / file
        content, expected = path.read_bytes(), answers(folder)
        try:
            for what, changed in [*damaged(content, f"{kind} {file}"), ("swapped", (other / file).read_bytes())]:
                path.write_bytes(changed)
                try:
                    if answers(folder) != expected:
                        wrong.append(f"{file}, {what}: other answers")
                except SubquadError as error:
                    refused += 1
                    if path.name not in str(error):
                        wrong.append(f"{file}, {what}: {error}")
        finally:
            path.write_bytes(content)
    print(f"{kind}: {refused} of {len(READ[kind]) * (FLIPS + 2)} refused")
    assert wrong == []
    assert refused > len(READ[kind]) * FLIPS // 2
