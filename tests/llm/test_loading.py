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
from support.weights import accept_changes
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import subquad.llm
from subquad.errors import SubquadError
from subquad.llm.data.tokens import tokenize
from subquad.llm.evaluation.probes import passkey_prompt
from subquad.llm.models.adapter import adapter_config, check_targets
from subquad.llm.models.attention import attention_layers
from subquad.llm.models.checkpoints import model_fingerprint, open_checkpoint, open_tokenizer
from subquad.llm.models.convert import layers_to_replace
from subquad.llm.models.location import UNSUPPORTED_TYPES, check_run, checkpoint_kind, download, locate
from subquad.llm.models.meta_model import check_supported
from subquad.llm.models.model_card import card_metadata, teacher_metadata
from subquad.llm.planning.configs import read_architecture
from subquad.llm.serving.tokenization import encode
from subquad.llm.settings import LinearizeSettings
from subquad.runs.damage import panics_as_errors
from subquad.runs.loading import load_run
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
    with pytest.raises(SubquadError, match=f"not linearized yet(?s:.)*subquad llm linearize {name} --text TEXT"):
        subquad.llm.load(name)


def test_a_folder_that_subquad_wrote_cannot_be_linearized_again(tmp_path):
    with pytest.raises(SubquadError, match="subquad wrote this model"):
        locate(write_config(tmp_path / "model", model_type="subquad"))


def test_pickled_weights_are_rejected_with_what_to_do(tmp_path):
    folder = write_config(tmp_path / "model", model_type="llama")
    with pytest.raises(SubquadError, match="the weights are missing or not in safetensors"):
        locate(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(SubquadError, match=r"pytorch_model.bin is not opened.*convert it with .*save_pretrained"):
        locate(folder)


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "merge", "evaluate", "linearize"])
def test_a_folder_that_does_not_exist_is_named_before_torch_is_imported(tmp_path, command):
    (tmp_path / "a.txt").write_text("the bird")
    more = {"merge": ["--out", "o"], "evaluate": ["--text", "a.txt", "--out", "o"]}
    more["linearize"] = more["evaluate"]
    words = ["llm", command, "nothing", *more.get(command, [])]
    code = f"import sys; from subquad.cli import main; main({words}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("subquad: nothing: no such")
    assert done.stdout == "False\n"


def test_what_can_be_refused_without_torch_is(tmp_path):
    (tmp_path / "a.txt").write_text("the bird")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfet\0h\0e\0")
    (tmp_path / "c.gguf").write_text("the bird")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    folder = write_config(tmp_path / "model", model_type="llama")
    (folder / "model.safetensors").write_bytes(b"<html>no model</html>")
    linearize = "llm linearize {} --text {} --out {}"
    refused = {
        linearize.format("smollm2", "b.txt", "o"): "b.txt: is UTF-16; save the file as UTF-8",
        linearize.format("smollm2", "a.txt", "full"): "full: not empty and not written by subquad",
        linearize.format("smollm2", "a.txt", "o") + " --sequence-length 512": "--sequence-length 512: the student sees",
        linearize.format("smollm2", "a.txt", "o") + " --text-key body": "--text-key body: all files are plain text",
        linearize.format("smollm2", "a.txt", "o")
        + " --eval-text a.txt": "--eval-text a.txt is the same text as --text",
        linearize.format("c.gguf", "a.txt", "o"): "c.gguf: no GGUF file, in spite of its name",
        linearize.format("model", "a.txt", "o"): "model/model.safetensors: not a safetensors file, or truncated",
        linearize.format("example:linear-smollm2", "a.txt", "o"): "example:linear-smollm2: a finished model; ",
        "llm report nothing": "nothing: no such model folder",
        "llm plan nothing": "no config.json, folder or known model 'nothing'",
        "llm plan example:linear-smollm2": "example:linear-smollm2: a finished model; ",
        "llm plan tiny.gguf": "tiny.gguf: contains weights, and sizes are counted from a config",
        "llm plan smollm2 --sequence-length 100": "--sequence-length 100: the student sees each token of a text of up",
    }
    code = (
        f"import sys; from subquad.cli import main; print([main(line.split()) for line in {list(refused)}], 'torch' in "
        "sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{[2] * len(refused)} False\n"
    said = [line.partition("subquad: ")[2] for line in done.stderr.splitlines() if line.startswith("subquad: ")]
    # the texts of several lines have a title before them
    texts = [
        text if "same text" not in text else "a text that the model learns says nothing" for text in refused.values()
    ]
    assert [found[: len(text)] for found, text in zip(said, texts, strict=True)] == texts


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model_type": "gpt2", "n_embd": 8}, "a model of type gpt2 has learned positions"),
        ({"model_type": "mpt"}, "a model of type mpt has attention biases by distance"),
        ({"model_type": "mamba"}, "a model of type mamba has no softmax attention"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "a model of type t5 has an encoder"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "a model of type bert is an encoder"),
        ({"model_type": "new", "architectures": ["NewForMaskedLM"]}, "NewForMaskedLM is an encoder"),
    ],
)
def test_a_model_that_cannot_be_linearized_gets_the_same_answer_from_every_command(tmp_path, content, reason):
    folder = write_config(tmp_path / "model", **content)
    for command in (locate, check_run, read_architecture):
        with pytest.raises(SubquadError, match=f"{reason}.*; only decoders can be linearized whose attention"):
            command(folder)


def test_types_that_are_refused_by_name_are_those_that_conversion_refuses(tmp_path):
    known = {name for name, reason in UNSUPPORTED_TYPES.items() if reason != "is an encoder"}
    for name in sorted(known & {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}):
        config = AutoConfig.for_model(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        with pytest.raises(SubquadError, match=r"have a self_attn with|its attention has|cannot be linearized"):
            layers_to_replace(model, small_attention())


def test_an_adapter_of_peft_is_to_be_merged(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        SubquadError, match=r"an adapter of PEFT; merge it into its model first, with peft.AutoPeftModel"
    ):
        locate(tmp_path)


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
    with pytest.raises(SubquadError, match="someone/tiny: no such file or folder"):
        locate(hub)


def test_a_model_that_cannot_be_downloaded_is_an_error_with_what_to_do(hub):
    with pytest.raises(SubquadError, match="someone/else: no such folder, and it cannot be downloaded") as caught:
        locate("someone/else")
    assert "hf download someone/else --local-dir FOLDER" in str(caught.value)
    with pytest.raises(SubquadError, match=r"not linearized yet(?s:.)*subquad llm linearize someone/tiny --text"):
        subquad.llm.load(hub)


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ("---\nlicense: other\nlicense_name: tiny\nlanguage: [de, en]\ntags: [x]\n---\n", "other tiny [de, en]"),
        ("---\nlicense: [unclosed\n---\n", None),
        ("# no front matter\n", None),
        (f"---\nlicense: 1:{'00:' * 180}00.5\n---\n", None),
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
def test_the_loader_of_all_runs_opens_a_linearized_model(run):
    model, tokenizer = load_run(run)
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
    with pytest.raises(SubquadError, match=r"copy/\w+\.\w+: (.*cut short|missing, and|does not belong|changed since)"):
        subquad.llm.load(copy)
    # as a folder from before the checksums of these files
    accept_changes(copy)
    damaged = r": .+\.json.* is missing or damaged \(.+\); linearize again|cut short|is missing|config\.json is damaged"
    with pytest.raises(SubquadError, match=f"copy.*({damaged})"):
        subquad.llm.load(copy)
    if not (copy / "tokenizer.json").exists():
        with pytest.raises(SubquadError, match=r"tokenizer\.json is missing; copy it from the original checkpoint"):
            subquad.llm.load(copy)


def test_layers_for_lora_are_checked_before_training():
    model = tiny_model("llama")
    check_targets(model, ("all-linear",))
    check_targets(model, ("q_proj", "self_attn.o_proj", "down_proj"))
    with pytest.raises(SubquadError, match=r"--lora-targets: no layer 'q_pro'; did you mean 'q_proj'\?"):
        check_targets(model, ("v_proj", "q_pro"))


@pytest.mark.parametrize("block_layers", [None, 1])
def test_a_checkpoint_without_some_of_its_weights_is_refused_before_training(folder, text, tmp_path, block_layers):
    other, name = tmp_path / "other", "model.layers.1.self_attn.k_proj.weight"
    shutil.copytree(folder, other)
    tensors = read_tensors(other / "model.safetensors")
    del tensors[name]
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    settings = replace(SMALL, block_layers=block_layers)
    with pytest.raises(SubquadError, match=rf"{other}: .*{name}.*missing"):
        subquad.llm.linearize(other, text, settings, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "history.jsonl").exists()


def test_fused_projections_have_no_updates_of_their_own_once_they_are_split():
    model, attention = tiny_model("phi3"), small_attention()
    check_targets(model, ("q_proj", "o_proj"), attention=attention)
    with pytest.raises(SubquadError, match="--lora-targets: no layer 'qkv_proj'"):
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
    with pytest.raises(SubquadError, match=r"--text .*text.txt lies in --out .*, which would be overwritten"):
        subquad.llm.linearize(folder, inside / "text.txt", SMALL, out=inside, force=True, quiet=True)
    with pytest.raises(SubquadError, match=r"MODEL .* lies in --out"):
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


def test_an_encoder_is_refused_before_its_weights_are_looked_for(tmp_path):
    folder = write_config(tmp_path / "model", model_type="bert", architectures=["BertForMaskedLM"])
    with pytest.raises(SubquadError, match="model: BertForMaskedLM is an encoder; only decoders can be"):
        locate(folder)
    # one that is damaged is found when it is opened
    for architectures in (None, "BertForMaskedLM", [7]):
        with pytest.raises(SubquadError, match="in it; the weights are missing"):
            locate(write_config(folder, model_type="llama", architectures=architectures))


@pytest.mark.parametrize("opened", [open_checkpoint, lambda path: check_supported(path, small_attention())])
def test_a_damaged_number_of_layers_is_refused_before_they_are_made(opened, folder, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((changed / "config.json").read_text())
    for layers, named in ((2**30, "1,073,741,824 layers"), (0, "0 layers")):
        (changed / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
        with pytest.raises(SubquadError, match=rf"model/config.json: {named}, and \d+ tensors in the checkpoint"):
            opened(changed)


@pytest.mark.parametrize(
    ("key", "byte", "message"),
    [
        ("block_count", 64, "1,073,741,825 layers, and 12 tensors in the checkpoint"),
        ("feed_forward_length", 1, r"1,\d+,\d+,\d+ weights in a file of [\d,]+ bits; it is damaged"),
    ],
)
def test_a_damaged_size_of_a_packed_file_is_refused_before_memory_is_allocated(key, byte, message, tmp_path):
    pytest.importorskip("hypothesis")
    from support.fuzz_targets import write_gguf

    path = write_gguf(tmp_path)
    data = bytearray(path.read_bytes())
    # key, kind of the number (4 bytes), number: its highest byte
    data[data.index(f"llama.{key}".encode()) + len(f"llama.{key}") + 4 + 3] = byte
    path.write_bytes(data)
    with pytest.raises(SubquadError, match=f"tiny.gguf: {message}"):
        open_checkpoint(path)


@pytest.mark.parametrize("kind", ["llm_model", "llm_adapter"])
def test_a_damaged_size_in_a_saved_run_is_refused_before_anything_is_made_of_it(kind, tmp_path):
    changed = shutil.copytree(GOLDEN / kind, tmp_path / "saved")
    config = json.loads((changed / "config.json").read_text())
    if kind == "llm_model":
        config["num_hidden_layers"], expected = 2**30, r"1,073,741,824 layers, and \d+ tensors in the checkpoint"
    else:
        config["lora"]["lora_rank"], expected = 2**30, "lora_rank = 1073741824, but .* in model.safetensors has rank 16"
    (changed / "config.json").write_text(json.dumps(config))
    accept_changes(changed)
    with pytest.raises(SubquadError, match=rf"saved/config.json: {expected}"):
        subquad.llm.load(changed, base=changed / "base" if kind == "llm_adapter" else None)


@pytest.mark.parametrize("kind", ["llm_model", "llm_adapter"])
def test_sizes_that_are_missing_in_a_config_are_not_those_of_transformers(kind, tmp_path):
    saved = shutil.copytree(GOLDEN / kind, tmp_path / "saved")
    changed = saved if kind == "llm_model" else saved / "base"
    config = json.loads((changed / "config.json").read_text())
    del config["vocab_size"], config["intermediate_size"]
    (changed / "config.json").write_text(json.dumps(config))
    accept_changes(saved)
    with pytest.raises(SubquadError, match=r"model.safetensors: .* has shape .* needs \[(32000|11008), "):
        open_checkpoint(changed) if changed != saved else subquad.llm.load(saved)


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        # not so many bytes as it says, noticed when the file is read
        (b"\0\0\0", r"tokenized: tokenizer.json is damaged \(Precompiled: "),
        # a table that points beyond its end, noticed when a text is read
        (
            b"\4\0\0\0\xff\xff\xff\xffabc",
            r"tokenized: its tokenizer cannot be used; tokenizer.json is damaged \(index out",
        ),
    ],
)
def test_a_tokenizer_in_which_its_library_fails_is_refused(characters, expected, text, tmp_path, capfd):
    changed = shutil.copytree(GOLDEN / "llm_model", tmp_path / "tokenized")
    content = json.loads((changed / "tokenizer.json").read_text())
    table = base64.b64encode(characters).decode()
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": table}
    (changed / "tokenizer.json").write_text(json.dumps(content))
    accept_changes(changed)
    with pytest.raises(SubquadError, match=expected):
        tokenize(subquad.llm.load(changed)[1], [text], quiet=True)
    for use in (partial(encode, text="bird"), partial(passkey_prompt, tokens=99, depth=0.5, key=12_345)):
        with pytest.raises(SubquadError, match=r"tokenized: .*(Precompiled|index out)"):
            use(open_tokenizer(changed))
    # the library writes its own message too
    assert "panicked" in capfd.readouterr().err


def test_a_tokenizer_that_lengthens_texts_without_bounds_is_refused(text, tmp_path):
    changed = shutil.copytree(GOLDEN / "llm_model", tmp_path / "tokenized")
    content = json.loads((changed / "tokenizer.json").read_text())
    # as in tokenizers of SentencePiece, and the same 22 times with a doubled content
    steps = [{"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"String": " "}, "content": "___"}]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    (changed / "tokenizer.json").write_text(json.dumps(content))
    accept_changes(changed)
    assert open_tokenizer(changed)("a b")["input_ids"]
    for pattern in ({"Regex": "."}, {"String": "_"}):
        doubled = [{"type": "Replace", "pattern": pattern, "content": "__"}] * 22
        content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": doubled}]}
        (changed / "tokenizer.json").write_text(json.dumps(content))
        for opened in (open_tokenizer, subquad.llm.load):
            with pytest.raises(SubquadError, match=r"tokenized: the replacements .* more than 256 times"):
                opened(changed)


def test_ctrl_c_is_not_taken_for_a_failure_of_a_library():
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error), panics_as_errors("file"):
            raise error
