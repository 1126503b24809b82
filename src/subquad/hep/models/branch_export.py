"""Export of a tagger that takes the branches of files, compared in onnxruntime with the scores of `predict`.

Axes: J jets, P particles of a padded batch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subquad import __version__
from subquad.errors import SubquadError
from subquad.export import export_onnx
from subquad.hep.data.chunks import first_jets
from subquad.hep.data.formats import Files, expand_files, file_of, inspect_file
from subquad.hep.data.jets import OBSERVERS, PARTICLES
from subquad.hep.data.layout import Layout
from subquad.hep.models.branch_inputs import MASK, branches_read, masks_of_branches, padded_branches
from subquad.hep.models.branch_tagger import BranchTagger
from subquad.hep.models.dense import outputs_of_graph
from subquad.hep.models.networks import logits_and_targets, predict_outputs
from subquad.hep.models.trained import TrainedTagger

EXAMPLE = "example:jets"
COMPARED = 200
"""Number of entries that are compared."""


def comparison_files(tagger: TrainedTagger, files: Files | None, *, tree: str) -> list[Path]:
    """Return the files whose jets are compared.

    Args:
        tagger: The tagger.
        files: Files that the user gives; None for the example or the training files.
        tree: Name of the tree in ROOT files.

    Raises:
        SubquadError: No files are given, the example lacks branches, and the training files are not there any more.
    """
    if files is not None:
        return expand_files(files)
    example, card = expand_files(EXAMPLE), tagger.layout.card
    wanted = [*PARTICLES, *OBSERVERS]
    if card is not None:
        asked = card.branches(is_training=False, has_labels=False, has_weights=False)
        wanted = [card.branch(name) for name in asked]
    missing = sorted({*wanted} - {*inspect_file(example[0], tree).columns})
    # whatever its name, the only tree of the example is taken
    if not missing and (card is None or card.collections is None):
        return example
    training = [path for path in map(Path, tagger.config.get("files", ())) if file_of(path).is_file()]
    if training:
        return training[:1]
    raise SubquadError(
        f"{tagger.path}: the tagger is compared with onnxruntime before it is written, {EXAMPLE} has not all of its "
        f"branches ({', '.join(missing[:5])}), and its training files are not there any more; give a file of jets with "
        "--files"
    )


def export_branches(tagger: TrainedTagger, path: Path, files: list[Path], *, tree: str = "tree") -> dict[str, Any]:
    """Write a tagger whose inputs are branches as ONNX and compare it with `predict` on the first jets of a file.

    The jets are compared one by one, in small and in large batches, with more and with less padding and, where the
    order of the particles has no meaning, in reverse order.

    Returns:
        `input_names`, `output_names`, `metadata` and `checked`.

    Raises:
        SubquadError: The file lacks branches, the card cannot be translated, it is unknown to which collection of
            inputs a branch belongs, or a difference exceeds 1e-4; those of regression targets are divided by their
            standard deviation.
    """
    columns, chunk = first_jets(files, tagger.layout, COMPARED, tree=tree)
    if not len(chunk):
        raise SubquadError(f"{files[0]}: its first {COMPARED} entries have no jets to compare; give another --files")
    logits, targets = logits_and_targets(tagger.net, predict_outputs(tagger.net, tagger.dataset(chunk)))
    expected = [logits.softmax(-1)]
    if len(tagger.targets):
        columns_of_targets = tagger.targets.predicted(targets).values()
        expected.append(torch.stack([torch.from_numpy(column) for column in columns_of_targets], 1))
    masks = masks_of_branches(columns, tagger.layout)
    module, jets = BranchTagger(tagger, masks), padded_branches(columns, masks, places=tagger.net.k + 2)
    names = branches_read(module, {name: values[:2] for name, values in jets.items()}, masks)
    jets = {name: jets[name] for name in names}
    branches = {mask: [name for name in names if masks.get(name) == mask] for mask in names if mask in masks.values()}
    # dynamic axis of each input with several numbers per jet
    axes = {
        name: f"entries_{i}" if i else "particles"
        for i, (mask, own) in enumerate(branches.items())
        for name in (mask, *own)
    }
    groups = _batches([jets[mask] for mask in branches])
    examples = [_taken(jets, axes, rows, extra) for rows, extra in groups]
    if tagger.layout.card is None:
        examples[-1] = {name: x.flip(1) if x.ndim == 2 else x for name, x in examples[-1].items()}
    metadata = _metadata(tagger, branches, [name for name in names if name not in axes])
    differences = export_onnx(
        module,
        path,
        # two jets at least, and more particles than k
        inputs={name: torch.cat([values[:3], values[:3]])[:3] for name, values in jets.items()},
        axes={name: {0: "jets", **({1: axes[name]} if name in axes else {})} for name in names},
        min_sizes={"particles": tagger.net.k + 1},
        outputs=outputs_of_graph(tagger),
        examples=examples,
        expected=[[output[rows] for output in expected] for rows, _ in groups],
        argument="branches",
        metadata={name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()},
    )
    return {
        "input_names": names,
        "output_names": [f"label_{name}" for name in tagger.classes],
        **({"target_names": list(tagger.targets.names)} if len(tagger.targets) else {}),
        "metadata": metadata,
        "checked": {
            "file": files[0].name,
            "jets": len(chunk),
            "particles": int(jets[MASK].sum(1).max()),
            "largest_difference": max(differences),
        },
    }


def _batches(masks: Sequence[Tensor]) -> list[tuple[Tensor, int]]:
    """Return jets to compare together, and the number of places to pad them with beyond the largest of them."""
    by_length = masks[0].sum(1).argsort()
    orders = [mask.sum(1).argsort() for mask in masks]
    ends = torch.unique(torch.stack([order[end] for order in orders for end in (0, -1)]))
    alone = [(jet[None], extra) for jet in ends for extra in (0, 3)]
    everything = torch.arange(len(by_length))
    return [*alone, (by_length[:7], 0), (by_length[-7:], 5), (everything, 0), (everything, 0)]


def _taken(jets: Mapping[str, Tensor], axes: Mapping[str, str], rows: Tensor, extra: int) -> dict[str, Tensor]:
    """Return some jets, padded by `extra` places beyond the last one that any of them uses."""
    found = {name: values[rows] for name, values in jets.items()}
    for axis in {*axes.values()}:
        own = [name for name in axes if axes[name] == axis]
        # the mask stands first
        places = max(1, int(found[own[0]].sum(1).max()))
        for name in own:
            found[name] = torch.nn.functional.pad(found[name][:, :places], (0, extra))
    return found


def _metadata(tagger: TrainedTagger, branches: Mapping[str, list[str]], of_jets: list[str]) -> dict[str, Any]:
    layout: Layout = tagger.layout
    card = layout.card
    selection = card.test_selection.text if card is not None and card.test_selection is not None else ""
    return {
        "classes": list(tagger.classes),
        **({"targets": list(tagger.targets.names)} if len(tagger.targets) else {}),
        "masks": dict(branches),
        "jet_branches": of_jets,
        "max_particles": layout.max_particles,
        "particle_order": "any" if card is None else "as in the files",
        "selection": selection,
        "subquad": __version__,
    }
