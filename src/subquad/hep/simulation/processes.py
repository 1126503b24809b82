"""The ten classes of JetClass: settings of Pythia, and labels of decays.

Class, branching and truth codes follow JetClass (arXiv:2202.03772): a jet belongs to a class when all quarks and
charged leptons of the decay lie within ΔR < 0.8 of its axis.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

COMMON = (
    "Print:quiet = on",
    "Beams:eCM = 13000.",
    # above the jets' upper edge
    "PhaseSpace:pTHatMax = 1150.",
    # no limit on lifetimes: as in JetClass, K⁰S and hyperons decay at any distance
    "25:m0 = 125.",
    "WeakZ0:gmZmode = 2",
)

_INVISIBLE_Z = ("23:onMode = off", "23:onIfAny = 12 14 16")
_HADRONIC_W = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")
_HADRONIC_Z = ("23:onMode = off", "23:onIfAny = 1 2 3 4 5")
_HIGGS = ("HiggsSM:ffbar2HZ = on", *_INVISIBLE_Z, "25:onMode = off")
_TOPS = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")

Flavours = Sequence[int]


def is_neutrino(pdg: int) -> bool:
    """Return whether a particle is a neutrino, which no detector measures."""
    return abs(pdg) in (12, 14, 16)


def _charged_leptons(flavours: Flavours) -> list[int]:
    return [abs(pdg) for pdg in flavours if abs(pdg) in (11, 13)]


def _quarks(flavours: Flavours) -> list[int]:
    return [abs(pdg) for pdg in flavours if abs(pdg) <= 6]


def _always(code: int) -> Callable[[Flavours], int | None]:
    return lambda flavours: code


def _semileptonic_higgs(flavours: Flavours) -> int | None:
    return 46 if len(_charged_leptons(flavours)) == 1 and len(_quarks(flavours)) == 2 else None


def _w_boson(flavours: Flavours) -> int:
    return 21 if 4 in _quarks(flavours) else 22


def _z_boson(flavours: Flavours) -> int:
    return {5: 31, 4: 32}.get(_quarks(flavours)[0], 33)


def _hadronic_top(flavours: Flavours) -> int:
    return 11 if 4 in _quarks(flavours) else 12


def _leptonic_top(flavours: Flavours) -> int:
    return 15 if 11 in _charged_leptons(flavours) else 16


@dataclass(frozen=True, kw_only=True)
class Process:
    """Simulation of the jets of one class."""

    label: str
    """Label branch of these jets."""
    commands: tuple[str, ...]
    """Settings of Pythia besides `COMMON`."""
    resonance: int | None
    """PDG code of the particle that decays into the jet; None for jets of light quarks and gluons."""
    code: Callable[[Flavours], int | None]
    """Returns JetClass's `aux_truth_match` from the flavours of a decay; None if it does not belong to the class."""
    min_pt: float = 480.0
    """Minimum pT of the hard process in GeV: below that of the jets because radiation adds to it, and higher where a
    neutrino carries pT away. The jets of the softest hard processes, some per cent, are lost."""


PROCESSES = {
    "ZJetsToNuNu": Process(
        label="label_QCD",
        commands=("WeakBosonAndParton:qqbar2gmZg = on", "WeakBosonAndParton:qg2gmZq = on", *_INVISIBLE_Z),
        resonance=None,
        code=_always(50),
    ),
    "HToBB": Process(
        label="label_Hbb",
        commands=(*_HIGGS, "25:onIfMatch = 5 -5"),
        resonance=25,
        code=_always(41),
    ),
    "HToCC": Process(
        label="label_Hcc",
        commands=(*_HIGGS, "25:onIfMatch = 4 -4"),
        resonance=25,
        code=_always(42),
    ),
    "HToGG": Process(
        label="label_Hgg",
        commands=(*_HIGGS, "25:onIfMatch = 21 21"),
        resonance=25,
        code=_always(44),
    ),
    "HToWW4Q": Process(
        label="label_H4q",
        commands=(*_HIGGS, "25:onIfMatch = 24 -24", *_HADRONIC_W),
        resonance=25,
        code=_always(45),
    ),
    "HToWW2Q1L": Process(
        label="label_Hqql",
        commands=(*_HIGGS, "25:onIfMatch = 24 -24", "24:onMode = off", "24:onIfAny = 1 2 3 4 5 11 13"),
        resonance=25,
        code=_semileptonic_higgs,
        min_pt=520.0,
    ),
    "ZToQQ": Process(
        label="label_Zqq",
        commands=("WeakDoubleBoson:ffbar2gmZgmZ = on", *_HADRONIC_Z),
        resonance=23,
        code=_z_boson,
    ),
    "WToQQ": Process(
        label="label_Wqq",
        commands=("WeakDoubleBoson:ffbar2ZW = on", *_INVISIBLE_Z, *_HADRONIC_W),
        resonance=24,
        code=_w_boson,
    ),
    "TTBar": Process(
        label="label_Tbqq",
        commands=(*_TOPS, *_HADRONIC_W),
        resonance=6,
        code=_hadronic_top,
    ),
    "TTBarLep": Process(
        label="label_Tbl",
        commands=(*_TOPS, "24:onMode = off", "24:onIfAny = 11 13"),
        resonance=6,
        code=_leptonic_top,
        min_pt=560.0,
    ),
}
"""The ten classes, in the order of JetClass's labels."""
