"""Ensemble of networks: training with several seeds, averaged predictions, and storage as JSON and tensors.

Axes: n rows, T positions, L letters of a sequence, O outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from subquad.bio.data.dataset import Dataset, Inputs
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.models.additive import AdditiveBranch, binned_features
from subquad.bio.models.baselines import Baseline
from subquad.bio.models.batches import Priors, predict_net
from subquad.bio.models.initialization import fit_linear_start, fit_target_scaler
from subquad.bio.models.lyra import BioNet, NetSpec
from subquad.bio.models.target_scaling import TargetScaler
from subquad.bio.models.training import TrainOptions, ensemble_size_for, initialize_branch, train_branch, train_net
from subquad.bio.models.vienna import pair_probabilities, rna_of
from subquad.bio.settings import FitSettings

__all__ = ["NetEnsemble", "ensemble_mean", "ensemble_std", "fit_ensemble", "select_positions"]

MLP_BRANCHES = 4
"""MLP branches over all networks of an ensemble: their mean is better than one, and they cost seconds."""


@dataclass(frozen=True, kw_only=True)
class NetEnsemble:
    """Networks of one preset, trained on one dataset with different seeds."""

    spec: NetSpec
    nets: Sequence[BioNet]
    features: SequenceFeatures | None
    scaler: TargetScaler
    positions: np.ndarray | None
    """Positions of the sequences that the networks use; None for all."""
    prior: Baseline | None = None
    """Ridge regression at which networks of residues start."""
    selected: list[dict[str, Any]] = field(default_factory=list)
    """What the validation rows selected in the training of each network."""

    @property
    def seconds(self) -> float:
        """Time of the training, in seconds."""
        own = (one["seconds"] + sum(branch["seconds"] for branch in one.get("branches", ())) for one in self.selected)
        return float(sum(own))

    @property
    def blending(self) -> dict[str, float]:
        """Weight of each component of the prediction: the linear model, each MLP, and Lyra; they sum to one."""
        weights = {"linear": 0.0} if self.spec.features else {}
        for net in self.nets:
            mlp, lyra = net.blending.tolist() if self.spec.features else (0.0, 1.0)
            count = len(self.nets) * self.spec.mlp_branches
            for _ in range(self.spec.mlp_branches if self.spec.features else 0):
                weights[f"mlp_{sum(name.startswith('mlp') for name in weights) + 1}"] = mlp / count
            if self.spec.features:
                weights["linear"] += (1 - mlp - lyra) / len(self.nets)
            if self.spec.has_sequence:
                weights["lyra"] = weights.get("lyra", 0.0) + lyra / len(self.nets)
        return {name: round(weight, 4) for name, weight in weights.items()}

    def predict_each(self, inputs: Inputs, priors: Priors = None) -> list[Any]:
        """Return the prediction of each network; see `Target.outputs` for the shapes."""
        if inputs.is_double_stranded:
            strands = (replace(inputs, is_double_stranded=False), inputs.reverse_complement())
            return [ensemble_mean(both) for both in zip(*(self.predict_each(each) for each in strands), strict=True)]
        own = inputs if self.positions is None else select_positions(inputs, self.positions)
        matrix = None if self.features is None else self.features.matrix(inputs)
        if priors is None:
            priors = _priors(inputs, self.spec, self.scaler, self.prior)
        return [
            predict_net(net, own, self.spec.task_type, matrix, scaler=self.scaler, priors=priors) for net in self.nets
        ]

    def predict(self, inputs: Inputs, priors: Priors = None) -> Any:
        """Return the mean prediction of the networks."""
        return ensemble_mean(self.predict_each(inputs, priors))

    def as_dict(self) -> dict[str, Any]:
        """Return everything except the weights as a JSON object."""
        return {
            "spec": asdict(self.spec),
            "features": None if self.features is None else self.features.as_dict(),
            "scaler": self.scaler.as_dict(),
            "positions": None if self.positions is None else self.positions.tolist(),
            "ensemble_size": len(self.nets),
            "selected": self.selected,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights of all networks."""
        return {f"{k}.{name}": tensor for k, net in enumerate(self.nets) for name, tensor in net.state_dict().items()}

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], prior: Baseline | None = None
    ) -> "NetEnsemble":
        """Return the ensemble from the results of `as_dict` and `tensors`.

        Raises:
            KeyError, RuntimeError: The weights do not fit.
        """
        spec = NetSpec(**values["spec"])
        features = None if values["features"] is None else SequenceFeatures.from_dict(values["features"])
        nets = []
        for k in range(values["ensemble_size"]):
            net, prefix = BioNet(spec), f"{k}."
            net.load_state_dict({key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)})
            nets.append(net.eval())
        positions = None if values["positions"] is None else np.asarray(values["positions"], dtype=np.int64)
        return cls(
            spec=spec,
            nets=nets,
            features=features,
            scaler=TargetScaler.from_dict(values["scaler"]),
            positions=positions,
            prior=prior,
            selected=values["selected"],
        )


def fit_ensemble(
    dataset: Dataset,
    settings: FitSettings,
    ridge: Baseline | None,
    *,
    positions: np.ndarray | None = None,
    seed: int,
    directory: Path | None,
    quiet: bool,
) -> NetEnsemble:
    """Train the networks of one preset.

    Args:
        dataset: Training data.
        settings: Preset, ensemble size, budget and optimizer.
        ridge: Ridge regression at which or near which the networks start; None for a random start.
        positions: Positions that Lyra reads; None for all.
        seed: Seed of the initial weights and of the order of the rows.
        directory: Folder of the checkpoints.
        quiet: Show no progress bar.
    """
    whole = dataset
    if positions is not None:
        dataset = replace(dataset, inputs=select_positions(dataset.inputs, positions))
    scaler, count = fit_target_scaler(dataset, settings), ensemble_size_for(dataset, settings)
    features = None if ridge is None or dataset.target.is_residue else ridge.features
    spec = _spec(dataset, settings.preset, features, mlp_branches=-(-MLP_BRANCHES // count))
    prior = ridge if spec.has_prior and dataset.target.is_residue else None
    priors = _priors(dataset.inputs, spec, scaler, prior)
    start, matrix, train = None, None, None
    if ridge is not None and features is not None:
        start = fit_linear_start(whole, ridge, settings, seed=seed)
        matrix = features.matrix(whole.inputs)
        train = matrix[dataset.split["train"]]
    nets, selected = [], []
    for member in range(count):
        name = settings.preset if count == 1 else f"{settings.preset} {member + 1}"
        own_seed = seed + 1000 * member
        options = TrainOptions(scaler=scaler, name=name, seed=own_seed, directory=directory, quiet=quiet)
        net, found = _new_net(spec, own_seed), {}
        if start is not None:
            found = {"start": start.selected, "branches": []}
            for k, branch in enumerate(cast("list[AdditiveBranch]", list(net.mlp_branches or ()))):
                # every second MLP uses the sparse features: neither choice is best everywhere
                initialize_branch(branch, dataset, start, train, uses_sparse=(member + k) % 2 == 1)
                own = replace(options, name=f"{name} MLP {k + 1}", seed=own_seed + k)
                found["branches"].append(train_branch(branch, dataset, settings, matrix, own))
            if net.lyra_branch is not None:
                initialize_branch(net.lyra_branch, dataset, start, train)
        selected.append(found | train_net(net, dataset, settings, options, matrix=matrix, priors=priors))
        nets.append(net.eval())
    return NetEnsemble(
        spec=spec, nets=nets, features=features, scaler=scaler, positions=positions, prior=prior, selected=selected
    )


def ensemble_mean(predictions: Sequence[Any]) -> Any:
    """Return the mean of predictions of several networks."""
    if isinstance(predictions[0], list):
        return [np.mean(each, axis=0) for each in zip(*predictions, strict=True)]
    return np.mean(predictions, axis=0)


def ensemble_std(predictions: Sequence[Any]) -> np.ndarray | None:
    """Return the standard deviation of predictions of several networks; None for one network or for base pairs."""
    if len(predictions) < 2 or isinstance(predictions[0], list):
        return None
    return np.std(predictions, axis=0, ddof=1)


def select_positions(inputs: Inputs, positions: np.ndarray) -> Inputs:
    """Return the inputs with some of their positions only."""
    partner = None if inputs.partner is None else np.ascontiguousarray(inputs.partner[:, positions])
    return replace(inputs, codes=np.ascontiguousarray(inputs.codes[:, positions]), partner=partner)


def _spec(dataset: Dataset, preset: str, features: SequenceFeatures | None, *, mlp_branches: int) -> NetSpec:
    inputs, target = dataset.inputs, dataset.target
    T = inputs.codes.shape[1]
    return NetSpec(
        task_type=target.task_type,
        letters=inputs.letters,
        outputs=target.outputs,
        preset=preset,
        positions=T if inputs.is_aligned and preset == "auto" else 0,
        has_sequence=T > 0,
        has_partner=inputs.partner is not None,
        features=0 if features is None else features.count,
        mlp_branches=mlp_branches,
        binned=0 if features is None else len(binned_features(features)),
        has_prior=preset == "auto" and (target.task_type == "pairs" or target.is_residue),
    )


def _priors(inputs: Inputs, spec: NetSpec, scaler: TargetScaler, ridge: Baseline | None) -> Priors:
    """Return the logits at which networks of residues (ridge) and of pairs (ViennaRNA) start; None for others."""
    if spec.task_type == "pairs":
        if not spec.has_prior:
            return [np.zeros((length, length), dtype=np.float32) for length in inputs.lengths]
        clipped = [np.clip(values, 1e-3, 1 - 1e-3) for values in pair_probabilities(rna_of(inputs))]
        return [np.log(values / (1 - values)).astype(np.float32) for values in clipped]
    if not spec.has_prior or ridge is None:
        return None
    found = ridge.predict(inputs)
    if spec.task_type == "residue_regression":
        start = scaler.transform(found)
    else:
        clipped = np.clip(found, 1e-4, 1 - 1e-4)
        start = np.log(clipped if spec.outputs > 1 else clipped / (1 - clipped))
    return [own[:length].astype(np.float32) for own, length in zip(start, inputs.lengths, strict=True)]


def _new_net(spec: NetSpec, seed: int) -> BioNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BioNet(spec)
