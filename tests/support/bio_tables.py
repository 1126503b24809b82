"""Tables of drawn sequences whose targets depend on two positions, and settings with a small budget."""

import json

import numpy as np
import pandas as pd

from subquad.bio import FitSettings

SHORT = {"epochs": 2.0, "boosting_iterations": 10, "batch_size": 31, "ensemble_size": 1, "stack_folds": 1}


def table(path, rows=211, length=7, seed=0):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (rows, length))
    y = random.normal(size=4)[codes[:, 2]] + random.normal(size=4)[codes[:, 3]]
    frame = pd.DataFrame({"sequence": ["".join("ACGT"[k] for k in row) for row in codes]})
    frame["score"] = y.round(4)
    frame["active"] = (y > 0).astype(int)
    frame["class"] = np.array(["low", "mid", "high"])[np.digitize(y, np.quantile(y, [0.3, 0.7]))]
    frame["residues"] = ["".join(str(k % 2) for k in row) for row in codes]
    frame["profile"] = [json.dumps((row * 1.5).tolist()) for row in codes]
    frame.to_csv(path, index=False)
    return frame


def settings(**more):
    return FitSettings(**{**SHORT, "sequence": "sequence", "target": ("score",), **more})
