"""`subquad hep export`: a tagger as ONNX that takes the branches of files, or weaver's inputs; checked in onnxruntime.

Takes about a minute.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subquad import __version__
from subquad.errors import SubquadError
from subquad.export import OPSET, export_onnx
from subquad.hep.data.features import STANDARD_FEATURES, STANDARDIZATION, TYPES
from subquad.hep.data.formats import Files
from subquad.hep.data.layout import InputGroup, Layout, Standardizer
from subquad.hep.models.branch_export import comparison_files, export_branches
from subquad.hep.models.dense import (
    MULTIPLICITIES,
    OUTPUT,
    TARGETS,
    DenseTagger,
    example_inputs,
    input_names,
    outputs_of_graph,
)
from subquad.hep.models.trained import TrainedTagger
from subquad.hep.settings import ExportSettings
from subquad.progress import say
from subquad.runs.examples import name_of_run
from subquad.runs.storage import atomic, check_output, write_json

PREPROCESS = "preprocess.json"
UNLIMITED = 1e32
"""Bound that weaver writes for a variable without bounds."""


def export(
    run: Path | str,
    settings: ExportSettings | None = None,
    *,
    files: Files | None = None,
    out: Path | str,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Export a tagger as ONNX, compared with subquad in onnxruntime, and return a description of the file.

    Args:
        run: Folder that `subquad hep fit` wrote.
        settings: Inputs of the graph; defaults if None.
        files: With `branches`: jets on which onnxruntime and `subquad hep predict` are compared, without labels.
            Default: `example:jets` if it has the branches, else the training files.
        out: The ONNX file to write; with `weaver`, `preprocess.json` is written beside it.
        force: Overwrite existing files.
        quiet: Show no progress.

    Returns:
        `input_names`, `output_names`, `checked` and, with `branches`, the `metadata` of the file; with `weaver` the
        content of `preprocess.json`.

    Raises:
        SubquadError: There is no such tagger, a file exists and `force` is off, the files do not have the branches, the
            card has an expression that cannot be translated or, with `weaver`, several collections of inputs, it is
            unknown to which collection a branch belongs, or probabilities differ by more than 1e-4.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    settings, out = settings or ExportSettings(), Path(out)
    beside = out.parent / PREPROCESS
    is_weaver = settings.inputs == "weaver"
    for path in (out, beside) if is_weaver else (out,):
        check_output(path, force=force)
    tagger = TrainedTagger.load(run)
    if is_weaver:
        card = tagger.layout.card
        if card is not None and len(card.inputs) > 1:
            prefixes = " and ".join(one.prefix for one in card.inputs)
            raise SubquadError(
                f"{tagger.path}: {card.name} has the collections {prefixes}, and --inputs weaver takes taggers of one; "
                "export with --inputs branches"
            )
        if files is not None:
            raise SubquadError("--files: jets are compared with --inputs branches only; omit it with --inputs weaver")
        return _export_weaver(tagger, out, beside, quiet=quiet)
    paths = comparison_files(tagger, files, tree=settings.tree)
    say(f"exporting the tagger and comparing it with onnxruntime on jets of {paths[0].name}", quiet=quiet)
    with atomic(out) as temporary:
        return export_branches(tagger, temporary, paths, tree=settings.tree)


def _export_weaver(tagger: TrainedTagger, out: Path, beside: Path, *, quiet: bool) -> dict[str, Any]:
    say("exporting the network and comparing it with onnxruntime", quiet=quiet)
    with atomic(out) as temporary:
        sizes = export_tagger(tagger, temporary)
        found = {
            **preprocessing(tagger),
            "subquad": {"version": __version__, "run": name_of_run(tagger.path), "model": out.name, **graph_of(tagger)},
            # which the probabilities of the exported network contain
            "temperature": tagger.temperature,
            "checked": {"largest_difference": max(size["difference"] for size in sizes), "sizes": sizes},
        }
        # no description may lie beside a network that it does not describe
        beside.unlink(missing_ok=True)
    write_json(beside, found)
    return found


def export_tagger(tagger: TrainedTagger, path: Path) -> list[dict[str, Any]]:
    """Write a tagger as ONNX and compare it with torch.

    Returns:
        For each size of the inputs `jets`, `particles` and `difference`, the largest one of a probability, or of a
        target in its standard deviations.

    Raises:
        SubquadError: A difference exceeds 1e-4.
    """
    names, k = input_names(tagger), tagger.net.k
    examples = example_inputs(tagger.layout, names)
    axes: dict[str, Mapping[int, str]] = {name: {0: "batch", 2: "particles"} for name in names}
    if "jet_features" in axes:
        axes["jet_features"] = {0: "batch"}
    sizes = [example["pf_mask"].shape for example in examples]
    # traced with more particles than k, so that all k neighbours are searched for; in a smaller jet the neighbours that
    # do not exist change none of its edges
    particles = next((P for P in MULTIPLICITIES if k + 1 < P), k + 2)
    differences = export_onnx(
        DenseTagger(tagger.net, targets=tagger.targets, uses_features_as_points=tagger.settings.graph == "features"),
        path,
        inputs=example_inputs(tagger.layout, names, [particles])[-1],
        axes=axes,
        min_sizes={"particles": k + 1},
        outputs=outputs_of_graph(tagger),
        examples=examples,
    )
    return [
        {"jets": B, "particles": P, "difference": difference}
        for (B, _, P), difference in zip(sizes, differences, strict=True)
    ]


def graph_of(tagger: TrainedTagger) -> dict[str, Any]:
    """Return what a program has to know of the graph beside the preprocessing of its inputs."""
    layout = tagger.layout
    groups = {"pf_points": layout.points, "pf_features": layout.features, "pf_vectors": layout.vectors}
    sizes = {name: len(group.names) for name, group in groups.items() if group is not None} | {"pf_mask": 1}
    shapes: dict[str, list[str | int]] = {name: ["batch", size, "particles"] for name, size in sizes.items()}
    shapes["jet_features"] = ["batch", len(layout.jet_features)]
    return {
        "opset": OPSET,
        "inputs": {name: shapes[name] for name in input_names(tagger)},
        "output": OUTPUT,
        "output_shape": ["batch", len(tagger.classes)],
        "classes": list(tagger.classes),
        **({TARGETS: list(tagger.targets.names)} if len(tagger.targets) else {}),
    }


def preprocessing(tagger: TrainedTagger) -> dict[str, Any]:
    """Return the preprocessing of the inputs as in weaver's `preprocess.json`, with expressions of the branches."""
    layout, length = tagger.layout, tagger.layout.max_particles
    is_standard = tagger.settings.features != "raw"
    groups = {"pf_points": layout.points, "pf_features": layout.features, "pf_vectors": layout.vectors}
    found: dict[str, Any] = {
        "output_names": [f"label_{name}" for name in tagger.classes],
        "input_names": input_names(tagger),
    }
    expressions: dict[str, str] = {}
    for name in found["input_names"]:
        group = groups.get(name)
        if group is not None:
            infos = _variable_infos(group, layout, is_standard=is_standard)
            found[name] = {"var_names": list(group.names), "var_infos": infos, "var_length": length}
            expressions |= {variable: _expression(variable, layout, is_standard) for variable in group.names}
    found["pf_mask"] = {"var_names": ["pf_mask"], "var_infos": {"pf_mask": _info()}, "var_length": length}
    expressions["pf_mask"] = "1 for a particle, 0 for padding"
    if layout.jet_standardizer is not None:
        infos = dict(zip(layout.jet_features, _infos(layout.jet_standardizer), strict=True))
        found["jet_features"] = {"var_names": list(layout.jet_features), "var_infos": infos, "var_length": 1}
        expressions["jet_features"] = "subquad.hep.data.features: " + (
            "jet_features" if layout.has_jetclass_features else "momentum_features, or means over the particles"
        )
    return {**found, "expressions": expressions}


def _info(
    center: float = 0.0, scale: float = 1.0, low: float = -UNLIMITED, high: float = UNLIMITED
) -> dict[str, float]:
    return {
        "median": center,
        "norm_factor": scale,
        "replace_inf_value": 0,
        "lower_bound": max(low, -UNLIMITED),
        "upper_bound": min(high, UNLIMITED),
        "pad": 0,
    }


def _infos(standardizer: Standardizer) -> list[dict[str, float]]:
    columns = (standardizer.center, standardizer.scale, standardizer.low, standardizer.high)
    return [_info(*numbers) for numbers in zip(*(column.tolist() for column in columns), strict=True)]


def _variable_infos(group: InputGroup, layout: Layout, *, is_standard: bool) -> dict[str, dict[str, float]]:
    if group.standardizer is not None:
        return dict(zip(group.names, _infos(group.standardizer), strict=True))
    standard = STANDARD_FEATURES if layout.card is None and is_standard else ()
    numbers = {name: STANDARDIZATION.get(name, (0.0, 1.0)) for name in standard}
    return {name: _info(*numbers[name], -10.0, 10.0) if name in numbers else _info() for name in group.names}


def _expression(name: str, layout: Layout, is_standard: bool) -> str:
    """Return the expression of a variable in terms of the branches."""
    if layout.card is not None:
        expression = layout.card.new_variables.get(name)
        return layout.card.branch(name) if expression is None else expression.text
    if is_standard and name in EXPRESSIONS:
        return EXPRESSIONS[name]
    return "np.hypot(part_px, part_py)" if name == "pt" else f"part_{name}"


def _significance(name: str) -> str:
    ratio = f"part_{name}val / part_{name}err"
    return f"np.where(part_{name}err > 0, np.sign({ratio}) * np.log1p(np.abs({ratio})), 0)"


_PT = "np.maximum(np.hypot(part_px, part_py), 1e-6)"
_ENERGY = "np.maximum(part_energy, 1e-6)"

EXPRESSIONS = {
    **{name: f"part_{name}" for name in ("deta", "dphi", "charge", *TYPES)},
    "log pt": f"np.log({_PT})",
    "log energy": f"np.log({_ENERGY})",
    "log pt/jet": f"np.log({_PT}) - np.log(np.maximum(jet_pt, 1e-6))",
    "log energy/jet": f"np.log({_ENERGY}) - np.log(np.maximum(jet_energy, 1e-6))",
    "dr": "np.hypot(part_deta, part_dphi)",
    "tanh d0": "np.tanh(part_d0val)",
    "d0err": "np.clip(part_d0err, 0, 1)",
    "tanh dz": "np.tanh(part_dzval)",
    "dzerr": "np.clip(part_dzerr, 0, 1)",
    "d0 significance": _significance("d0"),
    "dz significance": _significance("dz"),
}
"""Each standard feature, before standardization, in terms of JetClass's branches."""
