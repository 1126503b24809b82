"""PCN as a scikit-learn classifier of jets in memory. As costly as `fit`.

Axes: J jets, C classes.
"""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from subquad.errors import SubquadError
from subquad.hep.ahead import Waiting
from subquad.hep.data import as_jets
from subquad.hep.features import jet_features
from subquad.hep.layout import layout_of
from subquad.hep.opened import Tagger, open_tagger
from subquad.hep.preparation import LEAST_JETS
from subquad.hep.settings import FitSettings, PresetName
from subquad.hep.tagger import Scale, build, inputs_of, logits, using_threads
from subquad.hep.training import fit_net
from subquad.report import page
from subquad.train.artifact import METRICS, open_run, read_json

__all__ = ["PCNTagger"]


class PCNTagger(ClassifierMixin, BaseEstimator):
    """Classes of jets in JetClass's branches, by a net on each jet's graph of particles.

    ```python
    from subquad import hep

    jets = hep.read("jets/*.root")
    model = hep.PCNTagger(random_state=0).fit(jets, jets.names)
    probabilities = model.predict_proba(hep.read("more/*.root"))
    ```

    X is what `subquad.hep.read` returns, or an awkward array of JetClass's branches, such as uproot's
    `tree.arrays()`; y is one name or number of a class for each jet. scikit-learn's cross-validations and searches
    divide the former; of an awkward array `subquad.hep.as_jets` makes such. The parameters are those of
    `subquad.hep.FitSettings`; of the files' own kind of layout, and of data cards, `subquad.hep.fit` knows more.

    Attributes:
        classes_: the classes, sorted.
        tagger_: the fitted net with its inputs.
        seed_: what was drawn of `random_state`.
        validation_: accuracy and loss on the jets that were held out, at the weights that were kept.
    """

    def __init__(
        self,
        *,
        preset: PresetName = FitSettings.preset,
        k: int | None = FitSettings.k,
        graph: Literal["features", "angles"] | None = FitSettings.graph,
        terms: int | None = FitSettings.terms,
        width: int | None = FitSettings.width,
        layers: int | None = FitSettings.layers,
        epochs: int = FitSettings.epochs,
        batch: int = FitSettings.batch,
        learning_rate: float | None = FitSettings.learning_rate,
        average: float | None = FitSettings.average,
        weight_decay: float = FitSettings.weight_decay,
        validation_part: float = FitSettings.validation_part,
        threads: int = FitSettings.threads,
        random_state: Any = None,
    ) -> None:
        self.preset = preset
        self.k = k
        self.graph = graph
        self.terms = terms
        self.width = width
        self.layers = layers
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.average = average
        self.weight_decay = weight_decay
        self.validation_part = validation_part
        self.threads = threads
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Return the estimator, fitted.

        Args:
            X: J jets.
            y: [J], their classes.
            sample_weight: [J], how much each jet counts in the loss and in the choice of the best epoch.

        Raises:
            SubquadError: jets that cannot be used; all are listed. Or too few of a class.
            ValueError: shapes or types of y or of the weights that do not fit.
        """
        jets, settings = as_jets(X), self._settings()
        y = column_or_1d(y)
        check_consistent_length(jets, y, sample_weight)
        check_classification_targets(y)
        classes, labels, counts = np.unique(y, return_inverse=True, return_counts=True)
        few = [f"{name} has {count}" for name, count in zip(classes, counts, strict=True) if count < LEAST_JETS]
        if few or len(classes) < 2:
            raise SubquadError(
                f"too few jets: {', '.join(few) or f'all are {classes[0]}'}; a tagger needs two classes or more, of "
                f"{LEAST_JETS} jets each"
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        held = max(len(classes), round(settings.validation_part * len(jets)))
        rows = train_test_split(np.arange(len(jets)), test_size=held, stratify=labels, random_state=seed)
        learnt, checked = map(np.sort, rows)
        weights = np.ones(len(jets)) if sample_weight is None else column_or_1d(sample_weight).astype(np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights[learnt].any()):
            raise ValueError("sample_weight must be finite, not below 0, and not 0 for all jets")
        net_settings = settings.net
        layout = layout_of(net_settings)
        scale = Scale.of(jet_features(jets)[learnt]) if net_settings.has_observers else None
        inputs = replace(
            inputs_of(jets, net_settings, scale),
            labels=torch.from_numpy(labels),
            weights=torch.from_numpy((weights / weights[learnt].mean()).astype(np.float32)),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = build(net_settings, len(classes), layout)
        with using_threads(settings.threads):
            outcome = fit_net(
                net,
                {"train": inputs.part(torch.from_numpy(learnt)), "validation": inputs.part(torch.from_numpy(checked))},
                settings,
                net_settings=net_settings,
                waiting=Waiting(),
                directory=None,
                seed=seed,
                quiet=True,
            )
        self.classes_, self.seed_, self.validation_ = classes, seed, outcome.best
        self.tagger_ = Tagger(
            path=Path(),
            config={},
            net=net.cpu().eval(),
            settings=net_settings,
            layout=layout,
            scale=scale,
            classes=tuple(map(str, classes)),
        )
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return [J, C], each row adding up to 1, the classes in the order of `classes_`.

        Raises:
            SubquadError: jets that cannot be used; all are listed.
        """
        check_is_fitted(self, "tagger_")
        tagger = self.tagger_
        with using_threads(self.threads):
            answer = logits(tagger.net, inputs_of(as_jets(X), tagger.settings, tagger.scale), tagger.settings)
        return answer.double().softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return [J], the class of the largest probability."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the fitted estimator as a folder of JSON and safetensors, as `subquad.hep.fit` does.

        So `subquad hep predict`, `evaluate --files`, `explain` and `export` take it. Not kept is a `random_state` that
        is no whole number.

        Args:
            folder: a new one.
            force: replace what an earlier fit wrote there.

        Raises:
            SubquadError: the folder holds other things.
        """
        check_is_fitted(self, "tagger_")
        tagger, parameters = self.tagger_, self.get_params(deep=False)
        if not isinstance(parameters["random_state"], int | np.integer):
            parameters["random_state"] = None
        run = open_run(folder, kind="hep", settings=parameters, force=force)
        lead = "A fitted scikit-learn estimator. Open it with `subquad.hep.PCNTagger.load(folder)`."
        run.finish(
            config={
                "estimator": {"classes": self.classes_.tolist()},
                **{"classes": tagger.classes, "background": None, "preset": self.preset, "seed": self.seed_},
                "net": asdict(tagger.settings),
                "particle_features": tagger.layout.features.names,
                "jet_features": tagger.layout.jet_features if tagger.settings.has_observers else (),
                **{"card": None, "files": [], "test": []},
            },
            tensors={**tagger.net.state_dict(), **(tagger.scale.tensors() if tagger.scale else {})},
            metrics={"validation": self.validation_},
            card=f"# Jet tagger\n\n{lead}\n",
            report=page("Jet tagger", lead=lead, sections=[]),
        )

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Return the estimator that `save` wrote.

        Raises:
            SubquadError: there is none, or it is damaged.
        """
        tagger = open_tagger(folder)
        if "estimator" not in tagger.config:
            raise SubquadError(f"{folder}: no estimator wrote it; score jets with `subquad hep predict`")
        estimator = cls(**tagger.config["subquad"]["settings"])
        estimator.tagger_, estimator.seed_ = tagger, tagger.config["seed"]
        estimator.classes_ = np.array(tagger.config["estimator"]["classes"])
        estimator.validation_ = read_json(Path(folder) / METRICS)["validation"]
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        # jets are checked here, and not as tables of numbers
        tags.no_validation = True
        return tags

    def _settings(self) -> FitSettings:
        names = {field.name for field in fields(FitSettings)}
        return FitSettings(**{name: value for name, value in self.get_params(deep=False).items() if name in names})
