"""What Lyra's estimators share: parameters, the fit, and folders that they are kept in.

Axes: n rows.
"""

from abc import abstractmethod
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from subquad.bio.data.dataset import Dataset, Inputs, Target, with_both_strands
from subquad.bio.data.inputs import check_strands
from subquad.bio.metrics.conformal import fit_conformal_columns
from subquad.bio.models.baselines import Baseline, fit_ridge
from subquad.bio.models.estimator_data import check_weights, holdout_mask, read_X, take_rows
from subquad.bio.models.fitted import NetEnsemble, drop_constant_positions, ensemble_mean, fit_ensemble
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError
from subquad.reporting.page import page
from subquad.runs.folder import load_config, load_tensors, open_run

__all__ = ["Estimator"]

TRUST, LEAST_FACTOR = 5, 0.1

PRIOR = "ridge.skops"
FITTED = ("n_features_in_", "feature_names_in_", "classes_", "_schema", "_target", "_form", "_intervals")
"""What a fit leaves in an estimator beside its nets."""


class Estimator(BaseEstimator):
    """Base of all of them; a subclass says what y is, and how predictions look."""

    def __init__(
        self,
        *,
        preset: Literal["auto", "paper"] = FitSettings.preset,
        ensemble_size: int | None = FitSettings.ensemble_size,
        epochs: float | None = FitSettings.epochs,
        tokens: int = FitSettings.tokens,
        batch_size: int | None = FitSettings.batch_size,
        learning_rate: float = FitSettings.learning_rate,
        weight_decay: float = FitSettings.weight_decay,
        alphabet: Literal["auto", "dna", "rna", "protein", "protein_stop"] = FitSettings.alphabet,
        ambiguity: Literal["any", "refuse"] = FitSettings.ambiguity,
        strands: Literal["one", "both"] = FitSettings.strands,
        validation_fraction: float = FitSettings.validation_fraction,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.preset = preset
        self.ensemble_size = ensemble_size
        self.epochs = epochs
        self.tokens = tokens
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.alphabet = alphabet
        self.ambiguity = ambiguity
        self.strands = strands
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, validation: Any = None) -> Self:
        """Return the estimator, fitted.

        Args:
            X: n sequences (a list, a series or an array of strings); a data frame with a column of sequences, with a
                second one where two pair (guide and target), and with columns of further numbers; numbers alone,
                `(n, F)`; or `subquad.bio.data.dataset.Inputs`.
            y: what is learned, see the class.
            sample_weight: `(n,)` how much each row counts; rows of weight 0 are left out.
            groups: `(n,)` rows of one group (gene, family) are held out together; by default rows of equal sequences.
            validation: `(n,)` of bool: the rows that choices are made on; by default about `validation_fraction`,
                drawn within the classes. Fewer than ten rows are all learned from and chosen on.

        Raises:
            SubquadError: wrong letters, lengths or values, each with its row from 1; or nothing to learn from.
            ValueError: shapes that do not fit, or numbers that are not finite.
        """
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        settings = self._settings()
        check_consistent_length(X, y, groups, validation)
        inputs, schema = read_X(self, X, None, alphabet=self.alphabet, ambiguity=self.ambiguity)
        self._refuse(inputs)
        weight = check_weights(sample_weight, len(inputs))
        if weight is not None and not weight.all():
            rows = np.flatnonzero(weight)
            inputs, y, weight = inputs.take(rows), take_rows(y, rows), weight[rows]
            groups, validation = (None if each is None else take_rows(each, rows) for each in (groups, validation))
        target = self._learn_target(y, inputs)
        inputs = check_strands(inputs, self.strands, alphabet=schema.alphabet, task_type=target.task_type)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        split = self._split(inputs, target, groups, validation=validation, seed=seed)
        if weight is not None:
            weight = weight / weight[split["train"]].mean()
        dataset = Dataset(inputs=inputs, target=target, split=split, weight=weight)
        self.nets_ = _fit(dataset, settings, seed)
        self._intervals = _intervals(dataset, self.nets_)
        self._schema = replace(schema, strands=self.strands)
        self._target = {"task_type": target.task_type, "classes": list(target.classes), "names": list(target.names)}
        return self

    @abstractmethod
    def _learn_target(self, y: Any, inputs: Inputs) -> Target:
        """Return y as a target, and note its form and its classes."""

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the fitted estimator as a folder of JSON and safetensors, without any code in it.

        `subquad bio predict` reads it too, where the estimator learned from sequences. A `random_state` that is no
        whole number is not kept.

        Args:
            folder: a new one.
            force: replace what an earlier fit wrote there.

        Raises:
            SubquadError: the folder holds other things.
        """
        check_is_fitted(self, "nets_")
        _write(self, folder, force=force)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Return the estimator that `save` wrote.

        Raises:
            SubquadError: there is none, it is damaged, or it is of another class.
        """
        return _open(cls, folder)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        return tags

    def _settings(self) -> FitSettings:
        names = {field.name for field in fields(FitSettings)}
        given = {name: value for name, value in self.get_params(deep=False).items() if name in names}
        # scikit-learn takes whatever has an attribute `transform` for a transformer
        if hasattr(self, "target_transform"):
            given["transform"] = self.target_transform
        # no row is kept for a test: that is cross-validation's work
        return FitSettings(**given, test_fraction=0.01)

    def _refuse(self, inputs: Inputs) -> None:
        # tags say which estimators can do with numbers alone
        needs = self.preset == "paper" or not self.__sklearn_tags__().input_tags.two_d_array
        if needs and not inputs.codes.shape[1]:
            raise SubquadError("X: there are numbers alone, and this learns from sequences; give strings of letters")

    def _split(
        self, inputs: Inputs, target: Target, groups: Any, *, validation: Any, seed: int
    ) -> dict[str, np.ndarray]:
        rows = np.arange(len(inputs))
        if validation is None:
            strata = target.y if target.task_type in ("binary", "multiclass") else np.zeros(len(rows))
            random, fraction = np.random.default_rng(seed), self.validation_fraction
            is_held = holdout_mask(inputs, strata, groups, fraction=fraction, random=random)
        else:
            is_held = np.asarray(validation)
            if is_held.dtype != bool or is_held.shape != rows.shape:
                raise ValueError(f"validation must be {len(rows)} of bool, got {is_held.dtype} of {is_held.shape}")
        if not is_held.any() or is_held.all():
            return {"train": rows, "validation": rows, "test": rows[:0]}
        return {"train": rows[~is_held], "validation": rows[is_held], "test": rows[:0]}

    def _members(self, X: Any) -> tuple[Inputs, list[Any]]:
        check_is_fitted(self, "nets_")
        inputs, _ = read_X(self, X, self._schema, alphabet=self.alphabet, ambiguity=self.ambiguity)
        inputs = replace(inputs, is_double_stranded=self._schema.strands == "both")
        return inputs, self.nets_.predict_each(inputs)


def _fit(dataset: Dataset, settings: FitSettings, seed: int) -> NetEnsemble:
    """Return the nets, started from ridge where they can."""
    positions, ridge, target = None, None, dataset.target
    if dataset.inputs.is_double_stranded:
        dataset = with_both_strands(dataset)
    if settings.preset == "auto":
        dataset, positions = drop_constant_positions(dataset)
        if target.task_type != "pairs":
            ridge = fit_ridge(dataset, seed=seed)
        if target.task_type in ("regression", "binary", "multilabel"):
            ridge = _to_size(ridge, dataset)
    return fit_ensemble(dataset, settings, ridge, positions=positions, seed=seed, directory=None, quiet=True)


def _intervals(dataset: Dataset, nets: NetEnsemble) -> list[dict[str, Any] | None] | None:
    """Return the intervals of each column of measurements; None where no rows were held out to see the errors of."""
    split = dataset.split
    if dataset.target.task_type != "regression" or np.array_equal(split["train"], split["validation"]):
        return None
    inputs, truth = dataset.part("validation")
    members = nets.predict_each(inputs)
    spread = np.std(members, axis=0, ddof=1) if len(members) > 1 else None
    found = fit_conformal_columns(truth, ensemble_mean(members), spread)
    return [None if conformal is None else conformal.as_dict() for conformal in found]


def _to_size(ridge: Baseline, dataset: Dataset) -> Baseline:
    """Return ridge with predictions or logits as large as the held out rows ask for.

    Its penalty was chosen by ranks, which do not see size; R², classes and probabilities do.
    """
    inputs, target = dataset.part("validation")
    predicted = ridge.linear(ridge.features.matrix(inputs))
    y = target.y.reshape(len(target), -1)
    size = _least_squares if target.task_type == "regression" else _least_log_loss
    found = [size(predicted[known, k], y[known, k]) for k, known in enumerate(np.isfinite(y).T)]
    factor, shift = np.array(found).T
    weight, bias = ridge.linear.weight * factor[:, None], ridge.linear.bias * factor + shift
    return replace(ridge, linear=replace(ridge.linear, weight=weight, bias=bias))


def _least_squares(predicted: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Return the factor on predictions, and 0, as if `TRUST` more rows had spoken for 1."""
    if len(predicted) < 2 or not predicted.std():
        return 1.0, 0.0
    covariance, variance = np.cov(predicted, measured, ddof=0)[0, ::-1]
    n = len(predicted)
    return max(float((n * covariance + TRUST * variance) / ((n + TRUST) * variance)), LEAST_FACTOR), 0.0


def _least_log_loss(logit: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return a factor on logits and a shift (Platt), as if about `TRUST` more rows had spoken for 1 and 0."""
    if len(logit) < 2 or not logit.std():
        return 1.0, 0.0
    centre = logit.mean()
    z = logit - centre

    def loss(v: np.ndarray) -> float:
        own = v[0] * z + v[1]
        # the log loss of a row curves by at most a quarter
        prior = TRUST / 8 * (z.var() * (v[0] - 1) ** 2 + (v[1] - centre) ** 2)
        return float(np.logaddexp(0, own).sum() - y @ own + prior)

    factor, level = minimize(loss, [1.0, centre], method="L-BFGS-B", bounds=[(LEAST_FACTOR, None), (None, None)]).x
    return float(factor), float(level - factor * centre)


def _write(estimator: Estimator, folder: Path | str, *, force: bool) -> None:
    name, nets = type(estimator).__name__, estimator.nets_
    parameters = estimator.get_params(deep=False)
    if not isinstance(parameters["random_state"], int | np.integer):
        parameters["random_state"] = None
    run = open_run(folder, kind="bio", settings=parameters, force=force)
    fitted = {key: _plain(vars(estimator)[key]) for key in FITTED if key in vars(estimator)}
    title = f"{name}: {estimator._target['kind'].replace('_', ', ')}"
    lead = f"A fitted scikit-learn estimator. Open it with: `subquad.bio.{name}.load(folder)`."
    if nets.prior is not None:
        nets.prior.save(run.directory / PRIOR)
    run.finish(
        config={
            "estimator": {
                "class": name,
                "parameters": parameters,
                "fitted": fitted,
                "has_prior": nets.prior is not None,
            },
            "inputs": estimator._schema.to_json(),
            "target": estimator._target,
            "observed_letters": None,
            "selected": {} if estimator._intervals is None else {"conformal": {"net": estimator._intervals}},
            "model": nets.as_dict(),
        },
        tensors=nets.tensors(),
        metrics={"members": nets.facts, "seconds": nets.seconds},
        card=f"# {title}\n\n{lead}\n",
        report=page(title, lead=lead, sections=[]),
    )


def _open(wanted: type[Estimator], folder: Path | str) -> Any:
    config = load_config(folder, "bio")
    said = config.get("estimator")
    if said is None:
        raise SubquadError(f"{folder}: no estimator wrote it; predict with `subquad bio predict`")
    if said["class"] != wanted.__name__:
        raise SubquadError(f"{folder}: holds a {said['class']}; open it with {said['class']}.load")
    try:
        estimator = wanted(**said["parameters"])
        prior = Baseline.load(Path(folder) / PRIOR) if config["estimator"]["has_prior"] else None
        estimator.nets_ = NetEnsemble.from_dict(config["model"], load_tensors(folder), prior)
        vars(estimator).update({key: _array(said["fitted"][key]) for key in FITTED if key in said["fitted"]})
    except (KeyError, RuntimeError, TypeError) as error:
        raise SubquadError(f"{folder}: the weights do not fit its config.json; fit again") from error
    return estimator


def _plain(value: Any) -> Any:
    """Return an array as what JSON knows, and all else as it is."""
    return {"dtype": value.dtype.str, "values": value.tolist()} if isinstance(value, np.ndarray) else value


def _array(said: Any) -> Any:
    is_array = isinstance(said, dict) and set(said) == {"dtype", "values"}
    return np.array(said["values"], dtype=said["dtype"]) if is_array else said
