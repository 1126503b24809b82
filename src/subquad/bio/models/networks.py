"""Networks of one model: training with several seeds, averaged predictions, and storage as JSON and tensors.

Axes: n rows, T positions, L letters of a sequence, O outputs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad.bio.data.dataset import Dataset, Inputs
from subquad.bio.features.base import vector_statistics
from subquad.bio.features.pairs import RowFeatures, features_from_dict
from subquad.bio.features.substitutions import reference_of
from subquad.bio.models.additive import binned_features
from subquad.bio.models.baselines import Baseline, fit_ridge
from subquad.bio.models.batches import Priors, predict_net
from subquad.bio.models.initialization import LinearStart, fit_target_scaler, folds_of
from subquad.bio.models.links import linked, log_odds
from subquad.bio.models.lyra import KERNEL, BioNet, NetSpec
from subquad.bio.models.members import Members
from subquad.bio.models.target_scaling import TargetScaler
from subquad.bio.models.training import TrainOptions, ensemble_size_for, initialize_path, train_net
from subquad.bio.models.vienna import pair_probabilities, rna_of
from subquad.bio.settings import FitSettings
from subquad.nn.weights import load_weights
from subquad.train.distributed import broadcast_object

__all__ = ["NetworkEnsemble", "select_positions", "train_networks"]

READ_VECTORS = ("cnn", "lyra", "lyra-alone")
"""Networks that read the vectors of letters by a language model, if there are any."""


@dataclass(frozen=True, kw_only=True)
class NetworkEnsemble:
    """Networks of one model, trained on one dataset with different seeds."""

    spec: NetSpec
    nets: Sequence[BioNet]
    features: RowFeatures | None
    scaler: TargetScaler
    positions: np.ndarray | None
    """Positions of the sequences that the networks read, of two chains one after the other; None for all."""
    prior: Baseline | None = None
    """Ridge regression at which networks of residues start."""
    selected: list[dict[str, Any]] = field(default_factory=list)
    """What the validation rows selected in the training of each network."""

    @property
    def cpu_seconds(self) -> float:
        """Processor time of the training, in seconds."""
        return float(sum(one["cpu_seconds"] for one in self.selected))

    def members(self, inputs: Inputs, priors: Priors = None) -> Members:
        """Return the prediction of each network and their mean; see `Target.outputs` for the shapes."""
        return Members.of_equals(self._predict_each(inputs, priors))

    def predict(self, inputs: Inputs, priors: Priors = None) -> Any:
        """Return the mean prediction of the networks."""
        return self.members(inputs, priors).mean

    def _predict_each(self, inputs: Inputs, priors: Priors) -> list[Any]:
        if inputs.is_double_stranded:
            strands = (replace(inputs, is_double_stranded=False), inputs.reverse_complement())
            both = zip(*(self._predict_each(each, priors) for each in strands), strict=True)
            return [Members.of_equals(pair).mean for pair in both]
        own = inputs if self.positions is None else select_positions(inputs, self.positions)
        if not self.spec.vectors:
            own = replace(own, vectors=None)
        matrix = None if self.features is None else self.features.matrix(inputs)
        if priors is None:
            priors = _priors(inputs, self.spec, self.scaler, self.prior)
        return [
            predict_net(net, own, self.spec.task_type, matrix, scaler=self.scaler, priors=priors) for net in self.nets
        ]

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
    ) -> "NetworkEnsemble":
        """Return the ensemble from the results of `as_dict` and `tensors`.

        Raises:
            KeyError, ValueError: The weights do not fit.
        """
        spec = NetSpec(**{**values["spec"], "reference": tuple(values["spec"]["reference"])})
        features = None if values["features"] is None else features_from_dict(values["features"])
        if features is not None and features.count != spec.features:
            raise ValueError(f"the network reads {spec.features} features, and there are {features.count}")
        nets = []
        for k in range(values["ensemble_size"]):
            prefix = f"{k}."
            own = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
            nets.append(load_weights(partial(_new_net, spec, seed=0), own).eval())
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


def train_networks(
    kind: str,
    dataset: Dataset,
    settings: FitSettings,
    *,
    ridge: Baseline | None,
    start: LinearStart | None,
    path: NetworkEnsemble | None = None,
    positions: np.ndarray | None = None,
    seed: int,
    directory: Path | None,
    quiet: bool,
) -> NetworkEnsemble:
    """Train the networks of one model.

    Args:
        kind: Name of the model; see `NetSpec.kind`, of which `mlp-more` is an `mlp`.
        dataset: Training data.
        settings: Ensemble size, budget and optimizer.
        ridge: Ridge regression at which networks of residues start; None for a random start.
        start: Linear model at which an additive path starts; None for a network without one.
        path: Trained additive path at whose weights the networks start; None for the linear model alone. Its time
            counts as that of the first network.
        positions: Positions that the networks read; None for all.
        seed: Seed of the initial weights and of the order of the rows.
        directory: Folder of the checkpoints.
        quiet: Show no progress bar.
    """
    matrix = None if start is None else start.matrix
    train = None if matrix is None else matrix[dataset.split["train"]]
    if positions is not None:
        dataset = replace(dataset, inputs=select_positions(dataset.inputs, positions))
    if kind not in READ_VECTORS:
        dataset = replace(dataset, inputs=replace(dataset.inputs, vectors=None))
    scaler, count = fit_target_scaler(dataset, settings, kind), ensemble_size_for(dataset, settings, kind)
    is_control = kind == "mlp-more"
    spec = _spec(dataset, "mlp" if is_control else kind, None if start is None else start.features)
    prior = ridge if spec.has_prior and dataset.target.is_residue else None
    priors, vectors = _priors(dataset.inputs, spec, scaler, prior), dataset.inputs.vectors
    began = time.process_time()
    if prior is not None and priors is not None and vectors is not None:
        priors = _out_of_fold_priors(dataset, priors, spec, scaler, seed=seed)
    taken = time.process_time() - began
    statistics = () if vectors is None else vector_statistics(vectors.take(dataset.split["train"]))
    nets, selected = [], []
    for member in range(count):
        name, own_seed = kind if count == 1 else f"{kind} {member + 1}", seed + 1000 * member + 500 * is_control
        options = TrainOptions(scaler=scaler, name=name, seed=own_seed, directory=directory, quiet=quiet)
        net = _new_net(spec, own_seed)
        if statistics:
            net.standardize(*map(torch.from_numpy, statistics))
        if net.additive is not None and start is not None and train is not None:
            initialize_path(net.additive, dataset, start, train)
            if path is not None and path.nets[0].additive is not None:
                net.additive.load_state_dict(path.nets[0].additive.state_dict())
        # which the machines of several processes may have rounded differently
        net.load_state_dict(broadcast_object(net.state_dict()))
        own = {"matrix": matrix, "out_of_fold": None if start is None else start.out_of_fold, "priors": priors}
        selected.append(train_net(net, dataset, settings, options, **own))
        nets.append(net.eval())
    selected[0]["cpu_seconds"] += taken if path is None else path.cpu_seconds
    return NetworkEnsemble(
        spec=spec,
        nets=nets,
        features=None if start is None else start.features,
        scaler=scaler,
        positions=positions,
        prior=prior,
        selected=selected,
    )


def select_positions(inputs: Inputs, positions: np.ndarray) -> Inputs:
    """Return the inputs with some of their positions only, those of two chains counted one after the other."""
    chain = inputs.partner_chain
    if chain is not None:
        T = inputs.codes.shape[1]
        chain = select_positions(chain, positions[positions >= T] - T)
        positions = positions[positions < T]
    partner = None if inputs.partner is None else np.ascontiguousarray(inputs.partner[:, positions])
    codes = np.ascontiguousarray(inputs.codes[:, positions])
    vectors = None if inputs.vectors is None else inputs.vectors.select(positions)
    return replace(inputs, codes=codes, partner=partner, partner_chain=chain, vectors=vectors)


def _spec(dataset: Dataset, kind: str, features: RowFeatures | None) -> NetSpec:
    inputs, target = dataset.inputs, dataset.target
    return NetSpec(
        task_type=target.task_type,
        letters=inputs.letters,
        outputs=target.outputs,
        kind=kind,
        kernel=KERNEL if kind in ("lyra", "lyra-alone") else 0,
        reference=_reference(dataset) if kind in READ_VECTORS else (),
        positions=inputs.all_positions if inputs.are_aligned and kind != "lyra-paper" else 0,
        has_partner=inputs.partner is not None,
        partner_letters=0 if inputs.partner_chain is None else inputs.partner_chain.letters,
        vectors=0 if inputs.vectors is None else inputs.vectors.dimensions,
        features=0 if features is None else features.count,
        binned=len(binned_features(features)) if features is not None and kind == "mlp" else 0,
        has_prior=kind == "lyra" and (target.task_type == "pairs" or target.is_residue),
    )


def _reference(dataset: Dataset) -> tuple[int, ...]:
    """Return the reference of aligned proteins, in the positions that the network reads; empty for other inputs."""
    inputs, target = dataset.inputs, dataset.target
    # letters of two alphabets are not compared
    if not target.is_row or not inputs.has_substitutions or len({chain.letters for chain in inputs.chains}) > 1:
        return ()
    train = dataset.split["train"]
    return tuple(int(code) for chain in inputs.chains for code in reference_of(chain.codes[train], chain.letters))


def _priors(inputs: Inputs, spec: NetSpec, scaler: TargetScaler, ridge: Baseline | None) -> Priors:
    """Return the starting logits of networks of residues (ridge) and pairs (ViennaRNA, or zeros); None for others."""
    if spec.task_type == "pairs":
        if not spec.has_prior:
            return [np.zeros((length, length), dtype=np.float32) for length in inputs.lengths]
        return [log_odds(values, 1e-3).astype(np.float32) for values in pair_probabilities(rna_of(inputs))]
    if not spec.has_prior or ridge is None:
        return None
    found = ridge.predict(inputs)
    is_measured = spec.task_type == "residue_regression"
    start = scaler.transform(found) if is_measured else linked(found, spec.task_type, 1e-4)
    return [own[:length].astype(np.float32) for own, length in zip(start, inputs.lengths, strict=True)]


def _out_of_fold_priors(
    dataset: Dataset, priors: Sequence[np.ndarray], spec: NetSpec, scaler: TargetScaler, *, seed: int
) -> Priors:
    """Return the logits of residues with those of training rows from ridge regression on the other folds.

    With a language model's vectors ridge has hundreds of features and fits its own training rows better than others,
    so that the network would find little left to learn. Windows of letters alone are few features for many residues.
    """
    train, fold, found = dataset.split["train"], folds_of(dataset, seed), list(priors)
    for number in np.unique(fold) if len(np.unique(fold)) > 1 else ():
        split = {**dataset.split, "train": train[fold != number]}
        rows = train[fold == number]
        ridge = fit_ridge(replace(dataset, split=split), seed=seed)
        for row, own in zip(rows, _priors(dataset.inputs.take(rows), spec, scaler, ridge) or (), strict=True):
            found[row] = own
    return found


def _new_net(spec: NetSpec, seed: int) -> BioNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BioNet(spec)
