"""The runs that an evaluation compares: which of them are trainings of one model, and what the models are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from subquad.errors import SubquadError, reading
from subquad.hep.evaluation.scoring import is_baseline
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.settings import FitSettings
from subquad.runs.examples import name_of_run, run_folder
from subquad.runs.folder import CONFIG, load_config
from subquad.runs.storage import plain

VARIES_BETWEEN_TRAININGS = (
    *("seed", "threads", "files", "tree", "validation", "test", "layout", "background", "no_boosting"),
    "origin_fingerprint",
)
"""Settings that may differ between trainings of one model."""


@dataclass(frozen=True, kw_only=True)
class ComparedRuns:
    """The runs to compare, by their folders."""

    configs: Mapping[Path, Mapping[str, Any]]
    names: Mapping[Path, str]
    """Name of each run's model."""
    classes: tuple[str, ...]
    """Classes of the first run; empty without runs."""

    def described(self) -> list[dict[str, Any]]:
        """Return name, model, seed and settings other than the defaults of each run, for the report."""
        defaults, found = plain(FitSettings()), []
        for folder, name in self.names.items():
            own = self.configs[folder]["subquad"]["settings"]
            changed = {key: own[key] for key in defaults if key in own and own[key] != defaults[key]}
            text = ", ".join(_settings_text(changed, is_short=True))
            found.append({"run": name_of_run(folder), "model": name, "seed": own.get("seed"), "settings": text})
        return found

    def taggers(self, event_weights: str | None) -> dict[str, list[TrainedTagger]]:
        """Return the taggers of each model, which all read these event weights, or those of the first one."""
        found: dict[str, list[TrainedTagger]] = {}
        for folder, name in self.names.items():
            tagger = TrainedTagger.load(folder)
            event_weights = tagger.layout.event_weights if event_weights is None else event_weights
            found.setdefault(name, []).append(tagger.weighted_by(event_weights))
        return found


def read_runs(given: Sequence[Path | str]) -> ComparedRuns:
    """Return runs with the names of their models.

    Args:
        given: Folders, names of examples, or `name=folder`, where the name is that of the run's model.

    Raises:
        SubquadError: Their classes differ, one training is given twice, or a name is that of gradient boosting.
    """
    named = list(map(_named, given))
    chosen = dict(named)
    if len(chosen) < len(named) or any(map(is_baseline, chosen.values())):
        raise SubquadError("a run is given twice, or has the name of the baseline")
    configs = {folder: load_config(folder, "hep") for folder in chosen}
    classes: tuple[str, ...] = ()
    for folder, config in configs.items():
        with reading(folder / CONFIG):
            classes = classes or tuple(config["classes"])
            if {*config["classes"]} != {*classes}:
                raise SubquadError(
                    f"{folder}: its classes are not those of {next(iter(configs))}: {', '.join(classes)}"
                )
    return ComparedRuns(configs=configs, names=model_names(configs, chosen), classes=classes)


def _named(given: Path | str) -> tuple[Path, str]:
    """Return the folder of a run, and the name that was given for its model, or an empty one."""
    name, is_named, rest = str(given).partition("=")
    if not is_named or Path(given).exists():
        return run_folder(given), ""
    return run_folder(rest), name


def model_names(configs: Mapping[Path, Mapping[str, Any]], chosen: Mapping[Path, str] | None = None) -> dict[Path, str]:
    """Return the name of each run's model: its preset, and the settings that differ among runs of this preset.

    Args:
        configs: `config.json` of each run, by its folder.
        chosen: Names that were given for the models of runs; empty for a name by the settings.

    Raises:
        SubquadError: Two runs differ in nothing, not even in their seed.
    """
    # a run of an earlier version lacks settings that were added since, and had their defaults
    defaults = plain(FitSettings())
    settings = {folder: {**defaults, **config["subquad"]["settings"]} for folder, config in configs.items()}
    names: dict[Path, str] = {}
    trainings: dict[tuple[str, Any], Path] = {}
    differing = {folder: _differing(own, list(settings.values())) for folder, own in settings.items()}
    distinct = {repr(own) for own in differing.values()}
    for hidden, is_short in (("data", True), ("", True), ("", False)):
        texts = {
            folder: _settings_text({key: value for key, value in own.items() if key != hidden}, is_short=is_short)
            for folder, own in differing.items()
        }
        # fingerprints, bin edges and the like are shown only if they tell models apart
        if len({*texts.values()}) == len(distinct):
            break
    for folder, own in settings.items():
        name = (chosen or {}).get(folder) or ", ".join([str(own.get("preset")), *texts[folder]])
        training = (name, own.get("seed"))
        if training in trainings:
            raise SubquadError(f"{folder}: the same training as {trainings[training]}, seed {training[1]}")
        trainings[training] = folder
        names[folder] = name
    return names


def _differing(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of a run that differ among the runs of its preset, without those that have their defaults."""
    same_preset = [other for other in others if other.get("preset") == own.get("preset")]
    # estimators store no files
    keys = sorted(set.intersection(*map(set, same_preset)) - {"preset", *VARIES_BETWEEN_TRAININGS})
    found = {key: own.get(key) for key in keys if any(other.get(key) != own.get(key) for other in same_preset)}
    defaults = plain(FitSettings())
    return {key: value for key, value in found.items() if key not in defaults or value != defaults[key]}


def _settings_text(own: Mapping[str, Any], *, is_short: bool) -> tuple[str, ...]:
    """Return settings as words; without the numbers of lists and the folders of paths, if they are to be short."""

    def text(key: str, value: Any) -> str:
        words = list(map(str, value)) if isinstance(value, list) else [str(value)]
        # expressions have slashes too
        words = [PurePath(word).name or word for word in words] if is_short and key in {"card", "from_"} else words
        names = [word for word in words if word[:1].isalpha()]
        return " ".join(names if is_short and names else words)

    return tuple(f"{key.rstrip('_')} {text(key, value)}" for key, value in own.items())
