"""Fine-tuning against training from scratch: jets of three classes, from a tagger of the seven other ones.

A tagger of the preset `standard` is fitted on the shipped jets of seven classes. For each seed, `--jets` jets of the
three other classes are drawn; taggers fitted on them from the run and from scratch, and gradient boosting on their
jet-level features, are tested on the remaining jets of these classes. The last line is JSON: mean and standard
deviation of each top-1 accuracy, and mean and standard error of the difference between both taggers.

    python benchmarks/hep_fine_tuning.py
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from subquad import hep
from subquad.hep.data.features import jet_features
from subquad.hep.models.boosting import boosting_probabilities

KEPT = ("Hcc", "Tbl", "Wqq")
"""Classes of the jets to fine-tune on."""


MODELS = ("fine-tuned", "from scratch", "gradient boosting")


def accuracies(run: Path, jets: hep.Jets, options: argparse.Namespace, seed: int) -> list[float]:
    """Return the top-1 accuracy of a tagger fitted from a run, of one from scratch, and of gradient boosting."""
    names, rows = jets.class_names, np.random.default_rng(seed).permutation(len(jets))
    few, test = rows[: options.jets], rows[options.jets :]
    given = {"epochs": options.epochs, "batch_size": 32, "validation_fraction": 0.2, "random_state": seed}
    models = (hep.PCNTagger(from_=run, **given), hep.PCNTagger(preset="standard", **given))
    networks = [model.fit(jets[few], names[few]).score(jets[test], names[test]) for model in models]
    _, labels = np.unique(names, return_inverse=True)
    probabilities = boosting_probabilities(
        jet_features(jets[few]), labels[few], jet_features(jets[test]), classes=len(KEPT), seed=seed
    )
    return [*networks, float((probabilities.argmax(1) == labels[test]).mean())]


def main() -> None:
    """Fit, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=int, default=120, help="jets to fine-tune on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    jets = hep.read("example:jets")
    is_other = np.isin(jets.class_names, KEPT)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        first = hep.PCNTagger(preset="standard", epochs=12, random_state=0)
        first.fit(jets[~is_other], jets.class_names[~is_other]).save(run)
        found = np.array([accuracies(run, jets[is_other], options, seed) for seed in range(options.seeds)])
    difference = found[:, 0] - found[:, 1]
    error = float(difference.std(ddof=1) / len(difference) ** 0.5) if len(difference) > 1 else None
    result = {
        **{"jets": options.jets, "epochs": options.epochs, "seeds": options.seeds},
        "accuracy": dict(zip(MODELS, found.mean(0).tolist(), strict=True)),
        "standard_deviation": dict(zip(MODELS, found.std(0, ddof=1).tolist(), strict=True)),
        "difference": {"mean": float(difference.mean()), "standard_error": error},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
