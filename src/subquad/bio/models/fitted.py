"""A fitted model, opened from the folder that `subquad bio fit` or an estimator's `save` wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subquad.bio.data.dataset import Inputs, InputSchema
from subquad.bio.data.table import inputs_of
from subquad.bio.metrics.compared_models import baselines_for
from subquad.bio.models.baselines import Baseline, baseline_file
from subquad.bio.models.ensemble import NetEnsemble
from subquad.bio.models.stacking import Stacking
from subquad.errors import SubquadError, unknown
from subquad.runs.folder import load_config, load_tensors

__all__ = ["BioModel", "load_ensemble"]


@dataclass(frozen=True, kw_only=True)
class BioModel:
    """A fitted model, opened from its folder."""

    net: NetEnsemble
    """The networks."""
    schema: InputSchema
    """How the inputs of the training table were read."""
    config: dict[str, Any]
    """Contents of `config.json`."""
    directory: Path

    @classmethod
    def load(cls, directory: Path | str) -> "BioModel":
        """Return the model in a folder that `subquad bio fit` or an estimator's `save` wrote.

        Raises:
            SubquadError: There is none, or its weights do not fit its `config.json`.
        """
        config = load_config(directory, "bio")
        net = load_ensemble(directory, config)
        try:
            schema = InputSchema.from_dict(config["inputs"])
            model = cls(net=net, schema=schema, config=config, directory=Path(directory))
            # read here, so that a damaged file is noticed before anything is predicted
            _ = (model.classes, model.names, model.models, schema.letters, config["observed_letters"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SubquadError(f"{directory}: its config.json is damaged ({error!r}); fit again") from error
        return model

    @property
    def task_type(self) -> str:
        """Task type; see `subquad.bio.data.dataset.TASK_TYPES`."""
        return self.net.spec.task_type

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
        """Names of the models in the folder; an estimator saves its networks only."""
        return tuple(self.config["models"])

    def check_model(self, name: str) -> None:
        """Check that the folder holds a model.

        Raises:
            SubquadError: It does not.
        """
        if name in self.models:
            return
        if self.models == ("net",) and name in (*baselines_for(self.task_type), "stack"):
            raise SubquadError(
                f"{self.directory}: holds the network of an estimator only, and no {name}; predict with --model net, "
                "or fit with `subquad bio fit`, which saves all models"
            )
        raise unknown("model", name, self.models)

    def predict(self, inputs: Inputs) -> Any:
        """Return the mean prediction of the networks in the target's units; see `Target.outputs` for the shapes."""
        return self.net.predict(inputs)

    def predict_by(self, name: str, inputs: Inputs) -> Any:
        """Return the prediction of the network, a baseline or their stack, as `predict` does.

        Raises:
            SubquadError: The folder holds no such model.
        """
        self.check_model(name)
        if name == "net":
            return self.predict(inputs)
        if name == "stack":
            stacking = Stacking.from_dict(self.config["stacking"])
            used = [own for own, weight in stacking.weights.items() if weight]
            return stacking.predict({own: self.predict_by(own, inputs) for own in used})
        return Baseline.load(baseline_file(self.directory, name)).predict(inputs)

    def predict_each(self, inputs: Inputs) -> np.ndarray:
        """Return the prediction of each network: `(ensemble size, …)`."""
        return np.stack(self.net.predict_each(inputs))

    def warn_unobserved(self, inputs: Inputs) -> list[str]:
        """Return a warning if sequences have a letter at a position where no training sequence had it."""
        observed = self.config["observed_letters"]
        if observed is None:
            return []
        is_new = np.zeros(len(inputs), dtype=bool)
        for column, letters in zip(inputs.codes.T, observed, strict=True):
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
        """Return the mean prediction for sequences."""
        return self.predict(self.inputs_of(sequences))

    def predict_each_of_sequences(self, sequences: Sequence[str]) -> np.ndarray:
        """Return the prediction of each network for sequences: `(ensemble size, n, O)`."""
        return self.predict_each(self.inputs_of(sequences))


def load_ensemble(directory: Path | str, config: dict[str, Any]) -> NetEnsemble:
    """Return the networks in a folder with the given `config.json`.

    Raises:
        SubquadError: The weights do not fit.
    """
    try:
        spec = config["model"]["spec"]
        starts_at_ridge = spec["has_prior"] and spec["task_type"] != "pairs"
        prior = Baseline.load(baseline_file(directory, "ridge")) if starts_at_ridge else None
        return NetEnsemble.from_dict(config["model"], load_tensors(directory), prior)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise SubquadError(f"{directory}: the weights do not fit its config.json; fit again") from error
