"""Common part of the scikit-learn estimators: parameters, fit, and folders in which they are saved.

Axes: n rows.
"""

from abc import abstractmethod
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from subquad.bio.compared_models import NETWORKS, models_suiting, names_of
from subquad.bio.data.dataset import Dataset, Inputs, InputSchema, Target
from subquad.bio.data.files import naming
from subquad.bio.data.inputs import check_strands
from subquad.bio.metrics.conformal import fit_conformal_columns
from subquad.bio.models.baselines import baseline_file
from subquad.bio.models.estimator_data import check_weights, holdout_mask, read_X, take_rows
from subquad.bio.models.fit import fit_network
from subquad.bio.models.fitted import load_networks, network_tensors
from subquad.bio.models.members import Members, finite_members
from subquad.bio.models.networks import NetworkEnsemble
from subquad.bio.models.training_data import check_trainable, prepare
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError, reading, unknown
from subquad.reporting.page import page
from subquad.runs.folder import load_config, open_run
from subquad.runs.options import takes_settings

__all__ = ["MORE_PARAMETERS", "PARAMETERS", "Estimator"]

FITTED = ("n_features_in_", "feature_names_in_", "classes_", "_target", "_form", "_intervals")
"""Attributes set by `fit`, beside the networks and the schema."""


PARAMETERS = (
    "ensemble_size", "epochs", "tokens", "batch_size", "learning_rate", "weight_decay", "alphabet", "ambiguity",
    "validation_fraction",
)  # fmt: skip
"""Parameters of all estimators, which are settings of a fit."""
MORE_PARAMETERS = {"model": "lyra", "target_transform": FitSettings.transform, "random_state": None}
"""Further parameters of all estimators, with their defaults."""


@takes_settings(FitSettings, *PARAMETERS, "strands", **MORE_PARAMETERS)
class Estimator(BaseEstimator):
    """Base class; a subclass defines the form of y and of the predictions."""

    model: str
    target_transform: Literal["auto", "none", "rank"]
    """Transform of measurements; classes and base pairs have none."""
    alphabet: str
    ambiguity: str
    validation_fraction: float
    random_state: int | np.random.RandomState | None
    ensemble_: NetworkEnsemble
    _schema: InputSchema
    _target: dict[str, Any]
    _form: str
    """Form of y: `flat`, `wide`, `labels`, `text` or `lists`."""
    _intervals: list[dict[str, Any] | None] | None

    if TYPE_CHECKING:
        # `takes_settings` makes it
        def __init__(self, **parameters: Any) -> None: ...

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, validation: Any = None) -> Self:
        """Fit the estimator.

        Args:
            X: n sequences (a list, a series or an array of strings); a data frame with a column of sequences, if they
                pair with a second one (guide and target), and columns of covariates; numbers alone, `(n, F)`; or
                `subquad.bio.data.dataset.Inputs`.
            y: Target; see the class.
            sample_weight: `(n,)` weight of each row; rows of weight 0 are left out.
            groups: `(n,)` rows of one group (gene, family) are held out together. Default: rows of equal sequences.
            validation: `(n,)` bool, the rows used for model selection. Default: about `validation_fraction`,
                stratified by class. With fewer than ten rows, all are used for training and for model selection.

        Returns:
            The estimator.

        Raises:
            SubquadError: Invalid letters, lengths or values, each with its row from 1; or nothing to learn from.
            ValueError: Shapes that do not match, or numbers that are not finite.
        """
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        settings = self._settings()
        check_consistent_length(X, y, groups, validation)
        inputs, schema = read_X(self, X, None, alphabet=self.alphabet, ambiguity=self.ambiguity)
        # tags tell which estimators accept numbers alone
        needs = self.model not in ("lyra", "mlp") or not self.__sklearn_tags__().input_tags.two_d_array
        if needs and not inputs.codes.shape[1]:
            raise SubquadError("X: has numbers only, and this estimator needs sequences")
        weight = check_weights(sample_weight, len(inputs))
        if weight is not None and not weight.all():
            rows = np.flatnonzero(weight)
            inputs, y, weight = inputs.take(rows), take_rows(y, rows), weight[rows]
            groups, validation = (None if each is None else take_rows(each, rows) for each in (groups, validation))
        target = self._read_target(y, inputs)
        # a tagger has no strands
        strands = getattr(self, "strands", FitSettings.strands)
        inputs = check_strands(inputs, strands, alphabet=schema.alphabet, task_type=target.task_type)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        split = self._split(inputs, target, groups, validation=validation, seed=seed)
        if weight is not None:
            weight = weight / weight[split["train"]].mean()
        dataset = Dataset(inputs=inputs, target=target, split=split, weight=weight)
        known = [name for name in models_suiting(target.task_type, NETWORKS) if name not in names_of("control")]
        if self.model not in known:
            raise unknown("model", str(self.model), known)
        # numbers alone have no letters for Lyra to read
        kind = self.model if inputs.codes.shape[1] else "mlp"
        check_trainable(dataset)
        self.ensemble_ = fit_network(kind, prepare(dataset), settings, seed=seed)
        self._intervals = _intervals(dataset, self.ensemble_)
        self._schema = replace(schema, strands=strands)
        self._target = {"task_type": target.task_type, "classes": list(target.classes), "names": list(target.names)}
        return self

    @abstractmethod
    def _read_target(self, y: Any, inputs: Inputs) -> Target:
        """Return y as a target, and set its form and its classes."""

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the fitted estimator to a folder of JSON and safetensors, without code.

        `subquad bio predict` reads it too, if the estimator was trained on sequences. A `random_state` that is not an
        integer is not saved.

        Args:
            folder: A new or empty folder.
            force: Overwrite an earlier run in the folder.

        Raises:
            SubquadError: The folder holds other files.
        """
        check_is_fitted(self, "ensemble_")
        name, ensemble = type(self).__name__, self.ensemble_
        kind = ensemble.spec.kind
        parameters = self.get_params(deep=False)
        if not isinstance(parameters["random_state"], int | np.integer):
            parameters["random_state"] = None
        run = open_run(folder, kind="bio", settings=parameters, force=force)
        title = f"{name}: {self._target['task_type'].replace('_', ', ')}"
        lead = f"A fitted scikit-learn estimator. Load it with `subquad.bio.{name}.load(folder)`."
        if ensemble.prior is not None:
            ensemble.prior.save(baseline_file(run.directory, "ridge"))
        own = vars(self)
        run.finish(
            config={
                "estimator": {
                    "class": name,
                    "parameters": parameters,
                    "fitted": {key: _to_json(own[key]) for key in FITTED if key in own},
                },
                "inputs": self._schema.as_dict(),
                "target": self._target,
                "observed_letters": None,
                "selected": {} if self._intervals is None else {"conformal": {kind: self._intervals}},
                "models": [kind],
                "networks": {kind: ensemble.as_dict()},
            },
            tensors=network_tensors({kind: ensemble}),
            metrics={"selected": ensemble.selected, "cpu_seconds": {kind: round(ensemble.cpu_seconds, 2)}},
            card=f"# {title}\n\n{lead}\n",
            report=lambda: page(title, lead=lead, sections=[]),
        )

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Return the estimator that `save` wrote.

        Raises:
            SubquadError: There is none, it is damaged, or it is of another class.
        """
        config = load_config(folder, "bio")
        saved = config.get("estimator", {"class": "run of `subquad bio fit`"})
        with reading(folder, "an estimator"):
            if saved["class"] != cls.__name__:
                raise SubquadError(f"{folder}: has a {saved['class']}, no {cls.__name__}")
            estimator = cls(**saved["parameters"])
            (estimator.ensemble_,) = load_networks(folder, config).values()
            estimator._schema = InputSchema.from_dict(config["inputs"])
            fitted = saved["fitted"]
            estimator._form = fitted["_form"]
            vars(estimator).update({key: _from_json(value) for key, value in fitted.items() if key in FITTED})
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        return tags

    def _settings(self) -> FitSettings:
        names = {field.name for field in fields(FitSettings)}
        given = {name: value for name, value in self.get_params(deep=False).items() if name in names}
        # named otherwise, since scikit-learn takes any object with an attribute `transform` for a transformer;
        # no row is held out for a test: that is the task of cross-validation
        return FitSettings(**given, transform=self.target_transform, test_fraction=0.01)

    def _split(
        self, inputs: Inputs, target: Target, groups: Any, *, validation: Any, seed: int
    ) -> dict[str, np.ndarray]:
        rows = np.arange(len(inputs))
        if validation is None:
            strata = target.y if target.task_type in ("binary", "multiclass") else np.zeros(len(rows))
            random, fraction = np.random.default_rng(seed), self.validation_fraction
            is_held_out = holdout_mask(inputs, strata, groups, fraction=fraction, random=random)
        else:
            is_held_out = np.asarray(validation)
            if is_held_out.dtype != bool or is_held_out.shape != rows.shape:
                raise ValueError(
                    f"validation must be {len(rows)} of bool, got {is_held_out.dtype} of {is_held_out.shape}"
                )
        if not is_held_out.any() or is_held_out.all():
            return {"train": rows, "validation": rows, "test": rows[:0]}
        return {"train": rows[~is_held_out], "validation": rows[is_held_out], "test": rows[:0]}

    def _members(self, X: Any) -> tuple[Inputs, Members]:
        """Return X as inputs, and the predictions of the networks.

        Raises:
            SubquadError: X does not fit the model, or predictions are not finite.
        """
        check_is_fitted(self, "ensemble_")
        inputs, _ = read_X(self, X, self._schema, alphabet=self.alphabet, ambiguity=self.ambiguity)
        inputs = replace(inputs, is_double_stranded=self._schema.strands == "both")
        with naming("X"):
            return inputs, finite_members(lambda: self.ensemble_.members(inputs), inputs, self._schema.covariates)


def _intervals(dataset: Dataset, ensemble: NetworkEnsemble) -> list[dict[str, Any] | None] | None:
    """Return the intervals of each column of measurements; None if no rows were held out to calibrate them."""
    split = dataset.split
    if dataset.target.task_type != "regression" or np.array_equal(split["train"], split["validation"]):
        return None
    inputs, truth = dataset.part("validation")
    members = ensemble.members(inputs)
    found = fit_conformal_columns(truth, members.mean, members.std())
    return [None if conformal is None else conformal.as_dict() for conformal in found]


def _to_json(value: Any) -> Any:
    """Return an array as a JSON object, and other values unchanged."""
    return {"dtype": value.dtype.str, "values": value.tolist()} if isinstance(value, np.ndarray) else value


def _from_json(value: Any) -> Any:
    is_array = isinstance(value, dict) and set(value) == {"dtype", "values"}
    return np.array(value["values"], dtype=value["dtype"]) if is_array else value
