"""Damaged and exchanged files of runs that this version saves: each is named, or the answers are exactly as before."""

import json
import random
import shutil
from functools import partial

import pytest

pytest.importorskip("transformers")

from golden.answers import ANSWERS, bio_model, language_model
from golden.files import NOT_CHECKED, READ
from golden.renew import RUNS
from subquad import llm
from subquad.errors import SubquadError
from subquad.runs.checksums import CHECKSUMS, is_checked

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

FLIPS = 40


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


def test_each_file_of_a_saved_run_has_a_checksum_unless_it_is_known_to_have_none(saved):
    kind, folder, _ = saved
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    controls = {name for name in files if name.startswith("controls/")}
    known = {*READ[kind], *NOT_CHECKED.get(kind, ())}
    assert known <= files
    if kind == "merged":
        parts = json.loads((folder / CHECKSUMS).read_text())
    else:
        parts = json.loads((folder / "config.json").read_text())["subquad"]["parts"]
    assert {name for name in files - known - controls - parts.keys() if is_checked(name)} == set()


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
