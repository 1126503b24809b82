"""Runs that were saved by earlier versions load and answer as they did when they were saved."""

import json
import re
import shutil
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from support.weights import accept_changes

from golden.answers import ANSWERS, language_model
from golden.files import NOT_CHECKED, READ
from subquad import bio, hep, llm
from subquad.errors import SubquadError
from subquad.runs.checksums import checksums_of_run, is_checked

HERE = Path(__file__).parent


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_saved_run_answers_as_when_it_was_saved(kind):
    for file in (HERE / kind).glob("*.skops"):
        # scikit-learn reads models of its own version and of earlier ones
        schema = ZipFile(file).read("schema.json").decode()
        for version in set(re.findall(r'"_sklearn_version": {[^}]*"content": "\\"([\d.]+)', schema)):
            pytest.importorskip("sklearn", minversion=version)
    expected = json.loads((HERE / kind / "expected.json").read_text())
    answers = ANSWERS[kind](HERE / kind)
    assert answers.keys() == expected.keys()
    for name, values in expected.items():
        if isinstance(values, str):
            assert answers[name] == values
        else:
            np.testing.assert_allclose(answers[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_saved_run_has_a_format_number_and_holds_no_code(kind):
    config = json.loads((HERE / kind / "config.json").read_text())
    assert "format" in json.dumps(config)
    assert not {path.suffix for path in (HERE / kind).iterdir()} & {".pkl", ".pt", ".bin", ".joblib", ".py"}


@pytest.mark.parametrize("kind", ANSWERS)
def test_each_file_of_a_saved_run_gets_a_checksum_or_is_listed_as_one_without(kind):
    folder = HERE / kind
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    config, metrics = (json.loads((folder / name).read_text()) for name in ("config.json", "metrics.json"))
    parts = checksums_of_run(folder, config, metrics).keys()
    # the base of an adapter has those of its makers
    unlisted = {name for name in files - parts if is_checked(name) and not name.startswith("base/")}
    assert unlisted == set()
    # weights have a checksum of their own
    assert {*READ[kind]} - parts <= {"model.safetensors", "base/config.json"}
    assert {*READ[kind], *NOT_CHECKED.get(kind, ())} <= files
    records = {"README.md", "model.safetensors", "validation.json", "evaluations.json", "budget.json"}
    assert files - parts - NOT_CHECKED.get(kind, set()) - {*READ[kind]} <= records


@pytest.mark.parametrize(
    ("kind", "load", "damage"),
    [
        *(
            ("bio_model", bio.BioModel.load, damage)
            for damage in (
                {"inputs": None},
                {"inputs": {"alphabet": "xyz"}},
                {"target": None},
                {"target": {"task_type": ...}},
                {"models": []},
                {"networks": {"lyra": None}},
                {"stacking": None},
            )
        ),
        ("hep_tagger", hep.TrainedTagger.load, {"net": None}),
        ("hep_tagger", hep.TrainedTagger.load, {"net": {"width": "abc"}}),
        ("hep_tagger", hep.TrainedTagger.load, {"particle_features": ["log pt", "log efergy"]}),
        ("hep_tagger", hep.TrainedTagger.load, {"jet_features": ["log tu4"]}),
    ],
)
def test_a_damaged_config_is_refused(kind, load, damage, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(HERE / kind, copy)
    config = json.loads((copy / "config.json").read_text())
    _damage(config, damage)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubquadError, match=r"copy.*config\.json.*; fit again"):
        load(copy)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("llm_default", {"hybrid_attention": ""}, "copy: hybrid_attention is ''"),
        ("llm_adapter", {"lora": {"lora_alpha": []}}, r"copy/config\.json: cannot be read as an adapter"),
        ("llm_adapter", {"lora": 7}, r"copy/config\.json: cannot be read as an adapter"),
        ("llm_adapter", {"base": [[]]}, r"copy/config\.json: cannot be read as an adapter"),
        ("llm_adapter", {"hybrid_attention": ...}, "copy: hybrid_attention is None"),
        (
            "llm_adapter",
            {"hybrid_attention": {"window_shape": None}},
            r"copy: hybrid_attention: --attention\.window-shape",
        ),
        (
            "hep_card",
            {"card": {"name": []}},
            r"copy/config\.json: card: name must be a string, got \[\]; the file is damaged",
        ),
        (
            "hep_card",
            {"card": {"options": {"labels": []}}},
            r"copy/config\.json: card: card\.yaml: this data card cannot",
        ),
        ("hep_tagger", {"net": {"graph": "features"}}, r"copy/config\.json: net: --graph is features"),
        (
            "bio_embedded",
            {"target": {"names": ["a", "b"]}},
            r"config\.json: networks: lyra: spec: outputs is 1, and that of the target 2",
        ),
        (
            "bio_model",
            {"target": {"task_type": None}},
            r'target: task_type must be "regression" or "binary" or .*, got n',
        ),
        ("bio_model", {"target": {"names": []}}, r"config\.json: target: there are no names"),
        (
            "bio_model",
            {"inputs": {"covariates": [[]]}},
            r"inputs: covariates must be an object of numbers, got \[\[\]\]",
        ),
        ("bio_model", {"inputs": {"alphabet": "klingon"}}, r'config\.json: inputs: there is no alphabet "klingon"'),
        (
            "bio_model",
            {"inputs": {"alignment": 3}},
            r"config\.json: inputs: alignment must be an object or null, got 3",
        ),
        ("bio_model", {"models": [[[]], "ridge"]}, r"config\.json: models\[0\] must be a string, got \[\[\]\]"),
        ("bio_model", {"models": ["oracle"]}, r'config\.json: there are no models \["oracle"\]'),
        (
            "bio_model",
            {"networks": {"lyra": {"scaler": []}}},
            r"config\.json: networks: lyra: scaler must have 1 column",
        ),
        (
            "bio_model",
            {"networks": {"mlp": {"scaler": [{"mean": 0}]}}},
            r"networks: mlp: scaler\[0\]: spread is missing",
        ),
        (
            "bio_model",
            {"networks": {"mlp": {"features": {"kept": 1}}}},
            r"features: kept must be a list of integers or null",
        ),
        ("bio_model", {"stacking": {"task_type": 10**99}}, r'stacking: task_type must be "regression" or .*, got 1000'),
        (
            "bio_model",
            {"stacking": {"task_type": "binary"}},
            r'stacking: task_type is "binary", and that of the target "r',
        ),
        (
            "bio_model",
            {"stacking": {"scale": {"gp": ...}}},
            r"each model of the ensemble must have a shift and a scale",
        ),
        ("bio_model", {"observed_letters": [[0], [9]]}, r"observed_letters has letters beyond the 4 of the alphabet"),
        ("bio_model", {"measured_range": []}, r"config\.json: measured_range must have 1 pair"),
        (
            "bio_model",
            {"selected": {"conformal": {"ridge": 3}}},
            r"conformal: ridge must be a list of objects or null, got",
        ),
        (
            "bio_model",
            {"selected": {"conformal": {"ridge": [{"levels": [0.9], "quantiles": [], "offset": None, "rows": 9}]}}},
            r"config\.json: selected: conformal: ridge is damaged; fit again \(1 levels, and 0 quantiles\)",
        ),
        (
            "bio_embedded",
            {"networks": {"lyra": {"features": {"embedding_scale": [1.0]}}}},
            r"config\.json; fit again",
        ),
        ("bio_model", {"networks": {"mlp": {"features": {"kept": [0, 999]}}}}, r"config\.json; fit again"),
        ("bio_model", {"networks": {"mlp": {"features": {"kept": [0, 1]}}}}, r"config\.json; fit again"),
        ("bio_model", {"target": {"task_type": "binary", "classes": ["no"]}}, r"or other than two classes"),
    ],
)
def test_damage_that_no_checksum_shows_is_refused_with_its_file(kind, damage, message, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(HERE / kind, copy)
    config = json.loads((copy / "config.json").read_text())
    _damage(config, damage)
    (copy / "config.json").write_text(json.dumps(config))
    accept_changes(copy)
    with pytest.raises(SubquadError, match=message):
        ANSWERS[kind](copy)


@pytest.mark.parametrize(
    ("file", "entry", "message"),
    [
        ("generation_config.json", {"eos_token_id": [[1]]}, "copy: cannot be read .*eos_token_id is no token"),
        ("generation_config.json", {"bos_token_id": float("inf")}, "copy: cannot be read as a checkpoint"),
        ("tokenizer_config.json", {"model_max_length": ""}, "copy: cannot be read as a tokenizer"),
    ],
)
def test_entries_that_transformers_does_not_check_are_refused(file, entry, message, tmp_path):
    with pytest.raises(SubquadError, match=message):
        llm.load(_with_entries(tmp_path, file, entry))


@pytest.mark.parametrize(
    "entry",
    [{"return_dict": None}, {"output_hidden_states": [[]]}, {"output_attentions": True}, {"is_encoder_decoder": 3}],
)
def test_outputs_are_logits_with_a_name_whatever_a_checkpoint_says(entry, tmp_path):
    pytest.importorskip("transformers")
    copy = _with_entries(tmp_path, "config.json", entry)
    try:
        found = language_model(copy, llm.load(copy))
    except SubquadError as error:
        # some versions of transformers check the types of these entries themselves
        found = str(error)
    ((name, _),) = entry.items()
    refused = isinstance(found, str) and f"field '{name}'" in found
    assert refused or found == language_model(HERE / "llm_default", llm.load(HERE / "llm_default"))


def _with_entries(folder, file, entries):
    copy = shutil.copytree(HERE / "llm_default", folder / "copy")
    (copy / file).write_text(json.dumps({**json.loads((copy / file).read_text()), **entries}))
    accept_changes(copy)
    return copy


def _damage(config, changes):
    """Replace entries of a nested JSON object; `...` deletes one."""
    for name, value in changes.items():
        if isinstance(value, dict):
            _damage(config[name], value)
        elif value is ...:
            del config[name]
        else:
            config[name] = value


def test_predictions_do_not_replace_their_own_table(tmp_path):
    table = tmp_path / "input.csv"
    shutil.copy(HERE / "bio_model" / "input.csv", table)
    with pytest.raises(SubquadError, match=r"input\.csv: this is the table itself"):
        bio.predict(HERE / "bio_model", table, out=table, force=True, quiet=True)


def test_a_report_without_its_test_rows_is_refused(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(HERE / "bio_model", copy)
    (copy / "test.csv").touch()
    with pytest.raises(SubquadError, match=r"test\.csv: missing or damaged .*; fit again"):
        bio.report(copy, out=tmp_path / "report.html")
