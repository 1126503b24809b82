"""A fitted model, opened from the folder that `subquad bio fit` or an estimator's `save` wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from subquad.bio.compared_models import COMPARED_MODELS, ENSEMBLE, members_of
from subquad.bio.data.dataset import Inputs, InputSchema
from subquad.bio.data.table import inputs_of
from subquad.bio.metrics.conformal import Conformal
from subquad.bio.models.baselines import Baseline, baseline_file
from subquad.bio.models.members import Members, finite_members
from subquad.bio.models.networks import NetworkEnsemble
from subquad.bio.models.saved_config import check_config
from subquad.bio.models.stacking import Stacking, combine
from subquad.errors import SubquadError, unknown
from subquad.runs.checksums import check_if_present
from subquad.runs.damage import damage, damage_as_error
from subquad.runs.examples import run_folder
from subquad.runs.folder import CONFIG, load_config, load_tensors

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
    config: dict[str, Any]
    """Contents of `config.json`."""
    directory: Path

    @classmethod
    def load(cls, directory: Path | str) -> "BioModel":
        """Return the models in a folder that `subquad bio fit` or an estimator's `save` wrote.

        Raises:
            SubquadError: There are none, or the weights do not fit the `config.json`.
        """
        directory = run_folder(directory)
        config = load_config(directory, "bio")
        check_config(config, directory)
        try:
            networks = load_networks(directory, config)
            schema = InputSchema.from_dict(config["inputs"])
            model = cls(networks=networks, schema=schema, config=config, directory=directory)
            if ENSEMBLE in model.models:
                Stacking.from_dict(config["stacking"])
        except damage() as error:
            raise SubquadError(f"{directory}: its config.json is damaged ({error!r}); fit again") from error
        return model

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
        """Check that the folder holds a model.

        Raises:
            SubquadError: It does not.
        """
        if name in self.models:
            return
        if len(self.models) == 1 and name in COMPARED_MODELS:
            own = self.models[0]
            raise SubquadError(
                f"{self.directory}: holds {own} only, and no {name}; predict with --model {own}, or fit several models "
                "with `subquad bio fit`"
            )
        raise unknown("model", name, self.models)

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
        if name == ENSEMBLE:
            stacking = Stacking.from_dict(self.config["stacking"])
            used = [own for own, weight in stacking.weights.items() if weight]
            return combine(stacking, {own: self._members(inputs, own, to_first) for own in used})
        if name in self.networks:
            return self.networks[name].members(inputs)
        return self._baseline(name).members(inputs, to_first=to_first)

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

        Raises:
            SubquadError: What the fit saved is damaged.
        """
        saved = self.config.get("selected", {}).get("conformal", {}).get(name, ())
        values = saved[column] if column < len(saved) else None
        if values is None:
            return None
        with damage_as_error(f"{self.directory / CONFIG}: selected: conformal: {name} is damaged; fit again"):
            return Conformal.from_dict(values).interval(prediction, spread, INTERVAL)

    def _baseline(self, name: str) -> Baseline:
        if name not in self._baselines:
            self._baselines[name] = _load_baseline(self.directory, name)
        return self._baselines[name]

    @cached_property
    def _baselines(self) -> dict[str, Baseline]:
        """Baselines that were read already: searches predict hundreds of times."""
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
        return self._baseline(self.default).draws(self.inputs_of(sequences), count, seed=seed)


def network_tensors(networks: Mapping[str, NetworkEnsemble]) -> dict[str, Tensor]:
    """Return the weights of networks, as `load_networks` reads them."""
    return {f"{name}.{key}": x for name, own in networks.items() for key, x in own.tensors().items()}


def load_networks(directory: Path | str, config: Mapping[str, Any]) -> dict[str, NetworkEnsemble]:
    """Return the networks in a folder with the given `config.json`, by name.

    Raises:
        SubquadError: The weights do not fit.
    """
    found = {}
    try:
        tensors = load_tensors(directory) if config["networks"] else {}
        for name, values in config["networks"].items():
            prefix, spec = f"{name}.", values["spec"]
            own = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
            starts_at_ridge = spec["has_prior"] and spec["task_type"] != "pairs"
            prior = _load_baseline(directory, "ridge") if starts_at_ridge else None
            found[name] = NetworkEnsemble.from_dict(values, own, prior)
    except damage() as error:
        raise SubquadError(f"{directory}: the weights do not fit its config.json; fit again") from error
    return found


def _load_baseline(directory: Path | str, name: str) -> Baseline:
    """Return a baseline of a run.

    Raises:
        SubquadError: Its file is missing, damaged, or that of another baseline or run.
    """
    path = baseline_file(directory, name)
    check_if_present(path)
    found = Baseline.load(path)
    if found.name != name:
        raise SubquadError(f"{path}: holds the baseline {found.name}; copy the whole folder again")
    return found
