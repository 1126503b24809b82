r"""A tagger as ONNX, with the `preprocess.json` that weaver writes beside one, checked in onnxruntime. About a minute.

The exported net is the dense form of the same filters: ONNX has no neighbour lists, and gives the same numbers from
the matrices. Axes: B jets, P particles, H features of a particle, J numbers of the jet, C classes; inputs lie as
weaver's do, [B, H, P].
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subquad import __version__
from subquad.errors import SubquadError
from subquad.export import export_onnx
from subquad.hep.data.features import STANDARD_FEATURES
from subquad.hep.data.layout import InputGroup, Layout, Standardizer
from subquad.hep.models.trained import TrainedTagger
from subquad.nn.graph import PCN, ChebConv
from subquad.nn.kinematic import EPCN, KinematicPCN
from subquad.ops.chebyshev import Neighbours, chebyshev, knn_adjacency, scaled_laplacian
from subquad.ops.kinematics import VARIABLES, kinematic_laplacians, pair_kinematics
from subquad.progress import say
from subquad.runs.storage import as_file, atomic, write_json

__all__ = ["EXPRESSIONS", "Scorer", "examples", "export", "export_tagger", "preprocessing"]

PREPROCESS, OUTPUT = "preprocess.json", "softmax"
MULTIPLICITIES, BATCHES = (1, 2, 7, 40, 128), (1, 3)
FAR = 1e32
"""Where weaver's limits are that limit nothing."""

_PT = "np.maximum(np.hypot(part_px, part_py), 1e-6)"
_ENERGY = "np.maximum(part_energy, 1e-6)"


def _significance(name: str) -> str:
    ratio = f"part_{name}val / part_{name}err"
    return f"np.where(part_{name}err > 0, np.sign({ratio}) * np.log1p(np.abs({ratio})), 0)"


EXPRESSIONS: dict[str, tuple[str, float, float]] = {
    "deta": ("part_deta", 0.0, 1.0),
    "dphi": ("part_dphi", 0.0, 1.0),
    "log pt": (f"np.log({_PT})", 1.7, 0.7),
    "log energy": (f"np.log({_ENERGY})", 2.0, 0.7),
    "log pt/jet": (f"np.log({_PT}) - np.log(np.maximum(jet_pt, 1e-6))", -4.7, 0.7),
    "log energy/jet": (f"np.log({_ENERGY}) - np.log(np.maximum(jet_energy, 1e-6))", -4.7, 0.7),
    "dr": ("np.hypot(part_deta, part_dphi)", 0.2, 4.0),
    "charge": ("part_charge", 0.0, 1.0),
    **{name: (f"part_{name}", 0.0, 1.0) for name in STANDARD_FEATURES if name.startswith("is")},
    "tanh d0": ("np.tanh(part_d0val)", 0.0, 1.0),
    "d0err": ("np.clip(part_d0err, 0, 1)", 0.0, 1.0),
    "tanh dz": ("np.tanh(part_dzval)", 0.0, 1.0),
    "dzerr": ("np.clip(part_dzerr, 0, 1)", 0.0, 1.0),
    "d0 significance": (_significance("d0"), 0.0, 1.0),
    "dz significance": (_significance("dz"), 0.0, 1.0),
}
"""Of each standard feature: how it is made of JetClass's branches, what is subtracted then and multiplied by."""


class _DenseFilter(nn.Module):
    """A `ChebConv` whose neighbour lists hold whole rows of the matrix."""

    def __init__(self, of: ChebConv) -> None:
        super().__init__()
        self.weight, self.bias = of.weight, of.bias

    def forward(self, x: Tensor, graph: Neighbours, mask: Tensor) -> Tensor:
        x = torch.where(mask[..., None], x, 0)
        return torch.where(mask[..., None], chebyshev(x, self.weight, graph.value) + self.bias, 0)


def _dense(laplacian: Tensor) -> Neighbours:
    B, P, _ = laplacian.shape
    return Neighbours(torch.arange(P, device=laplacian.device).expand(B, P, P), laplacian)


class Scorer(nn.Module):
    """A net with the inputs that weaver's nets have; returns the probabilities.

    Args:
        net: a PCN, an EPCN or a KinematicPCN; it is copied.
        is_on_features: neighbours are near in the features; there are no points then.
    """

    def __init__(self, net: nn.Module, *, is_on_features: bool = False) -> None:
        super().__init__()
        self.net, self.is_on_features = copy.deepcopy(net).eval(), is_on_features
        for part in [self.net] if isinstance(net, PCN) else getattr(self.net, "on_each", []):
            part.filters = nn.ModuleList(_DenseFilter(one) for one in part.filters)
        self.eval()

    def forward(
        self,
        pf_features: Tensor,
        pf_mask: Tensor,
        pf_points: Tensor | None = None,
        pf_vectors: Tensor | None = None,
        jet_features: Tensor | None = None,
    ) -> Tensor:
        """Return [B, C] from features [B, H, P], a mask [B, 1, P], points [B, 2, P], momenta [B, 4, P] and [B, J]."""
        x, mask = pf_features.mT, pf_mask[:, 0] != 0
        points = x if self.is_on_features or pf_points is None else pf_points.mT
        net = self.net
        if isinstance(net, KinematicPCN):
            assert pf_vectors is not None
            return net(x, points, mask, vectors=pf_vectors.mT, jet_features=jet_features).softmax(-1)
        if isinstance(net, EPCN):
            assert pf_vectors is not None
            adjacency = knn_adjacency(points, mask, net.k, periodic=(1,))
            pairs = pair_kinematics(pf_vectors.mT, points, mask)
            laplacians = kinematic_laplacians(pairs, adjacency, torch.eye(len(VARIABLES)))
            parts = zip(laplacians.unbind(1), net.on_each, strict=True)
            return net.classify([part(x, _dense(matrix), mask) for matrix, part in parts], mask).softmax(-1)
        adjacency = knn_adjacency(points, mask, net.k, periodic=net.periodic)
        graph = _dense(scaled_laplacian(adjacency, mask))
        return net.classify(x, graph, mask, jet_features=jet_features).softmax(-1)


def examples(layout: Layout, names: Sequence[str], jet_features: int) -> list[dict[str, Tensor]]:
    """Return jets made up at random, of 1 to 128 particles, alone and several together, some of them padded."""
    generator, found = torch.Generator().manual_seed(0), []
    for B, P in [(B, P) for B in BATCHES for P in MULTIPLICITIES]:

        def normal(*shape: int, B: int = B) -> Tensor:
            return torch.randn(B, *shape, generator=generator)

        lengths = torch.randint(1, P + 1, (B, 1), generator=generator)
        # one jet has no padding
        lengths[0] = P
        pt, eta, phi = (1.5 * normal(P) + 1).exp(), 0.2 * normal(P), 0.2 * normal(P)
        given = {
            "pf_points": torch.stack([eta, phi], 1),
            "pf_features": normal(len(layout.features.names), P),
            "pf_vectors": torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], 1),
            "pf_mask": (torch.arange(P) < lengths)[:, None].float(),
            "jet_features": normal(jet_features),
        }
        found.append({name: given[name] for name in names})
    return found


def _names(tagger: TrainedTagger) -> list[str]:
    is_kinematic = isinstance(tagger.net, EPCN | KinematicPCN)
    return [
        *(["pf_points"] if tagger.settings.graph == "angles" else []),
        "pf_features",
        *(["pf_vectors"] if is_kinematic else []),
        "pf_mask",
        *(["jet_features"] if tagger.layout.jet_standardizer is not None else []),
    ]


def preprocessing(tagger: TrainedTagger) -> dict[str, Any]:
    """Return how the inputs are made, as weaver's `preprocess.json` says it, and beside it of which branches."""
    layout, length = tagger.layout, tagger.settings.max_particles
    views = {"pf_points": layout.points, "pf_features": layout.features, "pf_vectors": layout.vectors}
    found: dict[str, Any] = {
        "output_names": [f"label_{name}" for name in tagger.classes],
        "input_names": _names(tagger),
    }
    made: dict[str, str] = {}
    for name in found["input_names"]:
        view = views.get(name)
        if view is not None:
            infos = _infos(view, layout, is_standard=tagger.settings.features == "standard")
            found[name] = {"var_names": list(view.names), "var_infos": infos, "var_length": length}
            made |= {variable: _expression(variable, layout, tagger.settings.features) for variable in view.names}
    found["pf_mask"] = {"var_names": ["pf_mask"], "var_infos": {"pf_mask": _info()}, "var_length": length}
    made["pf_mask"] = "1 for a particle, 0 for padding"
    if layout.jet_standardizer is not None:
        infos = dict(zip(layout.jet_features, _standardization(layout.jet_standardizer), strict=True))
        found["jet_features"] = {"var_names": list(layout.jet_features), "var_infos": infos}
        made["jet_features"] = "subquad.hep.data.features: " + (
            "jet_features" if layout.has_jetclass_features else "momentum_features, or means over the particles"
        )
    return {**found, "expressions": made}


def _info(center: float = 0.0, scale: float = 1.0, low: float = -FAR, high: float = FAR) -> dict[str, float]:
    return {
        **{"median": center, "norm_factor": scale, "replace_inf_value": 0},
        **{"lower_bound": max(low, -FAR), "upper_bound": min(high, FAR), "pad": 0},
    }


def _standardization(given: Standardizer) -> list[dict[str, float]]:
    columns = (given.center, given.scale, given.low, given.high)
    return [_info(*numbers) for numbers in zip(*(column.tolist() for column in columns), strict=True)]


def _infos(view: InputGroup, layout: Layout, *, is_standard: bool) -> dict[str, dict[str, float]]:
    if view.standardizer is not None:
        return dict(zip(view.names, _standardization(view.standardizer), strict=True))
    if layout.card is None and is_standard:
        return {
            name: _info(*EXPRESSIONS[name][1:], -10.0, 10.0) if name in EXPRESSIONS else _info() for name in view.names
        }
    return {name: _info() for name in view.names}


def _expression(name: str, layout: Layout, features: str) -> str:
    """Return how a variable is made of the branches."""
    if layout.card is not None:
        found = layout.card.new_variables.get(name)
        return layout.card.branch(name) if found is None else found.text
    if features == "standard" and name in EXPRESSIONS:
        return EXPRESSIONS[name][0]
    return "np.hypot(part_px, part_py)" if name == "pt" else f"part_{name}"


def export_tagger(tagger: TrainedTagger, path: Path) -> list[dict[str, Any]]:
    """Write a tagger as ONNX, and return how far onnxruntime is from torch at each size.

    Raises:
        SubquadError: the two differ by more than 1e-4.
    """
    names, jet_features = _names(tagger), len(tagger.layout.jet_features)
    is_on_features = tagger.settings.graph == "features"
    given = examples(tagger.layout, names, jet_features)
    axes: dict[str, Mapping[int, str]] = {name: {0: "batch", 2: "particles"} for name in names}
    if "jet_features" in axes:
        axes["jet_features"] = {0: "batch"}
    differences = export_onnx(
        Scorer(tagger.net, is_on_features=is_on_features),
        path,
        # of more particles than k, where all k neighbours are looked for: what a smaller jet does with those that it
        # has not changes none of its edges
        inputs=next(one for one in given if one["pf_mask"].shape[0] > 1 and one["pf_mask"].shape[2] > tagger.net.k + 1),
        axes=axes,
        least={"particles": tagger.net.k + 1},
        output=OUTPUT,
        examples=given,
    )
    sizes = [one["pf_mask"].shape for one in given]
    return [
        {"jets": B, "particles": P, "difference": found} for (B, _, P), found in zip(sizes, differences, strict=True)
    ]


def export(run: Path | str, *, out: Path | str, force: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Write a tagger as ONNX with `preprocess.json` beside it, and return what stands in the latter.

    Raises:
        SubquadError: no such tagger, files that are there already, or onnxruntime gives other scores than torch.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    out = as_file(out)
    beside = out.parent / PREPROCESS
    if out.suffix != ".onnx":
        raise SubquadError(f"{out}: the name must end in .onnx")
    for path in (out, beside):
        if path.exists() and not force:
            raise SubquadError(f"{path}: is there already; give another --out, or replace it with --force")
    tagger = TrainedTagger.load(run)
    say("following the net, and comparing it in onnxruntime", quiet=quiet)
    with atomic(out) as temporary:
        checked = export_tagger(tagger, temporary)
        found = {
            **preprocessing(tagger),
            "subquad": {"version": __version__, "run": str(run), "model": out.name, "output": OUTPUT},
            "checked": {"largest_difference": max(one["difference"] for one in checked), "sizes": checked},
        }
        write_json(beside, found)
    return found
