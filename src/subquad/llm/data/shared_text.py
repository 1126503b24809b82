"""The tokens of a run, which the first process reads from the texts, and all processes map from files."""

import glob
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subquad.errors import SubquadError
from subquad.llm.data.mapped import open_rows, write_rows
from subquad.llm.data.packing import Mixture, PackedSequences, TextDataset
from subquad.runs.storage import as_folder, read_json, write_json
from subquad.train.distributed import broadcast_object, processes, wait_for

INDEX = "index.json"
PARTS = ("training", "validation", "holdout")
TENSORS = ("ids", "documents", "loss_mask")


def read_once(prepare: Callable[[Path], TextDataset], out: Path) -> TextDataset:
    """Return what `prepare` makes in the first process, in all processes; memory does not hold the tokens.

    The files of one process have no names. Those of several lie beside `out`, and are removed when all are opened.

    Args:
        prepare: Function of the folder for files.
        out: Folder of the run, which all processes see.

    Raises:
        SubquadError: As `prepare`, in all processes.
    """
    group, out = processes(), as_folder(out).absolute()
    near = out.parent
    if group.num_processes == 1:
        return prepare(next(folder for folder in (near, *near.parents) if folder.is_dir()))
    # a name of its own, since a folder that a killed run left is removed while others look for this one
    name = f".subquad-{out.name}.tokens-"
    folder = near / f"{name}{broadcast_object(uuid.uuid4().hex)}"
    if group.is_main_process:
        for stale in near.glob(f"{glob.escape(name)}*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            _write(prepare(folder), folder)
        except SubquadError as error:
            write_json(folder / INDEX, {"error": str(error)})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    wait_for((folder / INDEX).is_file)
    index = read_json(folder / INDEX)
    data = None if "error" in index else _open(folder, index)
    group.wait_for_everyone()
    if group.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    if data is None:
        raise SubquadError(index["error"])
    return data


def _write(data: TextDataset, folder: Path) -> None:
    parts = {name: _write_part(getattr(data, name), folder / name) for name in PARTS}
    mixture = None if data.mixture is None else {"sizes": data.mixture.sizes, "weights": data.mixture.weights}
    about = {"holdout_source": data.holdout_source, "mixture": mixture, "descriptions": data.descriptions}
    write_json(folder / INDEX, {"parts": parts, **about})


def _write_part(part: PackedSequences, folder: Path) -> dict[str, Any]:
    """Write the tensors of a part; return their shape, types, and whether all tokens count in the loss."""
    folder.mkdir()
    # a mask without exceptions is one value, and stays one
    is_all = bool(part.loss_mask.all())
    for name in TENSORS:
        if not (is_all and name == "loss_mask"):
            with (folder / name).open("wb") as file:
                write_rows(getattr(part, name), file)
    return {"shape": list(part.ids.shape), "documents": str(part.documents.dtype), "is_all": is_all}


def _open(folder: Path, index: dict[str, Any]) -> TextDataset:
    mixture = index["mixture"]
    return TextDataset(
        **{name: _open_part(folder / name, about) for name, about in index["parts"].items()},
        holdout_source=index["holdout_source"],
        mixture=mixture and Mixture(sizes=tuple(mixture["sizes"]), weights=tuple(mixture["weights"])),
        descriptions=tuple(index["descriptions"]),
    )


def _open_part(folder: Path, about: dict[str, Any]) -> PackedSequences:
    shape = about["shape"]

    def opened(name: str, dtype: torch.dtype) -> Tensor:
        return open_rows(folder / name, shape, dtype)

    mask = torch.ones(1, 1, dtype=torch.bool).expand(*shape) if about["is_all"] else opened("loss_mask", torch.bool)
    numbers = torch.int16 if about["documents"] == "torch.int16" else torch.int32
    return PackedSequences(ids=opened("ids", torch.int32), documents=opened("documents", numbers), loss_mask=mask)
