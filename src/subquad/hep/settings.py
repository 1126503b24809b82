"""What a user can set for jets. Imports the standard library only, so that the command line starts fast."""

from dataclasses import dataclass, replace
from typing import Literal

from subquad.errors import SubquadError, validate_choices
from subquad.hep.data.card_weights import Reweighting, edges

__all__ = [
    "PRESETS",
    "EvaluateSettings",
    "ExplainSettings",
    "FitSettings",
    "NetSettings",
    "PredictSettings",
    "PresetName",
    "reweighting_of",
]


@dataclass(frozen=True, kw_only=True)
class NetSettings:
    """What a net sees of a jet, and its shape; kept in the saved model."""

    kind: Literal["pcn", "epcn", "kinematic"] = "pcn"
    """PCN on one graph; E-PCN on four, weighted by ΔR, kT, z and m²; or PCN on graphs whose weights are learnt."""
    features: Literal["raw", "standard"] = "standard"
    """Particle features: the 16 raw ones of the paper in GeV and mm, or standardised ones as JetClass's nets take."""
    graph: Literal["features", "angles"] = "angles"
    """Where neighbours are near: in all features, as published, or in Δη and Δφ."""
    has_observers: bool = True
    """The jet-level observers join the pooled particles before the head."""
    k: int = 7
    """Neighbours that each particle chooses."""
    terms: int = 8
    """Chebyshev terms of each filter."""
    width: int = 64
    """Channels of each filter."""
    layers: int = 3
    """Filters."""
    most_particles: int = 128
    """Particles of a jet that are looked at, those of highest pT."""
    is_normalised: bool = True
    """Layer norm before each filter but the first."""
    is_residual: bool = True
    """Each filter but the first adds to its input."""
    pool: Literal["mean", "mean_max"] = "mean_max"
    """What is kept of the particles."""
    hidden: int = 64
    """Width of the head's hidden layer; 0: none."""
    dropout: float = 0.1
    """In the head."""
    has_edges: bool = False
    """Edge convolutions between the filters: the paper's second variant."""
    graphs: int = 4
    """Weighted graphs of a `kinematic` net; they share out the channels."""
    feed: int = 2
    """Width of the feed-forward parts of a `kinematic` net, in widths."""
    pool_heads: int = 4
    """Weighted means of the particles that a `kinematic` net takes, beside the mean and the largest."""


_PAPER = NetSettings(
    features="raw",
    graph="features",
    has_observers=False,
    k=3,
    terms=16,
    is_normalised=False,
    is_residual=False,
    pool="mean",
    hidden=0,
    dropout=0.0,
)

PRESETS: dict[str, NetSettings] = {
    "auto": NetSettings(kind="kinematic", k=8, terms=4),
    "standard": NetSettings(),
    "epcn": NetSettings(kind="epcn", has_observers=False, k=3, terms=16, dropout=0.0),
    "paper": _PAPER,
    "paper-edges": replace(_PAPER, has_edges=True),
}
"""`auto`, ours; `standard`, PCN with standardised inputs; `epcn` (arXiv:2512.07420); `paper` and `paper-edges`, both
nets of arXiv:2309.08630 with inputs and graph exactly as published."""

PresetName = Literal["auto", "standard", "epcn", "paper", "paper-edges"]

_SHAPE = ("k", "terms", "width", "layers")
"""Numbers of a preset's net that a fit may change."""

_RATES = {"auto": 2e-3, "standard": 3e-3}


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a tagger is fitted."""

    preset: PresetName = "auto"
    """Inputs, graph and shape of the net."""
    k: int | None = None
    """Neighbours that each particle chooses; this and the four below are the preset's where they are not given."""
    graph: Literal["features", "angles"] | None = None
    """Where neighbours are near: in all features, or in Δη and Δφ; nets that weigh edges know the angles alone."""
    terms: int | None = None
    """Chebyshev terms of each filter."""
    width: int | None = None
    """Channels of each filter."""
    layers: int | None = None
    """Filters."""
    epochs: int = 15
    """Times that every jet is seen."""
    batch: int = 128
    """Jets in one step."""
    learning_rate: float | None = None
    """Peak of the learning rate; without it 2e-3 for `auto`, 3e-3 for `standard`, and 1e-3 for what was published."""
    average: float | None = None
    """Decay of a moving average of the weights, which is what is kept; without it 0.998 for `auto`, none for others."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices."""
    validation_part: float = 0.1
    """Part of the jets, of each class, that chooses the best epoch."""
    test_part: float = 0.2
    """Part of the jets, of each class, that is kept for the figures where no --test is given."""
    tree: str = "tree"
    """Name of the TTree in the files, where neither a card says it nor there is only one for a card."""
    card: str | None = None
    """Weaver's data card (YAML): what the net takes of the jets. Without it JetClass's branches."""
    reweight: Literal["none", "class"] = "none"
    """In the loss: `class` lets all classes count the same."""
    reweight_vars: tuple[str, ...] = ()
    """Make each class flat in these observers: name:edge,edge,… each, such as jet_pt:500,600,800,1000."""
    background: str | None = None
    """Class that the others are told from; without it QCD, where there is one, else the first."""
    net_alone: bool = False
    """No gradient boosting on jet-level observers beside the net."""
    precision: Literal["no", "bf16"] = "no"
    """Type of the matrix products."""
    threads: int = 1
    """Of one step on a CPU. Steps are small: on a busy machine more threads wait for each other most of the time."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        validate_choices(self)
        for name in ("epochs", "batch", "threads", *_SHAPE):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SubquadError(f"{name} is {value}; give 1 or more")
        if self.net.kind == "kinematic" and self.net.width % self.net.graphs:
            raise SubquadError(
                f"width is {self.width}, and {self.preset} shares it out among {self.net.graphs} graphs; give a "
                f"multiple of {self.net.graphs}"
            )
        if self.net.kind != "pcn" and self.net.graph != "angles":
            raise SubquadError(
                f"graph is {self.graph}, and {self.preset} knows neighbours by angles alone; leave it out"
            )
        for name in ("validation_part", "test_part"):
            if not 0 < getattr(self, name) < 0.5:
                raise SubquadError(f"{name} is {getattr(self, name)}; give a part between 0 and 0.5")
        reweighting_of(self.reweight_vars)
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise SubquadError(f"learning_rate is {self.learning_rate}; give more than 0")
        if self.average is not None and not 0 < self.average < 1:
            raise SubquadError(f"average is {self.average}; give a decay between 0 and 1, such as 0.998")
        if self.weight_decay < 0:
            raise SubquadError(f"weight_decay is {self.weight_decay}; give 0 or more")

    @property
    def net(self) -> NetSettings:
        """What the net sees, and its shape."""
        given = {name: getattr(self, name) for name in (*_SHAPE, "graph")}
        return replace(PRESETS[self.preset], **{name: value for name, value in given.items() if value is not None})

    @property
    def rate(self) -> float:
        """The peak of the learning rate."""
        return self.learning_rate or _RATES.get(self.preset, 1e-3)

    @property
    def decay(self) -> float | None:
        """The decay of the average; None: no average."""
        return 0.998 if self.average is None and self.preset == "auto" else self.average

    @property
    def schedule(self) -> tuple[Literal["cosine", "one_cycle", "constant"], float]:
        """How the rate changes, and the part of the steps in which it rises first."""
        return {"auto": ("cosine", 0.05), "standard": ("one_cycle", 0.0)}.get(self.preset, ("constant", 0.0))


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """How jets are scored."""

    batch: int = 64
    """Jets at a time; a GPU likes more of them, a CPU keeps so many in its cache."""
    tree: str = "tree"
    """Name of the TTree in the files."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.batch < 1:
            raise SubquadError(f"batch is {self.batch}; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How taggers are measured side by side."""

    batch: int = 64
    """Jets at a time; a GPU likes more of them, a CPU keeps so many in its cache."""
    tree: str = "tree"
    """Name of the TTree in the files."""
    background: str | None = None
    """Class that the others are told from; without it that of the first run, or QCD, or the first class."""
    reference: str | None = None
    """Name of the model that the ratios of the ROC curves are taken to; without it the first."""
    threads: int = 1
    """Of the net, on a CPU."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("batch", "threads"):
            if getattr(self, name) < 1:
                raise SubquadError(f"{name} is {getattr(self, name)}; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class ExplainSettings:
    """How a tagger is looked into."""

    jets: int = 2000
    """Jets of the sample: the first ones of each file, of all files alike."""
    repeats: int = 3
    """Times that each number is shuffled."""
    displays: int = 2
    """Jets of each class that are drawn: so many of the best scored, and of those most surely taken for another."""
    batch: int = 64
    """Jets at a time."""
    tree: str = "tree"
    """Name of the TTree in the files."""
    threads: int = 1
    """Of the net, on a CPU."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("jets", "repeats", "batch", "threads"):
            if getattr(self, name) < 1:
                raise SubquadError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.displays < 0:
            raise SubquadError(f"displays is {self.displays}; give 0 or more")


def reweighting_of(words: tuple[str, ...]) -> Reweighting | None:
    """Return what `--reweight-vars` says, or None where it says nothing.

    Raises:
        SubquadError: words that are no `name:edge,edge,…`.
    """
    bins = {}
    for word in words:
        name, _, numbers = word.partition(":")
        try:
            bins[name] = edges(name, [float(number) for number in numbers.split(",")])
        except (ValueError, SubquadError) as error:
            reason = error if isinstance(error, SubquadError) else "write it as jet_pt:500,600,800,1000"
            raise SubquadError(f"--reweight-vars {word}: {reason}") from None
    return Reweighting(bins=bins) if bins else None
