"""Models with known effects that replace fitted ones in tests."""

from pathlib import Path

import numpy as np

from subquad.bio.commands.design import design
from subquad.bio.data.dataset import InputSchema
from subquad.bio.design_search.constraints import read_constraints
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.models.fitted import BioModel
from subquad.bio.models.members import Members
from subquad.bio.models.scorer import open_scorer
from subquad.bio.settings import ALPHABETS

WILD = "ACGTACG"


class AdditiveModel:
    """A model whose ensemble members add known values of the letters, and differ by a known factor."""

    default, directory, positions = "lyra", Path("no folder"), None
    interval = BioModel.interval

    def __init__(
        self, task_type="regression", *, wild_type=WILD, alphabet="dna", members=2, classes=(), names=("score",)
    ):
        self.task_type, self.wild_type, self.classes, self.names = task_type, wild_type, list(classes), list(names)
        self.alphabet, self.members, self.config = ALPHABETS[alphabet], members, {}
        self.schema = InputSchema(alphabet=alphabet, is_aligned=False, length=None)
        self.outputs = len(classes) if task_type.endswith("multiclass") else len(names)

    def value(self, sequence):
        # letter k at position t (from 0) is worth k * (t + 1)
        return sum(self.alphabet.find(letter) * (t + 1) for t, letter in enumerate(sequence) if letter != "|")

    def members_of_sequences(self, sequences, *, to_first=False):
        one = np.array([[self.value(s) * (k + 1) for k in range(self.outputs)] for s in sequences], dtype=float)
        if self.task_type in ("binary", "multiclass"):
            one = 1 / (1 + np.exp(-one / 50))
        return Members.of_equals(np.stack([one * (1 + net) for net in range(self.members)]))

    def predict_sequences(self, sequences):
        if self.task_type == "pairs":
            P = np.zeros((len(sequences[0]),) * 2)
            P[0, -1] = P[-1, 0] = 0.75
            return [P]
        if self.task_type.startswith("residue"):
            return np.stack([[[self.alphabet.find(c)] * self.outputs for c in s] for s in sequences]).astype(float)
        return self.members_of_sequences(sequences).mean


AMINO = "ACDEFGHIKLMNPQRSTVWY"


class Landscape:
    """A model with effects of letters and of neighbouring pairs, whose best variant is known."""

    task_type, names, classes, default = "regression", ["fitness"], [], "lyra"
    directory, positions = Path("no folder"), None
    interval = BioModel.interval

    def __init__(self, length=31, letters=AMINO, *, members=3, seed=0, spread=0.0, coupling=0.0, **schema):
        random = np.random.default_rng(seed)
        self.alphabet = letters
        alphabet = next(name for name, own in ALPHABETS.items() if own == letters)
        self.schema = InputSchema(**{"alphabet": alphabet, "is_aligned": True, "length": length, **schema})
        self.config = {"observed_letters": [list(range(len(letters)))] * length}
        self.effects = random.normal(size=(length, len(letters)))
        self.members = self.effects + spread * random.normal(size=(members, length, len(letters)))
        self.pairs = coupling * random.normal(size=(length - 1, len(letters), len(letters)))
        self.wild_type = "".join(letters[k] for k in random.integers(0, len(letters), length))

    def members_of_sequences(self, sequences, *, to_first=False):
        codes = np.array([[self.alphabet.index(letter) for letter in text] for text in sequences])
        place = np.arange(codes.shape[1])
        joint = self.pairs[place[:-1], codes[:, :-1], codes[:, 1:]].sum(1)
        return Members.of_equals(np.stack([own[place, codes].sum(1) + joint for own in self.members])[..., None])

    def best_gain(self, changes):
        own = [self.alphabet.index(letter) for letter in self.wild_type]
        gain = (self.effects - self.effects[np.arange(len(own)), own][:, None]).max(1)
        return np.sort(gain)[::-1][:changes].clip(min=0).sum()


def run_design(model, tmp_path, name="out", seed=0, **settings):
    chosen = DesignSettings(**{"generations": 7, "population": 61, **settings})
    return design(model, chosen, out=tmp_path / name, seed=seed, quiet=True)


def constraints_of(model, **settings):
    observed = ["".join(model.alphabet[k] for k in own) for own in model.config["observed_letters"]]
    return read_constraints(
        model.wild_type,
        model.alphabet,
        DesignSettings(**settings),
        observed=observed,
        is_nucleotide=open_scorer(model).is_nucleotide,
        offset=model.schema.offset,
    )
