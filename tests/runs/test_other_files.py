"""Files that name other files: nothing but the file or folder that a user gave is read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from subquad.errors import SubquadError


def changed(path, **entries):
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **entries}))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder of a sharded checkpoint, which has the same files as the folder `secret` beside it."""
    pytest.importorskip("transformers")
    from support.llm_models import tiny_model, word_tokenizer, write_text

    home = tmp_path_factory.mktemp("checkpoint")
    tokenizer = word_tokenizer(write_text(home / "text.txt", words=500))
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(home / "given", max_shard_size="40KB")
    tokenizer.save_pretrained(home / "given")
    shutil.copytree(home / "given", home / "secret")
    return home / "given"


@pytest.fixture
def given(checkpoint, tmp_path):
    shutil.copytree(checkpoint.parent / "secret", tmp_path / "secret")
    return shutil.copytree(checkpoint, tmp_path / "given")


def test_a_checkpoint_beside_an_adapter_is_refused(given):
    from subquad.llm.models.location import locate

    locate(given)
    changed(given / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(given.parent / "secret"))
    with pytest.raises(SubquadError, match=r"adapter_config\.json: an adapter of PEFT"):
        locate(given)


def test_a_saved_language_model_beside_an_adapter_is_refused(tmp_path):
    pytest.importorskip("transformers")
    from subquad import llm

    folder = shutil.copytree(Path(__file__).parents[1] / "golden" / "llm_model", tmp_path / "run")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(SubquadError, match=r"adapter_config\.json: an adapter of PEFT"):
        llm.load(folder)


def test_a_gguf_file_beside_an_adapter_is_refused_as_transformers_would_open_the_model_of_that(tmp_path):
    from subquad.llm.models.location import locate

    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    # of other downloads
    for name in ("config.json", "other.safetensors.index.json"):
        (tmp_path / name).write_text("{")
    assert locate(tmp_path / "model.gguf")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SubquadError, match=r"adapter_config\.json: an adapter of PEFT"):
        locate(tmp_path / "model.gguf")


def test_a_model_in_the_cache_of_hugging_face_is_opened(given, tmp_path):
    from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
    from subquad.llm.models.location import locate

    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    changed(given / "tokenizer_config.json", tokenizer_file=str(snapshot / "tokenizer.json"))
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for number, file in enumerate(sorted(given.iterdir())):
        shutil.move(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert locate(snapshot) == snapshot
    open_checkpoint(snapshot)
    assert len(open_tokenizer(snapshot)) > 0


def test_code_that_a_checkpoint_names_is_not_run(given):
    from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer

    (given / "own.py").write_text(f"open({str(given / 'was_run')!r}, 'w')\nclass Own: pass\n")
    changed(given / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
    changed(given / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    open_checkpoint(given)
    open_tokenizer(given)
    assert not (given / "was_run").exists()


def test_a_chat_template_reads_no_files(given):
    from subquad.llm.models.checkpoints import open_tokenizer

    (given / "secret.txt").write_text("secret")
    for template in ("{% include 'secret.txt' %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"):
        changed(given / "tokenizer_config.json", chat_template=template)
        tokenizer = open_tokenizer(given)
        with pytest.raises(Exception, match=r"no loader for this environment|unsafe"):
            tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


def test_columns_of_a_parquet_file_that_lie_in_another_file_are_not_read(tmp_path, monkeypatch):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from subquad.bio.data.files import read_frame
    from subquad.hep.data.formats import inspect_file, iterate_columns
    from subquad.llm.data.readers import open_documents

    monkeypatch.chdir(tmp_path)
    parquet.write_table(pyarrow.table({"text": ["secret"] * 3, "score": [1.0, 2.0, 3.0]}), "secret.parquet")
    metadata = parquet.read_metadata("secret.parquet")
    metadata.set_file_path("secret.parquet")
    metadata.write_metadata_file("given.parquet")
    assert parquet.read_metadata("given.parquet").row_group(0).column(0).file_path == "secret.parquet"
    given = tmp_path / "given.parquet"
    with pytest.raises(SubquadError, match=r"given\.parquet"):
        read_frame(given)
    with pytest.raises(SubquadError, match=r"given\.parquet"):
        list(iterate_columns(inspect_file(given, None), ["score"], 100))
    with pytest.raises(SubquadError, match=r"given\.parquet"):
        list(open_documents(given).documents)


def test_uproot_does_not_follow_names_of_other_files_in_a_root_file():
    uproot = pytest.importorskip("uproot")
    folder = Path(uproot.__file__).parent
    reading = [*(folder / "behaviors").glob("*.py"), *(folder / "interpretation").glob("*.py"), *folder.glob("*.py")]
    # branches may name the file of their baskets, and trees those of their friends
    for name in ("fFileName", "fFriends"):
        assert [path.name for path in reading if name in path.read_text(encoding="utf-8")] == []


def test_a_part_of_a_gguf_file_does_not_have_its_other_parts_read(tmp_path):
    pytest.importorskip("gguf")
    from gguf import GGUFWriter

    from subquad.llm.models.checkpoints import open_checkpoint
    from subquad.llm.models.location import locate

    for number in (1, 2):
        writer = GGUFWriter(tmp_path / f"m-0000{number}-of-00002.gguf", "llama")
        for name, value in {"context_length": 64, "embedding_length": 32, "block_count": 1, "head_count": 2}.items():
            getattr(writer, f"add_{name}")(value)
        writer.add_feed_forward_length(32)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_uint16("split.count", 2)
        writer.add_uint16("split.no", number - 1)
        name = "token_embd.weight" if number == 1 else "output_norm.weight"
        writer.add_tensor(name, np.ones((12, 32) if number == 1 else (32,), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    with pytest.raises(SubquadError, match=r"m-00001-of-00002\.gguf"):
        open_checkpoint(locate(tmp_path / "m-00001-of-00002.gguf"))
