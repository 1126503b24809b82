"""Which models a run fits: by default, those that are named, and errors for those that do not suit the task."""

import inspect
import re

import pytest

from subquad.bio.compared_models import (
    COMPARED_MODELS,
    WITHOUT_LYRA,
    members_of,
    models_for,
    models_suiting,
)
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError


@pytest.mark.parametrize(
    ("task_type", "has_sequence", "models"),
    [
        ("regression", True, ("ridge", "boosting", "gp", "mlp", "lyra-additive", "lyra")),
        ("multilabel", True, ("ridge", "boosting", "mlp", "lyra-additive", "lyra")),
        ("binary", False, ("ridge", "boosting", "mlp")),
        ("residue_multiclass", True, ("ridge", "boosting", "lyra")),
        ("pairs", True, ("vienna", "vienna_bpp", "lyra")),
    ],
)
def test_all_models_that_suit_a_task_are_fitted_by_default_except_those_on_request(task_type, has_sequence, models):
    assert models_for(task_type, has_sequence=has_sequence) == models


def test_the_help_names_the_models_that_are_fitted_on_request_only():
    text = inspect.getsource(FitSettings).partition("    models: ")[2].partition("    ensemble_size: ")[0]
    assert set(re.findall(r"`([\w-]+)`", text)) == {name for name, own in COMPARED_MODELS.items() if not own.is_default}


def test_a_gaussian_process_is_fitted_to_large_tables_only_if_it_is_named():
    assert "gp" in models_for("regression", rows=6000)
    assert "gp" not in models_for("regression", rows=6001)
    assert models_for("regression", ("gp", "ridge"), rows=100_000) == ("ridge", "gp")


def test_a_ridge_regression_on_embeddings_is_fitted_only_if_there_are_embeddings():
    assert models_for("regression", has_embedding=True)[:2] == ("ridge", "embedding-ridge")
    assert "embedding-ridge" not in models_for("regression")
    assert "embedding-ridge" not in models_for("residue_binary", has_embedding=True)
    with pytest.raises(SubquadError, match=r"--models embedding-ridge needs embeddings .*; name their file with --emb"):
        models_for("regression", ("embedding-ridge",))


def test_named_models_are_fitted_the_simplest_first():
    assert models_for("regression", ("lyra", "lyra-paper", "ridge")) == ("ridge", "lyra-paper", "lyra")
    assert models_for("residue_binary", ["lyra-alone"]) == ("lyra-alone",)
    assert models_for("multiclass", ("mlp", "ridge"), has_sequence=False) == ("ridge", "mlp")


@pytest.mark.parametrize(
    ("task_type", "named", "has_sequence", "message"),
    [
        ("regression", ("ridge", "lyra-papr"), True, "--models: no model 'lyra-papr'; did you mean 'lyra-paper'?"),
        # an ensemble is not fitted but combined
        (
            "regression",
            ("ensemble",),
            True,
            "--models: no model 'ensemble' (there are: ridge, embedding-ridge, vienna, vienna_bpp,",
        ),
        ("regression", ("net",), False, "--models: no model 'net' (there are:"),
        (
            "binary",
            ("ridge", "vienna"),
            True,
            "--models vienna does not suit a task of type binary; choose from ridge, boosting, mlp, cnn, mlp-more, "
            "lyra-paper, lyra-alone, lyra-additive, lyra",
        ),
        (
            "residue_regression",
            ("mlp",),
            True,
            "--models mlp does not suit a task of type residue_regression; choose from ridge, boosting, cnn, "
            "lyra-paper, lyra-alone, lyra",
        ),
        (
            "pairs",
            ("ridge",),
            True,
            "--models ridge does not suit a task of type pairs; choose from vienna, vienna_bpp, lyra-paper, "
            "lyra-alone, lyra",
        ),
        (
            "regression",
            ("ridge", "lyra"),
            False,
            "--models lyra does not suit a table without sequences; choose from ridge, boosting, gp, mlp, mlp-more",
        ),
    ],
)
def test_models_that_do_not_exist_or_do_not_suit_are_an_error(task_type, named, has_sequence, message):
    with pytest.raises(SubquadError, match="^" + re.escape(message)):
        models_for(task_type, named, has_sequence=has_sequence)


def test_of_named_models_those_that_suit_a_task_are_chosen():
    named = ("lyra", "mlp", "vienna", "ridge")
    assert models_suiting("regression", named) == ("lyra", "mlp", "ridge")
    assert models_suiting("residue_regression", named) == ("lyra", "ridge")
    assert models_suiting("pairs", named) == ("lyra", "vienna")
    assert models_suiting("pairs", ()) == ()
    with pytest.raises(SubquadError, match="no model 'lyraa'; did you mean 'lyra'"):
        models_suiting("pairs", ("lyra", "lyraa"))


def test_an_ensemble_has_baselines_and_lyra_as_members_and_no_variants():
    assert members_of(tuple(COMPARED_MODELS)) == (
        "ridge",
        "embedding-ridge",
        "vienna",
        "vienna_bpp",
        "boosting",
        "gp",
        "mlp",
        "cnn",
        "lyra",
    )
    assert members_of(("lyra-paper", "lyra-alone")) == ()
    without = members_of(("ridge", "mlp", "mlp-more", "lyra"), WITHOUT_LYRA)
    assert without == ("ridge", "mlp", "mlp-more")
