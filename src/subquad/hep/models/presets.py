"""Presets: networks and the training hyperparameters that belong to them."""

from dataclasses import dataclass, replace

from subquad.errors import SubquadError
from subquad.hep.fit_settings import FitSettings, NetSettings, Optimizer, ScheduleName

ARCHITECTURE = ("k", "chebyshev_order", "width", "layers", "graph", "dropout")
"""Settings of the network that a fit may ask for."""

WEIGHT_DECAY: dict[Optimizer, float] = {"muon": 0.05, "adamw": 0.01}
"""Default weight decay of each optimizer."""
FINE_TUNING = 1 / 3
"""Default learning rate of fine-tuning, as a fraction of that of the preset."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network with its training hyperparameters."""

    net: NetSettings
    origin: str
    """Where the network comes from, for the model card."""
    optimizer: Optimizer = "adamw"
    """Optimizer of the training, unless the settings name another one."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    learning_rate_of_others: float | None = None
    """Peak learning rate with other optimizers than that of the preset; None for the same."""
    schedule: tuple[ScheduleName, float] = ("constant", 0.0)
    """Learning rate schedule, and the fraction of the steps with linear warm-up."""
    weight_decay: float = WEIGHT_DECAY["adamw"]
    """Weight decay of matrices."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights."""
    batch_size: int = 128
    """Jets per optimizer step and process."""


_PAPER = NetSettings(
    features="raw",
    graph="features",
    has_jet_features=False,
    k=3,
    chebyshev_order=16,
    is_normalised=False,
    is_residual=False,
    pool="mean",
    hidden=0,
    dropout=0.0,
)
_OWN = "Built on the particle Chebyshev network (arXiv:2309.08630) with {} added; not the published network."
_AUTO = Preset(
    net=NetSettings(kind="kinematic", filter="continuous", has_jet_mean=True, k=8),
    optimizer="muon",
    learning_rate=3e-3,
    learning_rate_of_others=2e-3,
    weight_decay=WEIGHT_DECAY["muon"],
    schedule=("cosine", 0.05),
    ema_decay=0.998,
    batch_size=32,
    origin=(
        "Continuous-filter convolutions (SchNet, arXiv:1706.08566) on nearest neighbours with the jet mean in each "
        "block (Deep Sets, arXiv:1703.06114), and attention pooling."
    ),
)

PRESETS: dict[str, Preset] = {
    "auto": _AUTO,
    "auto-chebyshev": replace(
        _AUTO,
        net=replace(_AUTO.net, filter="chebyshev", has_jet_mean=False, chebyshev_order=4),
        origin=_OWN.format("trained edge weights, feed-forward layers and attention pooling"),
    ),
    "standard": Preset(
        net=NetSettings(),
        learning_rate=3e-3,
        schedule=("one_cycle", 0.0),
        origin=_OWN.format("normalization, residual connections and maximum pooling"),
    ),
    "epcn": Preset(
        net=NetSettings(kind="epcn", has_jet_features=False, k=3, chebyshev_order=16, dropout=0.0),
        origin="E-PCN (arXiv:2512.07420), with the pair variables as edge weights and not their logarithms.",
    ),
    "paper": Preset(net=_PAPER, origin="The particle Chebyshev network as published: arXiv:2309.08630."),
    "paper-edges": Preset(
        net=replace(_PAPER, has_edges=True),
        origin="The particle Chebyshev network with edge convolutions, as published: arXiv:2309.08630.",
    ),
}
"""`auto`, `auto-chebyshev` and `standard`, ours; `paper` and `paper-edges` with inputs and graph as published, `epcn`
with the graph."""


def net_settings(settings: FitSettings) -> NetSettings:
    """Return the preset's network with the changes that the settings ask for.

    Raises:
        SubquadError: The preset does not support a change.
    """
    given = {name: getattr(settings, name) for name in ARCHITECTURE}
    base = PRESETS[settings.preset].net
    if settings.dropout and (base.kind == "epcn" or not base.hidden):
        raise SubquadError(f"--dropout is {settings.dropout}; the preset {settings.preset} has no dropout; omit it")
    if settings.chebyshev_order is not None and base.filter != "chebyshev":
        raise SubquadError(
            f"--chebyshev-order is {settings.chebyshev_order}; the preset {settings.preset} has no Chebyshev filters; "
            "omit it, or use --preset auto-chebyshev"
        )
    changes = {name: value for name, value in given.items() if value is not None}
    net = replace(base, **changes)
    if settings.inputs == "particles":
        net = replace(net, has_jet_features=False, features="jetclass" if net.features == "standard" else net.features)
        # it costs accuracy without jet-level features
        if net.kind == "kinematic":
            net = replace(net, dropout=settings.dropout or 0.0)
    elif settings.inputs is not None:
        if net.kind == "epcn":
            raise SubquadError(
                "--inputs particles+jet: E-PCN takes no jet-level features; omit it, or use another preset"
            )
        net = replace(net, has_jet_features=True)
    return net


def check_neighbours(settings: FitSettings, max_particles: int) -> None:
    """Check that a particle can have as many nearest neighbours as the settings ask for.

    Args:
        settings: Settings of the fit.
        max_particles: Largest number of particles per jet, by the data card or the layout.

    Raises:
        SubquadError: It cannot.
    """
    if settings.k is not None and settings.k >= max_particles:
        raise SubquadError(
            f"--k is {settings.k}; a jet has at most {max_particles} particles, so give fewer neighbours"
        )


def training_defaults(settings: FitSettings) -> Preset:
    """Return the preset with the hyperparameters of training that the settings give in place of its own."""
    preset = PRESETS[settings.preset]
    optimizer = settings.optimizer or preset.optimizer
    if optimizer != preset.optimizer:
        rate = preset.learning_rate_of_others or preset.learning_rate
        preset = replace(preset, optimizer=optimizer, learning_rate=rate, weight_decay=WEIGHT_DECAY[optimizer])
    default = preset.learning_rate * (1 if settings.from_ is None else FINE_TUNING)
    name, warmup = preset.schedule
    return replace(
        preset,
        weight_decay=preset.weight_decay if settings.weight_decay is None else settings.weight_decay,
        learning_rate=default if settings.learning_rate is None else settings.learning_rate,
        schedule=(
            settings.schedule or name,
            # the warm-up belongs to the schedule of the preset
            settings.warmup_fraction if settings.warmup_fraction is not None else warmup * (settings.schedule is None),
        ),
        ema_decay=preset.ema_decay if settings.ema_decay is None else settings.ema_decay,
        batch_size=settings.batch_size or preset.batch_size,
    )
