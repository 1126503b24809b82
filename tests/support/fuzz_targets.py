"""The readers of the three fields, with a valid file of each format or a grammar of its texts."""

import functools
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from golden.files import READ
from hypothesis import strategies as st

from support.fuzz_cards import EXPRESSIONS, PATTERNS, read_expression, search_pattern
from support.fuzz_records import RECORDS
from support.fuzz_runs import RUNS, copy_golden, of
from support.fuzzing import Target

GOLDEN = Path(__file__).parents[1] / "golden"
PROTEINS = ["MKTAYIAKQR", "GSHMLEDPVW", "MKTAYIAKQK", "CCFYNQAWKL", "MKTAYIAKQW", "GSHMLEDPVC", "AKTAYIAKQR"] * 3


# sequences


def proteins():
    frame = pd.DataFrame({"sequence": PROTEINS, "score": np.linspace(-1, 2, len(PROTEINS)).round(3)})
    return frame.assign(split=["train", "train", "test"] * 7)


def write_csv(folder):
    proteins().to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def write_csv_gz(folder):
    proteins().to_csv(folder / "table.csv.gz", index=False)
    return folder / "table.csv.gz"


def write_excel(folder):
    proteins().to_excel(folder / "table.xlsx", index=False)
    return folder / "table.xlsx"


def write_parquet_table(folder):
    proteins().to_parquet(folder / "table.parquet")
    return folder / "table.parquet"


def read_bio_table(path):
    from subquad.bio import FitSettings
    from subquad.bio.data.table import read_table

    read_table(path, FitSettings())


VARIANT_WORDS = st.one_of(
    st.text(max_size=12),
    st.from_regex(r"(p\.)?\(?[A-Z][a-z]{0,2}[0-9]{1,20}[A-Z*=?][a-z]{0,2}\)?", fullmatch=True),
    st.from_regex(
        r"NP_[0-9]{1,9}\.[0-9]:[cgnp]\.[0-9_+*-]{1,9}(del|ins|dup|delins|fs|ext)[A-Z0-9*]{0,9}", fullmatch=True
    ),
    st.sampled_from(["", "wt", "WT", "_wt", "p.=", "K2A", "K2A:T3L", "p.Lys2Ala", "p.[Lys2Ala;Thr3Leu]", "c.4A>G"]),
)


def read_variants(words):
    from subquad.bio.data.variants import check_unread, parse_variants

    column = pd.Series([":".join(own) if isinstance(own, list) else own for own in words])
    variants, _ = parse_variants(column)
    check_unread("table.csv", variants, "mutant")


def write_fasta(folder):
    text = "".join(f">s{k}|score={k / 3:.2f} split=train\n{text[:6]}\n{text[6:]}\n" for k, text in enumerate(PROTEINS))
    (folder / "genes.fasta").write_text(text)
    return folder / "genes.fasta"


def read_genes(path):
    from subquad.bio.data.fasta import read_fasta
    from subquad.bio.data.files import read_frame

    list(read_fasta(path))
    read_frame(path)


def write_embedding(suffix, folder):
    path, values = folder / f"e{suffix}", np.arange(len(PROTEINS) * 5, dtype=np.float32).reshape(-1, 5)
    match suffix:
        case ".npy":
            np.save(path, values)
        case ".npz":
            np.savez_compressed(path, mean=values)
        case ".h5":
            import h5py

            with h5py.File(path, "w") as file:
                file["mean"] = values
        case _:
            from subquad.bio.data.embeddings import Embeddings, write_embeddings

            write_embeddings(path, Embeddings(mean=values, model="tiny"), PROTEINS)
    return path


def read_embedding(path):
    from subquad.bio.data.embeddings import read_embeddings

    read_embeddings(path, PROTEINS, table="table.csv")


def write_tasks(folder):
    write_csv(folder)
    task = {"id": "a/one", "file": "table.csv", "task_type": "regression", "settings": {"sequence": "sequence"}}
    (folder / "tasks.json").write_text(json.dumps([task, {**task, "id": "a/two", "metric": "Spearman"}]))
    return folder / "tasks.json"


def read_bench_tasks(path):
    from subquad.bio.benchmark.settings import BenchSettings
    from subquad.bio.benchmark.tasks import read_tasks

    with tempfile.TemporaryDirectory() as out:
        read_tasks(path, BenchSettings(), Path(out))


# jets


def write_card(folder):
    from support.hep_layouts import NANO_CARD

    (folder / "card.yaml").write_text(NANO_CARD)
    return folder / "card.yaml"


def read_data_card(path):
    from subquad.hep.data.card import read_card

    read_card(path)


def write_jets(suffix, folder):
    import awkward as ak

    from support.hep_jets import columns, write

    table = columns("Hbb", jets=11)
    if suffix == ".root":
        return write(folder / "jets.root", table)
    ak.to_parquet(ak.Array(dict(table)), folder / "jets.parquet")
    return folder / "jets.parquet"


def write_layout(writer, folder):
    from support import hep_layouts

    written = getattr(hep_layouts, writer)(folder / "jets.npz" if writer == "write_energyflow" else folder / "jets.h5")
    return written if isinstance(written, Path) else next(folder.iterdir())


def read_jet_file(path):
    from subquad.hep.data.formats import inspect_file, iterate_columns

    source = inspect_file(path, None)
    for _ in iterate_columns(source, list(source.columns), 100):
        pass


def read_jetclass(path):
    from subquad.hep.data.jets import read

    read(path)


# language models


def write_text_file(suffix, folder):
    path = folder / f"text{suffix}"
    chats = [{"messages": [{"role": "user", "content": "a ö"}, {"role": "assistant", "content": "b"}]}] * 5
    rows = [{"text": f"the green bird {k}"} for k in range(9)]
    match suffix:
        case ".txt":
            path.write_text("the green bird sings ö\n" * 40, encoding="utf-8")
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl.gz":
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
        case _:
            pd.DataFrame(rows).to_parquet(path)
    return path


def read_text(path):
    from subquad.llm.data.readers import open_documents

    for document in open_documents(path).documents:
        for _ in document.blocks:
            pass


def write_checkpoint_folder(folder):
    from support.llm_models import word_tokenizer, write_checkpoint, write_text

    return write_checkpoint(folder / "model", word_tokenizer(write_text(folder / "words.txt", words=500)))


def write_gguf(folder):
    from gguf import GGUFWriter

    path, random = folder / "tiny.gguf", np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    sizes = {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32, "head_count": 2}
    for name, value in sizes.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    tokens = ["<unk>", "<s>", "</s>", *"abcdefgh", "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 9)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (12, 32), "output": (12, 32), "output_norm": (32,), "blk.0.attn_norm": (32,)}
    shapes |= {"blk.0.ffn_norm": (32,), **{f"blk.0.attn_{k}": (32, 32) for k in ("q", "k", "v", "output")}}
    shapes |= {f"blk.0.ffn_{k}": (32, 32) for k in ("gate", "up", "down")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_checkpoint(path):
    from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
    from subquad.llm.models.location import locate

    found = locate(path)
    open_tokenizer(found)
    open_checkpoint(found)


def read_meta_model(path):
    from subquad.llm.models.meta_model import open_meta_model
    from subquad.llm.settings import AttentionSettings

    open_meta_model(path, AttentionSettings(window=3))


# saved runs


def load_saved(path):
    from subquad.runs.loading import load_run

    load_run(path)


def predict_bio(path):
    """Predict with each model of a run, as files of baselines are read by the first prediction."""
    from subquad.bio import BioModel

    model = BioModel.load(path)
    inputs = model.inputs_of(pd.read_csv(GOLDEN / "bio_model" / "input.csv")["sequence"].tolist())
    for name in model.models:
        model.predict(inputs, name)


def predict_hep(path):
    from subquad import hep

    with tempfile.TemporaryDirectory() as out:
        hep.predict(path, GOLDEN / "hep_tagger" / "input.root", out=Path(out) / "p.root", quiet=True)


def write_esm(folder):
    from support.bio_language_models import esm

    (folder / "esm").mkdir()
    return esm(folder / "esm")


def read_esm(path):
    from subquad.bio.language_models.checkpoint import open_language_model

    open_language_model(str(path), PROTEINS[0], alphabet="protein", device="cpu", precision="float32", with_head=False)


def write_settings(folder):
    (folder / "settings.yaml").write_text("epochs: 3\ntarget: [score]\nmodels: [ridge, lyra]\nensemble-size: 2\n")
    return folder / "settings.yaml"


def read_settings(path):
    from subquad.cli import _settings_file

    _settings_file(path, ("bio", "fit"))


# requests

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=9,
)
FIELDS = (
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "n",
    "seed",
    "logprobs",
    "echo",
    "stream_options",
)
CHAT_FIELDS = ("max_completion_tokens", "top_logprobs", "response_format", "tools", "presence_penalty", "user")
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": st.text(max_size=9)}
    ),
    max_size=3,
)
REQUESTS = st.one_of(
    st.tuples(
        st.sampled_from(["/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/"]),
        st.one_of(
            st.binary(max_size=99),
            JSON.map(lambda value: json.dumps(value).encode()),
            st.builds(
                lambda own, messages, prompt: json.dumps(
                    {"max_tokens": 3, "prompt": prompt, "messages": messages, **own}
                ).encode(),
                st.dictionaries(st.sampled_from([*FIELDS, *CHAT_FIELDS]), JSON, max_size=3),
                st.one_of(MESSAGES, JSON),
                st.one_of(st.text(max_size=9), JSON),
            ),
        ),
    )
)


@functools.cache
def client():
    from starlette.testclient import TestClient

    from subquad.llm.serving.server import make_app
    from subquad.llm.serving.settings import ServeSettings
    from support.llm_models import byte_tokenizer, linear_model

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = byte_tokenizer(Path(folder))
    app = make_app(linear_model(), tokenizer, ServeSettings(max_batch_size=2, max_context=64), name="tiny")
    own = TestClient(app, raise_server_exceptions=True)
    own.__enter__()
    return own


def ask(request):
    path, body = request
    answer = client().post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500, f"{answer.status_code}: {answer.text[:200]}"


TARGETS = {
    "bio table.csv": Target(read_bio_table, write_csv),
    "bio table.csv.gz": Target(read_bio_table, write_csv_gz),
    "bio table.xlsx": Target(read_bio_table, write_excel),
    "bio table.parquet": Target(read_bio_table, write_parquet_table),
    "bio variants": Target(
        read_variants,
        drawn=st.lists(st.one_of(VARIANT_WORDS, st.lists(VARIANT_WORDS, max_size=3)), min_size=1, max_size=4),
    ),
    "bio fasta": Target(read_genes, write_fasta),
    **{
        f"bio embeddings{suffix}": Target(read_embedding, of(write_embedding, suffix))
        for suffix in (".npy", ".npz", ".h5", ".safetensors")
    },
    "bio bench tasks": Target(read_bench_tasks, write_tasks),
    "bio language model": Target(read_esm, write_esm),
    "bio saved model": Target(predict_bio, of(copy_golden, "bio_model"), files=READ["bio_model"]),
    "bio saved estimator": Target(load_saved, of(copy_golden, "bio_estimator"), files=READ["bio_estimator"]),
    "hep card": Target(read_data_card, write_card),
    "hep expressions": Target(read_expression, drawn=EXPRESSIONS),
    "hep file patterns": Target(search_pattern, drawn=PATTERNS),
    "hep jets.root": Target(read_jetclass, of(write_jets, ".root")),
    "hep jets.parquet": Target(read_jetclass, of(write_jets, ".parquet")),
    "hep flavour.h5": Target(read_jet_file, of(write_layout, "write_flavour_tagging")),
    "hep energyflow.npz": Target(read_jet_file, of(write_layout, "write_energyflow")),
    "hep saved tagger": Target(predict_hep, of(copy_golden, "hep_tagger"), files=READ["hep_tagger"]),
    **{
        f"llm text{suffix}": Target(read_text, of(write_text_file, suffix))
        for suffix in (".txt", ".jsonl", ".json", ".jsonl.gz", ".parquet")
    },
    "llm checkpoint": Target(read_checkpoint, write_checkpoint_folder),
    "llm checkpoint by layer": Target(
        read_meta_model, write_checkpoint_folder, files=("config.json", "model.safetensors")
    ),
    "llm gguf": Target(read_checkpoint, write_gguf),
    "llm saved model": Target(load_saved, of(copy_golden, "llm_model"), files=READ["llm_model"]),
    "llm requests": Target(ask, drawn=REQUESTS),
    "settings.yaml": Target(read_settings, write_settings),
    **RECORDS,
    **RUNS,
}
"""Name → reader and its input."""
