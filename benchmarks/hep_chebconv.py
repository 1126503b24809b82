"""One Chebyshev filter against PyTorch Geometric's, forward + backward: equal results first, then the time per jet.

    pip install torch_geometric
    python benchmarks/hep_chebconv.py [--threads 1] [--repeats 5] [--count 1024] [--jets 'DIR/*.root'] [--quick]

Width 64 to 64. Jets of 128 particles each, and jets of real lengths (from $SUBQUAD_DATA/hep/sim, else the jets that
ship with subquad). Both take the same graph: k = 3, 8, 16 nearest neighbours with the paper's 16 terms, and 3, 8, 16
terms with the paper's k = 3 and with our k = 7. PyTorch Geometric takes each batch of 64 as one graph of many parts,
without padding, and so does `ChebConv`, as `PCN` uses it (`rows`). PyTorch Geometric normalizes the graph in each
call; ours is made once per batch for all layers of a net, from the edges of a k-d tree. Its time stands beside
(`graph_ms`), and in `pyg_over_rows_and_graph` one filter pays for all of it. The dense form, which is exported, takes
padded batches: all padded to 128, random ones padded to their longest jet, and jets of similar length together.

Times are medians of interleaved repetitions, of processor time on one thread, else of the clock. Ends in one line of
JSON.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from subquad.hep.data.jets import PARTICLES, read
from subquad.nn.graph import ChebConv
from subquad.ops.chebyshev import Rows, chebyshev, knn_adjacency, rows, scaled_laplacian
from subquad.ops.edges import Edges, edge_laplacians, edges_of, rows_of
from subquad.train.bucketing import bucketed_batches

try:
    from torch_geometric.nn import ChebConv as PyGConv
except ImportError as error:
    raise SystemExit("this benchmark needs PyTorch Geometric: pip install torch_geometric") from error

WIDTH, BATCH, LONGEST = 64, 64, 128
CASES = [(3, 16), (8, 16), (16, 16), (3, 3), (3, 8), (7, 3), (7, 8), (7, 16)]
"""Neighbours and terms."""


@dataclass(frozen=True)
class Jets:
    """Coordinates of the particles of many jets, padded to the longest."""

    points: Tensor
    lengths: Tensor

    def padded(self, rows: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
        """Return points and mask of some jets, padded to the longest of them or to `most`."""
        length = most or int(self.lengths[rows].max())
        points = torch.nn.functional.pad(self.points[rows], (0, 0, 0, LONGEST - self.points.shape[1]))[:, :length]
        return points, torch.arange(length) < self.lengths[rows, None]


@dataclass(frozen=True)
class Padded:
    """One batch as the dense form takes it."""

    x: Tensor
    mask: Tensor
    adjacency: Tensor
    laplacian: Tensor


@dataclass(frozen=True)
class Joined:
    """One batch as both layers take it: the real particles of all jets, one after the other."""

    x: Tensor
    edges: Tensor
    graph: Rows
    mask: Tensor
    of_padded: Edges
    """The edges by places of the padded jets, as a k-d tree gives them."""


def real_jets(patterns: Sequence[str], count: int) -> Jets:
    jets = read(patterns)
    order = torch.randperm(len(jets), generator=torch.Generator().manual_seed(0))[:count]
    lengths = torch.from_numpy(jets.lengths).clamp(max=LONGEST)[order]
    columns = [PARTICLES.index("part_deta"), PARTICLES.index("part_dphi")]
    places = torch.from_numpy(jets.first[:-1])[order, None] + torch.arange(int(lengths.max()))
    flat = torch.from_numpy(jets.particles[:, columns])
    return Jets(flat[places.clamp(max=len(flat) - 1)], lengths)


def full_jets(count: int) -> Jets:
    points = torch.randn(count, LONGEST, 2, generator=torch.Generator().manual_seed(0))
    return Jets(points, torch.full((count,), LONGEST))


def padded(jets: Jets, rows: Tensor, k: int, dtype: torch.dtype, most: int | None = None) -> Padded:
    points, mask = jets.padded(rows, most)
    adjacency = knn_adjacency(points, mask, k).to(dtype)
    laplacian = scaled_laplacian(adjacency, mask)
    x = torch.randn(*mask.shape, WIDTH, generator=torch.Generator().manual_seed(1), dtype=dtype)
    x = (x * mask[..., None]).requires_grad_()
    return Padded(x, mask, adjacency, laplacian)


def joined(batch: Padded) -> Joined:
    place = torch.cumsum(batch.mask.flatten(), 0).reshape(batch.mask.shape) - 1
    b, i, j = batch.adjacency.nonzero(as_tuple=True)
    edges = torch.stack([place[b, i], place[b, j]])
    x = batch.x.detach()[batch.mask].requires_grad_()
    return Joined(x, edges, rows(batch.laplacian, batch.mask), batch.mask, edges_of(batch.adjacency))


def layers(terms: int, dtype: torch.dtype) -> tuple[ChebConv, PyGConv]:
    torch.manual_seed(0)
    ours, theirs = ChebConv(WIDTH, WIDTH, terms).to(dtype), PyGConv(WIDTH, WIDTH, terms).to(dtype)
    with torch.no_grad():
        for linear, weight in zip(theirs.lins, ours.weight, strict=True):
            linear.weight.copy_(weight.T)
        theirs.bias.copy_(ours.bias)
    return ours, theirs


def dense(layer: ChebConv, batch: Padded) -> Tensor:
    return torch.where(batch.mask[..., None], chebyshev(batch.x, layer.weight, batch.laplacian) + layer.bias, 0)


def by_rows(layer: ChebConv, batch: Joined) -> Tensor:
    return layer(batch.x, batch.graph)


def pyg(layer: PyGConv, batch: Joined) -> Tensor:
    # a bound on the eigenvalues that is the same for all, as ours has it
    return layer(batch.x, batch.edges, lambda_max=torch.tensor(2.0, dtype=batch.x.dtype))


def both_passes(form: Callable, layer: torch.nn.Module, batch: Padded | Joined) -> list[Tensor]:
    y = form(layer, batch)
    return [y, *torch.autograd.grad(y.square().sum(), [batch.x, *layer.parameters()])]


def check(jets: Jets, k: int, terms: int) -> float:
    """Return the largest difference, of values and of gradients of inputs, weights and bias, relative to the largest.

    Raises:
        SystemExit: the layers are not equal.
    """
    ours, theirs = layers(terms, torch.float64)
    batch = padded(jets, torch.arange(BATCH // 2), k, torch.float64)
    y, of_x, of_bias, *of_weights = both_passes(pyg, theirs, joined(batch))
    expected = [y, of_x, torch.stack([gradient.T for gradient in of_weights]), of_bias]
    largest = 0.0
    outcomes = [both_passes(by_rows, ours, joined(batch))]
    y, of_x, *of_parameters = both_passes(dense, ours, batch)
    outcomes.append([y[batch.mask], of_x[batch.mask], *of_parameters])
    for got in outcomes:
        for a, b in zip(got, expected, strict=True):
            largest = max(largest, ((a - b).abs().max() / b.abs().max()).item())
    if largest > 1e-10:
        raise SystemExit(f"k = {k}, {terms} terms: ours and PyTorch Geometric's differ by {largest}")
    return largest


def graph_made_anew(batch: Joined) -> Rows:
    edges = batch.of_padded
    return rows_of(edge_laplacians(torch.zeros(len(edges.row), 1), edges)[:, 0], edges, batch.mask)


def compare(jets: Jets, k: int, terms: int, *, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return milliseconds per jet, and what PyTorch Geometric's time is of ours, repetition by repetition."""
    ours, theirs = layers(terms, torch.float32)
    every = torch.arange(len(jets.lengths))
    random = [padded(jets, some, k, torch.float32) for some in every.split(BATCH)]
    both = [joined(batch) for batch in random]
    contenders: dict[str, tuple[Callable, torch.nn.Module, Sequence[Padded | Joined]]] = {
        "pyg": (pyg, theirs, both),
        "rows": (by_rows, ours, both),
        "dense": (dense, ours, random),
    }
    if int(jets.lengths.min()) < LONGEST:
        bucketed = bucketed_batches(every, jets.lengths, BATCH, seed=0, epoch=0)
        longest = [padded(jets, some, k, torch.float32, LONGEST) for some in every.split(BATCH)]
        contenders["dense_padded"] = (dense, ours, longest)
        contenders["dense_bucketed"] = (dense, ours, [padded(jets, some, k, torch.float32) for some in bucketed])
    times: dict[str, list[float]] = {name: [] for name in (*contenders, "graph")}
    for round_ in range(repeats + 1):
        found = {}
        for name, (form, layer, batches) in contenders.items():
            begin = clock()
            for batch in batches:
                both_passes(form, layer, batch)
            found[name] = clock() - begin
        begin = clock()
        for batch in both:
            graph_made_anew(batch)
        found["graph"] = clock() - begin
        # the first round sets up memory
        if round_:
            for name, value in found.items():
                times[name].append(value)
    row = {f"{name}_ms": 1e3 * median(values) / len(every) for name, values in times.items()}
    row |= {f"pyg_over_{name}": ratio(times["pyg"], times[name]) for name in contenders if name != "pyg"}
    with_graph = [own + graph for own, graph in zip(times["rows"], times["graph"], strict=True)]
    row["pyg_over_rows_and_graph"] = ratio(times["pyg"], with_graph)
    if "dense_bucketed" in times:
        row["dense_from_bucketing"] = ratio(times["dense_padded"], times["dense_bucketed"])
    return row


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median ratio of two times, repetition by repetition."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=1024, help="jets of real lengths; a quarter of it of 128")
    parser.add_argument("--jets", nargs="+", help="ROOT files in JetClass's layout")
    parser.add_argument("--quick", action="store_true", help="k = 3 with 3 and with 16 terms only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # processor time does not count what else runs, and adds up over threads
    clock = time.process_time if options.threads == 1 else time.perf_counter
    data = Path(os.environ.get("SUBQUAD_DATA", "none")) / "hep" / "sim"
    patterns = options.jets or ([str(data / "*.root")] if data.is_dir() else ["example:jets"])
    samples = {"128": full_jets(max(BATCH, options.count // 4)), "real": real_jets(patterns, options.count)}
    table = []
    for name, jets in samples.items():
        for k, terms in [(3, 3), (3, 16)] if options.quick else CASES:
            error = check(jets, k, terms)
            row = {"particles": name, "k": k, "terms": terms, "largest_difference": error}
            row |= compare(jets, k, terms, repeats=options.repeats, clock=clock)
            print("  ".join(f"{key} {x:.3g}" if isinstance(x, float) else f"{key} {x}" for key, x in row.items()))
            table.append(row)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": options.threads}
    about = {"mean_particles": round(samples["real"].lengths.double().mean().item(), 1), "torch": torch.__version__}
    print(json.dumps({"benchmark": "hep_chebconv", **machine, **about, "rows": table}))


if __name__ == "__main__":
    main()
