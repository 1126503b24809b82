"""The networks of `hep_baselines.py`: our presets, variants of them, and weaver-core's networks."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from subquad.hep.data.batches import collate
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.features import STANDARD_FEATURES, jet_features, particle_features
from subquad.hep.data.jets import PARTICLES, Jets
from subquad.hep.data.layout import fit_standardization, layout_of
from subquad.hep.data.store import dataset_of
from subquad.hep.fit_settings import PresetName
from subquad.hep.models.networks import build_network, forward, predict_logits
from subquad.hep.models.presets import PRESETS, Preset, net_settings, training_defaults
from subquad.hep.models.temperature import output_layer
from subquad.hep.models.training import optimizer_of
from subquad.hep.settings import FitSettings
from subquad.train.bucketing import batches_by_length, bucketed_batches
from subquad.train.ema import ExponentialMovingAverage
from subquad.train.muon import MuonAdamW, muon_groups
from subquad.train.optim import parameter_groups, schedule

LEARNING_RATES = {"particlenet": 3e-3, "particlenet-lite": 3e-3, "part": 1e-3}
WIDTHS = {"particlenet": 256, "particlenet-lite": 64, "part": 128}
"""What a network has pooled, before its head."""
MOST = 128
LEAST = 17
"""Particles of a padded batch of a baseline: ParticleNet takes 16 neighbours of each particle, if need be padding."""

# JetClass's 17 in the order of its files, as columns of `STANDARD_FEATURES`
COLUMNS = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0, 1]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A network that differs in one respect from that of a preset."""

    of: PresetName
    fit: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `fit`."""
    net: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the network that no flag has."""
    change: Callable[[Any], None] = lambda net: None
    """What is done to the new network."""


def _with_unit_weights(net: Any) -> None:
    """Give all edges the weight 1: the exponents are 0 and not trained."""
    net.exponents.requires_grad_(False).zero_()


def _with_constant_functions(value: float) -> Callable[[Any], None]:
    """Give all pairs the same value in place of trained functions: 1 is a plain mean over the neighbours, 0 none.

    The neighbours are still computed, so the time is that of `auto`.
    """

    def change(net: Any) -> None:
        for block in net.blocks:
            linear = block.functions[0].requires_grad_(False)
            linear.weight.zero_()
            linear.bias.fill_(value)

    return change


VARIANTS = {
    "auto-no-jet-mean": Variant(of="auto", net={"has_jet_mean": False}),
    "auto-plain-mean": Variant(of="auto", net={"has_jet_mean": False}, change=_with_constant_functions(1.0)),
    "auto-no-neighbours": Variant(of="auto", net={"has_jet_mean": False}, change=_with_constant_functions(0.0)),
    "auto-adamw": Variant(of="auto", fit={"optimizer": "adamw"}),
    "auto-16-neighbours": Variant(of="auto", fit={"k": 16}),
    "auto-wide": Variant(of="auto", fit={"width": 128, "layers": 4}),
    "chebyshev-no-graph": Variant(of="auto-chebyshev", fit={"chebyshev_order": 1}),
    "chebyshev-no-graph-5-blocks": Variant(of="auto-chebyshev", fit={"chebyshev_order": 1, "layers": 5}),
    "chebyshev-plain-mean": Variant(of="auto-chebyshev", fit={"chebyshev_order": 2}, change=_with_unit_weights),
    "chebyshev-unit-weights": Variant(of="auto-chebyshev", change=_with_unit_weights),
    "chebyshev-2-terms": Variant(of="auto-chebyshev", fit={"chebyshev_order": 2}),
    "chebyshev-8-terms": Variant(of="auto-chebyshev", fit={"chebyshev_order": 8}),
}
"""Controls of `auto` and `auto-chebyshev` by name."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with everything that its training needs."""

    net: nn.Module
    logits: Callable[[str, Tensor], Tensor]
    """Logits of some jets of a part: `train`, `validation`, `test` or `background`."""
    predict: Callable[[str], Tensor]
    """Logits of all jets of a part, without gradients."""
    plan: Callable[[int], Sequence[Tensor]]
    """The batches of an epoch."""
    optimizer: Any
    rate: Callable[[float], float]
    """Factor on the learning rates by the used fraction of the budget."""
    clip: float | None
    average: ExponentialMovingAverage | None = None
    """Moving average of the weights, which is validated and kept."""


def ours(name: str, parts: dict[str, Jets], seed: int, options: argparse.Namespace) -> Model:
    variant = VARIANTS.get(name) or Variant(of=cast(PresetName, name))
    fit = FitSettings(preset=variant.of, inputs=options.inputs, **variant.fit)
    preset = replace(training_defaults(fit), net=replace(net_settings(fit), **variant.net))
    batch_size = options.batch_size or preset.batch_size
    layout = layout_of(preset.net)
    chunks = {part: chunk_of(jets, layout) for part, jets in parts.items()}
    train = dataset_of(chunks["train"], layout)
    layout = fit_standardization(layout, preset.net, train.particles, train.jet_features)
    datasets = {part: dataset_of(chunk, layout) for part, chunk in chunks.items()}
    net = build_network(preset.net, layout, len(parts["train"].classes))
    with torch.no_grad():
        variant.change(net)
    rows = torch.arange(len(train))

    def plan(epoch: int) -> Sequence[Tensor]:
        arrange = random_batches if options.preset_arrange == "random" else bucketed_batches
        return arrange(rows, train.lengths, batch_size, seed=seed, epoch=epoch)

    def logits(part: str, rows: Tensor) -> Tensor:
        return forward(net, collate(datasets[part], rows))

    return Model(
        net=net,
        logits=logits,
        predict=lambda part: predict_logits(net, datasets[part]),
        plan=plan,
        **training_of_ours(net, preset, optimizer_of(net, preset)),
    )


def random_batches(rows: Tensor, lengths: Tensor, batch_size: int, *, seed: int, epoch: int) -> Sequence[Tensor]:
    """Return the batches of an epoch by chance alone, whatever the lengths."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return rows[torch.randperm(len(rows), generator=generator)].split(batch_size)


def training_of_ours(net: nn.Module, preset: Preset, optimizer: Optimizer) -> dict[str, Any]:
    """Return optimizer, schedule, clipping and moving average of the weights as in `subquad hep fit`."""
    shape, warmup = preset.schedule
    average = ExponentialMovingAverage(net.state_dict(), preset.ema_decay) if preset.ema_decay else None
    return {"optimizer": optimizer, "rate": schedule(shape, warmup=warmup), "clip": 1.0, "average": average}


@dataclass(frozen=True)
class BaselineInputs:
    """Features and four-vectors of all particles, as flat tables."""

    features: Tensor
    vectors: Tensor
    first: Tensor
    lengths: Tensor
    of_jets: Tensor
    """Jet-level features [J, H], not standardized; H is 0 without any."""

    @classmethod
    def of(cls, jets: Jets, columns: Sequence[int], *, has_jet_features: bool) -> "BaselineInputs":
        """Return the inputs of the baselines; weaver clips standardized features at 5."""
        vectors = [PARTICLES.index(f"part_{name}") for name in ("px", "py", "pz", "energy")]
        return cls(
            torch.from_numpy(particle_features(jets, STANDARD_FEATURES)[:, columns].clip(-5, 5)),
            torch.from_numpy(jets.particles[:, vectors].copy()),
            torch.from_numpy(jets.first[:-1]),
            torch.from_numpy(np.minimum(jets.lengths, MOST)),
            torch.from_numpy(jet_features(jets)) if has_jet_features else torch.zeros(len(jets), 0),
        )

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features [B, F, P], four-vectors [B, 4, P] and mask [B, 1, P], padded to the longest jet.

        Padding repeats the particles of a jet from the first one on, as in weaver's configuration of JetClass
        (`pad_mode: wrap`), since the averages of the baselines' batch normalization include it.
        """
        lengths = self.lengths[rows]
        places = torch.arange(max(LEAST, int(lengths.max())))
        index = self.first[rows, None] + places % lengths[:, None]
        features, vectors = (table[index].mT.contiguous() for table in (self.features, self.vectors))
        return features, vectors, (places < lengths[:, None])[:, None]


class HeadWithJetFeatures(nn.Module):
    """A head that takes jet-level features beside what a network has pooled."""

    def __init__(self, width: int, train: Tensor, classes: int):
        super().__init__()
        self.register_buffer("center", train.mean(0))
        self.register_buffer("scale", train.std(0).clamp(min=1e-6))
        self.net = nn.Sequential(nn.Linear(width + train.shape[1], 128), nn.ReLU(), nn.Linear(128, classes))
        self.of_jets = train[:0]

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits; the features of the jets of the batch are in `of_jets`."""
        return self.net(torch.cat((pooled, ((self.of_jets - self.center) / self.scale).clamp(-5, 5)), 1))


def baseline_network(name: str, features: int, classes: int) -> nn.Module:
    if name == "part":
        from weaver.nn.model.ParticleTransformer import ParticleTransformer

        return ParticleTransformer(
            input_dim=features,
            num_classes=classes,
            pair_input_dim=4,
            use_pre_activation_pair=False,
            embed_dims=(128, 512, 128),
            pair_embed_dims=(64, 64, 64),
            num_heads=8,
            num_layers=8,
            num_cls_layers=2,
            fc_params=(),
            trim=True,
        )
    from weaver.nn.model.ParticleNet import ParticleNet

    is_small = name == "particlenet-lite"
    blocks = [(7, 32), (7, 64)] if is_small else [(16, 64), (16, 128), (16, 256)]
    return ParticleNet(
        features,
        classes,
        conv_params=[(neighbours, (width,) * 3) for neighbours, width in blocks],
        fc_params=[(128 if is_small else 256, 0.1)],
        use_fusion=False,
        use_fts_bn=True,
        use_counts=True,
        trim=True,
    )


def flat_then_falling(progress: float) -> float:
    return 0.01 ** (max(0.0, min(progress, 1.0) - 0.7) / 0.3)


def baseline(name: str, parts: dict[str, Jets], seed: int, options: argparse.Namespace) -> Model:
    from weaver.nn.model.ParticleTransformer import SequenceTrimmer
    from weaver.utils.nn.optimizer.ranger import Ranger

    classes = len(parts["train"].classes)
    # the published weights are those of a network without them
    has_jet_features = options.inputs == "particles+jet" and name != "published"
    # the angles stay the last two
    columns = [*COLUMNS[:-2], 17, 18, *COLUMNS[-2:]] if has_jet_features else COLUMNS
    inputs = {part: BaselineInputs.of(jets, columns, has_jet_features=has_jet_features) for part, jets in parts.items()}
    net, head = baseline_network(name, len(columns), classes), None
    # the layer that trims jets; without training it only removes padding, of which ParticleNet needs LEAST places
    (trimmer,) = (module for module in net.modules() if isinstance(module, SequenceTrimmer))
    if has_jet_features:
        net.fc = head = HeadWithJetFeatures(WIDTHS[name], inputs["train"].of_jets, classes)
    if name == "published":
        net.load_state_dict(load_file(data_folder() / "rivals" / "ParticleNet_full.safetensors"))
    # a part of checkpoints, since it trims from the fifth step on
    trimmer.register_buffer("_counter", trimmer._counter)
    rows, lengths = torch.arange(len(parts["train"])), inputs["train"].lengths

    def logits(part: str, rows: Tensor) -> Tensor:
        features, vectors, mask = inputs[part].batch(rows)
        if head is not None:
            head.of_jets = inputs[part].of_jets[rows]
        if name == "part":
            return net(features, v=vectors, mask=mask)
        # the last two features are the angles, in which the first graph is built
        return net(features[:, -2:], features, mask=mask)

    @torch.no_grad()
    def predict(part: str) -> Tensor:
        net.eval()
        trimmer.enabled = False
        out = torch.zeros(len(parts[part]), len(parts[part].classes))
        for some in batches_by_length(inputs[part].lengths, 64):
            out[some] = logits(part, some)
        net.train()
        trimmer.enabled = True
        return out

    def plan(epoch: int) -> Sequence[Tensor]:
        arrange = random_batches if options.arrange == "random" else bucketed_batches
        return arrange(rows, lengths, options.baseline_batch_size, seed=seed, epoch=epoch)

    learning_rate = options.baseline_learning_rate or LEARNING_RATES.get(name, 1e-3)
    network = {"net": net, "logits": logits, "predict": predict, "plan": plan}
    if options.baseline_training == "ours":
        preset = PRESETS["auto"]
        groups = parameter_groups(net, learning_rate=learning_rate, weight_decay=preset.weight_decay)
        output = output_layer(cast(nn.Module, net.fc if head is None else head.net)).weight
        return Model(**network, **training_of_ours(net, preset, MuonAdamW(muon_groups(groups, output))))
    return Model(**network, optimizer=Ranger(net.parameters(), lr=learning_rate), rate=flat_then_falling, clip=None)


def data_folder() -> Path:
    return Path(os.environ.get("SUBQUAD_DATA", "none")) / "hep"
