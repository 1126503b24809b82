"""Settings of `subquad hep fit`: inputs, network, training and reweighting. No heavy package is imported."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from subquad.errors import SubquadError
from subquad.runs.options import (
    Count,
    Distinct,
    Fraction,
    Ge,
    Gt,
    Input,
    Le,
    Lt,
    Model,
    MoreInput,
    MoreModel,
    MoreTraining,
    Natural,
    NonNegative,
    Positive,
    Settings,
    Training,
)

PresetName = Literal["auto", "auto-chebyshev", "standard", "epcn", "paper", "paper-edges"]
Graph = Literal["features", "angles"]
Inputs = Literal["particles", "particles+jet"]
Precision = Literal["float32", "bfloat16"]
Optimizer = Literal["muon", "adamw"]
ScheduleName = Literal["constant", "linear", "cosine", "one_cycle"]
LayoutName = Literal["jetclass", "top-landscape", "quark-gluon", "boosted-top", "four-vectors"]

Threads = Annotated[int, Ge(1), Le(1024)]
BelowHalf = Annotated[float, Gt(0), Lt(0.5)]
BelowOne = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class NetSettings(Settings):
    """Inputs and architecture of a network; saved in `config.json`.

    The defaults are those of the preset `standard`.
    """

    kind: Literal["pcn", "epcn", "kinematic"] = "pcn"
    """PCN on one graph; E-PCN on four graphs weighted by ΔR, kT, z and m²; or residual blocks with such variables."""
    filter: Literal["continuous", "chebyshev"] = "chebyshev"
    """Step over the neighbours of a `kinematic` network: continuous-filter convolutions, or Chebyshev filters on graphs
    with learned weights; the others have Chebyshev filters, as all networks saved without this entry."""
    has_jet_mean: bool = False
    """Each block of continuous-filter convolutions also takes the mean over all particles; networks saved without this
    entry have none."""
    features: Literal["raw", "jetclass", "standard"] = "standard"
    """Particle features: the 16 raw ones of the paper in GeV and mm; the 17 of JetClass, standardized; or these and two
    impact parameter significances."""
    graph: Graph = "angles"
    """Space in which nearest neighbours are found: all features, as published, or Δη and Δφ."""
    has_jet_features: bool = True
    """Jet-level features are concatenated with the pooled particles before the head."""
    k: Count = 7
    """Nearest neighbours of each particle."""
    chebyshev_order: Count = 8
    """Chebyshev terms of each filter; continuous-filter convolutions have none."""
    width: Count = 64
    """Channels of each layer."""
    layers: Count = 3
    """Number of filters or, of a `kinematic` network, of blocks."""
    max_particles: Count = 128
    """Largest number of particles per jet; those of highest pT are kept."""
    is_normalised: bool = True
    """Layer normalization before each layer of a PCN but the first; `kinematic` networks always have it."""
    is_residual: bool = True
    """Residual connection around each layer of a PCN but the first; `kinematic` networks always have it."""
    pool: Literal["mean", "mean_max"] = "mean_max"
    """Pooling over the particles of a PCN."""
    hidden: Natural = 64
    """Width of the hidden layer of a PCN's head; 0 for a linear head."""
    dropout: BelowOne = 0.1
    """Dropout rate in the head; E-PCN has none."""
    has_edges: bool = False
    """Edge convolutions between the filters of a PCN: the second network of the paper."""
    graphs: Count = 4
    """Weighted graphs of a `kinematic` network's Chebyshev filters, which divide the channels among them."""
    feed: Count = 2
    """Expansion factor of the feed-forward blocks of a `kinematic` network."""
    pool_heads: Count = 4
    """Attention pooling heads of a `kinematic` network, in addition to mean and maximum."""

    def __post_init__(self) -> None:
        """Refuse architectures that do not exist."""
        super().__post_init__()
        if self.kind == "kinematic" and self.filter == "chebyshev" and self.width % self.graphs:
            raise SubquadError(f"--width must be a multiple of {self.graphs} with this preset, got {self.width}")
        if self.kind != "pcn" and self.graph != "angles":
            raise SubquadError(f"--graph is {self.graph}; this preset finds neighbours by angles only; omit it")


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """Settings of `subquad hep fit`: inputs, network and training."""

    preset: Model[PresetName] = "auto"
    """Inputs, graph and size of the network: `auto`, continuous-filter convolutions; `auto-chebyshev`, Chebyshev
    filters on learned graphs in their place, without the jet mean; `standard`, PCN with standardized inputs; `epcn`,
    after E-PCN; `paper` and `paper-edges`, PCN as published."""
    from_: Model[Path | None] = None
    """Saved run to fine-tune, or example:tagger: the fit starts from its weights, with its network and standardization.
    The jets need the same inputs; their classes may be others. Default: random weights."""
    epochs: Training[Count] = 15
    """Number of passes over the training set."""
    batch_size: Training[Count | None] = None
    """Batch size: jets per optimizer step and process. Default: 32 for `auto` and `auto-chebyshev`, 128 for the
    others. A GPU needs larger batches than these to be busy."""
    learning_rate: Training[Positive | None] = None
    """Peak learning rate. Default: 3e-3 for `auto` and `auto-chebyshev` with Muon, else 2e-3, 3e-3 for `standard`, 1e-3
    for the published networks; with --from a third of these. A newly initialised output layer is trained with ten times
    the rate of the other layers."""
    card: Input[str | None] = None
    """Weaver data card (YAML) with inputs, labels, selection and weights. Default: that of the layout of the files."""
    layout: MoreInput[LayoutName | None] = None
    """Layout of the files: JetClass, top tagging (Zenodo 2603256), EnergyFlow's quark and gluon jets (3164691), top and
    QCD jets (16986897), or four-vectors with numbered labels. Default: recognized by content."""
    tree: MoreInput[str] = "tree"
    """Name of the TTree in ROOT files. A card's `treename`, or `file.root:name`, takes precedence."""
    test_fraction: MoreInput[BelowHalf] = 0.2
    """Fraction of the jets, stratified by class, held out for testing if there are no test jets (--test, or a split
    that comes with the data set)."""
    validation_fraction: MoreInput[BelowHalf] = 0.1
    """Fraction of the jets, stratified by class, held out for model selection, unless the data set has such jets."""
    background: MoreInput[str | None] = None
    """Class whose rejection is measured. Default: QCD if it is present, else the first class."""
    event_weights: MoreInput[str | None] = None
    """Branch with event weights, such as those of a generator, which may be negative: jets count with them in the loss
    and in all metrics. Default: none, or those of the card."""
    target: MoreInput[Annotated[tuple[str, ...], Distinct()]] = ()
    """Regression targets beside the classes, such as the mass of the generated particle: branches with one number per
    jet or, with a card, expressions, in addition to those of its `labels`. Default: none, or those of the card."""
    target_weight: MoreTraining[Positive] = 1.0
    """Weight of the regression loss, smooth L1 of standardized targets, beside the cross-entropy."""
    reweight: MoreTraining[Literal["none", "class"]] = "none"
    """Reweighting in the loss only: `class` gives every class the same total weight."""
    reweight_vars: MoreTraining[tuple[str, ...]] = ()
    """Observers whose spectrum is made flat in each class by weights in the loss, each followed by its bin edges; for
    example jet_pt 500 600 800 1000 jet_eta -2 0 2."""
    decorrelate: MoreTraining[str | None] = None
    """Observer, such as jet_sdmass, from which the scores of background jets are decorrelated by a penalty in the loss:
    the squared distance correlation (DisCo, arXiv:2001.05310) of each batch. Default: no penalty."""
    decorrelation_weight: MoreTraining[Positive] = 1.0
    """Weight of the penalty of --decorrelate beside the cross-entropy."""
    inputs: Model[Inputs | None] = None
    """`particles`: particle features alone, the 17 of JetClass as ParticleNet has them; gradient boosting then reads
    sums over the particles. `paper` and `paper-edges` have the published features, beside which it reads all
    jet-level features. `particles+jet`: also jet-level features, such as the soft-drop mass and τ1 to τ4, and impact
    parameter significances of the particles. Default: `particles+jet` for `auto`, `auto-chebyshev` and `standard`.
    With --card, the particle features are those of the card."""
    k: MoreModel[Count | None] = None
    """Number of nearest neighbours of each particle. Default: that of the preset."""
    chebyshev_order: MoreModel[Count | None] = None
    """Number of Chebyshev terms of each filter (`auto` has no such filters). Default: that of the preset."""
    width: MoreModel[Count | None] = None
    """Number of channels of each layer. Default: that of the preset."""
    layers: MoreModel[Count | None] = None
    """Number of layers that join neighbours. Default: that of the preset."""
    dropout: MoreModel[BelowOne | None] = None
    """Dropout rate in the head. Default: 0.1 for `auto`, `auto-chebyshev` and `standard`, but 0 for the first two
    with --inputs particles; the published networks have no dropout."""
    graph: MoreModel[Graph | None] = None
    """Space in which nearest neighbours are found: all features, or Δη and Δφ (`angles`, the only choice for `auto`,
    `auto-chebyshev` and `epcn`). Default: that of the preset."""
    no_boosting: Training[bool] = False
    """Skip the gradient-boosting baseline on jet-level features."""
    ema_decay: MoreTraining[Fraction | None] = None
    """Decay of the exponential moving average (EMA) of the weights; the averaged weights are saved. Default: 0.998 for
    `auto` and `auto-chebyshev`, no average for the others."""
    optimizer: MoreTraining[Optimizer | None] = None
    """Optimizer: Muon for the matrices of hidden layers with at least 32 rows and columns, with AdamW for all other
    weights; or AdamW. Default: Muon for `auto` and `auto-chebyshev`, AdamW for the others, whose filters are no such
    matrices."""
    schedule: MoreTraining[ScheduleName | None] = None
    """Learning rate schedule: `constant`, `linear` or `cosine` decay to 0, or `one_cycle`. Default: that of the preset:
    cosine for `auto` and `auto-chebyshev`, one cycle for `standard`, constant for the published networks."""
    warmup_fraction: MoreTraining[BelowOne | None] = None
    """Fraction of the steps with linear warm-up. Default: 0.05 for `auto` and `auto-chebyshev`, 0 for the others."""
    patience: MoreTraining[Count | None] = None
    """Number of successive epochs without an improvement on the validation jets after which training stops. Default:
    all epochs."""
    weight_decay: MoreTraining[NonNegative | None] = None
    """Weight decay; applied to weight matrices only. Default: 0.05 with Muon, 0.01 with AdamW."""
    precision: MoreTraining[Precision] = "float32"
    """Floating-point type of matrix products; weights stay in float32."""
    threads: Training[Threads] = 1
    """Number of CPU threads. The operations of a step are small, so that more threads help little."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        reweighting_of(self.reweight_vars)


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """Reweighting of the classes to equal spectra in some observers, as in weaver."""

    bins: Mapping[str, tuple[float, ...]]
    """Bin edges of each observer."""
    classes: tuple[str, ...] = ()
    """Columns that are 1 for the jets of a class; empty for the classes of the labels."""
    method: str = "flat"
    """`flat`: every class gets a flat spectrum; `ref`: every class gets the spectrum of the first one."""
    class_weights: tuple[float, ...] = field(default=())
    """Total weight of each class after the reweighting; empty for equal weights."""
    threshold: float = 10.0
    """Percentile of the bin contents below which bins are not flattened, since the weights would become too large."""
    drops_outside: bool = True
    """Jets outside the bins get weight 0; otherwise they count in the nearest bin."""


def is_number(value: Any) -> bool:
    """Return whether a value is a number, possibly infinite, but not NaN and no integer beyond all real numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not math.isnan(value) if isinstance(value, float) else abs(value) <= sys.float_info.max


def bin_edges(name: str, values: Any) -> tuple[float, ...]:
    """Return the bin edges of an observer.

    Raises:
        SubquadError: There are fewer than two edges, or they do not increase.
    """
    if not isinstance(values, Sequence) or not all(map(is_number, values)) or len(values) < 2:
        given = "no bin edges follow" if values == () else f"{values!r} are not bin edges"
        raise SubquadError(f"{name}: {given}; give two numbers or more")
    if any(low >= high for low, high in pairwise(values)):
        raise SubquadError(f"{name}: bin edges must increase, got {', '.join(f'{value:g}' for value in values)}")
    return tuple(map(float, values))


def reweighting_of(variables: Sequence[str | float]) -> Reweighting | None:
    """Return the reweighting that `--reweight-vars` asks for, or None if it is empty.

    Args:
        variables: Names, each followed by its bin edges.

    Raises:
        SubquadError: The first word is a number, a name is given twice, or its edges cannot be used.
    """
    found: dict[str, list[float]] = {}
    for word in map(str, variables):
        try:
            edge = float(word)
        except ValueError:
            name, _, edges = word.partition(":")
            if edges or word in found:
                advice = f"write it as {name} {edges.replace(',', ' ')}" if edges else "give each observer once"
                raise SubquadError(f"--reweight-vars {word}: {advice}") from None
            found[word] = []
            continue
        if not found:
            raise SubquadError(f"--reweight-vars {word}: begin with the observer, as in jet_pt 500 600 800 1000")
        next(reversed(found.values())).append(edge)
    try:
        bins = {name: bin_edges(name, tuple(edges)) for name, edges in found.items()}
    except SubquadError as error:
        raise SubquadError(f"--reweight-vars {error}") from None
    return Reweighting(bins=bins) if bins else None
