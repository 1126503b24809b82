"""Settings of the commands for jets. No heavy package is imported, so that the command line starts fast."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from cyclopts import Group, Parameter

from subquad.errors import SubquadError, unknown
from subquad.hep.fit_settings import (  # noqa: F401 (settings of all commands are found here)
    FitSettings,
    Graph,
    LayoutName,
    NetSettings,
    Precision,
    PresetName,
    Reweighting,
    Threads,
    bin_edges,
    is_number,
    reweighting_of,
)
from subquad.runs.options import Count, Distinct, Fraction, Input, MinLen, Model, Natural, Output, Settings

ExportInputs = Literal["branches", "weaver"]

T = TypeVar("T")

Simulation = Annotated[T, Parameter(group=Group("Simulation", sort_key=2))]
"""A flag about the simulated jets."""

EVALUATION, EXPLANATION, EXPLANATION_FILE = "hep evaluation", "hep explanation", "explain.json"
"""Kinds of report folders, by which a command recognizes its own, and the file of an explanation."""

CLASSES = (
    "ZJetsToNuNu",
    "HToBB",
    "HToCC",
    "HToGG",
    "HToWW4Q",
    "HToWW2Q1L",
    "ZToQQ",
    "WToQQ",
    "TTBar",
    "TTBarLep",
)
"""The ten classes of JetClass by the names of its files, in the order of its labels."""


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Settings):
    """Settings of `subquad hep predict`."""

    batch_size: Model[Count] = 64
    """Jets per forward pass: 64 fit into the cache of a CPU; use more on a GPU."""
    tree: Input[str] = "tree"
    """Name of the TTree in ROOT files. A card's `treename`, or `file.root:name`, takes precedence."""
    observers: Output[tuple[str, ...]] = ()
    """Further branches with one number per jet or event to copy, such as run and event."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        taken = [name for name in self.observers if name.startswith(("score_", "predicted_", "label_"))]
        if taken:
            raise SubquadError(f"--observers: {', '.join(taken)} would have the name of a column of the output")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """Settings of `subquad hep evaluate`."""

    background: Input[str | None] = None
    """Class whose rejection is measured. Default: that of the first run, or QCD, or the first class."""
    efficiency: Input[Fraction | None] = None
    """Signal efficiency at which the rejection is measured, such as 0.3. Default: 0.5, or for the classes Hqql and Tbl
    0.99 and 0.995, as in JetClass's table."""
    reference: Output[str | None] = None
    """Name of the model that ROC curves are divided by in the ratio panels. Default: the first model."""
    batch_size: Model[Count] = 64
    """Jets per forward pass: 64 fit into the cache of a CPU; use more on a GPU."""
    tree: Input[str] = "tree"
    """Name of the TTree in ROOT files."""
    event_weights: Input[str | None] = None
    """Branch with event weights of the files: jets count with them in all metrics. Default: that of the first run;
    in files of --scores, event_weight if there is such a branch."""
    threads: Model[Threads] = 1
    """Number of CPU threads of the network."""


@dataclass(frozen=True, kw_only=True)
class ExplainSettings(Settings):
    """Settings of `subquad hep explain`."""

    jets: Input[Count] = 2000
    """Number of jets to explain: the first ones of each file, equally many from each."""
    event_weights: Input[str | None] = None
    """Branch with event weights of the files: jets count with them in all means and metrics. Default: that of the
    run."""
    repeats: Model[Count] = 3
    """Number of permutations of each feature."""
    displays: Output[Natural] = 2
    """Number of event displays per class: so many of the jets with the highest score, and as many of the most confident
    misclassifications."""
    batch_size: Model[Count] = 64
    """Jets per forward pass."""
    tree: Input[str] = "tree"
    """Name of the TTree in ROOT files."""
    threads: Model[Threads] = 1
    """Number of CPU threads of the network."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """Settings of `subquad hep export`."""

    inputs: Model[ExportInputs] = "branches"
    """Inputs of the ONNX graph. `branches`: branches of the files, padded, with a mask for each collection of inputs;
    the graph computes features, selection of particles and standardization. `weaver`: weaver's input groups,
    standardized as preprocess.json says, which is written beside the graph."""
    tree: Input[str] = "tree"
    """Name of the TTree in ROOT files. A card's `treename`, or `file.root:name`, takes precedence."""


@dataclass(frozen=True, kw_only=True)
class SimulateSettings(Settings):
    """Settings of `subquad hep simulate`."""

    jets_per_class: Simulation[Count] = 1000
    """Number of jets of each class."""
    classes: Simulation[Annotated[tuple[str, ...], MinLen(1), Distinct()]] = CLASSES
    """Classes to simulate, by the names of JetClass's files."""
    jets_per_file: Output[Count] = 1000
    """Number of jets per file; each file is simulated by one process."""
    workers: Simulation[Natural] = 0
    """Number of processes; 0 uses all cores. The number does not change the jets."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        for name in self.classes:
            if name not in CLASSES:
                raise unknown("class", name, CLASSES)
