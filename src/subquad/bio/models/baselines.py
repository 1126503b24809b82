"""Baselines on the features of the networks: ridge (logistic regression), gradient boosting and a Gaussian process.

Ridge costs seconds, boosting 40 seconds or as long as Lyra, the Gaussian process up to a minute. Hyperparameters are
selected on the validation rows; those of the Gaussian process maximise its likelihood. The baseline of base pairs is
ViennaRNA.

Axes: n rows, T positions, m residues, F features, K columns of measurements, O outputs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from subquad.bio.compared_models import COMPARED_MODELS
from subquad.bio.data.dataset import PAD, Dataset, Inputs, TaskType
from subquad.bio.features.pairs import features_for, features_from_dict
from subquad.bio.features.residues import ResidueFeatures, vector_cost
from subquad.bio.features.rows import Part, part_of
from subquad.bio.metrics.scores import MAIN_METRIC, score
from subquad.bio.models.boosting import Trees, fit_trees
from subquad.bio.models.linear import Linear, SparseMatrix
from subquad.bio.models.members import Members
from subquad.bio.models.ridge import fit_linear, refit_linear
from subquad.bio.models.vienna import predict_pairs
from subquad.errors import reading
from subquad.runs.storage import read_tensors_and_metadata, write_tensors

if TYPE_CHECKING:
    from subquad.bio.models.gaussian_process import GaussianProcess

__all__ = [
    "Baseline",
    "baseline_file",
    "fit_baseline",
    "fit_boosting",
    "fit_gp",
    "fit_ridge",
    "refit_ridge",
]

MAX_RESIDUES = 200_000
"""Maximum number of training residues of the linear model; a random subset beyond."""
MAX_BOOSTING_RESIDUES = 100_000
"""Maximum number of training residues of boosting; a random subset beyond."""
BOOSTING_SECONDS = 40.0
"""Processor time of boosting, unless Lyra takes longer."""
CHUNK = 1 << 17
"""Residues predicted at a time."""


def baseline_file(directory: Path | str, name: str) -> Path:
    """Return the file of a fitted baseline in a run folder."""
    return Path(directory) / f"{name}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A fitted baseline."""

    name: str
    """`ridge`, `embedding-ridge`, `boosting`, `gp`, `vienna` or `vienna_bpp`."""
    task_type: TaskType
    selected: dict[str, Any]
    """Hyperparameters selected on the validation rows, and `validation`, the main metric there."""
    features: Any = None
    """`Features`, or `ResidueFeatures` for one value per residue."""
    model: "Linear | Trees | GaussianProcess | None" = None
    """What was fitted; None for ViennaRNA."""

    def predict(self, inputs: Inputs) -> Any:
        """Return the predictions of new rows; see `Target.outputs` for the shapes."""
        if self._process is not None:
            return self._posterior(self._process, inputs)[0]
        if inputs.is_double_stranded:
            first, second = map(self.predict, _strands(inputs))
            return (first + second) / 2
        if self.task_type == "pairs":
            return predict_pairs(self.name, inputs)
        if not self.task_type.startswith("residue"):
            return self._values(inputs)
        rows, positions = np.nonzero(inputs.codes != PAD)
        predicted = np.zeros((*inputs.codes.shape, cast("Linear | Trees", self.model).outputs))
        chunk = CHUNK // vector_cost(inputs)
        for begin in range(0, len(rows), chunk):
            own = rows[begin : begin + chunk], positions[begin : begin + chunk]
            predicted[own] = self._values(inputs, *own)
        return predicted

    def members(self, inputs: Inputs, *, to_first: bool = False) -> Members:
        """Return the prediction as that of a single member, or as two that differ by a posterior's deviation.

        Args:
            inputs: The rows.
            to_first: The two also have the deviation of the difference to the first row; see `Members.to_first`.
        """
        process = self._process
        if process is None:
            return Members.of_equals([self.predict(inputs)])
        mean, deviation = self._posterior(process, inputs)
        # the sample standard deviation of the two is that of the posterior
        members = Members.of_equals([mean - deviation / np.sqrt(2), mean + deviation / np.sqrt(2)])
        if not to_first:
            return members
        own = [process.deviations_to_first(self.features, strand) for strand in _strands(inputs)]
        deviation = np.mean(own, axis=0)
        return replace(members, to_first=[mean - deviation / np.sqrt(2), mean + deviation / np.sqrt(2)])

    def draws(self, inputs: Inputs, count: int, *, seed: int) -> np.ndarray:
        """Return samples from the joint posterior, `(count, n, K)`, of one strand of the inputs.

        Raises:
            ValueError: The baseline has no posterior.
        """
        if self._process is None:
            raise ValueError(f"{self.name} has no posterior")
        return self._process.draws(self.features, inputs, count, seed=seed)

    def save(self, path: Path | str) -> None:
        """Write the baseline into one file of safetensors: its arrays, and all else as JSON."""
        from torch import from_numpy

        values = {
            "name": self.name,
            "task_type": self.task_type,
            "selected": self.selected,
            "features": None if self.features is None else self.features.as_dict(),
            "model": None if self.model is None else self.model.as_dict(),
        }
        arrays: dict[str, np.ndarray] = {}
        text = json.dumps(_packed(values, arrays))
        write_tensors(path, {name: from_numpy(array) for name, array in arrays.items()}, {"baseline": text})

    @classmethod
    def load(cls, path: Path | str) -> "Baseline":
        """Return the baseline that `save` wrote.

        Raises:
            SubquadError: No such file, or it is not the file of a baseline.
        """
        with reading(path, "a fitted baseline"):
            tensors, header = read_tensors_and_metadata(Path(path))
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            values = _unpacked(json.loads(header["baseline"]), arrays)
            if values["features"] is not None:
                is_residue = values["task_type"].startswith("residue")
                features = ResidueFeatures.from_dict if is_residue else features_from_dict
                values["features"] = features(values["features"])
            if values["model"] is not None:
                values["model"] = _model_class(values["name"]).from_dict(values["model"])
            return cls(**values)

    @property
    def _process(self) -> "GaussianProcess | None":
        return cast("GaussianProcess", self.model) if COMPARED_MODELS[self.name].has_posterior else None

    def _values(self, inputs: Inputs, *residues: np.ndarray) -> np.ndarray:
        if isinstance(self.model, Linear):
            X = self.features.matrix(inputs, *residues)
            return self.model.predict(X, self.task_type.removeprefix("residue_"))
        return cast(Trees, self.model).predict(self.features, inputs, *residues)

    def _posterior(self, process: "GaussianProcess", inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the Gaussian process; on both strands if the inputs have two."""
        means, deviations = zip(*(process.predict(self.features, own) for own in _strands(inputs)), strict=True)
        return np.mean(means, axis=0), np.mean(deviations, axis=0)


def _packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON, in which the names of arrays, which are added to `arrays`, take their places."""
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        # PyTorch has few operations on uint32
        arrays[name] = np.array(value, dtype=np.int64 if value.dtype == np.uint32 else value.dtype, order="C")
        return {"array": name}
    if isinstance(value, Mapping):
        return {name: _packed(part, arrays) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(part, arrays) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpacked(part, arrays) for part in value]
    if not isinstance(value, dict):
        return value
    return arrays[value["array"]] if "array" in value else {k: _unpacked(part, arrays) for k, part in value.items()}


def _strands(inputs: Inputs) -> list[Inputs]:
    """Return the inputs, or both strands of double-stranded ones."""
    if not inputs.is_double_stranded:
        return [inputs]
    return [replace(inputs, is_double_stranded=False), inputs.reverse_complement()]


def _model_class(name: str) -> Any:
    match name:
        case "gp":
            from subquad.bio.models.gaussian_process import GaussianProcess

            return GaussianProcess
        case "boosting":
            return Trees
    return Linear


def fit_baseline(
    name: str, dataset: Dataset, *, seed: int = 0, iterations: int | None = None, seconds: float = BOOSTING_SECONDS
) -> Baseline:
    """Return a fitted baseline by its name.

    ViennaRNA needs no fit: `vienna` predicts the structure of minimum free energy, `vienna_bpp` pair probabilities.

    Args:
        name: A baseline that is no network and suits the task.
        dataset: Data to fit it to.
        seed: Seed of random subsets of the rows.
        iterations: Maximum number of trees. Default: as many as `seconds` allow, at most 500.
        seconds: Approximate processor time of boosting.

    Raises:
        ValueError: There is no such baseline.
    """
    match name:
        case "ridge" | "embedding-ridge":
            return fit_ridge(dataset, seed=seed, name=name)
        case "boosting":
            return fit_boosting(dataset, iterations=iterations, seed=seed, seconds=seconds)
        case "gp":
            return fit_gp(dataset, seed=seed)
        case "vienna" | "vienna_bpp":
            baseline = Baseline(name=name, task_type="pairs", selected={})
            inputs, target = dataset.part("validation")
            value = score(target, baseline.predict(inputs))[MAIN_METRIC["pairs"]] if len(target) else np.nan
            return replace(baseline, selected={"validation": value})
    raise ValueError(f"no fit of the baseline {name!r}")


def fit_ridge(dataset: Dataset, *, seed: int = 0, name: str = "ridge") -> Baseline:
    """Return ridge or logistic regression with the penalty that is best on the validation rows.

    Each column of measurements or labels has its own penalty. Residues are predicted from the letters around them; up
    to `MAX_RESIDUES` are used, drawn with the seed. `embedding-ridge` reads the embedding alone.
    """
    most = 2 * MAX_RESIDUES // (1 + vector_cost(dataset.inputs))
    train, validation = (part_of(dataset, part, most=most, seed=seed) for part in ("train", "validation"))
    features = _features(dataset, train)
    if name == "embedding-ridge":
        features = features.of_block("embedding")
    metric = MAIN_METRIC[dataset.target.task_type]
    linear, selected = fit_linear(features, train, validation, metric=metric, seed=seed)
    return Baseline(name=name, task_type=dataset.target.task_type, selected=selected, features=features, model=linear)


def refit_ridge(ridge: Baseline, dataset: Dataset, X: SparseMatrix, rows: np.ndarray) -> Linear:
    """Return ridge or logistic regression on some rows, with the features and penalties of a fitted one.

    Args:
        ridge: Fitted to training rows with one value or class per row.
        dataset: Targets and weights.
        X: Features of all rows.
        rows: Rows to fit it to.
    """
    return refit_linear(ridge.selected["penalty"], cast(Linear, ridge.model).scale, dataset, X, rows)


def fit_boosting(
    dataset: Dataset, *, iterations: int | None = None, seed: int = 0, seconds: float = BOOSTING_SECONDS
) -> Baseline:
    """Return gradient boosting with the size and number of trees that are best on the validation rows.

    Args:
        dataset: Data to fit it to.
        iterations: Maximum number of trees. Default: as many as `seconds` allow, at most 500.
        seed: Seed of random subsets of residues and rows.
        seconds: Approximate processor time of the fit.
    """
    train, validation = (
        part_of(dataset, name, most=MAX_BOOSTING_RESIDUES, seed=seed) for name in ("train", "validation")
    )
    features, metric = _features(dataset, train), MAIN_METRIC[dataset.target.task_type]
    options = {"metric": metric, "iterations": iterations, "seed": seed, "seconds": seconds}
    trees, selected = fit_trees(features, train, validation, **options)
    predicted = trees.predict(features, validation.inputs, *validation.residues)
    selected = {**selected, "validation": score(validation.target, predicted)[metric]}
    return Baseline(
        name="boosting", task_type=dataset.target.task_type, selected=selected, features=features, model=trees
    )


def fit_gp(dataset: Dataset, *, seed: int = 0) -> Baseline:
    """Return the Gaussian process of measurements; see `subquad.bio.models.gaussian_process`.

    Args:
        dataset: Data to fit it to, with one or more measurements per row.
        seed: Seed of random subsets of the rows.
    """
    from subquad.bio.models.gaussian_process import fit_gaussian_process

    train, validation = (part_of(dataset, name, most=MAX_RESIDUES, seed=seed) for name in ("train", "validation"))
    features = features_for(train.inputs)
    process, selected = fit_gaussian_process(features, train, seed=seed)
    baseline = Baseline(name="gp", task_type="regression", selected={}, features=features, model=process)
    value = score(validation.target, baseline.predict(validation.inputs))[MAIN_METRIC["regression"]]
    return replace(baseline, selected={**selected, "validation": value})


def _features(dataset: Dataset, train: Part) -> Any:
    return (ResidueFeatures.for_inputs if dataset.target.is_residue else features_for)(train.inputs)
