"""Simulated H→bb jets against real JetClass ones, by their four-vectors alone: about a minute of one core.

    SUBQUAD_DATA=DATA python benchmarks/hep_real.py --out real [--simulated FILE...]
    pip install --no-deps weaver-core
    SUBQUAD_DATA=DATA python benchmarks/hep_real.py --out real --particlenet

Real: the 2,000 jets of $SUBQUAD_DATA/hep/real/jetclass_hbb_kin.npz; simulated: files of `subquad hep simulate`, without
--simulated $SUBQUAD_DATA/hep/sim/HToBB_000.root, which is of version 1 of the simulated physics. One code makes the
observers of both from px, py, pz, E of at most 128 particles, the hardest first, which is where the real sample ends.

For each observer: the Kolmogorov–Smirnov distance with its p-value, and as the yardstick the distance that random
halves of the real sample stay below in 95 % of 100 draws. Over all: the AUC of gradient boosting that tells real from
simulated (five folds; mean ± the standard error over them), with all observers, with groups of
them, and with weights that give the simulated jets the real ones' spectrum of pT and |η|. --particlenet compares the
scores that ParticleNet with its published weights for kinematic features gives to both. Figures go to --out as PDF and
PNG; prints a Markdown table; the last line is JSON.
"""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from subquad.hep.data.substructure import substructure
from subquad.hep.simulation.writer import read_columns

MOST = 128
RINGS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
THRESHOLDS = (1, 2, 5, 10, 20, 50)
# above this energy a mass of float32 momenta says no longer which particle it was
KIND_ENERGY = 30.0
KINDS = {"massless": (0.0, 0.03), "muons": (0.095, 0.12), "pions": (0.12, 0.16), "kaons": (0.45, 0.55)}
KINDS |= {"protons": (0.9, 0.98), "hyperons": (1.15, 1.7)}
WINDOW = (100.0, 140.0)
STYLE = {
    **{"font.size": 9, "axes.labelsize": 10, "legend.fontsize": 8, "legend.frameon": False, "xtick.direction": "in"},
    **{"ytick.direction": "in", "xtick.top": True, "ytick.right": True, "savefig.dpi": 110},
}
COLOURS = ("black", "tab:blue")
Groups = dict[str, dict[str, np.ndarray]]
Shown = dict[str, tuple[float, float, str]]
SHOWN: Shown = {
    "pT": (500, 1000, "jet pT / GeV"),
    "mass": (50, 200, "mass of all particles / GeV"),
    "soft-drop mass": (50, 200, "soft-drop mass / GeV"),
    "particles": (9.5, 84.5, "particles"),
    "leading 1": (0, 0.6, "pT fraction of the hardest particle"),
    "width": (0, 0.35, "width"),
    "tau21": (0, 1, "τ2 / τ1"),
    "softest pT": (0, 2, "pT of the softest particle / GeV"),
}
"""From, to and axis label of observers."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Jets as padded particles [J, 128, 4], the hardest first."""

    momentum: np.ndarray
    """px, py, pz, E in GeV; zero where there is no particle."""
    deta: np.ndarray
    """η of each particle less that of the jet, positive away from the middle of the detector."""
    dphi: np.ndarray
    """φ less that of the jet."""
    axis: np.ndarray
    """[J, 4], the sum over all particles."""

    @classmethod
    def of(cls, momentum: np.ndarray) -> "Sample":
        """Return jets with their axes, from momenta [J, 128, 4]."""
        momentum = momentum.astype(np.float64)
        axis = momentum.sum(axis=1)
        x, y, z, _ = np.moveaxis(momentum, -1, 0)
        pt = np.hypot(x, y)
        is_there = pt > 0
        eta = np.arcsinh(np.divide(z, pt, out=np.zeros_like(z), where=is_there))
        axis_eta = np.arcsinh(axis[:, 2] / np.hypot(axis[:, 0], axis[:, 1]))[:, None]
        # the angle of the product with the axis's conjugate
        u, v = axis[:, 0, None], axis[:, 1, None]
        dphi = np.arctan2(y * u - x * v, x * u + y * v)
        deta = np.where(axis_eta < 0, -1.0, 1.0) * (eta - axis_eta)
        return cls(momentum=momentum, deta=deta * is_there, dphi=dphi * is_there, axis=axis)

    @property
    def pt(self) -> np.ndarray:
        """[J, 128]."""
        return np.hypot(self.momentum[..., 0], self.momentum[..., 1])

    @property
    def jet_pt(self) -> np.ndarray:
        """[J]."""
        return np.hypot(self.axis[:, 0], self.axis[:, 1])


def real_jets(path: Path) -> Sample:
    with np.load(path, allow_pickle=False) as file:
        return Sample.of((file["vectors"] * file["mask"]).transpose(0, 2, 1)[:, :MOST])


def simulated_jets(paths: Sequence[Path]) -> Sample:
    parts = []
    for path in paths:
        table = read_columns(path)
        sizes = table["npart"]
        place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        part = np.zeros((len(sizes), max(MOST, int(sizes.max())), 4), np.float32)
        columns = [table[f"part_{name}"] for name in ("px", "py", "pz", "energy")]
        part[np.repeat(np.arange(len(sizes)), sizes), place] = np.stack(columns, axis=1)
        parts.append(part[:, :MOST])
    return Sample.of(np.concatenate(parts))


def correlations(sample: Sample, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return e2 and e3 [J], the sums over pairs and triples of the pT fractions z times all distances between them."""
    found = []
    for jet, size in enumerate((z > 0).sum(axis=1)):
        deta, dphi, part = sample.deta[jet, :size], sample.dphi[jet, :size], z[jet, :size]
        apart = np.hypot(deta[:, None] - deta, dphi[:, None] - dphi)
        # each corner of a triangle belongs to two of its sides
        side = np.sqrt(part[:, None] * part) * apart
        found.append((part @ apart @ part / 2, np.sum((side @ side) * side) / 6))
    return tuple(np.array(found).T)


def observers(sample: Sample) -> Groups:
    """Return the observers [J] by group."""
    pt, jet_pt, axis = sample.pt, sample.jet_pt, sample.axis
    is_there, energy, distance = pt > 0, sample.momentum[..., 3], np.hypot(sample.deta, sample.dphi)
    z = pt / pt.sum(axis=1, keepdims=True)
    sizes = is_there.sum(axis=1)
    soft_drop_mass, tau = substructure(sample.momentum[is_there], sizes)
    e2, e3 = correlations(sample, z)
    mass = np.sqrt(np.maximum(energy**2 - (sample.momentum[..., :3] ** 2).sum(axis=-1), 0.0))
    is_slow = is_there & (energy < KIND_ENERGY)
    is_kind = {name: is_slow & (mass >= low) & (mass < high) for name, (low, high) in KINDS.items()}
    return {
        "kinematics": {"pT": jet_pt, "abs eta": np.abs(np.arcsinh(axis[:, 2] / jet_pt))},
        "mass": {
            "mass": np.sqrt(np.maximum(axis[:, 3] ** 2 - (axis[:, :3] ** 2).sum(axis=1), 0.0)),
            "soft-drop mass": soft_drop_mass,
        },
        "multiplicity": {
            "particles": sizes.astype(float),
            **{f"particles above {low} GeV": (pt > low).sum(axis=1).astype(float) for low in THRESHOLDS},
            "softest pT": np.where(is_there, pt, np.inf).min(axis=1),
        },
        "hard end": {**{f"leading {k + 1}": z[:, k] for k in range(3)}, "dispersion": np.sqrt((z**2).sum(axis=1))},
        "flow": {
            **{f"flow {a:g}-{b:g}": (z * ((distance >= a) & (distance < b))).sum(axis=1) for a, b in pairwise(RINGS)},
            "width": (z * distance).sum(axis=1),
        },
        "prongs": {
            **{"e2": e2, "D2": e3 / e2**3, "tau1": tau[:, 0]},
            **{f"tau{k + 1}{k}": tau[:, k] / np.maximum(tau[:, k - 1], 1e-6) for k in (1, 2, 3)},
        },
        "kinds": {name: chosen.sum(axis=1).astype(float) for name, chosen in is_kind.items()},
    }


def compared(real: np.ndarray, simulated: np.ndarray, random: np.random.Generator) -> dict[str, float]:
    """Return the distances of two samples of one observer."""
    test = ks_2samp(real, simulated, method="asymp")
    halves = [np.split(random.permutation(real), [len(real) // 2]) for _ in range(100)]
    # halves are smaller than the samples, and so further apart; the distance falls with the root of the number
    size = np.sqrt((len(real) / 4) * (1 / len(real) + 1 / len(simulated)))
    yardstick = np.quantile([ks_2samp(*pair, method="asymp").statistic for pair in halves], 0.95) * size
    return {
        **{"real": float(np.mean(real)), "simulated": float(np.mean(simulated))},
        "error": float(np.hypot(np.std(real) / len(real) ** 0.5, np.std(simulated) / len(simulated) ** 0.5)),
        **{"ks": float(test.statistic), "yardstick": float(yardstick), "p": float(test.pvalue)},
    }


def same_spectrum(real: Sample, simulated: Sample) -> np.ndarray:
    """Return weights with which the simulated jets have the real ones' spectrum of pT and |η|."""
    edges = [np.array([500, 520, 540, 560, 580, 600, 630, 660, 700, 750, 800, 900, 1000.1]), np.linspace(0, 2.01, 6)]
    counts = []
    for sample in (real, simulated):
        eta = np.abs(np.arcsinh(sample.axis[:, 2] / sample.jet_pt))
        counts.append(np.histogram2d(sample.jet_pt, eta, bins=edges)[0] / len(eta))
    place = [np.digitize(value, edge) - 1 for value, edge in ((sample.jet_pt, edges[0]), (eta, edges[1]))]
    ratio = np.divide(counts[0], counts[1], out=np.zeros_like(counts[0]), where=counts[1] > 0)
    return ratio[tuple(place)]


def told_apart(
    inputs: np.ndarray, is_real: np.ndarray, weights: np.ndarray, groups: dict[str, list[int]]
) -> tuple[float, float, dict[str, float]]:
    """Return the AUC, its standard error, and by how much it falls when the columns of a group are shuffled."""
    weights = weights / np.where(is_real, weights[is_real].mean(), weights[~is_real].mean())
    weights[~is_real] *= is_real.sum() / (~is_real).sum()
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in ("", *groups)}
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(inputs, is_real):
        model = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.1, max_leaf_nodes=8, random_state=0)
        model.fit(inputs[train], is_real[train], sample_weight=weights[train])
        for name, columns in {"": [], **groups}.items():
            shuffled = inputs[test].copy()
            shuffled[:, columns] = random.permutation(shuffled[:, columns])
            score = model.predict_proba(shuffled)[:, 1]
            found[name].append(float(roc_auc_score(is_real[test], score, sample_weight=weights[test])))
    auc, error = float(np.mean(found[""])), float(np.std(found[""], ddof=1)) / 5**0.5
    return auc, error, {name: auc - float(np.mean(found[name])) for name in groups}


def ratio_panels(columns: int, rows: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Return a figure and its pairs of axes: the distributions above, their ratio to real below."""
    figure = Figure(figsize=(3.3 * columns, 3.0 * rows), layout="constrained")
    parts = figure.subplots(2 * rows, columns, height_ratios=[3, 1] * rows, squeeze=False)
    return figure, [tuple(parts[2 * row : 2 * row + 2, column]) for row in range(rows) for column in range(columns)]


def draw(upper: Axes, lower: Axes, counts: Sequence[tuple[np.ndarray, np.ndarray]], edges: np.ndarray) -> None:
    """Draw (value, error) per bin of real and simulated, and simulated over real."""
    middle = (edges[1:] + edges[:-1]) / 2
    for (value, error), colour, name in zip(counts, COLOURS, ("JetClass", "simulated"), strict=True):
        upper.stairs(value, edges, color=colour, label=name)
        upper.errorbar(middle, value, error, fmt="none", color=colour, linewidth=0.8)
    (real, real_error), (simulated, error) = counts
    is_filled = real > 0
    ratio = simulated[is_filled] / real[is_filled]
    spread = np.hypot(error[is_filled] / real[is_filled], ratio * real_error[is_filled] / real[is_filled])
    lower.errorbar(middle[is_filled], ratio, spread, fmt=".", color=COLOURS[1], markersize=3, linewidth=0.8)
    lower.axhline(1, color="0.5", linewidth=0.8)
    lower.set(ylim=(0.4, 1.6), xlim=(edges[0], edges[-1]), ylabel="ratio")
    upper.set(xlim=(edges[0], edges[-1]))
    upper.tick_params(labelbottom=False)


def observers_figure(real: dict[str, np.ndarray], simulated: dict[str, np.ndarray], shown: Shown) -> Figure:
    """Return the distributions of some observers."""
    figure, panels = ratio_panels(min(4, len(shown)), -(-len(shown) // 4))
    for (name, (low, high, label)), (upper, lower) in zip(shown.items(), panels, strict=True):
        edges = np.linspace(low, high, 26)
        counts = [(np.histogram(found[name], edges)[0], len(found[name])) for found in (real, simulated)]
        draw(upper, lower, [(count / size, np.sqrt(count) / size) for count, size in counts], edges)
        lower.set_xlabel(label)
    panels[0][0].legend()
    figure.supylabel("part of the jets")
    return figure


def flow_figure(real: Sample, simulated: Sample) -> Figure:
    """Return per jet the pT fraction by distance from the axis, and the number of particles by their pT."""
    figure, panels = ratio_panels(2, 1)
    for (upper, lower), edges in zip(panels, (np.linspace(0, 0.8, 25), np.geomspace(0.1, 400, 31)), strict=True):
        is_flow, counts = edges[0] == 0, []
        for sample in (real, simulated):
            value = np.hypot(sample.deta, sample.dphi) if is_flow else sample.pt
            weight = sample.pt / sample.jet_pt[:, None] if is_flow else 1.0
            jets = np.stack([np.sum(weight * ((value >= a) & (value < b)), axis=1) for a, b in pairwise(edges)])
            counts.append((jets.mean(axis=1), jets.std(axis=1) / jets.shape[1] ** 0.5))
        draw(upper, lower, counts, edges)
        upper.set(ylabel="pT fraction per ring" if is_flow else "particles per bin", yscale="log")
        lower.set_xlabel("distance from the axis" if is_flow else "particle pT / GeV")
        if not is_flow:
            upper.set_xscale("log")
            lower.set(xscale="log", ylim=(0, 4))
    panels[0][0].legend()
    return figure


def particlenet(sample: Sample, weights: Path) -> np.ndarray:
    """Return the probabilities [J, 10] of ParticleNet with the published weights for kinematic features."""
    import torch
    from safetensors.torch import load_file
    from weaver.nn.model.ParticleNet import ParticleNet

    shape = {"conv_params": [(16, (c, c, c)) for c in (64, 128, 256)], "fc_params": [(256, 0.1)]}
    net = ParticleNet(7, 10, **shape, use_fusion=False, use_fts_bn=True, use_counts=True).eval()
    net.load_state_dict(load_file(weights))
    pt, energy, mask = sample.pt, sample.momentum[..., 3], sample.pt > 0
    log_pt, log_energy = np.log(np.where(mask, pt, 1.0)), np.log(np.where(mask, energy, 1.0))
    # JetClass's standardisation (arXiv:2202.03772)
    features = [(log_pt - 1.7) * 0.7, (log_energy - 2.0) * 0.7, (log_pt - np.log(sample.jet_pt)[:, None] + 4.7) * 0.7]
    features.append((log_energy - np.log(sample.axis[:, 3])[:, None] + 4.7) * 0.7)
    features += [(np.hypot(sample.deta, sample.dphi) - 0.2) * 4.0, sample.deta, sample.dphi]
    x = torch.from_numpy((np.stack(features, axis=1).clip(-5, 5) * mask[:, None]).astype(np.float32))
    sizes, found = mask.sum(axis=1), np.zeros((len(mask), 10))
    with torch.no_grad():
        # jets of like length together, since the time goes with the longest
        for rows in np.array_split(np.argsort(sizes), len(sizes) // 50):
            # each particle has 16 neighbours, padded ones where others lack
            length = max(17, sizes[rows].max())
            batch, there = x[rows, :, :length], torch.from_numpy(mask[rows, None, :length])
            found[rows] = net(batch[:, -2:], batch, mask=there).softmax(-1).numpy()
    return found


def classifiers(real: Sample, simulated: Sample, tables: Sequence[Groups]) -> dict[str, object]:
    """Return the AUC that tells the samples apart, with and without groups of observers, and its yardsticks."""
    columns = [(group, name) for group, found in tables[0].items() for name in found]
    inputs = np.concatenate([np.stack([table[g][n] for g, n in columns], axis=1) for table in tables])
    is_real = np.repeat([True, False], [len(real.axis), len(simulated.axis)])
    flat = np.ones(len(inputs))
    weighted = np.concatenate([np.ones(len(real.axis)), same_spectrum(real, simulated)])
    groups = {group: [i for i, (g, _) in enumerate(columns) if g == group] for group in tables[0]}
    shapes = [i for i, (group, _) in enumerate(columns) if group != "kinematics"]
    result: dict[str, object] = {}

    def tell(name: str, chosen: list[int], rows: np.ndarray, label: np.ndarray, weights: np.ndarray) -> None:
        auc, error, _ = told_apart(inputs[rows][:, chosen], label, weights[rows], {})
        result[name] = {"auc": round(auc, 4), "error": round(error, 4)}
        print(name, result[name], flush=True)

    everything = np.arange(len(inputs))
    tell("all observers", list(range(len(columns))), everything, is_real, flat)
    tell("shapes, same spectrum", shapes, everything, is_real, weighted)
    tell("shapes without kinds", [i for i in shapes if i not in groups["kinds"]], everything, is_real, weighted)
    for group, chosen in groups.items():
        weights = flat if group == "kinematics" else weighted
        tell(f"{group} alone", chosen, everything, is_real, weights)
    for name, rows in (("simulated", np.flatnonzero(~is_real)), ("real", np.flatnonzero(is_real))):
        half = np.random.default_rng(0).permutation(len(rows)) < len(rows) // 2
        tell(f"halves of {name}", shapes, rows, half, flat)
    names = {f"·{columns[i][1]}": [k] for k, i in enumerate(shapes)}
    own = {group: [shapes.index(i) for i in chosen] for group, chosen in groups.items() if group != "kinematics"}
    _, _, falls = told_apart(inputs[:, shapes], is_real, weighted, own | names)
    single = {name[1:]: value for name, value in falls.items() if name.startswith("·")}
    result["falls"] = {group: round(falls[group], 4) for group in own}
    result["largest falls"] = {n: round(single[n], 4) for n in sorted(single, key=lambda n: -single[n])[:12]}
    return result


def save(figure: Figure, path: Path) -> None:
    for ending in (".pdf", ".png"):
        figure.savefig(path.with_suffix(ending))


def higgs(mass: np.ndarray) -> dict[str, float]:
    """Return the median, half the width of the middle 68 % in GeV, and the part within the window with its error."""
    low, median, high = np.quantile(mass, [0.16, 0.5, 0.84])
    part = np.mean((mass > WINDOW[0]) & (mass < WINDOW[1]))
    figures = {"median": median, "half_width": (high - low) / 2, "within": part}
    figures["within_error"] = (part * (1 - part) / len(mass)) ** 0.5
    return {name: round(float(value), 4) for name, value in figures.items()}


def by_particlenet(samples: Sequence[Sample], weights: Path, out: Path) -> dict[str, object]:
    """Return how far ParticleNet's scores of H→bb lie apart, and the parts that it takes for H→bb."""
    scores = [particlenet(sample, weights) for sample in samples]
    hbb = [{"score": score[:, 1]} for score in scores]
    save(observers_figure(*hbb, {"score": (0, 1, "ParticleNet's score of H→bb")}), out / "particlenet")
    found = compared(hbb[0]["score"], hbb[1]["score"], np.random.default_rng(0))
    return {**found, "taken_for_hbb": [float(np.mean(score.argmax(axis=1) == 1)) for score in scores]}


def by_observers(samples: Sequence[Sample], out: Path) -> dict[str, object]:
    """Return all comparisons of the observers; the table is printed."""
    tables = [observers(sample) for sample in samples]
    flat = [{name: values for group in table.values() for name, values in group.items()} for table in tables]
    random = np.random.default_rng(0)
    distances = {name: compared(flat[0][name], flat[1][name], random) for name in flat[0]}
    print("| observer | real | simulated | error | KS | 95 % of halves | p |\n|---|---|---|---|---|---|---|")
    for name, row in distances.items():
        cells = [*(f"{row[key]:.4g}" for key in list(row)[:3]), *(f"{row[key]:.2g}" for key in list(row)[3:])]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    save(observers_figure(*flat, SHOWN), out / "observers")
    save(flow_figure(*samples), out / "flow")
    return {
        **{name: [higgs(table[name]) for table in flat] for name in ("mass", "soft-drop mass")},
        "ks": {name: [round(row["ks"], 4), round(row["yardstick"], 4)] for name, row in distances.items()},
        **classifiers(*samples, tables),
    }


def main() -> None:
    data = Path(os.environ.get("SUBQUAD_DATA", "none")) / "hep"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--simulated", type=Path, nargs="+", default=[data / "sim" / "HToBB_000.root"])
    parser.add_argument("--particlenet", action="store_true", help="compare ParticleNet's scores, and nothing else")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    samples = [real_jets(data / "real" / "jetclass_hbb_kin.npz"), simulated_jets(options.simulated)]
    with matplotlib.rc_context(STYLE):
        if options.particlenet:
            result = by_particlenet(samples, data / "rivals" / "ParticleNet_kin.safetensors", options.out)
        else:
            result = by_observers(samples, options.out)
    sizes = {"jets": [len(s.axis) for s in samples], "most_particles": [int((s.pt > 0).sum(1).max()) for s in samples]}
    print(json.dumps({**sizes, **result, "machine": platform.processor() or platform.machine()}))


if __name__ == "__main__":
    main()
