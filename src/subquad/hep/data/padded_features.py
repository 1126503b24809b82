"""The features of `subquad.hep.data.features` on padded tensors of branches, for graphs that are exported.

Equal to these up to rounding: sums are in float64 there and here.

Axes: B jets, P particles of a padded batch, H features.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subquad.hep.data.features import RAW_FEATURES, STANDARDIZATION, TYPES
from subquad.hep.data.tensor_expressions import ELEMENTWISE, arcsinh, arctan2, hypot, log1p

Branches = Mapping[str, Tensor]
"""[B, P] for each branch of particles and [B] for each of jets, float32."""

_log, _tanh = ELEMENTWISE["log"], ELEMENTWISE["tanh"]
LEAST = 1e-6
"""Lower bound of momenta and other numbers before a logarithm or a division."""


def _significance(branches: Branches, name: str) -> Float[Tensor, "B P"]:
    value, error = branches[f"part_{name}val"], branches[f"part_{name}err"]
    has_track = error > 0
    ratio = torch.where(has_track, value / torch.where(has_track, error, 1.0), 0.0)
    return ratio.sign() * log1p(ratio.abs())


def particle_features(branches: Branches, names: Sequence[str]) -> Float[Tensor, "B P H"]:
    """Return the features of the particles; `names` is `RAW_FEATURES`, or some `STANDARD_FEATURES`."""

    def column(name: str) -> Tensor:
        return branches[f"part_{name}"]

    def logarithm(name: str) -> Tensor:
        own = hypot(column("px"), column("py")) if name == "pt" else column(name)
        return _log(own.clamp(min=LEAST))

    def of_jet(name: str) -> Tensor:
        return _log(branches[f"jet_{name}"].double().clamp(min=LEAST))[:, None]

    if tuple(names) == RAW_FEATURES:
        columns = [hypot(column("px"), column("py")) if name == "pt" else column(name) for name in names]
        return torch.stack(columns, -1)
    computed: dict[str, Callable[[], Tensor]] = {
        "log pt": lambda: logarithm("pt"),
        "log energy": lambda: logarithm("energy"),
        "log pt/jet": lambda: logarithm("pt") - of_jet("pt"),
        "log energy/jet": lambda: logarithm("energy") - of_jet("energy"),
        "dr": lambda: hypot(column("deta"), column("dphi")),
        "tanh d0": lambda: _tanh(column("d0val")),
        "d0err": lambda: column("d0err").clamp(0, 1),
        "tanh dz": lambda: _tanh(column("dzval")),
        "dzerr": lambda: column("dzerr").clamp(0, 1),
        "d0 significance": lambda: _significance(branches, "d0"),
        "dz significance": lambda: _significance(branches, "dz"),
    }
    columns = []
    for name in names:
        center, scale = STANDARDIZATION.get(name, (0.0, 1.0))
        value = (computed[name]() - center) * scale if name in computed else column(name)
        columns.append(value.clamp(-10, 10).float())
    return torch.stack(columns, -1)


def _sum_over(mask: Bool[Tensor, "B P"]) -> Callable[[Tensor], Tensor]:
    """Return the function that sums values [B, P] over the real particles of each jet, in float64."""
    return lambda values: torch.where(mask, values.double(), 0.0).sum(1)


def _largest(values: Float[Tensor, "B P"], mask: Bool[Tensor, "B P"], count: int) -> list[Tensor]:
    """Return the largest of the non-negative values of each jet, [B] each, with 0 for those that it lacks."""
    padded = torch.cat([torch.where(mask, values, 0.0), values.new_zeros(values.shape[0], count)], 1)
    return list(padded.topk(count, dim=1).values.unbind(1))


def jet_features(branches: Branches, mask: Bool[Tensor, "B P"], names: Sequence[str]) -> Float[Tensor, "B H"]:
    """Return some or all of the jet-level features in `JET_FEATURES`; only branches that they need are read.

    Args:
        branches: All particles of the jets, in any order.
        mask: True where a particle is real.
        names: Features.
    """
    total = _sum_over(mask)

    def column(name: str) -> Tensor:
        return branches[f"part_{name}"]

    def tau(i: int) -> Tensor:
        return branches[f"jet_tau{i}"].double().clamp(min=LEAST)

    pt = hypot(column("px"), column("py")).double()
    sum_pt = total(pt).clamp(min=LEAST)
    dr = hypot(column("deta"), column("dphi"))
    d0, dz = _significance(branches, "d0").abs(), _significance(branches, "dz").abs()
    is_charged = column("charge") != 0
    is_lepton = (column("isElectron") + column("isMuon")) > 0
    is_displaced = is_charged & (d0.double() > math.log1p(3.0))
    (lepton_pt,) = _largest(pt * is_lepton, mask, 1)
    is_first_lepton = is_lepton & (pt == lepton_pt[:, None])
    momenta = [column(name).double() for name in ("px", "py", "pz", "energy")]
    found: dict[str, Callable[[], Tensor]] = {
        "log pt": lambda: branches["jet_pt"].double().clamp(min=LEAST).log(),
        "|eta|": lambda: branches["jet_eta"].double().abs(),
        "log mass": lambda: log1p(_invariant_mass(*map(total, momenta))),
        "log sdmass": lambda: log1p(branches["jet_sdmass"].double().clamp(min=0)),
        "jet charge": lambda: total(column("charge") * pt.sqrt()) / sum_pt.sqrt(),
        "displaced tracks": lambda: total(is_displaced),
        "mean d0 significance": lambda: total(d0 * is_charged) / total(is_charged).clamp(min=1),
        "lepton pt/jet": lambda: lepton_pt / sum_pt,
        "lepton dr": lambda: total(dr * is_first_lepton) / total(is_first_lepton).clamp(min=1),
        "mass of displaced": lambda: log1p(_invariant_mass(*(total(p * is_displaced) for p in momenta))),
    }
    for i in (1, 2, 3, 4):
        found[f"log tau{i}"] = lambda i=i: tau(i).log()
        found[f"tau{i + 1}{i}"] = lambda i=i: tau(i + 1) / tau(i)
    for name in TYPES:
        found[f"count {name}"] = lambda name=name: total(column(name))
        found[f"part of pt {name}"] = lambda name=name: total(column(name) * pt) / sum_pt
    shapes = _shapes(pt, dr, mask)
    ranked = {
        **{f"d0 significance {i}": value for i, value in enumerate(_largest(d0, mask, 4), 1)},
        **{f"dz significance {i}": value for i, value in enumerate(_largest(dz, mask, 3), 1)},
    }
    given = {**shapes, **ranked, "particles": mask.double().sum(1)}
    return torch.stack([(given[name] if name in given else found[name]()).float() for name in names], 1)


def _shapes(pt: Tensor, dr: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return width, pT dispersion, log e2 and the pT fractions of the hardest particles, [B] each."""
    total = _sum_over(mask)
    sum_pt = total(pt).clamp(min=LEAST)
    leading = zip(("leading", "second", "third"), _largest(pt, mask, 3), strict=True)
    return {
        "width": total(pt * dr) / sum_pt,
        "pt dispersion": total(pt.square()).sqrt() / sum_pt,
        # the square in float32, as there
        "log e2": (total(pt * dr.square()).clamp(min=LEAST) / sum_pt).log(),
        **{name: value / sum_pt for name, value in leading},
    }


def angles_from_momenta(vectors: Float[Tensor, "B P 4"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B P 2"]:
    """Return Δη and Δφ between each particle and its jet, from momenta in GeV."""

    def eta_and_phi(px: Tensor, py: Tensor, pz: Tensor) -> tuple[Tensor, Tensor]:
        return arcsinh(pz / hypot(px, py).clamp(min=LEAST)), arctan2(py, px)

    momenta = list(vectors[..., :3].double().unbind(-1))
    eta, phi = eta_and_phi(*momenta)
    eta_of_jet, phi_of_jet = (x[:, None] for x in eta_and_phi(*map(_sum_over(mask), momenta)))
    turn = torch.remainder(phi - phi_of_jet + math.pi, 2 * math.pi) - math.pi
    return torch.stack([eta - eta_of_jet, turn], -1).float()


def momentum_features(vectors: Float[Tensor, "B P 4"], mask: Bool[Tensor, "B P"]) -> Float[Tensor, "B H"]:
    """Return the jet-level features named in `MOMENTUM_FEATURES`, from momenta in GeV."""
    pt = hypot(vectors[..., 0], vectors[..., 1]).double()
    px, py, pz, energy = map(_sum_over(mask), vectors.double().unbind(-1))
    pt_of_jet = hypot(px, py).clamp(min=LEAST)
    deta, dphi = angles_from_momenta(vectors, mask).unbind(-1)
    shapes = _shapes(pt, hypot(deta, dphi), mask)
    columns = [
        mask.double().sum(1),
        pt_of_jet.log(),
        arcsinh(pz / pt_of_jet).abs(),
        energy.clamp(min=LEAST).log(),
        log1p(_invariant_mass(px, py, pz, energy)),
        *shapes.values(),
    ]
    return torch.stack([column.float() for column in columns], 1)


def _invariant_mass(px: Tensor, py: Tensor, pz: Tensor, energy: Tensor) -> Tensor:
    return (energy.square() - px.square() - py.square() - pz.square()).clamp(min=0).sqrt()
