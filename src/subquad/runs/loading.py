"""Open the model of any finished run folder by the loader of its field, which is imported only then."""

from importlib import import_module
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, unknown
from subquad.runs.checksums import CONFIG, check_values
from subquad.runs.examples import run_folder
from subquad.runs.folder import stamp_of
from subquad.runs.storage import read_json

__all__ = ["LOADERS", "load_run"]

LOADERS = {
    "bio": "subquad.bio.models.estimators:load",
    "llm": "subquad.llm.models.loading:load",
    "hep": "subquad.hep.models.trained:load",
}
"""Kind of run → `module:function`, where the function takes the folder."""


def load_run(directory: Path | str) -> Any:
    """Return the fitted model in a run folder, whichever field wrote it.

    Args:
        directory: Folder that `subquad bio fit`, `subquad llm linearize`, `subquad hep fit` or an estimator's `save`
            wrote, or one of `subquad.runs.examples.EXAMPLE_RUNS`.

    Returns:
        What the field's own `load` returns: a `subquad.bio.BioModel` or estimator, the pair of a transformers model
        and its tokenizer, or a trained tagger.

    Raises:
        SubquadError: There is no such folder, or subquad did not write it.
    """
    path = run_folder(directory)
    if not (path / CONFIG).is_file():
        raise SubquadError(f"{path}: no {CONFIG} in it; give a folder that subquad wrote")
    config = read_json(path / CONFIG)
    kind = stamp_of(config, path).get("kind")
    check_values(config, path)
    if not isinstance(kind, str) or kind not in LOADERS:
        raise SubquadError(f"{path / CONFIG}: {unknown('kind of run', str(kind), LOADERS)}")
    module, function = LOADERS[kind].split(":")
    return getattr(import_module(module), function)(path)
