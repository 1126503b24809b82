"""No reader answers a damaged file with anything but a value or one sentence, in time and memory.

`make fuzz` damages the files of each reader `SUBQUAD_FUZZ_INPUTS` times (100,000) or for `SUBQUAD_FUZZ_SECONDS` of the
processor, whichever ends first; another `SUBQUAD_FUZZ_SEED` draws other damage. A reader is called in a forked process;
whatever else happens, such as another exception, a crash or more than 10 seconds, is reported with its input.
"""

import gzip
import json
import logging
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.forked import forks

from subquad.errors import SubquadError

INPUTS = int(os.environ.get("SUBQUAD_FUZZ_INPUTS", "100000"))
SECONDS = float(os.environ.get("SUBQUAD_FUZZ_SECONDS", "0.5"))
SEED = int(os.environ.get("SUBQUAD_FUZZ_SEED", "0"))
MOST_SECONDS, MOST_MEMORY, MOST_LETTERS, MOST_LINES = 10.0, 4 * 2**30, 800, 48
"""Limits of one call: processor time, growth of the memory in use in bytes, and letters per line and lines of an error:
a table has up to four groups of errors, of twelve lines each.
"""
GOLDEN = Path(__file__).parents[1] / "golden"
EXAMPLES = Path(__file__).parents[2] / "src" / "subquad" / "bio" / "data" / "examples"
PROTEINS = ["MKTAYIAKQR", "GSHMLEDPVW", "MKTAYIAKQK", "CCFYNQAWKL", "MKTAYIAKQW", "GSHMLEDPVC", "AKTAYIAKQR"] * 3
FRAME = pd.DataFrame(
    {"sequence": PROTEINS, "score": np.linspace(-1, 2, len(PROTEINS)).round(3), "split": ["train", "train", "test"] * 7}
)
TEXT = "the green bird sings ö\n" * 40
CHATS = [{"messages": [{"role": "user", "content": "a ö"}, {"role": "assistant", "content": "b"}]}] * 5

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(36000),
    pytest.mark.skipif(sys.platform != "linux", reason="after an import of torch, processes fork safely on Linux only"),
]


# what is read


def table(path):
    from subquad.bio import FitSettings
    from subquad.bio.data.table import read_table

    read_table(path, FitSettings())


def genes(path):
    from subquad.bio.data.fasta import read_fasta

    list(read_fasta(path))


def embeddings(path):
    from subquad.bio.data.embeddings import read_embeddings

    read_embeddings(path, PROTEINS, table="table.csv")


def tasks(path):
    from subquad.bio.benchmark.settings import BenchSettings
    from subquad.bio.benchmark.tasks import read_tasks

    read_tasks(path, BenchSettings(), path.parent / "out")


def language_model(path):
    from subquad.bio.language_models.checkpoint import open_language_model

    open_language_model(str(path), PROTEINS[0], alphabet="protein", device="cpu", precision="float32", with_head=False)


def jets(path):
    from subquad.hep.data.chunks import read_chunks
    from subquad.hep.data.fit_files import fit_files
    from subquad.hep.data.preparation import source_of
    from subquad.hep.settings import FitSettings, NetSettings

    card = path.with_name("card.yaml")
    settings = FitSettings(card=str(card) if card.is_file() else None)
    source = source_of(fit_files(path), NetSettings(), settings)
    for _ in read_chunks(source.files.train, source.layout):
        pass


def expression(path):
    import numpy as np

    from subquad.errors import reading
    from subquad.hep.data.expressions import parse

    with reading(path):
        parsed = parse(path.read_text(), "card.yaml")
    parsed({name: np.arange(7.0) for name in parsed.names})


def card(path):
    from subquad.hep.data.card import read_card

    read_card(path)


def text(path):
    from subquad.llm.data.readers import open_documents

    for document in open_documents(path).documents:
        for _ in document.blocks:
            pass


def request(path):
    reply = client().post(
        "/v1/chat/completions", content=path.read_bytes(), headers={"content-type": "application/json"}
    )
    assert reply.status_code < 500, f"status {reply.status_code}: {reply.text[:200]}"
    if reply.status_code != 200:
        raise SubquadError(reply.json()["error"]["message"])


@cache
def client():
    from starlette.testclient import TestClient
    from support.llm_models import byte_tokenizer, linear_model

    from subquad.llm.serving.server import make_app
    from subquad.llm.serving.settings import ServeSettings

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = byte_tokenizer(Path(folder))
    app = make_app(linear_model(), tokenizer, ServeSettings(max_batch_size=2, max_context=64), name="tiny")
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=True).__enter__()


def checkpoint(path):
    from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
    from subquad.llm.models.location import locate

    location = locate(path)
    open_tokenizer(location)
    open_checkpoint(location)


def saved(path):
    from golden.answers import ANSWERS

    ANSWERS[path.name](path)


def history(path):
    from subquad.runs.history import read_history

    read_history(path.parent)


def settings(path):
    try:
        command("bio", "fit", "missing.csv", "--config", "FILE", out="out")(path)
    except SubquadError as error:
        if "missing.csv: no such file" not in str(error):
            raise


def command(*words, out="out.csv"):
    """Return a reader that runs a whole command, whose output is complete or absent."""

    def run(path):
        from subquad.cli import main

        output, printed = path.parent / out, StringIO()
        before = {*path.parent.iterdir()}
        with redirect_stderr(printed), redirect_stdout(StringIO()):
            status = main([*(str(path) if word == "FILE" else word for word in words), "--out", str(output)])
        is_there, message = output.exists(), printed.getvalue().rpartition("subquad: ")[2].strip()
        if is_there:
            shutil.rmtree(output) if output.is_dir() else output.unlink()
        assert {*path.parent.iterdir()} == before, "something is left behind"
        assert status == 0 or not is_there, "half an output"
        assert status in (0, 2), f"status {status}: {message}"
        if status == 2:
            raise SubquadError(message)

    return run


# valid files


def to_table(suffix):
    def write(folder):
        path = folder / f"table{suffix}"
        if suffix == ".xlsx":
            FRAME.to_excel(path, index=False)
        elif suffix == ".parquet":
            FRAME.to_parquet(path)
        elif suffix == ".fasta":
            lines = zip(FRAME.sequence, FRAME.score, FRAME.split, strict=True)
            path.write_text("".join(f">s score={y} split={part}\n{x[:6]}\n{x[6:]}\n" for x, y, part in lines))
        else:
            FRAME.to_csv(path, index=False)
        return path

    return write


def to_embeddings(suffix):
    def write(folder):
        import h5py

        from subquad.bio.data.embeddings import Embeddings, write_embeddings

        path, values = folder / f"e{suffix}", np.arange(len(PROTEINS) * 5, dtype=np.float32).reshape(-1, 5)
        if suffix == ".npy":
            np.save(path, values)
        elif suffix == ".npz":
            np.savez_compressed(path, mean=values)
        elif suffix == ".h5":
            with h5py.File(path, "w") as file:
                file["mean"] = values
        else:
            write_embeddings(path, Embeddings(mean=values, model="tiny"), PROTEINS)
        return path

    return write


def to_tasks(folder):
    FRAME.to_csv(folder / "table.csv", index=False)
    task = {"id": "a/one", "file": "table.csv", "task_type": "regression", "settings": {"sequence": "sequence"}}
    (folder / "tasks.json").write_text(json.dumps([task, {**task, "id": "a/two"}]))
    return folder / "tasks.json"


def to_variants(folder):
    pd.read_csv(EXAMPLES / "tdp43.csv.gz", nrows=9).to_csv(folder / "variants.csv", index=False)
    return folder / "variants.csv"


def to_language_model(folder):
    from support.bio_language_models import esm

    (folder / "esm").mkdir()
    return esm(folder / "esm")


def to_jets(suffix):
    def write(folder):
        import awkward as ak
        from support import hep_layouts
        from support.hep_jets import columns
        from support.hep_jets import write as write_root

        match suffix:
            case ".root":
                return write_root(folder / "jets.root", columns("Hbb", jets=11))
            case ".parquet":
                ak.to_parquet(ak.Array(dict(columns("Hbb", jets=11))), folder / "jets.parquet")
                return folder / "jets.parquet"
            case ".npz":
                return hep_layouts.write_energyflow(folder / "jets.npz", jets=11)
            case ".hdf5":
                labels, vectors = hep_layouts.momenta(jets=11)
                return hep_layouts.write_top(folder / "jets.hdf5", vectors, labels)
        (folder / "card.yaml").write_text(hep_layouts.FLAVOUR_CARD)
        return hep_layouts.write_flavour_tagging(folder / "jets.h5", jets=11)

    return write


def to_events(folder):
    from support import hep_layouts

    (folder / "card.yaml").write_text(hep_layouts.NANO_CARD)
    return hep_layouts.write_nano(folder / "events.root", jets=11)


def to_expression(folder):
    text = "np.where(np.hypot(part_px, part_py) > 1e-6, np.log(part_pt / jet_pt), 0) - np.abs(part_e**2) * (-1.5e3 % 7)"
    (folder / "expression.txt").write_text(text)
    return folder / "expression.txt"


def to_card(folder):
    from support.hep_layouts import NANO_CARD

    (folder / "card.yaml").write_text(NANO_CARD)
    return folder / "card.yaml"


def to_text(suffix):
    def write(folder):
        path = folder / f"text{suffix}"
        rows = [{"text": f"the green bird {k}"} for k in range(9)]
        if suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        elif suffix == ".jsonl.gz":
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
        else:
            content = {".txt": TEXT, ".json": json.dumps(rows), ".jsonl": "\n".join(map(json.dumps, CHATS))}
            path.write_text(content[suffix], encoding="utf-8")
        return path

    return write


def to_checkpoint(folder):
    from support.llm_models import word_tokenizer, write_checkpoint, write_text

    return write_checkpoint(folder / "model", word_tokenizer(write_text(folder / "words.txt", words=500)))


def to_gguf(folder):
    from gguf import GGUFWriter

    writer = GGUFWriter(folder / "tiny.gguf", "llama")
    sizes = {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32, "head_count": 2}
    for name, value in sizes.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "<s>", "</s>", *"abcdefgh", "ab"])
    writer.add_token_types([3, 3, 3] + [1] * 9)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (12, 32), "output": (12, 32), "output_norm": (32,), "blk.0.attn_norm": (32,)}
    shapes |= {"blk.0.ffn_norm": (32,), **{f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}}
    shapes |= {f"blk.0.ffn_{name}": (32, 32) for name in ("gate", "up", "down")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "tiny.gguf"


def to_request(folder):
    content = {
        "model": "tiny",
        "messages": CHATS[0]["messages"][:1],
        "max_tokens": 3,
        "temperature": 0.5,
        "stop": ["x"],
    }
    (folder / "request.json").write_text(json.dumps({**content, "seed": 1, "top_p": 0.9, "stream": False}))
    return folder / "request.json"


def to_saved(name):
    return lambda folder: shutil.copytree(GOLDEN / name, folder / name)


def to_example(name):
    def write(folder):
        from subquad.runs.examples import run_folder

        return shutil.copytree(run_folder(name), folder / "run")

    return write


def to_history(folder):
    entries = [{"part": "fit", "step": k, "seconds": 0.1, "loss": 1 / k} for k in range(1, 9)]
    (folder / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder / "history.jsonl"


def to_settings(folder):
    (folder / "settings.yaml").write_text("epochs: 3\ntarget: [score]\nmodels: [ridge, lyra]\nensemble-size: 2\n")
    return folder / "settings.yaml"


READERS = {
    **{f"bio table{end}": (to_table(end), table) for end in (".csv", ".csv.gz", ".xlsx", ".parquet", ".fasta")},
    "bio genes.fasta": (to_table(".fasta"), genes),
    **{f"bio embeddings{end}": (to_embeddings(end), embeddings) for end in (".npy", ".npz", ".h5", ".safetensors")},
    "bio bench tasks": (to_tasks, tasks),
    "bio language model": (to_language_model, language_model),
    **{f"{name} saved": (to_saved(name), saved) for name in ("bio_model", "bio_estimator", "bio_embedded")},
    "bio predict": (to_variants, command("bio", "predict", "example:tdp43-model", "FILE")),
    "bio report": (to_example("example:tdp43-model"), command("bio", "report", "FILE", out="out.html")),
    **{f"hep jets{end}": (to_jets(end), jets) for end in (".root", ".parquet", ".h5", ".hdf5", ".npz")},
    "hep events.root": (to_events, jets),
    "hep card": (to_card, card),
    "hep expression": (to_expression, expression),
    **{f"{name} saved": (to_saved(name), saved) for name in ("hep_tagger", "hep_auto", "hep_card")},
    "hep predict": (to_jets(".root"), command("hep", "predict", "example:tagger", "FILE", out="out.root")),
    "hep report": (to_example("example:tagger"), command("hep", "report", "FILE", out="out.html")),
    **{f"llm text{end}": (to_text(end), text) for end in (".txt", ".jsonl", ".json", ".jsonl.gz", ".parquet")},
    "llm checkpoint": (to_checkpoint, checkpoint),
    "llm checkpoint.gguf": (to_gguf, checkpoint),
    **{f"{name} saved": (to_saved(name), saved) for name in ("llm_model", "llm_adapter")},
    "llm report": (to_saved("llm_model"), command("llm", "report", "FILE", out="out.html")),
    "llm request": (to_request, request),
    "history.jsonl": (to_history, history),
    "settings.yaml": (to_settings, settings),
}
"""Name → what writes a valid file or folder, and what reads it."""


# damage


def damaged(data, draw):
    """Return the content of a file after one to four changes, most of them near its start, where headers are."""
    for _ in range(draw.randint(1, 4)):
        end = draw.choice([64, 1024, len(data) + 1])
        first, last = sorted(draw.randrange(min(end, len(data) + 1)) for _ in range(2))
        if numbers := list(re.finditer(rb"-?\d+(\.\d+)?", data[:4096])) if draw.random() < 0.3 else []:
            first, last = draw.choice(numbers).span()
        part = draw.choice(
            [
                *(b"", bytes([draw.randrange(256)]), b"\0" * 8, b"\xff" * 8, data[first:last][:4096] * 2),
                *(b"-1", b"0", b"1e999", b"9" * 400, b"null", b"[[[[", b'{"a":', b'"', b"\n", b"nan", b"../.."),
            ]
        )
        data = (
            data[:first]
            if draw.random() < 0.1
            else data[:first] + part + data[last if draw.random() < 0.5 else first + 1 :]
        )
    return data


def status(name):
    """Return a number of bytes that the system keeps for this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def is_read(file):
    """Return whether a file of a saved run is opened with it."""
    return file.is_file() and file.suffix not in (".md", ".html") and file.stem not in ("input", "expected")


def explore(name, folder, inputs, seconds, seed):
    """Damage the files of a reader again and again, and write a report."""
    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    write, read = READERS[name]
    (folder / "valid").mkdir()
    path = write(folder / "valid")
    read(path)
    files = sorted(file for file in path.rglob("*") if is_read(file)) if path.is_dir() else [path]
    contents, draw = {file: file.read_bytes() for file in files}, random.Random(f"{name} {seed}")
    report = {"tried": 0, "refused": 0, "faults": {}}
    end = time.process_time() + seconds
    while report["tried"] < inputs and (time.process_time() < end or not report["tried"]):
        file = draw.choice(files)
        file.write_bytes(damaged(contents[file], draw))
        report["tried"] += 1
        Path("/proc/self/clear_refs").write_text("5")
        began, memory, fault = time.process_time(), status("VmRSS"), None
        try:
            read(path)
        except SubquadError as error:
            report["refused"] += 1
            message = str(error)
            lines = message.splitlines()
            is_long = len(lines) > MOST_LINES or max(map(len, lines), default=0) > MOST_LETTERS
            if is_long or "Traceback" in message or not re.search(r"\w", message):
                fault = f"message: {message[:200]}"
        except BaseException as error:  # noqa: BLE001
            last = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__} at {last.filename}:{last.lineno}: {str(error)[:200]}"
        if time.process_time() - began > MOST_SECONDS:
            fault = f"{time.process_time() - began:.0f} seconds"
        if status("VmHWM") - memory > MOST_MEMORY:
            fault = f"{(status('VmHWM') - memory) / 2**30:.1f} GiB"
        if fault and fault not in report["faults"]:
            kept = folder / f"fault-{len(report['faults'])}-{file.name}"
            shutil.copyfile(file, kept)
            report["faults"][fault] = str(kept)
        file.write_bytes(contents[file])
        if report["tried"] % 100 == 0:
            (folder / "report.json").write_text(json.dumps(report))
    report["seconds"] = seconds - end + time.process_time()
    (folder / "report.json").write_text(json.dumps(report))


@pytest.mark.parametrize("name", READERS)
def test_a_reader_answers_damaged_input_with_a_value_or_one_sentence(name, tmp_path):
    process = forks.Process(target=explore, args=(name, tmp_path, INPUTS, SECONDS, SEED))
    process.start()
    process.join(20 * SECONDS + 300)
    is_over = process.exitcode is not None
    process.kill()
    assert is_over, f"hangs; the input is in {tmp_path}/valid"
    assert process.exitcode == 0, f"ends with status {process.exitcode}; the input is in {tmp_path}/valid"
    report = json.loads((tmp_path / "report.json").read_text())
    print(f"{name}: {report['tried']:,} inputs, {report['refused']:,} refused, {report['seconds']:,.0f} s")
    assert report["faults"] == {}
