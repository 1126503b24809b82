"""Opening models by folder or name: which kind of checkpoint it is, and what to do with one that is not linearized."""

import base64
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, metadata_load
from safetensors.torch import save_file
from support.llm_models import SMALL, small_attention, tiny_model

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.data.tokens import tokenize
from subquad.llm.evaluation.probes import passkey_prompt
from subquad.llm.models.adapter import adapter_config, check_targets
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.checkpoints import model_fingerprint, open_checkpoint, open_tokenizer
from subquad.llm.models.location import checkpoint_kind, download, locate
from subquad.llm.models.meta_model import check_supported
from subquad.llm.models.model_card import card_metadata, teacher_metadata
from subquad.llm.planning.configs import read_architecture
from subquad.llm.serving.tokenization import encode
from subquad.llm.settings import LinearizeSettings
from subquad.runs.storage import read_tensors

GOLDEN = Path(__file__).parents[1] / "golden"


def write_config(folder, **content):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"model_type": "llama"}, "softmax"),
        ({"model_type": "subquad", "base_model_type": "llama"}, "linearized"),
        ({"model_type": "subquad_adapter", "subquad": {}}, "adapter"),
        ({"subquad": {"kind": "llm"}}, "unfinished"),
    ],
)
def test_the_kind_of_a_checkpoint_is_read_from_its_config(tmp_path, content, kind):
    assert checkpoint_kind(write_config(tmp_path / "model", **content)) == kind


def test_a_gguf_file_and_smollm2_are_softmax_checkpoints_and_an_empty_folder_is_none(tmp_path):
    assert checkpoint_kind(tmp_path / "model.gguf") is None
    (tmp_path / "model.gguf").touch()
    assert checkpoint_kind(tmp_path / "model.gguf") == checkpoint_kind("smollm2") == "softmax"
    assert checkpoint_kind(tmp_path) is None


@pytest.mark.parametrize("model", ["smollm2", "checkpoint"])
def test_a_checkpoint_that_is_not_linearized_is_rejected_with_the_next_command(tmp_path, model):
    name = model if model == "smollm2" else str(write_config(tmp_path / model, model_type="llama"))
    with pytest.raises(SubquadError, match=f"{name}: a checkpoint with softmax attention, which is not linearized yet"):
        subquad.llm.load(name)


def test_a_folder_that_subquad_wrote_cannot_be_linearized_again(tmp_path):
    folder = write_config(tmp_path / "model", model_type="subquad")
    (folder / "model.safetensors").touch()
    with pytest.raises(SubquadError, match="a model that subquad wrote"):
        locate(folder)


def test_pickled_weights_are_not_opened(tmp_path):
    folder = write_config(tmp_path / "model", model_type="llama")
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SubquadError, match=r"no checkpoint; give a folder with model.safetensors"):
        locate(folder)


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "merge", "evaluate", "linearize"])
def test_a_folder_that_does_not_exist_is_named_before_torch_is_imported(tmp_path, command):
    (tmp_path / "a.txt").write_text("the bird")
    more = {"merge": ["--out", "o"], "evaluate": ["--text", "a.txt", "--out", "o"]}
    more["linearize"] = more["evaluate"]
    words = ["llm", command, "nothing", *more.get(command, [])]
    code = f"import sys; from subquad.cli import main; main({words}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("subquad: nothing: no ")
    assert done.stdout == "False\n"


def test_what_can_be_refused_without_torch_is(tmp_path):
    (tmp_path / "a.txt").write_text("the bird")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfet\0h\0e\0")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    linearize = "llm linearize {} --text {} --out {}"
    refused = {
        linearize.format("smollm2", "b.txt", "o"): "b.txt: contains NUL bytes",
        linearize.format("smollm2", "a.txt", "full"): "full: not empty and not written by subquad",
        linearize.format("smollm2", "a.txt", "o") + " --sequence-length 512": "sequences of 512 tokens: the student",
        linearize.format("smollm2", "a.txt", "o") + " --eval-text a.txt": "a.txt is the same text as a.txt",
        linearize.format("c.gguf", "a.txt", "o"): "c.gguf: no checkpoint",
        linearize.format("example:linear-smollm2", "a.txt", "o"): "example:linear-smollm2: no checkpoint",
        "llm report nothing": "nothing: no such folder",
        "llm plan nothing": "no config.json, folder or known model 'nothing'",
        "llm plan a.txt": "a.txt: ",
        "llm plan smollm2 --sequence-length 100": "sequences of 100 tokens: the student sees",
    }
    code = (
        f"import sys; from subquad.cli import main; print([main(line.split()) for line in {list(refused)}], 'torch' in "
        "sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{[2] * len(refused)} False\n"
    said = [line.partition("subquad: ")[2] for line in done.stderr.splitlines() if line.startswith("subquad: ")]
    assert [found[: len(text)] for found, text in zip(said, refused.values(), strict=True)] == [*refused.values()]


def test_an_unfinished_run_is_rejected(tmp_path):
    folder = write_config(tmp_path / "run", subquad={"format": 1, "kind": "llm"})
    with pytest.raises(SubquadError, match="not finished"):
        subquad.llm.load(folder)


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """Return the name of a model that was downloaded from the Hub before; there is no network."""
    revision, repository = "a" * 40, tmp_path / "models--someone--tiny"
    shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    download.cache_clear()
    yield "someone/tiny"
    download.cache_clear()


def test_a_model_on_the_hub_is_found_by_name_and_stays_named_so_in_an_adapter(hub, folder, tmp_path):
    assert model_fingerprint(locate(hub)) == model_fingerprint(folder)
    assert adapter_config(hub, LinearizeSettings())["base"]["model"] == hub
    assert read_architecture(hub) == json.loads((folder / "config.json").read_text())
    (tmp_path / "someone").mkdir()
    with pytest.raises(SubquadError, match="someone/tiny: no checkpoint"):
        locate(hub)


def test_a_model_that_cannot_be_downloaded_is_an_error(hub):
    with pytest.raises(SubquadError, match="someone/else: no such folder, and the Hugging Face Hub has no such model"):
        locate("someone/else")
    with pytest.raises(SubquadError, match="not linearized yet"):
        subquad.llm.load(hub)


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ("---\nlicense: other\nlicense_name: tiny\nlanguage: [de, en]\ntags: [x]\n---\n", "other tiny [de, en]"),
        ("---\nlicense: [unclosed\n---\n", None),
        ("# no front matter\n", None),
        ("\n---\nlicense: other\nlicense_name: tiny\nlanguage: [de, en]\n--- \n---\n", "other tiny [de, en]"),
    ],
)
def test_the_card_of_a_student_names_its_teacher_and_the_licence(tmp_path, front, wanted, monkeypatch):
    (tmp_path / "README.md").write_text(f"{front}# Teacher\n")
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "student.md"
    made.write_text(card_metadata("someone/tiny", teacher_metadata(tmp_path)))
    card = metadata_load(made)
    assert card["base_model"] == "someone/tiny"
    assert card["pipeline_tag"] == "text-generation"
    assert "linear-attention" in card["tags"]
    assert "x" not in card["tags"]
    if wanted is None:
        assert "license" not in card
        assert "language" not in card
    else:
        assert f"{card['license']} {card['license_name']} [{', '.join(card['language'])}]" == wanted
    (tmp_path / "checkpoints").mkdir()
    made.write_text(card_metadata("checkpoints/qwen", {}))
    assert "base_model" not in metadata_load(made)


@pytest.mark.slow
def test_a_linearized_model_is_opened_with_its_tokenizer(run):
    model, tokenizer = subquad.llm.load(run)
    assert attention_layers(model)
    assert tokenizer("the green bird")["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda copy: (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-100]),
        lambda copy: (copy / "tokenizer.json").unlink(),
        # for which the library tokenizers raises `Exception` itself
        lambda copy: (copy / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE"}}'),
        lambda copy: (copy / "config.json").write_text(
            (copy / "config.json").read_text().replace('"window": 3', '"window": "abc"')
        ),
    ],
)
def test_a_damaged_model_is_refused(run, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    damage(copy)
    with pytest.raises(SubquadError, match="copy"):
        subquad.llm.load(copy)


def test_layers_for_lora_are_checked_before_training():
    model = tiny_model("llama")
    check_targets(model, ("all-linear",))
    check_targets(model, ("q_proj", "self_attn.o_proj", "down_proj"))
    with pytest.raises(SubquadError, match=r"no linear layer 'q_pro'; did you mean 'q_proj'\?"):
        check_targets(model, ("v_proj", "q_pro"))


@pytest.mark.parametrize("block_layers", [None, 1])
def test_a_checkpoint_without_some_of_its_weights_is_refused_before_training(folder, text, tmp_path, block_layers):
    other, name = tmp_path / "other", "model.layers.1.self_attn.k_proj.weight"
    shutil.copytree(folder, other)
    tensors = read_tensors(other / "model.safetensors")
    del tensors[name]
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    settings = replace(SMALL, block_layers=block_layers)
    with pytest.raises(SubquadError, match=rf"{other}: .*{name}"):
        subquad.llm.linearize(other, text, settings, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "history.jsonl").exists()


def test_fused_projections_have_no_updates_of_their_own_once_they_are_split():
    model, attention = tiny_model("phi3"), small_attention()
    check_targets(model, ("q_proj", "o_proj"), attention=attention)
    with pytest.raises(SubquadError, match="no linear layer 'qkv_proj'"):
        check_targets(model, ("qkv_proj",), attention=attention)


def test_weights_that_lie_beside_a_model_are_not_part_of_it(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = model_fingerprint(copy)
    save_file({"other": torch.zeros(3)}, copy / "saved.safetensors")
    assert model_fingerprint(copy) == before
    save_file({"other": torch.zeros(3)}, copy / "model.safetensors")
    assert model_fingerprint(copy) != before


def test_inputs_are_not_overwritten(folder, text, tmp_path):
    inside = tmp_path / "out"
    inside.mkdir()
    shutil.copy(text, inside / "text.txt")
    with pytest.raises(SubquadError, match=r"text.txt lies in the output .*, which would be overwritten"):
        subquad.llm.linearize(folder, inside / "text.txt", SMALL, out=inside, force=True, quiet=True)
    with pytest.raises(SubquadError, match="lies in the output"):
        subquad.llm.linearize(folder, text, SMALL, out=folder, force=True, quiet=True)
    assert (inside / "text.txt").read_bytes() == Path(text).read_bytes()


def test_the_licence_in_the_header_of_a_packed_file_is_that_of_its_student(tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_license("apache-2.0")
    writer.add_languages(["de", "en"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert teacher_metadata(tmp_path / "tiny.gguf") == {"license": "apache-2.0", "language": ["de", "en"]}


@pytest.mark.parametrize("opened", [open_checkpoint, lambda path: check_supported(path, small_attention())])
def test_a_damaged_number_of_layers_is_refused_before_they_are_made(opened, folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((changed / "config.json").read_text())
    for layers in (2**30, 0):
        (changed / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
        with pytest.raises(SubquadError, match=rf"model: .*{layers} layers, and \d+ tensors"):
            opened(changed)


@pytest.mark.parametrize("kind", ["llm_model", "llm_adapter"])
def test_a_damaged_size_in_a_saved_run_is_refused(kind, tmp_path):
    changed = shutil.copytree(GOLDEN / kind, tmp_path / "saved")
    config = json.loads((changed / "config.json").read_text())
    if kind == "llm_model":
        config["num_hidden_layers"] = 2**30
    else:
        config["lora"]["lora_rank"] = 2**30
    (changed / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubquadError, match="saved: cannot be read"):
        subquad.llm.load(changed, base=changed / "base" if kind == "llm_adapter" else None)


@pytest.mark.parametrize("kind", ["llm_model", "llm_adapter"])
def test_sizes_that_are_missing_in_a_config_are_not_those_of_transformers(kind, tmp_path):
    saved = shutil.copytree(GOLDEN / kind, tmp_path / "saved")
    changed = saved if kind == "llm_model" else saved / "base"
    config = json.loads((changed / "config.json").read_text())
    del config["vocab_size"], config["intermediate_size"]
    (changed / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubquadError, match="cannot be read as a checkpoint"):
        open_checkpoint(changed) if changed != saved else subquad.llm.load(saved)


# not so many bytes as it says, noticed when the file is read; a table that points beyond its end, when a text is
@pytest.mark.parametrize("characters", [b"\0\0\0", b"\4\0\0\0\xff\xff\xff\xffabc"])
def test_a_tokenizer_in_which_its_library_fails_is_refused(characters, text, tmp_path, capfd):
    changed = shutil.copytree(GOLDEN / "llm_model", tmp_path / "tokenized")
    content = json.loads((changed / "tokenizer.json").read_text())
    table = base64.b64encode(characters).decode()
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": table}
    (changed / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(SubquadError, match="tokenized: cannot be read as a tokenizer"):
        tokenize(subquad.llm.load(changed)[1], [text], quiet=True)
    for use in (partial(encode, text="bird"), partial(passkey_prompt, tokens=99, depth=0.5, key=12_345)):
        with pytest.raises(SubquadError, match="tokenized: cannot be read as a tokenizer"):
            use(open_tokenizer(changed))
    # the library writes its own message too
    assert "panicked" in capfd.readouterr().err
