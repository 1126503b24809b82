"""Export a module as ONNX and compare it with torch in onnxruntime before the file is used. Takes about a minute."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subquad.errors import SubquadError, require

__all__ = ["OPSET", "export_onnx"]

OPSET = 18
"""Version of the operators of ONNX."""
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
    tolerance: float = 1e-4,
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
        tolerance: Largest accepted difference, in the units of the outputs.

    Raises:
        SubquadError: A difference exceeds the tolerance.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name, extra="export")
    names = {name for of_input in axes.values() for name in of_input.values()}
    sizes = {name: torch.export.Dim(name, min=(min_sizes or {}).get(name, 1), max=MAX_SIZE) for name in names}
    shapes = {given: {axis: sizes[name] for axis, name in axes[given].items()} for given in inputs}
    with _silenced(), torch.no_grad():
        program = torch.onnx.export(
            module,
            kwargs=_arguments(inputs, argument),
            dynamo=True,
            dynamic_shapes=_arguments(shapes, argument),
            input_names=list(inputs),
            opset_version=OPSET,
            custom_translation_table={torch.ops.prims.hypot.default: _hypot()},
            verbose=False,
        )
    assert program is not None
    _name_outputs(program.model.graph, list(outputs), list(inputs))
    program.model.metadata_props.update(metadata or {})
    program.save(path, external_data=False)
    if expected is None:
        with torch.no_grad():
            given = [module(**_arguments(example, argument)) for example in examples]
        expected = [(one,) if isinstance(one, Tensor) else one for one in given]
    return _differences(path, examples, expected, units=list(outputs.values()), tolerance=tolerance)


def _arguments(inputs: Mapping[str, Any], argument: str | None) -> dict[str, Any]:
    return dict(inputs) if argument is None else {argument: dict(inputs)}


@contextmanager
def _silenced() -> Iterator[None]:
    """Suppress torch's deprecation warnings and its hints at packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _hypot() -> Any:
    """Return the translation of torch's hypot, which ONNX does not have."""
    op = require("onnxscript", extra="export").opset18

    def hypot(x, y):
        return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))

    return hypot


def _name_outputs(graph: Any, outputs: Sequence[str], inputs: Sequence[str]) -> None:
    # an inner value of one of these names would clash with it
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in outputs or value.name in inputs:
                value.name = f"{value.name}_inside"
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name


def _differences(
    path: Path,
    examples: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Sequence[Tensor]],
    *,
    units: Sequence[float | Tensor],
    tolerance: float,
) -> list[float]:
    session = require("onnxruntime", extra="export").InferenceSession(path, providers=["CPUExecutionProvider"])
    found = []
    for example, of_torch in zip(examples, expected, strict=True):
        given = session.run(None, {name: value.numpy() for name, value in example.items()})
        each = [
            ((torch.from_numpy(one) - other).abs() / unit).max()
            for one, other, unit in zip(given, of_torch, units, strict=True)
        ]
        found.append(float(torch.stack(each).max()))
        # a difference of NaN is refused too
        if not found[-1] <= tolerance:
            sizes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in example.items())
            raise SubquadError(
                f"onnxruntime and torch differ by {found[-1]:.2g} for {sizes}, more than the tolerance of "
                f"{tolerance:g}; nothing was written"
            )
    return found
