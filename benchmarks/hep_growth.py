"""How time and memory of a filter and of the nets grow with particles, 16 … 1,024, and with jets.

    python benchmarks/hep_growth.py [--repeats 5] [--most 1024] [--threads 1]

Forward + backward, per jet, in batches of 1 to 64 jets, about 2,048 particles. One filter (64 to 64 channels, 8 terms):
on the edges of the k = 7 nearest (`sparse`), on the same graph by dense products (`dense`), and on the edges of the
fully connected graph (`all_pairs`, up to 256 particles). The `standard` net (`net`), `auto` and `auto-chebyshev`, each
with sums over edges and its graph as in `fit`: by all distances up to 64 particles, by a k-d tree beyond; `auto_dense`,
the weights of `auto-chebyshev` with all distances and whole matrices, as ONNX has it; and the graph of `standard` by
all distances (`graph`). With jets, the `standard` net goes through 1, 4, 16 … batches of 64 jets of 40 particles: time
and memory of scoring and of training steps.

The exponent is the slope of the logarithm of the cost over that of the particles, from 64 on: 1 is linear, 2 is all
pairs. Memory is what a pass adds to the peak of a process of its own (Linux). Times are medians of interleaved
repetitions, of processor time on one thread, else of the clock. Sparse and dense are checked to be equal first. Ends in
one line of JSON.
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import torch
from torch import Tensor

from subquad.hep.data.features import JET_FEATURES, STANDARD_FEATURES
from subquad.hep.data.layout import layout_of
from subquad.hep.data.nearest_particles import nearest_edges
from subquad.hep.models.dense import dense_kinematic
from subquad.hep.models.networks import build_network
from subquad.hep.models.presets import PRESETS
from subquad.nn.graph import knn_graph
from subquad.ops.chebyshev import chebyshev, chebyshev_rows, knn_adjacency, rows, scaled_laplacian

WIDTH, TERMS, NEAREST = 64, 8, 7
PARTICLES_OF_A_BATCH = 2048
ALL_PAIRS_UP_TO = 256
FITTED_FROM = 64
BATCH, MEAN_LENGTH = 64, 40


def jets(P: int, B: int | None = None) -> tuple[Tensor, Tensor]:
    """Return angles and mask of a batch of jets of P particles each."""
    B = B or max(1, PARTICLES_OF_A_BATCH // P)
    points = 0.3 * torch.randn(B, P, 2, generator=torch.Generator().manual_seed(P))
    return points, torch.ones(B, P, dtype=torch.bool)


def filter_pass(form: str, P: int, dtype: torch.dtype = torch.float32) -> Callable[[], list[Tensor]]:
    """Return a function that runs one filter there and back."""
    points, mask = jets(P)
    if form == "all_pairs":
        adjacency = (1 - torch.eye(P)).expand(len(points), P, P).contiguous()
    else:
        adjacency = knn_adjacency(points, mask, NEAREST, periodic=(1,))
    laplacian = scaled_laplacian(adjacency.to(dtype), mask)
    graph = rows(laplacian, mask)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*mask.shape, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(TERMS, WIDTH, WIDTH, generator=generator, dtype=dtype, requires_grad=True)

    def run() -> list[Tensor]:
        y = chebyshev(x, weight, laplacian) if form == "dense" else chebyshev_rows(x.flatten(0, 1), weight, graph)
        return [y.flatten(0, -2), *torch.autograd.grad(y.square().sum(), [x, weight])]

    return run


def graph_pass(P: int) -> Callable[[], object]:
    points, mask = jets(P)
    return lambda: knn_graph(points, mask, NEAREST, periodic=(1,))


def net_pass(P: int, *, batches: int = 1, B: int | None = None, is_training: bool = True) -> Callable[[], object]:
    """Return a function that takes the net through some batches, there and back where it trains."""
    points, mask = jets(P, B)
    torch.manual_seed(0)
    settings = PRESETS["standard"].net
    net: Any = build_network(settings, layout_of(settings), 10).train(is_training)
    x = torch.randn(*mask.shape, len(STANDARD_FEATURES))
    jet_features = torch.randn(len(x), len(JET_FEATURES))

    def run() -> None:
        with torch.set_grad_enabled(is_training):
            for _ in range(batches):
                y = net(x, points, mask, jet_features=jet_features, edges=nearest_edges(points, mask, net.k))
                if is_training:
                    net.zero_grad()
                    y.square().sum().backward()

    return run


def auto_pass(P: int, form: str) -> Callable[[], list[Tensor]]:
    """Return a function that finds the graph of a kinematic net and takes the net there and back, without dropout."""
    points, mask = jets(P)
    torch.manual_seed(0)
    settings = PRESETS["auto-chebyshev" if form == "auto_dense" else form].net
    net: Any = build_network(settings, layout_of(settings), 10).eval()
    x, jet_features = torch.randn(*mask.shape, len(STANDARD_FEATURES)), torch.randn(len(mask), len(JET_FEATURES))
    pt, (eta, phi) = torch.randn(mask.shape).exp(), points.unbind(-1)
    vectors = torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], -1)

    def run() -> list[Tensor]:
        if form != "auto_dense":
            edges = nearest_edges(points, mask, net.k)
            y = net(x, points, mask, vectors=vectors, jet_features=jet_features, edges=edges)
        else:
            y = dense_kinematic(net, x, points, mask, vectors, jet_features)
        return [y, *torch.autograd.grad(y.square().sum(), list(net.parameters()))]

    return run


def passes(P: int) -> dict[str, Callable[[], Callable[[], object]]]:
    """Return what is measured at a number of particles; each is set up when it is called."""
    found = {form: lambda form=form: filter_pass(form, P) for form in ("sparse", "dense")}
    if P <= ALL_PAIRS_UP_TO:
        found["all_pairs"] = lambda: filter_pass("all_pairs", P)
    autos = {form: lambda form=form: auto_pass(P, form) for form in ("auto", "auto-chebyshev", "auto_dense")}
    return {**found, "graph": lambda: graph_pass(P), "net": lambda: net_pass(P), **autos}


def check() -> float:
    error = max(
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(
            filter_pass("sparse", 67, torch.float64)(), filter_pass("dense", 67, torch.float64)(), strict=True
        )
    )
    if error > 1e-10:
        raise SystemExit(f"sparse and dense differ by {error}")
    found, expected = (
        torch.cat([x.flatten() for x in auto_pass(67, form)()]) for form in ("auto-chebyshev", "auto_dense")
    )
    of_auto = ((found - expected).abs().max() / expected.abs().max()).item()
    if of_auto > 1e-4:
        raise SystemExit(f"the forms of auto-chebyshev differ by {of_auto}")
    return error


def peak_mib() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def added_mib(prepare: Callable[[], Callable[[], object]]) -> float | None:
    """Return what a pass adds to the peak of a process of its own; None where the system does not tell."""
    if not Path("/proc/self/status").is_file():
        return None
    into, out = os.pipe()
    child = os.fork()
    if not child:
        run = prepare()
        # the peak from here on, not that of making the graph
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_mib()
        run()
        os.write(out, str(peak_mib() - before).encode())
        os._exit(0)
    os.close(out)
    _, status = os.waitpid(child, 0)
    with os.fdopen(into) as pipe:
        text = pipe.read()
    if status or not text:
        raise SystemExit(f"a measurement of memory ended with status {status}")
    return float(text)


def milliseconds(runs: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(repeats + 1):
        for name, run in runs.items():
            begin = clock()
            run()
            # the first round sets up memory
            if round_:
                times[name].append(1e3 * (clock() - begin))
    return {name: median(values) for name, values in times.items()}


def exponent(points: Sequence[tuple[int, float]]) -> float | None:
    """Return the slope of log cost over log size; None for fewer than two sizes."""
    logs = [(math.log(size), math.log(max(cost, 1e-6))) for size, cost in points]
    return round(linear_regression(*zip(*logs, strict=True)).slope, 3) if len(logs) > 1 else None


def with_particles(
    options: argparse.Namespace, clock: Callable[[], float], memory: dict[int, dict[str, float | None]]
) -> dict[str, object]:
    rows = []
    for P, added in memory.items():
        B = len(jets(P)[0])
        found = milliseconds({name: prepare() for name, prepare in passes(P).items()}, options.repeats, clock)
        row = {"P": P} | {f"{name}_ms": value / B for name, value in found.items()}
        row |= {f"{name}_mib": value / B for name, value in added.items() if value is not None}
        print("  ".join(f"{key} {x:.3g}" if isinstance(x, float) else f"{key} {x}" for key, x in row.items()))
        rows.append(row)
    names = [key for key in rows[0] if key != "P"]
    exponents = {
        name: exponent([(row["P"], row[name]) for row in rows if row["P"] >= FITTED_FROM and name in row])
        for name in names
    }
    print(f"exponents from {FITTED_FROM} particles on: {exponents}")
    return {"particles": rows, "exponents": exponents}


def passes_of_jets(batches: int) -> dict[str, Callable[[], Callable[[], object]]]:
    def prepare(is_training: bool) -> Callable[[], object]:
        return net_pass(MEAN_LENGTH, batches=batches, B=BATCH, is_training=is_training)

    return {"scoring": lambda: prepare(False), "training": lambda: prepare(True)}


def with_jets(
    options: argparse.Namespace, clock: Callable[[], float], memory: dict[int, dict[str, float | None]]
) -> dict[str, object]:
    rows = []
    for batches, added in memory.items():
        count = batches * BATCH
        runs = {name: prepare() for name, prepare in passes_of_jets(batches).items()}
        found = milliseconds(runs, options.repeats, clock)
        row = {"jets": count} | {f"{name}_ms": value for name, value in found.items()}
        row |= {f"{name}_jets_per_second": 1e3 * count / value for name, value in found.items()}
        row |= {f"{name}_mib": value for name, value in added.items() if value is not None}
        print("  ".join(f"{key} {x:.4g}" if isinstance(x, float) else f"{key} {x}" for key, x in row.items()))
        rows.append(row)
    exponents = {name: exponent([(row["jets"], row[name]) for row in rows]) for name in ("scoring_ms", "training_ms")}
    print(f"exponents with jets: {exponents}")
    return {"jets": rows, "exponents_with_jets": exponents}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=int, default=1024, help="particles of the longest jets")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # processor time does not count what else runs, and adds up over threads
    clock = time.process_time if options.threads == 1 else time.perf_counter
    sizes = [2**n for n in range(4, 11) if 2**n <= options.most]
    # before anything is timed: what a process has freed, its children use again, and their peak would not show it
    of_particles = {P: {name: added_mib(prepare) for name, prepare in passes(P).items()} for P in sizes}
    of_jets = {n: {name: added_mib(prepare) for name, prepare in passes_of_jets(n).items()} for n in (1, 4, 16)}
    result = {"largest_difference": check()}
    result |= {**with_particles(options, clock, of_particles), **with_jets(options, clock, of_jets)}
    machine = {"cpu": platform.processor() or platform.machine(), "threads": options.threads}
    print(json.dumps({"benchmark": "hep_growth", **machine, "torch": torch.__version__, **result}))


if __name__ == "__main__":
    main()
