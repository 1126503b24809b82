"""Settings are checked before anything is read, and errors name the flag."""

import json
import re
from dataclasses import asdict

import pytest

from subquad.bio.analysis.settings import ScanSettings
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.guide_search.settings import GuideSettings
from subquad.bio.settings import FitSettings
from subquad.cli import main
from subquad.errors import SubquadError


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (FitSettings, {"models": ("lyra", "ridge", "lyra")}, "--models needs different values, got lyra ridge lyra"),
        (FitSettings, {"models": ("ridge", "lyr-paper")}, "no model 'lyr-paper'; did you mean 'lyra-paper'?"),
        (FitSettings, {"target": "ddG"}, "--target takes several values; give a list: ['ddG']"),
        (FitSettings, {"split_by": "homologie"}, "--split-by must be one of random, group, sequence, partner, "),
        (
            FitSettings,
            {"task_type": "reg"},
            "--task-type must be one of auto, regression, binary, multiclass, multilabel, ",
        ),
        (FitSettings, {"alphabet": "DNA"}, "--alphabet must be one of auto, dna, rna, protein, protein_stop, "),
        (FitSettings, {"ambiguity": "N"}, "--ambiguity must be one of any, refuse, got 'N'"),
        (FitSettings, {"transform": "log"}, "--transform must be one of auto, none, rank, got 'log'"),
        (FitSettings, {"test_fraction": 1.0}, "--test-fraction must be above 0 and below 1, got 1.0"),
        (FitSettings, {"test_fraction": 0.8}, "--test-fraction and --validation-fraction leave less than a tenth"),
        (FitSettings, {"ensemble_size": 0}, "--ensemble-size must be at least 1, got 0"),
        (FitSettings, {"learning_sizes": (24, 9)}, "--learning-sizes must be at least 10, got 9"),
        (FitSettings, {"leak_distance": -1}, "--leak-distance must be at least 0, got -1"),
        (FitSettings, {"train_rows": 9}, "--train-rows must be at least 10, got 9"),
        (FitSettings, {"folds": 1}, "--folds must be at least 2, got 1"),
        (FitSettings, {"fold": 5}, "--fold must be below --folds (5), got 5"),
        (FitSettings, {"identity": 0.0}, "--identity must be above 0 and at most 1, got 0.0"),
        (FitSettings, {"epochs": 0.0}, "--epochs must be above 0, got 0.0"),
        (FitSettings, {"weight": "w", "error": "e"}, "--weight and --error both weight the rows"),
        (FitSettings, {"split": "s", "split_by": "position"}, "--split names a column and --split-by a method"),
        (FitSettings, {"split_by": "group"}, "--split-by group needs a group column"),
        (DesignSettings, {"direction": "low"}, "--direction must be one of maximize, minimize, got 'low'"),
        (DesignSettings, {"wells": "48"}, "--wells must be one of 96, 384, got '48'"),
        (GuideSettings, {"direction": "low"}, "--direction must be one of maximize, minimize, got 'low'"),
        (ScanSettings, {"direction": "low"}, "--direction must be one of maximize, minimize, got 'low'"),
    ],
)
def test_invalid_settings_are_an_error_that_names_the_flag(make, given, message):
    with pytest.raises(SubquadError, match=re.escape(message)):
        make(**given)


def test_settings_come_back_from_json():
    settings = FitSettings(target=("y",), models=("ridge", "lyra"), learning_sizes=(24, 48), partner="guide")
    written = json.loads(json.dumps(asdict(settings)))
    assert FitSettings.from_dict({**written, "seed": 3}) == settings
    assert FitSettings.from_dict({"models": "mlp"}) == FitSettings(models=("mlp",))


@pytest.mark.parametrize(
    ("commands", "what"),
    [
        (("predict", "guides"), "Output file: .csv or .tsv, alone or with .gz."),
        (("embed",), "Output file, which ends in .safetensors."),
        (("scan", "epistasis", "design", "rounds", "bench"), "Output file or folder."),
    ],
)
def test_help_says_whether_the_output_is_a_file_or_a_folder(capsys, commands, what):
    for command in commands:
        assert main(["bio", command, "--help"]) == 0
        assert f"{what} [required]" in " ".join(capsys.readouterr().out.replace("│", "").split())
