"""A module and example inputs → an ONNX file, compared with torch in onnxruntime before it is handed on. A minute."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from subquad.errors import SubquadError, require

__all__ = ["export_onnx"]

OPSET = 18
MOST = 4096
"""Most that a size of an axis is told to be; onnxruntime takes any."""


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, str]],
    least: Mapping[str, int] | None = None,
    output: str,
    examples: Sequence[Mapping[str, Tensor]],
    tolerance: float = 1e-4,
) -> list[float]:
    """Write a module as ONNX and return, for each example, the largest difference between torch and onnxruntime.

    Args:
        module: in evaluation; takes the inputs by name, and returns one tensor.
        path: of the file.
        inputs: what the module is followed on, by name.
        axes: the axes of each input that may have any size, by name.
        least: sizes of axes that the module may be followed with; smaller ones must be among the examples.
        output: name of the output.
        examples: inputs of other sizes, on which both are compared.
        tolerance: the largest difference that is taken.

    Raises:
        SubquadError: the two differ by more.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name, extra="export")
    names = {name for of_input in axes.values() for name in of_input.values()}
    sizes = {name: torch.export.Dim(name, min=(least or {}).get(name, 1), max=MOST) for name in names}
    shapes = {given: {axis: sizes[name] for axis, name in axes[given].items()} for given in inputs}
    with _unheard(), torch.no_grad():
        program = torch.onnx.export(
            module,
            kwargs=dict(inputs),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            opset_version=OPSET,
            custom_translation_table={torch.ops.prims.hypot.default: _hypot()},
            verbose=False,
        )
    assert program is not None
    _name_output(program.model.graph, output)
    program.save(path, external_data=False)
    return _compared(module, path, examples, tolerance)


@contextmanager
def _unheard() -> Iterator[None]:
    """Leave out what torch says about itself: parts that will go, and packages that nobody asked for."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _hypot():
    """Return what stands for torch's hypot, which ONNX lacks."""
    op = require("onnxscript", extra="export").opset18

    def hypot(x, y):
        return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))

    return hypot


def _name_output(graph, output: str) -> None:
    # a value inside that is called so already would be a second one of that name
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name == output:
                value.name = f"{output}_inside"
    graph.outputs[0].name = output


def _compared(module: nn.Module, path: Path, examples: Sequence[Mapping[str, Tensor]], tolerance: float) -> list[float]:
    session = require("onnxruntime", extra="export").InferenceSession(path, providers=["CPUExecutionProvider"])
    found = []
    for example in examples:
        (given,) = session.run(None, {name: value.numpy() for name, value in example.items()})
        with torch.no_grad():
            expected = module(**example)
        found.append(float((torch.from_numpy(given) - expected).abs().max()))
        # also where the difference is no number
        if not found[-1] <= tolerance:
            sizes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in example.items())
            raise SubquadError(
                f"onnxruntime and torch differ by {found[-1]:.2g} (at most {tolerance:g} is taken) for {sizes}; "
                "nothing was written"
            )
    return found
