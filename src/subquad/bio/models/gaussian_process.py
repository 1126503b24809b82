r"""Exact Gaussian process of measurements, by GPyTorch. Costs up to about a minute.

$$ k(x, x') = c\, \langle f, f' \rangle + a \prod_t S(x_t, x'_t)^p + b\, e^{-\lVert g - g' \rVert / l} $$

The first term is linear in the features $f$ of ridge. The second compares aligned sequences letter by letter: $S$ is
the similarity of two amino acids by BLOSUM62, 1 for equal ones, and the exponent $p$, a Hadamard power of the matrix,
is fitted, in the spirit of arXiv:2606.11057. As $-\log S$ is a squared distance of embedded letters, this is a squared
exponential kernel of embedded sequences. The third compares what is not a letter at a position (features of
substitutions, frequencies of k-mers, covariates), as composite kernels do by structure (arXiv:2407.00002).
Hyperparameters maximise the marginal likelihood of a random subset of the training rows.

Axes: n rows, T positions, F features, D columns of the three terms, K columns of measurements.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch

from subquad.bio.data.dataset import Inputs
from subquad.bio.features.composition import is_nucleic
from subquad.bio.features.pairs import RowFeatures, letter_channels
from subquad.bio.features.rows import Part
from subquad.bio.features.sequences import LETTERS, PRODUCTS
from subquad.bio.features.substitutions import blosum62
from subquad.bio.models.linear import SparseMatrix, scale_of

__all__ = ["GaussianProcess", "fit_gaussian_process"]

MAX_ROWS, SUBSET_ROWS = 5000, 1000
"""Maximum number of training rows, and of those that determine the hyperparameters; random subsets beyond."""
MAX_COLUMNS = 4000
"""Maximum number of columns D of a term; those with the largest variance beyond."""
EMBEDDED = 0.9
"""Fraction of the squared distances between amino acids that their embedding keeps, in 12 of 19 dimensions."""
STEPS, RATE = 50, 0.1
"""Steps of Adam on the marginal likelihood, and its learning rate."""
START_NOISE = 0.2
"""Variance of the noise at which the fit starts, in units of the variance of the measurements."""
MIN_NOISE, KNOWN_NOISE, MAX_NOISE = 1e-4, 0.05, 1000.0
"""Variance of the noise in the same units beside the estimated one: without weights, at weight 1, and at most."""
JITTER = 1e-6
"""Added to the diagonal of the posterior covariance, as a fraction of its mean."""
CHUNK = 1024
"""Rows predicted at a time."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term of the kernel and its columns, scaled so that the squared distance of two rows is 1 on average."""

    kind: Literal["linear", "letters", "others"]
    columns: np.ndarray
    """Features, or the positions of the letters."""
    shift: np.ndarray
    """`(D,)`."""
    scale: np.ndarray
    """`(D,)`."""

    def matrix(self, features: RowFeatures, inputs: Inputs, X: SparseMatrix) -> np.ndarray:
        """Return the columns of the term, `(n, D)` float32; `X` are the features of the rows."""
        if self.kind == "letters":
            table = _letter_table(features)
            # codes -2 (any letter) and -1 (padding) index from the end
            letters = np.concatenate([codes[:, self.columns] for codes in letter_channels(features, inputs)], axis=1)
            values = table[letters.astype(np.int64)].reshape(len(inputs), -1)
        else:
            values = X[:, self.columns].toarray()
        return (values * self.scale - self.shift).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class GaussianProcess:
    """Gaussian processes fitted to the same rows, one per column of measurements."""

    terms: list[Term]
    X: np.ndarray
    """`(n, D)` float32: columns of the training rows, one term after the other."""
    y: np.ndarray
    """`(n, K)` measurements with mean 0 and standard deviation 1; NaN if missing."""
    noise: np.ndarray
    """`(n,)` variance of the noise that is known from the weights of the rows."""
    mean: np.ndarray
    """`(K,)` mean of the measurements."""
    spread: np.ndarray
    """`(K,)` standard deviation of the measurements."""
    hyperparameters: list[dict[str, np.ndarray]]
    """State of the GPyTorch model of each column."""

    def predict(self, features: RowFeatures, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Return the posterior mean of the measurements and its standard deviation, without noise, `(n, K)` each."""
        from gpytorch.settings import debug, fast_computations

        means, deviations = [np.zeros((0, len(self.mean)))], [np.zeros((0, len(self.mean)))]
        with torch.no_grad(), fast_computations(False, False, False), debug(False):
            for begin in range(0, len(inputs), CHUNK):
                some = inputs.take(np.arange(begin, min(begin + CHUNK, len(inputs))))
                columns = _columns(self.terms, features, some)
                # distances are computed from the mean of all rows, which one infinite row would spoil
                is_finite = np.isfinite(columns).all(1, keepdims=True)
                X = torch.from_numpy(np.where(is_finite, columns, 0.0)).double()
                found = [process(X) for process in self._processes]
                mean = torch.stack([own.mean for own in found], dim=1).numpy()
                means.append(np.where(is_finite, mean, np.nan))
                deviations.append(torch.stack([own.stddev for own in found], dim=1).numpy())
        return self.mean + self.spread * np.concatenate(means), self.spread * np.concatenate(deviations)

    def deviations_to_first(self, features: RowFeatures, inputs: Inputs) -> np.ndarray:
        """Return the posterior standard deviation of the difference of each row to the first one, `(n, K)`."""
        from gpytorch.settings import debug, fast_computations

        found = [np.zeros((0, len(self.mean)))]
        with torch.no_grad(), fast_computations(False, False, False), debug(False):
            for begin in range(0, len(inputs), CHUNK):
                some = inputs.take(np.append(0, np.arange(begin, min(begin + CHUNK, len(inputs)))))
                X = torch.from_numpy(_columns(self.terms, features, some)).double()
                variances = []
                for process in self._processes:
                    C = process(X).covariance_matrix
                    variances.append((C.diagonal() + C[0, 0] - 2 * C[0])[1:])
                # rounding may make that of the first row negative
                found.append(torch.stack(variances, dim=1).clamp(min=0).sqrt().numpy())
        return self.spread * np.concatenate(found)

    def draws(self, features: RowFeatures, inputs: Inputs, count: int, *, seed: int) -> np.ndarray:
        """Return samples from the joint posterior of the measurements, without noise, `(count, n, K)`.

        Costs the cube of the number of rows.

        Args:
            features: Features of the fit.
            inputs: n rows.
            count: Number of samples.
            seed: Seed of the samples.
        """
        from gpytorch.settings import debug, fast_computations

        X = torch.from_numpy(_columns(self.terms, features, inputs)).double()
        random, found = np.random.default_rng(seed), []
        with torch.no_grad(), fast_computations(False, False, False), debug(False):
            for process in self._processes:
                posterior = process(X)
                covariance = posterior.covariance_matrix
                # relative to the mean variance: repeated rows make the matrix singular
                jitter = JITTER * float(covariance.diagonal().mean())
                root = torch.linalg.cholesky(covariance + jitter * torch.eye(len(X), dtype=X.dtype))
                noise = torch.from_numpy(random.normal(size=(len(X), count)))
                found.append((posterior.mean[:, None] + root @ noise).T.numpy())
        return self.mean + self.spread * np.stack(found, axis=-1)

    @cached_property
    def _processes(self) -> list[Any]:
        """The processes conditioned on the training rows, whose factors are too large to save."""
        processes = []
        for k, state in enumerate(self.hyperparameters):
            known = np.isfinite(self.y[:, k])
            process = _new_process(self.terms, self.X[known], self.y[known, k], self.noise[known])
            process.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
            processes.append(process.eval())
        return processes

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, as `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GaussianProcess":
        """Return the process from the result of `as_dict`."""
        return cls(**{**values, "terms": [Term(**term) for term in values["terms"]]})


def fit_gaussian_process(features: RowFeatures, train: Part, *, seed: int) -> tuple[GaussianProcess, dict[str, Any]]:
    """Return the Gaussian process of the training rows, and what was estimated.

    That is `noise` (fraction of the variance, per column) and `rows` (of training).

    Args:
        features: Features fitted to the training rows.
        train: Training rows with measurements.
        seed: Seed of the random subsets.
    """
    random, count = np.random.default_rng(seed), len(train.target)
    if count > MAX_ROWS:
        train = train.take(np.sort(random.choice(count, MAX_ROWS, replace=False)))
    y = np.asarray(train.target.y, dtype=np.float64)
    weight = np.ones(len(y)) if train.weight is None else train.weight
    noise = np.full(len(y), MIN_NOISE) if train.weight is None else np.minimum(KNOWN_NOISE / weight, MAX_NOISE)
    known = np.where(np.isfinite(y), weight[:, None], 0.0) / (np.isfinite(y) * weight[:, None]).sum(0)
    mean = np.nansum(known * y, axis=0)
    spread = np.sqrt(np.nansum(known * (y - mean) ** 2, axis=0))
    spread = np.where(spread > 0, spread, 1.0)
    y = (y - mean) / spread
    terms = _terms(features, train.inputs)
    X = _columns(terms, features, train.inputs)
    hyperparameters, estimated = [], []
    for column in y.T:
        rows = np.flatnonzero(np.isfinite(column))
        if len(rows) > SUBSET_ROWS:
            rows = np.sort(random.choice(rows, SUBSET_ROWS, replace=False))
        process = _new_process(terms, X[rows], column[rows], noise[rows])
        _maximise_likelihood(process)
        hyperparameters.append({name: value.numpy() for name, value in process.state_dict().items()})
        estimated.append(round(process.likelihood.second_noise.item(), 4))
    process = GaussianProcess(
        terms=terms, X=X, y=y, noise=noise, mean=mean, spread=spread, hyperparameters=hyperparameters
    )
    return process, {"noise": estimated[0] if len(estimated) == 1 else estimated, "rows": len(y)}


def _columns(terms: list[Term], features: RowFeatures, inputs: Inputs) -> np.ndarray:
    """Return the columns of all terms, one after the other, `(n, D)` float32."""
    X = features.matrix(inputs)
    return np.hstack([term.matrix(features, inputs, X) for term in terms])


def _terms(features: RowFeatures, inputs: Inputs) -> list[Term]:
    X = features.matrix(inputs)
    scale = scale_of(X, features.is_unit)
    others = np.flatnonzero(~np.isin(features.blocks, (*LETTERS, *PRODUCTS)))
    zero, one = np.zeros(1), np.ones(1)
    candidates = [
        Term(kind="linear", columns=np.arange(features.count), shift=zero, scale=scale),
        Term(kind="letters", columns=features.varying, shift=zero, scale=one),
        Term(kind="others", columns=others, shift=zero, scale=scale[others]),
    ]
    scaled = (_scaled(term, features, inputs, X) for term in candidates if len(term.columns))
    return [term for term in scaled if term is not None]


def _scaled(term: Term, features: RowFeatures, inputs: Inputs, X: SparseMatrix) -> Term | None:
    """Return the term with centred and scaled columns, and not too many of them; None if all are constant."""
    values = term.matrix(features, inputs, X)
    if values.shape[1] > MAX_COLUMNS:
        # a letter has as many columns as dimensions
        parts = len(letter_channels(features, inputs)) if term.kind == "letters" else 1
        variance = values.var(0).reshape(parts, len(term.columns), -1).sum((0, 2))
        most = MAX_COLUMNS * len(term.columns) // values.shape[1]
        kept = np.sort(np.argsort(-variance, kind="stable")[:most])
        scale = term.scale if term.kind == "letters" else term.scale[kept]
        term = replace(term, columns=term.columns[kept], scale=scale)
        values = term.matrix(features, inputs, X)
    norm = np.sqrt(2 * values.var(0, dtype=np.float64).sum())
    if norm == 0:
        return None
    return replace(term, scale=term.scale / norm, shift=values.mean(0, dtype=np.float64) / norm)


def _letter_table(features: RowFeatures) -> np.ndarray:
    """Return the embedding of the letters of one alphabet, or of two in dimensions of their own; see `_embedding`."""
    if isinstance(features.letters, int):
        return _embedding(features.letters)
    if len(features.letters) == 1:
        return _embedding(features.letters[0])
    first, second = map(_embedding, features.letters)
    # the letters of both, any letter of the second one, any letter of the first one, and padding
    above, below = np.pad(first, ((0, 0), (0, second.shape[1]))), np.pad(second, ((0, 0), (first.shape[1], 0)))
    return np.vstack([above[:-2], below[:-1], above[-2:]])


@cache
def _embedding(letters: int) -> np.ndarray:
    r"""Return the embedding of each letter, whose squared distances are $-\log S$, `(letters + 2, dimensions)`.

    Nucleotides are equally distant. The last two rows are the mean of all letters (`ANY`) and zeros (`PAD`).
    """
    if is_nucleic(letters):
        table = np.eye(letters)
    else:
        # scores are logarithms of odds ratios, in half bits
        odds = 2.0 ** (blosum62(letters) / 2)
        own = np.sqrt(np.diag(odds))
        distance = -np.log(odds / np.outer(own, own))
        centring = np.eye(letters) - 1 / letters
        values, vectors = np.linalg.eigh(-0.5 * centring @ distance @ centring)
        values, vectors = values[::-1].clip(0), vectors[:, ::-1]
        count = 1 + int(np.searchsorted(np.cumsum(values), EMBEDDED * values.sum()))
        table = vectors[:, :count] * np.sqrt(values[:count])
    return np.vstack([table, table.mean(0), np.zeros(table.shape[1])]).astype(np.float32)


def _new_process(terms: list[Term], X: np.ndarray, y: np.ndarray, noise: np.ndarray) -> Any:
    """Return a GPyTorch model of some rows."""
    from gpytorch.distributions import MultivariateNormal
    from gpytorch.kernels import LinearKernel, MaternKernel, RBFKernel, ScaleKernel
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
    from gpytorch.means import ConstantMean
    from gpytorch.models import ExactGP

    kernels, begin = [], 0
    for term in terms:
        own = tuple(range(begin, begin + len(term.shift)))
        begin += len(own)
        match term.kind:
            case "linear":
                kernels.append(LinearKernel(active_dims=own))
            case "letters":
                kernels.append(ScaleKernel(RBFKernel(active_dims=own)))
            case "others":
                kernels.append(ScaleKernel(MaternKernel(nu=0.5, active_dims=own)))

    class Process(ExactGP):
        def __init__(self) -> None:
            known = torch.from_numpy(noise).double()
            likelihood = FixedNoiseGaussianLikelihood(known, learn_additional_noise=True)
            likelihood.second_noise = torch.tensor(START_NOISE)
            super().__init__(torch.from_numpy(X).double(), torch.from_numpy(y).double(), likelihood)
            self.mean = ConstantMean()
            self.kernel = sum(kernels[1:], start=kernels[0])

        def forward(self, X: torch.Tensor) -> Any:
            mean: Any = self.mean(X)
            return MultivariateNormal(mean, self.kernel(X))

    return Process().double()


def _maximise_likelihood(process: Any) -> None:
    """Fit the hyperparameters of a process to its rows, in place."""
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.settings import fast_computations

    (X,), y = process.train_inputs, process.train_targets
    likelihood: Any = ExactMarginalLogLikelihood(process.likelihood, process)
    optimizer = torch.optim.Adam(process.parameters(), lr=RATE)
    process.train()
    with fast_computations(False, False, False):
        for _ in range(STEPS):
            optimizer.zero_grad()
            likelihood(process(X), y).neg().backward()
            optimizer.step()
