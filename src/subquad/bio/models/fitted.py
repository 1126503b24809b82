"""Fitted nets: how they are made, kept in a folder and opened again, and what they predict."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subquad.bio.data.dataset import PAD, Dataset, Inputs, InputSchema
from subquad.bio.data.table import inputs_of
from subquad.bio.features.sequences import Features
from subquad.bio.models.additive import binned_features, initialize_branch, train_branch
from subquad.bio.models.baselines import Baseline, baselines_for
from subquad.bio.models.initialization import fit_linear_start, fit_target_scaler
from subquad.bio.models.lyra import BioNet, NetSpec
from subquad.bio.models.stacking import Stacking
from subquad.bio.models.target_scaling import TargetScaler
from subquad.bio.models.training import Priors, ensemble_size_for, outputs, train_net
from subquad.bio.settings import FitSettings
from subquad.errors import SubquadError, unknown
from subquad.runs.folder import load_config, load_tensors

__all__ = ["BioModel", "NetEnsemble", "drop_constant_positions", "ensemble_mean", "fit_ensemble"]

PATHS = 4
"""Of features with an MLP, over all members: their mean is better than one, and they cost seconds."""


@dataclass(frozen=True, kw_only=True)
class NetEnsemble:
    """Nets of one preset that were trained on one problem, and what turns inputs into predictions with them."""

    spec: NetSpec
    nets: Sequence[BioNet]
    features: Features | None
    scale: TargetScaler
    positions: np.ndarray | None
    """Of the inputs, which are looked at; None: all."""
    prior: Baseline | None = None
    """Of residues: the ridge that the nets start at."""
    facts: list[dict[str, Any]] = field(default_factory=list)
    """What was decided in the training of each."""
    seconds: float = 0.0

    def predict_each(self, inputs: Inputs, priors: Priors = None) -> list[Any]:
        """Return the prediction of each net; see `Target.outputs` for the shapes."""
        if inputs.is_double_stranded:
            strands = (replace(inputs, is_double_stranded=False), inputs.reverse_complement())
            return [ensemble_mean(both) for both in zip(*(self.predict_each(each) for each in strands), strict=True)]
        own = inputs if self.positions is None else _cut(inputs, self.positions)
        task_type = self.spec.task_type
        if priors is None:
            priors = priors_of(inputs, self.spec, self.scale, self.prior)
        return [outputs(net, own, task_type=task_type, scale=self.scale, priors=priors) for net in self.nets]

    def predict(self, inputs: Inputs, priors: Priors = None) -> Any:
        """Return the mean prediction of the nets."""
        return ensemble_mean(self.predict_each(inputs, priors))

    def as_dict(self) -> dict[str, Any]:
        """Return all but the weights as what JSON can hold."""
        return {
            "spec": self.spec.as_dict(),
            "features": None if self.features is None else self.features.as_dict(),
            "scale": self.scale.as_dict(),
            "positions": None if self.positions is None else self.positions.tolist(),
            "ensemble_size": len(self.nets),
            "facts": self.facts,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights of all nets."""
        return {f"{k}.{name}": tensor for k, net in enumerate(self.nets) for name, tensor in net.state_dict().items()}

    @classmethod
    def from_dict(cls, said: dict[str, Any], tensors: dict[str, torch.Tensor], prior: Baseline | None = None) -> "NetEnsemble":
        """Return the nets that `plain` and `tensors` described.

        Raises:
            KeyError, RuntimeError: the weights do not fit.
        """
        spec = NetSpec(**said["spec"])
        features = None if said["features"] is None else Features.from_dict(said["features"])
        nets = []
        for member in range(said["ensemble_size"]):
            net = BioNet(spec, features)
            start = f"{member}."
            net.load_state_dict({k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)})
            nets.append(net.eval())
        positions = None if said["positions"] is None else np.asarray(said["positions"], dtype=np.int64)
        scale = TargetScaler.from_dict(said["scale"])
        return cls(
            spec=spec,
            nets=nets,
            features=features,
            scale=scale,
            positions=positions,
            prior=prior,
            facts=said["facts"],
        )


@dataclass(frozen=True, kw_only=True)
class BioModel:
    """A fitted model, opened from its folder.

    Attributes:
        nets: what predicts.
        schema: How the inputs of the training table were read.
        config: all of `config.json`.
        directory: its folder.
    """

    nets: NetEnsemble
    schema: InputSchema
    config: dict[str, Any]
    directory: Path

    @classmethod
    def load(cls, directory: Path | str) -> "BioModel":
        """Return the model that `subquad bio fit` wrote into a folder.

        Raises:
            SubquadError: there is none, or its weights do not fit its `config.json`.
        """
        config = load_config(directory, "bio")
        try:
            spec = config["model"]["spec"]
            starts_at_ridge = spec["has_prior"] and spec["task_type"] != "pairs"
            prior = Baseline.load(Path(directory) / "ridge.skops") if starts_at_ridge else None
            nets = NetEnsemble.from_dict(config["model"], load_tensors(directory), prior)
        except (KeyError, RuntimeError, TypeError) as error:
            raise SubquadError(f"{directory}: the weights do not fit its config.json; fit again") from error
        return cls(nets=nets, schema=InputSchema.from_json(config["inputs"]), config=config, directory=Path(directory))

    @property
    def task_type(self) -> str:
        """Of the target; see `dataset.TASK_TYPES`."""
        return self.nets.spec.task_type

    @property
    def classes(self) -> list[str]:
        """Names of the classes; none where measurements are predicted."""
        return self.config["target"]["classes"]

    @property
    def names(self) -> list[str]:
        """Columns of the table that are predicted."""
        return self.config["target"]["names"]

    @property
    def alphabet(self) -> str:
        """The letters of a sequence."""
        return self.schema.letters

    @property
    def wild_type(self) -> str | None:
        """The sequence that variants are of, where the table has one."""
        return self.schema.wild_type

    def predict(self, inputs: Inputs) -> Any:
        """Return the mean prediction of the nets, in the target's units; see `Target.outputs` for the shapes."""
        return self.nets.predict(inputs)

    def predict_by(self, name: str, inputs: Inputs) -> Any:
        """Return the prediction of the net, a rival or the stack of them, as `predict` does.

        Raises:
            SubquadError: there is no such model.
        """
        names = ("net", *baselines_for(self.task_type), "stack")
        if name not in names:
            raise unknown("model", name, names)
        if name == "net":
            return self.predict(inputs)
        if name == "stack":
            stack = Stacking.from_dict(self.config["stacking"])
            return stack.predict({own: self.predict_by(own, inputs) for own, weight in stack.weights.items() if weight})
        positions = self.config["positions"]
        own = inputs if positions is None else _cut(inputs, np.asarray(positions, dtype=np.int64))
        return Baseline.load(self.directory / f"{name}.skops").predict(own)

    def predict_each(self, inputs: Inputs) -> np.ndarray:
        """Return the prediction of each net: `(members, …)`."""
        return np.stack(self.nets.predict_each(inputs))

    def warn_unobserved(self, inputs: Inputs) -> list[str]:
        """Return a remark where sequences hold what the model never saw, and so cannot know."""
        seen = self.config["observed_letters"]
        if seen is None:
            return []
        strange = np.zeros(len(inputs), dtype=bool)
        for column, known in zip(inputs.codes.T, seen, strict=True):
            strange |= ~np.isin(column, known)
        if not strange.any():
            return []
        return [
            f"{strange.sum():,} of {len(inputs):,} sequences hold a letter at a position where training had none such; "
            "their predictions leave it out of account or guess"
        ]

    def inputs_of(self, sequences: Sequence[str]) -> Inputs:
        """Return sequences as inputs; a second channel stands behind `|`, as `guide|context`.

        Raises:
            SubquadError: letters outside the alphabet or wrong lengths, by number in the list, or the model learned
                from further columns, which sequences alone do not have.
        """
        return inputs_of(self.schema, sequences)

    def predict_sequences(self, sequences: Sequence[str]) -> Any:
        """Return the mean prediction for sequences."""
        return self.predict(self.inputs_of(sequences))

    def predict_each_of_sequences(self, sequences: Sequence[str]) -> np.ndarray:
        """Return the prediction of each net for sequences: `(members, n, O)`."""
        return self.predict_each(self.inputs_of(sequences))


def drop_constant_positions(dataset: Dataset) -> tuple[Dataset, np.ndarray | None]:
    """Return the problem with the positions that vary in the training rows, and those positions; None where all stay.

    Raises:
        SubquadError: all training sequences are the same.
    """
    inputs = dataset.inputs
    # the other strand has its letters elsewhere: where one never varies the other may
    if not inputs.is_aligned or not inputs.codes.shape[1] or inputs.is_double_stranded:
        return dataset, None
    train = inputs.take(dataset.split["train"])
    varies = (train.codes != train.codes[0]).any(0)
    if train.partner is not None:
        varies |= (train.partner != train.partner[0]).any(0)
    if not varies.any():
        if not inputs.covariates.shape[1]:
            raise SubquadError("all training sequences are the same; there is nothing to learn from")
        varies[0] = True
    positions = np.flatnonzero(varies)
    target = dataset.target
    if varies.all() or target.is_residue or target.task_type == "pairs":
        return dataset, None
    return replace(dataset, inputs=_cut(inputs, positions)), positions


def fit_ensemble(
    dataset: Dataset,
    settings: FitSettings,
    ridge: Baseline | None,
    *,
    positions: np.ndarray | None,
    seed: int,
    directory: Path | None,
    quiet: bool,
) -> NetEnsemble:
    """Train the nets of one preset.

    Args:
        dataset: what to learn; with the positions that are looked at only.
        settings: how.
        ridge: that the nets start at or near; None: they start at nothing.
        positions: which positions of the table's sequences the problem has; None: all.
        seed: of the start and the order of the rows.
        directory: where checkpoints go.
        quiet: no progress bar.
    """
    scale = fit_target_scaler(dataset, settings)
    is_residue = dataset.target.is_residue
    features = None if ridge is None or is_residue else ridge.features
    count = ensemble_size_for(dataset, settings)
    spec = spec_for(dataset, settings.preset, features, paths=-(-PATHS // count))
    prior = ridge if spec.has_prior and is_residue else None
    priors = priors_of(dataset.inputs, spec, scale, prior)
    nets, facts, seconds = [], [], 0.0
    matrices, start = {}, None
    if features is not None:
        start = fit_linear_start(dataset, ridge, settings, seed=seed)
        matrices = {part: features.matrix(dataset.part(part)[0]) for part in ("train", "validation")}
    for member in range(count):
        own_seed = seed + 1000 * member
        net, chosen = _new_net(spec, features, own_seed), {}
        name = settings.preset if count == 1 else f"{settings.preset} {member + 1}"
        how = {"scale": scale, "seed": own_seed, "directory": directory, "quiet": quiet}
        if features is not None:
            chosen = {"start": start.selected, "paths": []}
            for k, path in enumerate(net.mlp_paths):
                # every second MLP sees few features: alone neither way is best everywhere
                initialize_branch(path, dataset, start, matrices["train"], sees_few=(member + k) % 2 == 1)
                own = {**how, "name": f"{name} MLP {k + 1}", "seed": own_seed + k}
                chosen["paths"].append(train_branch(path, dataset, settings, matrices, **own))
            if net.lyra_path is not None:
                initialize_branch(net.lyra_path, dataset, start, matrices["train"])
        own_seconds, decided = train_net(net, dataset, settings, priors=priors, name=name, **how)
        nets.append(net.eval())
        facts.append(chosen | decided)
        seconds += own_seconds + sum(path["seconds"] for path in chosen.get("paths", ()))
    return NetEnsemble(
        spec=spec,
        nets=nets,
        features=features,
        scale=scale,
        positions=positions,
        prior=prior,
        facts=facts,
        seconds=seconds,
    )


def spec_for(dataset: Dataset, preset: str, features: Features | None, *, paths: int) -> NetSpec:
    """Return what a net for the problem is built from."""
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
        paths=paths,
        stepped=0 if features is None else len(binned_features(features)),
        has_prior=preset == "auto" and (target.task_type == "pairs" or target.is_residue),
    )


def priors_of(inputs: Inputs, spec: NetSpec, scale: TargetScaler, ridge: Baseline | None) -> Priors:
    """Return where nets of residues and of pairs start: at ridge, or at a thermodynamic model; None for all others."""
    if spec.task_type == "pairs":
        return _pair_priors(inputs, has_prior=spec.has_prior)
    if not spec.has_prior:
        return None
    found = ridge.predict(inputs)
    if spec.task_type == "residue_regression":
        start = scale.transform(found)
    else:
        clipped = np.clip(found, 1e-4, 1 - 1e-4)
        start = np.log(clipped if spec.outputs > 1 else clipped / (1 - clipped))
    return [own[:length].astype(np.float32) for own, length in zip(start, inputs.lengths, strict=True)]


def _pair_priors(inputs: Inputs, *, has_prior: bool) -> list[np.ndarray]:
    if not has_prior:
        return [np.zeros((length, length), dtype=np.float32) for length in inputs.lengths]
    from subquad.bio.models.vienna import pair_probabilities, rna_of

    clipped = [np.clip(values, 1e-3, 1 - 1e-3) for values in pair_probabilities(rna_of(inputs))]
    return [np.log(values / (1 - values)).astype(np.float32) for values in clipped]


def ensemble_mean(members: Sequence[Any]) -> Any:
    """Return the mean of the members' predictions."""
    if isinstance(members[0], list):
        return [np.mean(each, axis=0) for each in zip(*members, strict=True)]
    return np.mean(members, axis=0)


def _cut(inputs: Inputs, positions: np.ndarray) -> Inputs:
    partner = None if inputs.partner is None else np.ascontiguousarray(inputs.partner[:, positions])
    codes = np.ascontiguousarray(inputs.codes[:, positions])
    # what is cut away never varied; padding can only be where sequences are not aligned
    assert not (codes == PAD).any() or partner is not None
    return replace(inputs, codes=codes, partner=partner)


def _new_net(spec: NetSpec, features: Features | None, seed: int) -> BioNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BioNet(spec, features)
