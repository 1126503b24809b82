"""Networks on graphs of particles as a scikit-learn classifier of jets in memory. As costly as `subquad.hep.fit`.

Axes: J jets, C classes.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from subquad.errors import SubquadError
from subquad.hep.data.chunks import chunk_of
from subquad.hep.data.jets import as_jets
from subquad.hep.data.layout import layout_of
from subquad.hep.data.splits import check_counts, split_dataset, stratified_split
from subquad.hep.data.store import dataset_of
from subquad.hep.fit_settings import FitSettings
from subquad.hep.metrics.weighting import weight_note
from subquad.hep.models.fine_tuning import origin_of
from subquad.hep.models.networks import network_tensors, predict_logits, using_threads
from subquad.hep.models.presets import check_neighbours, net_settings
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.models.training import fit_network
from subquad.reporting.page import page
from subquad.runs.folder import METRICS, open_run
from subquad.runs.options import takes_settings
from subquad.runs.storage import read_json
from subquad.train.distributed import broadcast_object, processes

PARAMETERS = (
    *("preset", "inputs", "from_", "k", "graph", "chebyshev_order", "width", "layers", "epochs", "batch_size"),
    *("learning_rate", "dropout", "optimizer", "schedule", "warmup_fraction", "patience", "ema_decay", "weight_decay"),
    *("validation_fraction", "precision", "threads"),
)
"""Fields of `FitSettings` that are parameters of the estimator."""


@takes_settings(FitSettings, *PARAMETERS, random_state=None)
class PCNTagger(ClassifierMixin, BaseEstimator):
    """Classifier of jets in JetClass's branches, by a graph network on the particles of each jet.

    ```python
    from subquad import hep

    jets = hep.read("example:jets")
    model = hep.PCNTagger(random_state=0).fit(jets, jets.class_names)
    probabilities = model.predict_proba(hep.read("more/*.root"))
    ```

    X is what `subquad.hep.read` returns, or an awkward array of JetClass's branches, such as uproot's
    `tree.arrays()`; y holds the name or number of the class of each jet. Cross-validation and searches of scikit-learn
    need the former; `subquad.hep.as_jets` converts an awkward array. The parameters are those of
    `subquad.hep.FitSettings`, with `sample_weight` of `fit` in place of reweighting; `threads` applies to prediction
    too. For data cards, and for jets that do not fit into memory, use `subquad.hep.fit`.

    Attributes:
        classes_: The classes, sorted.
        net_: The fitted network.
        net_settings_: Its architecture.
        layout_: Its inputs and their standardization.
        origin_: The run that was fine-tuned (`from_`), with the fingerprint of its weights; None without one.
        preset_: Preset of the network: that of the run that was fine-tuned, or `preset`.
        seed_: Drawn from `random_state`.
        validation_: Accuracy and loss on the validation jets, at the best epoch.
        temperature_: Number by which the logits were divided, so that probabilities are calibrated on the validation
            jets.
    """

    random_state: Any
    from_: Path | str | None
    threads: int
    validation_fraction: float

    if TYPE_CHECKING:
        # `takes_settings` makes it
        def __init__(self, **parameters: Any) -> None: ...

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the network and return the estimator.

        Args:
            X: J jets.
            y: [J], their classes.
            sample_weight: [J], weights of the jets in the loss and in the validation accuracy. Negative ones, as of
                generators at next-to-leading order, are kept, with a warning, since they increase the variance.

        Raises:
            SubquadError: Jets cannot be used; all are listed. Or there are too few of a class.
            ValueError: Shapes or types of y or of the weights do not fit.
        """
        jets, settings, origin = as_jets(X), self._settings(), origin_of(self.from_)
        settings = settings if origin is None else origin.settings(settings)
        net = net_settings(settings) if origin is None else origin.net
        y = column_or_1d(y)
        check_consistent_length(jets, y, sample_weight)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        check_counts(self.classes_, np.bincount(labels, minlength=len(self.classes_)), "the array")
        weights = _checked_weights(sample_weight, len(jets))
        # the first process draws the seed for all
        self.seed_ = seed = broadcast_object(int(check_random_state(self.random_state).randint(2**31 - 1)))
        layout = layout_of(net) if origin is None else origin.layout(layout_of(net))
        check_neighbours(settings, layout.max_particles)
        dataset = dataset_of(replace(chunk_of(jets, layout), labels=labels), layout)
        indices = stratified_split(labels, validation_fraction=self.validation_fraction, test_fraction=0.0, seed=seed)
        both = torch.cat([indices["train"], indices["validation"]])
        parts = split_dataset(dataset, indices, weights[both.numpy()], net)
        fitted = fit_network(
            parts,
            settings,
            net_settings=net,
            classes=len(self.classes_),
            directory=None,
            seed=seed,
            quiet=True,
            event_weights=None if sample_weight is None else weights[indices["validation"].numpy()],
            start=lambda net: () if origin is None else origin.load_into(net, [*map(str, self.classes_)]),
        )
        self.origin_ = None if origin is None else origin.as_config([*map(str, self.classes_)])
        self.preset_, self.settings_ = settings.preset, settings
        self.temperature_ = fitted.temperature
        self.validation_ = fitted.result.best
        self.net_, self.net_settings_, self.layout_ = fitted.net.eval(), net, parts["train"].layout
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return [J, C]: probabilities that sum to 1, the classes in the order of `classes_`.

        Raises:
            SubquadError: Jets cannot be used; all are listed.
        """
        check_is_fitted(self, "net_")
        self.net_.to(processes().device)
        with using_threads(self.threads):
            logits = predict_logits(self.net_, dataset_of(chunk_of(as_jets(X), self.layout_), self.layout_))
        return logits.double().softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return [J]: the class of the highest probability."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the fitted estimator as a folder of JSON and safetensors, as `subquad.hep.fit` does.

        `subquad hep predict`, `evaluate --files`, `explain` and `export` take such a folder. A `random_state` that is
        no whole number is not saved.

        Args:
            folder: To write.
            force: Overwrite a finished run.

        Raises:
            SubquadError: The folder holds other files.
        """
        check_is_fitted(self, "net_")
        if not processes().is_main_process:
            return
        parameters = self.get_params(deep=False)
        if not isinstance(parameters["random_state"], int | np.integer):
            parameters["random_state"] = None
        layout, net = self.layout_, self.net_settings_
        run = open_run(folder, kind="hep", settings={**asdict(self.settings_), "seed": self.seed_}, force=force)
        lead = "A fitted scikit-learn estimator. Load it with `subquad.hep.PCNTagger.load(folder)`."
        run.finish(
            config={
                "estimator": {"classes": self.classes_.tolist(), "parameters": parameters},
                **{"classes": list(map(str, self.classes_)), "background": None},
                **{"preset": self.preset_, "seed": self.seed_, "net": asdict(net), "from": self.origin_},
                "particle_features": layout.features.names,
                "jet_features": layout.jet_features if net.has_jet_features else (),
                **{"card": None, "files": [], "test": [], "temperature": self.temperature_},
            },
            tensors=network_tensors(self.net_, layout),
            metrics={"validation": self.validation_},
            card=f"# Jet tagger\n\n{lead}\n",
            report=lambda: page("Jet tagger", lead=lead, sections=[]),
        )

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Return the estimator that `save` wrote.

        Raises:
            SubquadError: There is none, or it is damaged.
        """
        tagger = TrainedTagger.load(folder)
        if "estimator" not in tagger.config:
            raise SubquadError(f"{folder}: not written by an estimator; use `subquad hep predict`")
        saved = tagger.config["estimator"]
        estimator = cls(**saved["parameters"])
        estimator.net_, estimator.net_settings_, estimator.layout_ = tagger.net, tagger.settings, tagger.layout
        estimator.seed_, estimator.temperature_ = tagger.config["seed"], tagger.temperature
        estimator.classes_ = np.array(saved["classes"])
        estimator.settings_ = _fit_settings(tagger.config["subquad"]["settings"])
        estimator.preset_, estimator.origin_ = tagger.config["preset"], tagger.config.get("from")
        estimator.validation_ = read_json(tagger.path / METRICS)["validation"]
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        # jets are not a table of numbers; `as_jets` checks them
        tags.no_validation = True
        return tags

    def _settings(self) -> FitSettings:
        return _fit_settings(self.get_params(deep=False))


def _fit_settings(given: Mapping[str, Any]) -> FitSettings:
    names = {field.name for field in fields(FitSettings)}
    return FitSettings(**{name: value for name, value in given.items() if name in names})


def _checked_weights(given: Any, jets: int) -> np.ndarray:
    weights = np.ones(jets) if given is None else column_or_1d(given).astype(np.float64)
    if not np.isfinite(weights).all():
        raise ValueError("sample_weight must be finite")
    if (weights < 0).any():
        warnings.warn(weight_note(weights, "sample_weight: jets"), UserWarning, stacklevel=3)
    return weights
