"""PCN as a scikit-learn classifier of jets in memory. As costly as `fit`.

Axes: J jets, C classes.
"""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from subquad.errors import SubquadError
from subquad.hep.data.chunks import piece_of
from subquad.hep.data.jets import as_jets
from subquad.hep.data.layout import layout_of
from subquad.hep.data.prefetch import Waiting
from subquad.hep.data.preparation import LEAST_JETS, split
from subquad.hep.data.reweighting import normalised
from subquad.hep.models.tagger import Scale, build, inputs_of, inputs_of_piece, logits, using_threads
from subquad.hep.models.trained import open_tagger
from subquad.hep.models.training import fit_net
from subquad.hep.settings import FitSettings, PresetName
from subquad.reporting.page import page
from subquad.runs.folder import METRICS, open_run
from subquad.runs.storage import read_json
from subquad.train.distributed import broadcast_object, processes

__all__ = ["PCNTagger"]


class PCNTagger(ClassifierMixin, BaseEstimator):
    """Classes of jets in JetClass's branches, by a net on each jet's graph of particles.

    ```python
    from subquad import hep

    jets = hep.read("jets/*.root")
    model = hep.PCNTagger(random_state=0).fit(jets, jets.class_names)
    probabilities = model.predict_proba(hep.read("more/*.root"))
    ```

    X is what `subquad.hep.read` returns, or an awkward array of JetClass's branches, such as uproot's
    `tree.arrays()`; y is one name or number of a class for each jet. scikit-learn's cross-validations and searches
    divide the former; of an awkward array `subquad.hep.as_jets` makes such. The parameters are those of
    `subquad.hep.FitSettings`, with `sample_weight` of `fit` in place of reweighting; `threads` score too. Data cards,
    and jets that no memory holds, are for `subquad.hep.fit`.

    Attributes:
        classes_: the classes, sorted.
        net_: the fitted net.
        net_settings_: what it sees of a jet, and its shape.
        scale_: of the jet-level observers; None where the net takes none.
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
        precision: Literal["no", "bf16"] = FitSettings.precision,
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
        self.precision = precision
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
        self.classes_, labels = np.unique(y, return_inverse=True)
        _check_counts(self.classes_, labels)
        # of several processes all take what the first one drew
        self.seed_ = seed = broadcast_object(int(check_random_state(self.random_state).randint(2**31 - 1)))
        rows = split(labels, len(labels), settings, seed, has_test=True, classes=len(self.classes_))
        both = torch.cat([rows["train"], rows["validation"]]).numpy()
        weights = np.zeros(len(jets), np.float32)
        weights[both] = normalised(_weights(sample_weight, len(jets))[both], len(rows["train"]))
        if not weights[rows["validation"]].any():
            raise SubquadError("all jets that choose the best epoch have the weight 0; look at how they are weighted")
        layout = layout_of(settings.net)
        piece = replace(piece_of(jets, layout, settings.net.features), labels=labels)
        scale = Scale.of(piece.jet_features[rows["train"]]) if settings.net.has_observers else None
        inputs = replace(inputs_of_piece(piece, layout, settings.net, scale), weights=torch.from_numpy(weights))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            net = build(settings.net, len(self.classes_), layout)
        with using_threads(settings.threads):
            outcome = fit_net(
                net,
                {name: inputs.part(of_part) for name, of_part in rows.items()},
                settings,
                net_settings=settings.net,
                waiting=Waiting(),
                directory=None,
                seed=seed,
                quiet=True,
            )
        self.validation_ = outcome.best
        self.net_, self.net_settings_, self.scale_ = net.eval(), settings.net, scale
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return [J, C], each row adding up to 1, the classes in the order of `classes_`.

        Raises:
            SubquadError: jets that cannot be used; all are listed.
        """
        check_is_fitted(self, "net_")
        self.net_.to(processes().device)
        with using_threads(self.threads):
            inputs = inputs_of(as_jets(X), self.net_settings_, self.scale_)
            answer = logits(self.net_, inputs, self.net_settings_)
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
        check_is_fitted(self, "net_")
        if not processes().is_main_process:
            return
        settings, parameters = self._settings(), self.get_params(deep=False)
        if not isinstance(parameters["random_state"], int | np.integer):
            parameters["random_state"] = None
        layout, has_observers = layout_of(self.net_settings_), self.net_settings_.has_observers
        run = open_run(folder, kind="hep", settings={**asdict(settings), "seed": self.seed_}, force=force)
        lead = "A fitted scikit-learn estimator. Open it with `subquad.hep.PCNTagger.load(folder)`."
        tensors = {name: tensor.cpu() for name, tensor in self.net_.state_dict().items()}
        run.finish(
            config={
                "estimator": {"classes": self.classes_.tolist(), "parameters": parameters},
                **{"classes": list(map(str, self.classes_)), "background": None},
                **{"preset": self.preset, "seed": self.seed_, "net": asdict(self.net_settings_)},
                "particle_features": layout.features.names,
                "jet_features": layout.jet_features if has_observers else (),
                **{"card": None, "files": [], "test": []},
            },
            tensors={**tensors, **(self.scale_.tensors() if self.scale_ else {})},
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
        said = tagger.config["estimator"]
        estimator = cls(**said["parameters"])
        estimator.net_, estimator.net_settings_, estimator.scale_ = tagger.net, tagger.settings, tagger.scale
        estimator.seed_ = tagger.config["seed"]
        estimator.classes_ = np.array(said["classes"])
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


def _check_counts(classes: np.ndarray, labels: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    few = [f"{name} has {count}" for name, count in zip(classes, counts, strict=True) if count < LEAST_JETS]
    if few or len(classes) < 2:
        there = ", ".join(few) or (f"all are {classes[0]}" if len(classes) else "there are none")
        raise SubquadError(f"too few jets: {there}; a tagger needs two classes or more, of {LEAST_JETS} jets each")


def _weights(given: Any, jets: int) -> np.ndarray:
    weights = np.ones(jets) if given is None else column_or_1d(given).astype(np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("sample_weight must be finite and not below 0")
    return weights
