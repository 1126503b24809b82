"""Export a module as ONNX and compare it with torch in onnxruntime before the file is used. Takes about a minute."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subquad.errors import SubquadError, require

OPSET, TOLERANCE = 18, 1e-4
"""Version of the operators of ONNX, and the largest accepted difference, in the units of the outputs."""
MAX_SIZE = 4096
"""Upper bound of dynamic axes during tracing; onnxruntime accepts larger sizes."""


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, str]],
    min_sizes: Mapping[str, int] | None = None,
    outputs: Mapping[str, float | Tensor],
    examples: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Sequence[Tensor]] | None = None,
    argument: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[float]:
    """Write a module as ONNX and return the largest difference between torch and onnxruntime for each example.

    Args:
        module: Module in evaluation mode that takes its inputs by name and returns a tensor or several.
        path: File to write.
        inputs: Inputs with which the module is traced.
        axes: Dynamic axes of each input: index and name.
        min_sizes: Smallest sizes of axes for tracing, by name; smaller ones must be among the examples.
        outputs: Name of each output, and the unit in which its differences are measured.
        examples: Inputs of other sizes for the comparison.
        expected: Outputs that the examples must have. Default: those of the module.
        argument: Name of the argument that takes all inputs as a mapping. Default: each input is an argument.
        metadata: Entries of the model's metadata.

    Raises:
        SubquadError: A difference exceeds `TOLERANCE`.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name, extra="export")
    names = {name for of_input in axes.values() for name in of_input.values()}
    sizes = {name: torch.export.Dim(name, min=(min_sizes or {}).get(name, 1), max=MAX_SIZE) for name in names}
    shapes = {name: {axis: sizes[size] for axis, size in axes[name].items()} for name in inputs}

    def arguments(values: Mapping[str, Any]) -> dict[str, Any]:
        return dict(values) if argument is None else {argument: dict(values)}

    # torch warns of what it deprecates itself, and of packages that are not needed
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                module,
                kwargs=arguments(inputs),
                dynamo=True,
                dynamic_shapes=arguments(shapes),
                input_names=list(inputs),
                opset_version=OPSET,
                custom_translation_table={torch.ops.prims.hypot.default: _hypot},
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert program is not None
    for value in [value for node in program.model.graph.all_nodes() for value in node.outputs]:
        # an inner value of one of these names would clash with it
        if value.name in (*outputs, *inputs):
            value.name = f"{value.name}_inside"
    for value, name in zip(program.model.graph.outputs, outputs, strict=True):
        value.name = name
    program.model.metadata_props.update(metadata or {})
    program.save(path, external_data=False)
    if expected is None:
        with torch.no_grad():
            computed = [module(**arguments(example)) for example in examples]
        expected = [(output,) if isinstance(output, Tensor) else output for output in computed]
    session = require("onnxruntime", extra="export").InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for example, of_torch in zip(examples, expected, strict=True):
        of_onnx = session.run(None, {name: value.numpy() for name, value in example.items()})
        triples = zip(of_onnx, of_torch, outputs.values(), strict=True)
        parts = [((torch.from_numpy(mine) - other).abs() / unit).max() for mine, other, unit in triples]
        differences.append(float(torch.stack(parts).max()))
        # a difference of NaN is refused too
        if not differences[-1] <= TOLERANCE:
            shown = ", ".join(f"{name} {tuple(value.shape)}" for name, value in example.items())
            reason = f"differ by {differences[-1]:.2g} for {shown}, more than {TOLERANCE:g}; nothing was written"
            raise SubquadError(f"onnxruntime and torch {reason}")
    return differences


def _hypot(x, y):
    """Return torch's hypot by operators that ONNX has."""
    op = require("onnxscript", extra="export").opset18
    return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))
