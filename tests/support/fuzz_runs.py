"""Saved runs, their reports and checkpoints with damage, and texts of whole files that are drawn from a grammar."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

from golden.files import NOT_CHECKED, READ
from hypothesis import strategies as st

from support.fuzzing import Target

GOLDEN = Path(__file__).parents[1] / "golden"


def of(function, *arguments):
    return functools.partial(function, *arguments)


def copy_golden(name, folder):
    return shutil.copytree(GOLDEN / name, folder / name)


# reports

OF_REPORT = ("config.json", "metrics.json", "history.jsonl")


def write_bio_run(task_type, folder):
    from support.bio_runs import folder as write_run

    write_run(folder / "run", task_type)
    return folder / "run"


def write_tagger(folder):
    import numpy as np

    from subquad.runs.examples import run_folder
    from subquad.runs.storage import read_tensors, write_tensors

    path = shutil.copytree(run_folder("example:tagger"), folder / "run")
    scores = read_tensors(path / "test_scores.safetensors")
    # few jets, so that a page takes a moment
    few = {name: tensor[:: max(1, len(tensor) // 400)].contiguous() for name, tensor in scores.items()}
    assert len({*map(len, few.values())}) == 1
    write_tensors(path / "test_scores.safetensors", few)
    losses = np.linspace(2, 1, 5).tolist()
    entries = [{"part": "net", "step": k, "seconds": 0.1, "loss": loss} for k, loss in enumerate(losses)]
    (path / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def write_student(folder):
    path = copy_golden("llm_default", folder)
    entries = [
        {"part": part, "step": step, "seconds": 0.1, "tokens": 31 * step, "loss": 1 / step, "learning_rate": 0.1}
        for part in ("transfer", "lora")
        for step in (1, 2, 3)
    ]
    (path / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def report_of(field, path):
    from importlib import import_module

    with tempfile.TemporaryDirectory() as out:
        import_module(f"subquad.{field}.commands.report").report(path, out=Path(out) / "page.html")


def read_tagger(path):
    # a page takes seconds
    from subquad.hep.commands.report import _read

    _read(path)


def write_history(folder):
    return write_student(folder) / "history.jsonl"


def read_entries(path):
    from subquad.runs.history import cut_history, read_history, remove_part

    before = path.read_bytes()
    read_history(path.parent)
    cut_history(path.parent, 300)
    remove_part(path.parent, "lora")
    path.write_bytes(before)


# saved runs


def answer(name, path):
    from golden.answers import ANSWERS

    ANSWERS[name](path)


def write_scores(folder):
    import awkward as ak
    import numpy as np

    scores = np.random.default_rng(0).dirichlet([1, 1, 1], size=11)
    columns = {f"score_{name}": scores[:, k].copy() for k, name in enumerate(("QCD", "Hbb", "Tbqq"))}
    columns |= {f"label_{name}": np.arange(11) % 3 == k for k, name in enumerate(("QCD", "Hbb", "Tbqq"))}
    import uproot

    with uproot.recreate(folder / "scores.root") as file:
        file["Events"] = {**columns, "jet_pt": np.arange(11.0), "event_weight": np.ones(11)}
    ak.to_parquet(ak.Array(columns), folder / "scores.parquet")
    return folder


def read_scores(folder):
    from subquad.hep.evaluation.external_scores import read_external_scores

    for name in ("scores.root", "scores.parquet"):
        read_external_scores(folder / name, "other")


@functools.cache
def training():
    """Return a small model after a step, its optimizer and the accelerator."""
    import torch
    from accelerate import Accelerator

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"accelerator": Accelerator(cpu=True), "model": model, "optimizer": optimizer}


def write_training(folder):
    from dataclasses import asdict

    from subquad.train.checkpoint import Counters, save_checkpoint, trained_state

    path, own = folder / "checkpoint-lora.safetensors", training()
    weights = {"best": trained_state(own["model"])}
    save_checkpoint(path, **own, weights=weights, state=asdict(Counters(step=1)))
    return path


def read_training(path):
    from subquad.train.checkpoint import load_checkpoint

    load_checkpoint(path, **training())


# texts of whole files


def named(path, error):
    """Check that an error of a drawn file names it."""
    if path.name not in str(error):
        raise AssertionError(f"refused without the name of the file: {error}")


RESIDUES = st.sampled_from(["Ala", "Lys", "Trp", "Ter", "Xaa", "Sec", "A", "K", "*", "=", "?", "ala", "LYS"])
POSITIONS = st.one_of(
    st.integers(-9, 999).map(str), st.sampled_from(["0", "00012", "9" * 9, "9" * 20, "12+3", "*4", "?", "٣", "²"])
)
BASES = st.sampled_from(["A", "C", "G", "T", "U", "N", "a", ""])
EVENTS = st.one_of(
    st.tuples(RESIDUES, POSITIONS, RESIDUES).map("".join),
    st.tuples(POSITIONS, BASES, st.sampled_from([">", "=", ""]), BASES).map("".join),
    st.tuples(POSITIONS, POSITIONS, st.sampled_from(["del", "dup", "inv", "delins", "ins"]), BASES).map(
        "{0[0]}_{0[1]}{0[2]}{0[3]}".format
    ),
    st.tuples(RESIDUES, POSITIONS, st.sampled_from(["fs", "fs*5", "fsTer5", "ext-5", "del", "dup"])).map("".join),
)
HGVS = st.builds(
    lambda accession, prefix, events, form: accession + prefix + form[0] + form[1].join(events) + form[2],
    st.sampled_from(["", "NP_000537.3:", "ENSP1:", "x:", ":", "NM_1.2(TP53):"]),
    st.sampled_from(["", "p.", "c.", "g.", "n.", "m.", "r.", "P.", "pp."]),
    st.lists(EVENTS, max_size=3),
    st.sampled_from(
        [("", ":", ""), ("[", ";", "]"), ("(", ";", ")"), ("[(", ",", ")]"), ("[", ";", ""), ("", " ", "")]
    ),
)


def read_hgvs(texts):
    import pandas as pd

    from subquad.bio.data.variants import check_unread, looks_like_variants, parse_variants

    column = pd.Series(texts)
    looks_like_variants(column)
    variants, _ = parse_variants(column)
    check_unread("table.csv", variants, "mutant")


LINES = st.sampled_from(["\n", "\r\n", "\r", "\n\n", ""])
LETTERS = st.text(alphabet="ACDEFGHIKLMNPQRSTVWYacgtUX*-.?01().|[]<> \t", max_size=12)
HEADERS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["p1|0.5 SET=train", "s score=1.5 split=test", "a=1 a=2", "=", "|", "|nan", "x|1e400", "name TARGET="]
    ),
)
FASTA = st.lists(
    st.builds(
        lambda mark, header, end, sequences: mark + header + end + "".join(own + end for own in sequences),
        st.sampled_from([">", ">", ">", ">>", ";", "", " >", "@"]),
        HEADERS,
        LINES,
        st.lists(LETTERS, max_size=3),
    ),
    max_size=4,
).map("".join)


def read_fasta_text(text):
    from subquad.bio.data.fasta import read_fasta
    from subquad.bio.data.files import read_frame
    from subquad.errors import SubquadError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "genes.fasta"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for read in (lambda: list(read_fasta(path)), lambda: read_frame(path)):
            try:
                read()
            except SubquadError as error:
                named(path, error)


VALUES = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=9), st.booleans(), st.just([]), st.just({}))
MESSAGES = st.one_of(
    VALUES,
    st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "name", "tool_calls"]),
        st.one_of(
            st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool"]),
            VALUES,
            st.lists(st.one_of(VALUES, st.just({"type": "text", "text": "a"}), st.just({"type": "image"})), max_size=2),
        ),
        max_size=4,
    ),
)
ROWS = st.one_of(
    VALUES,
    st.dictionaries(
        st.sampled_from(
            ["messages", "conversations", "text", "prompt", "completion", "instruction", "output", "input"]
        ),
        st.one_of(VALUES, st.lists(MESSAGES, max_size=3)),
        max_size=3,
    ),
)
CHATS = st.tuples(st.lists(ROWS, max_size=4), st.sampled_from(["\n", "\r\n", "\n\n", " ", ","]), st.booleans())


def read_chats(drawn):
    from subquad.errors import SubquadError
    from subquad.llm.data.readers import open_documents

    rows, separator, is_valid_first = drawn
    first = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * is_valid_first
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chats.jsonl"
        path.write_bytes(separator.join(map(json.dumps, first + rows)).encode("utf-8", "surrogatepass"))
        try:
            for document in open_documents(path).documents:
                for _ in document.blocks:
                    pass
        except SubquadError as error:
            named(path, error)


RUNS = {
    **{
        f"bio report of {kind}": Target(of(report_of, "bio"), of(write_bio_run, kind), files=(*OF_REPORT, rows))
        for kind, rows in (("regression", "test.csv"), ("multiclass", "test.csv"), ("residue_regression", "test.json"))
    },
    "hep report": Target(read_tagger, write_tagger, files=("config.json", "metrics.json", "test_scores.safetensors")),
    "llm report": Target(of(report_of, "llm"), write_student, files=(*OF_REPORT, "evaluations.json")),
    "history.jsonl": Target(read_entries, write_history),
    **{
        name: Target(of(answer, kind), of(copy_golden, kind), files=READ[kind])
        for name, kind in (
            ("bio saved model of embeddings", "bio_embedded"),
            ("hep saved tagger of a card", "hep_card"),
            ("hep saved default tagger", "hep_auto"),
            ("llm saved default model", "llm_default"),
        )
    },
    "llm saved adapter": Target(
        of(answer, "llm_adapter"),
        of(copy_golden, "llm_adapter"),
        files=(*READ["llm_adapter"], *sorted(NOT_CHECKED["llm_adapter"] - {"input.txt"})),
    ),
    "hep external scores": Target(read_scores, write_scores),
    "training checkpoint": Target(read_training, write_training),
    "bio HGVS": Target(read_hgvs, drawn=st.lists(HGVS, min_size=1, max_size=4)),
    "bio drawn fasta": Target(read_fasta_text, drawn=FASTA),
    "llm drawn chats": Target(read_chats, drawn=CHATS),
}
"""Name → reader and its input."""
