"""A fitted model, opened from the folder that `subquad bio fit` or an estimator's `save` wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from subquad.bio.compared_models import ENSEMBLE, members_of
from subquad.bio.data.dataset import Inputs, InputSchema
from subquad.bio.data.names import folder_and_config
from subquad.bio.data.table import inputs_of
from subquad.bio.metrics.conformal import Conformal
from subquad.bio.models.baselines import Baseline, baseline_file
from subquad.bio.models.members import Members, finite_members
from subquad.bio.models.networks import NetworkEnsemble
from subquad.bio.models.stacking import Stacking, combine
from subquad.errors import reading, unknown
from subquad.runs.folder import load_tensors

__all__ = ["BioModel", "load_networks", "network_tensors"]

INTERVAL = 0.9
"""Level of the intervals beside predictions."""


@dataclass(frozen=True, kw_only=True)
class BioModel:
    """The fitted models of one run, opened from its folder."""

    networks: Mapping[str, NetworkEnsemble]
    """The models that are networks, by name."""
    schema: InputSchema
    """How the inputs of the training table were read."""
    stacking: Stacking | None
    """The ensemble, if the folder has one."""
    config: dict[str, Any]
    """Contents of `config.json`."""
    directory: Path

    @classmethod
    def load(cls, directory: Path | str) -> "BioModel":
        """Return the models in a folder that `subquad bio fit` or an estimator's `save` wrote.

        Raises:
            SubquadError: There are none, or the weights do not fit the `config.json`.
        """
        directory, config = folder_and_config(directory)
        with reading(directory, "a model"):
            networks, schema = load_networks(directory, config), InputSchema.from_dict(config["inputs"])
            stacking = Stacking.from_dict(config["stacking"]) if ENSEMBLE in config["models"] else None
            _ = [config["target"][name] for name in ("task_type", "classes", "names")]
        return cls(networks=networks, schema=schema, stacking=stacking, config=config, directory=directory)

    @property
    def default(self) -> str:
        """Name of the model that predicts if none is named: the ensemble, or the last of the models in the folder."""
        return self.models[-1]

    @property
    def task_type(self) -> str:
        """Task type; see `subquad.bio.data.dataset.TASK_TYPES`."""
        return self.config["target"]["task_type"]

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty if measurements are predicted."""
        return self.config["target"]["classes"]

    @property
    def names(self) -> list[str]:
        """Columns of the table that are predicted."""
        return self.config["target"]["names"]

    @property
    def alphabet(self) -> str:
        """Letters of the alphabet."""
        return self.schema.letters

    @property
    def wild_type(self) -> str | None:
        """Sequence that the variants are substitutions of, if the table has one."""
        return self.schema.wild_type

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models in the folder, the ensemble last; an estimator saves one."""
        return tuple(self.config["models"])

    def check_model(self, name: str) -> None:
        """Check that the folder holds a model, and read its files once: searches predict hundreds of times.

        Raises:
            SubquadError: It does not, or they cannot be read.
        """
        if name not in self.models:
            raise unknown("model", name, self.models)
        for member in self._used(name):
            if member not in self.networks and member not in self._baselines:
                self._baselines[member] = Baseline.load(baseline_file(self.directory, member))

    def members(self, inputs: Inputs, name: str | None = None, *, to_first: bool = False) -> Members:
        """Return the prediction of a model in the target's units, and those of its members.

        Args:
            inputs: The rows.
            name: Name of the model. Default: `default`.
            to_first: Prepare the deviations of differences to the first row; see `Members.to_first`.

        Raises:
            SubquadError: The folder holds no such model, or predictions are not finite.
        """
        name = name or self.default
        self.check_model(name)
        return finite_members(lambda: self._members(inputs, name, to_first), inputs, self.schema.covariates)

    def _members(self, inputs: Inputs, name: str, to_first: bool) -> Members:
        if name == ENSEMBLE and self.stacking is not None:
            return combine(self.stacking, {own: self._members(inputs, own, to_first) for own in self._used(name)})
        if name in self.networks:
            return self.networks[name].members(inputs)
        return self._baselines[name].members(inputs, to_first=to_first)

    def _used(self, name: str) -> list[str]:
        """Return the models that a model consists of: itself, or those of the ensemble that have a weight."""
        if name != ENSEMBLE or self.stacking is None:
            return [name]
        return [member for member, weight in self.stacking.weights.items() if weight]

    def predict(self, inputs: Inputs, name: str | None = None) -> Any:
        """Return the prediction of a model; see `members`, and `Target.outputs` for the shapes."""
        return self.members(inputs, name).mean

    def interval(
        self, prediction: np.ndarray, spread: np.ndarray | None, *, name: str, column: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return both ends of the 90 % interval of predictions, `(n,)` each; infinite if too few rows were held out.

        Args:
            prediction: `(n,)` predictions of one column of measurements.
            spread: `(n,)` standard deviation over the members; None for a single one.
            name: Name of the model.
            column: The column, from 0.

        Returns:
            The ends; None if the fit calibrated no interval.
        """
        saved = self.config.get("selected", {}).get("conformal", {}).get(name, ())
        values = saved[column] if column < len(saved) else None
        with reading(self.directory, "a model"):
            return None if values is None else Conformal.from_dict(values).interval(prediction, spread, INTERVAL)

    @cached_property
    def _baselines(self) -> dict[str, Baseline]:
        """Baselines that were read already."""
        return {}

    @property
    def positions(self) -> np.ndarray | None:
        """Positions that the networks of the default model read; None for all."""
        names = members_of(self.models[:-1]) if self.default == ENSEMBLE else (self.default,)
        return next((self.networks[name].positions for name in names if name in self.networks), None)

    def warn_unobserved(self, inputs: Inputs) -> list[str]:
        """Return a warning if sequences have a letter at a position where no training sequence had it."""
        is_new = np.zeros(len(inputs), dtype=bool)
        for chain, key in zip(inputs.chains, ("observed_letters", "observed_partner_letters"), strict=False):
            for column, letters in zip(chain.codes.T, self.config.get(key) or [], strict=False):
                is_new |= ~np.isin(column, letters)
        if not is_new.any():
            return []
        return [
            f"{is_new.sum():,} of {len(inputs):,} sequences have a letter at a position where no training sequence had "
            "it; the models extrapolate there"
        ]

    def inputs_of(self, sequences: Sequence[str]) -> Inputs:
        """Return sequences as inputs; a partner sequence precedes `|`, as in `guide|context`.

        Raises:
            SubquadError: Letters outside the alphabet, wrong lengths, or the model needs covariates.
        """
        return inputs_of(self.schema, sequences)

    def predict_sequences(self, sequences: Sequence[str]) -> Any:
        """Return the predictions of the default model for sequences.

        Raises:
            TypeError: A single sequence is not in a list.
        """
        if isinstance(sequences, str):
            raise TypeError("give the sequences as a list, also a single one")
        return self.predict(self.inputs_of(sequences))

    def members_of_sequences(self, sequences: Sequence[str], *, to_first: bool = False) -> Members:
        """Return the predictions of the default model for sequences, and those of its members: `(n, O)` each."""
        return self.members(self.inputs_of(sequences), to_first=to_first)

    def posterior_draws(self, sequences: Sequence[str], count: int, *, seed: int) -> np.ndarray:
        """Return samples from the joint posterior of the default model, `(count, n, K)`; see `Baseline.draws`."""
        self.check_model(self.default)
        return self._baselines[self.default].draws(self.inputs_of(sequences), count, seed=seed)


def network_tensors(networks: Mapping[str, NetworkEnsemble]) -> dict[str, Tensor]:
    """Return the weights of networks, as `load_networks` reads them."""
    return {f"{name}.{key}": x for name, own in networks.items() for key, x in own.tensors().items()}


def load_networks(directory: Path | str, config: Mapping[str, Any]) -> dict[str, NetworkEnsemble]:
    """Return the networks in a folder with the given `config.json`, by name."""
    found, tensors = {}, load_tensors(directory) if config["networks"] else {}
    for name, values in config["networks"].items():
        prefix, spec = f"{name}.", values["spec"]
        weights = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
        starts_at_ridge = spec["has_prior"] and spec["task_type"] != "pairs"
        prior = Baseline.load(baseline_file(directory, "ridge")) if starts_at_ridge else None
        found[name] = NetworkEnsemble.from_dict(values, weights, prior)
    return found
