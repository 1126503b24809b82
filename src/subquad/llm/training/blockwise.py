r"""Stage 1 for models larger than memory: a few layers at a time, their inputs on disk (Eq. (8) of arXiv:2410.10254).

A layer learns from the softmax model's hidden states alone, so blocks of layers are trained one after the other with
the steps, the rates and the order of texts of `transfer`. Memory is one block's weights and one batch; disk is the
hidden states at a block's two edges. Compute is one more forward pass over the text than in the joint form.

Two things differ from the joint form: states are rounded where they are stored, and gradients are clipped by the norm
over a block's layers, not all. With `validate_every` each block keeps its own best step, halves its own rate and stops
by itself.

Axes: B sequences of a batch, N training and M validation sequences, T positions, D model width.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.llm.data.packing import Mixture, order
from subquad.llm.models.attention import HybridSelfAttention, attention_layers, using
from subquad.llm.models.checkpoints import locate, model_fingerprint
from subquad.llm.models.convert import replace_in_layer
from subquad.llm.models.meta_model import Call, Skeleton, open_skeleton
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.activation_store import Edges
from subquad.llm.training.transfer import steps_for, transfer
from subquad.progress import say, track
from subquad.runs.storage import (
    fingerprint,
    plain,
    read_json,
    read_tensors,
    read_tensors_and_metadata,
    write_json,
    write_tensors,
)
from subquad.train.distributed import processes
from subquad.train.loop import TrainingResult

__all__ = ["MAPS", "Blockwise", "put_maps", "transfer_blockwise"]

MAPS, NOTES = "maps.safetensors", "blockwise.json"
NOTHING = TrainingResult(steps=0, best_step=0, best={}, seconds=0.0, stopped_early=False)
"""Of a block of layers that stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Blockwise:
    """What a block-wise stage 1 came to."""

    maps: Path
    """The file of all layers' feature maps and mixing terms, under their names in the converted model."""
    outcomes: list[TrainingResult]
    """How each block's training went."""
    seconds: float
    """Time spent on training and on writing hidden states, over all starts."""

    @property
    def steps(self) -> int:
        """Steps that each block took; where some stopped early, those of the longest."""
        return max(outcome.steps for outcome in self.outcomes)

    @property
    def stopped_early(self) -> bool:
        """Whether any block did."""
        return any(outcome.stopped_early for outcome in self.outcomes)

    def remove(self) -> None:
        """Delete the file of maps and what tells their settings, when a model holds them."""
        folder = self.maps.parent
        # what a stage that was killed at its end may have left stands among them
        for path in (folder / MAPS, folder / NOTES, *folder.glob("maps-*.safetensors"), *folder.glob("states-*.bin")):
            path.unlink(missing_ok=True)


class _LearntError(Exception):
    """The last layer of a block that learns has learnt; what lies behind it is not needed."""


class Block(nn.Module):
    """Some layers of the softmax model: takes the numbers of sequences where a model takes their tokens."""

    def __init__(self, layers: Sequence[nn.Module], calls: Sequence[Call], read: Callable[[Tensor], Tensor]):
        """Take over layers that were converted.

        Args:
            layers: Decoder layers; those that stay softmax may stand among them.
            calls: What each is given besides the hidden states.
            read: Returns the hidden states before the first of them.
        """
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._calls, self._read = list(calls), read
        self.hybrids = attention_layers(self)
        if self.hybrids:
            self.hybrids[-1].register_forward_hook(_stop_where_learnt)

    @property
    def base_model(self) -> nn.Module:
        """What stage 1 runs."""
        return self

    def forward(self, input_ids: Int[Tensor, "B 1"], use_cache: bool = False) -> Float[Tensor, "B T D"]:
        """Return the hidden states behind the last layer; in stage 1 those before its last projection."""
        # the teacher drops nothing
        self.layers.eval()
        device = next(self.parameters()).device
        x = self._read(input_ids[:, 0]).to(device)
        with suppress(_LearntError):
            for layer, call in zip(self.layers, self._calls, strict=True):
                args, kwargs = send_to_device(call, device)
                y = layer(x, *args, **kwargs)
                x = y[0] if isinstance(y, tuple) else y
        return x


def _stop_where_learnt(attention: HybridSelfAttention, *_: Any) -> None:
    if attention.mode == "transfer":
        raise _LearntError


def transfer_blockwise(
    checkpoint: Path | str,
    sequences: Int[Tensor, "N T"],
    settings: LinearizeSettings,
    *,
    block: int,
    tokens: int,
    directory: Path,
    precision: str = "float32",
    validation: Int[Tensor, "M T"] | None = None,
    mixture: Mixture | None = None,
    states: torch.dtype = torch.bfloat16,
    seed: int = 0,
    quiet: bool = False,
) -> Blockwise:
    """Train the feature maps of a checkpoint whose model is never opened as a whole, and write them to `directory`.

    Called again after a kill with the same arguments it goes on where it was and ends with the same maps.

    Args:
        checkpoint: A Hugging Face folder with safetensors.
        sequences: Training sequences.
        settings: Attention, loss, batch, rate and when to stop.
        block: Layers trained at a time.
        tokens: Tokens to learn from; the text is read again where it is shorter.
        directory: Where hidden states, checkpoints and maps go.
        precision: `float32` or `bfloat16`.
        validation: Sequences that choose each block's best weights, where validation is asked for.
        mixture: In what proportion the sequences of several files are drawn.
        states: How hidden states are stored.
        seed: Of the order of the sequences.
        quiet: Print nothing.

    Raises:
        SubquadError: the checkpoint cannot be read layer by layer, the disk is too small, or the folder holds a stage
            with other settings.
    """
    path = locate(checkpoint)
    if block < 1:
        raise SubquadError(f"--block must be at least 1, got {block}")
    if processes().num_processes > 1:
        raise SubquadError(
            f"--block {block}: runs in one process, and {processes().num_processes} were started; leave it away"
        )
    skeleton = open_skeleton(path, settings.attention)
    validation = validation if settings.validate_every and validation is not None else sequences[:0]
    asked = {
        "model_fingerprint": model_fingerprint(path),
        "text_fingerprint": fingerprint(sequences.numpy().tobytes(), validation.numpy().tobytes()),
        "mixture": None if mixture is None else asdict(mixture),
        **{"block": block, "tokens": tokens, "precision": precision, "states": str(states), "seed": seed},
    }
    notes = _begin(directory, {**asked, **_of_settings(settings)})
    if not (directory / MAPS).is_file():
        steps = steps_for(tokens, settings)
        numbers = _numbers_read(len(sequences), steps, batch=settings.batch, seed=seed, mixture=mixture)
        numbers = torch.cat((numbers, torch.arange(len(sequences), len(sequences) + len(validation))))
        _, length, width = skeleton.first_states(sequences[:1])[0].shape
        _Job(
            skeleton=skeleton,
            calls=skeleton.calls(sequences[:1]),
            edges=Edges(directory=directory, numbers=numbers, length=length, width=width, dtype=states),
            ids=torch.cat((sequences, validation)),
            learnt=len(sequences),
            settings=settings,
            block=block,
            how={"tokens": tokens, "precision": precision, "mixture": mixture, "seed": seed},
            notes=notes,
            quiet=quiet,
        ).do()
    header = read_tensors_and_metadata(directory / MAPS)[1]
    outcomes = [TrainingResult(**outcome) for outcome in json.loads(header["outcomes"])]
    return Blockwise(maps=directory / MAPS, outcomes=outcomes, seconds=float(header["seconds"]))


def _of_settings(settings: LinearizeSettings) -> dict[str, Any]:
    names = (
        "attention", "batch", "length", "transfer_rate", "transfer_loss", "transfer_weights_share", "validate_every",
        "warmup", "schedule", "patience",
    )  # fmt: skip
    return {name: plain(getattr(settings, name)) for name in names}


def _begin(directory: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the notes of the stage in the folder, or of a new one."""
    path = directory / NOTES
    if not path.is_file():
        notes = {"asked": plain(asked), "seconds": {}}
        write_json(path, notes)
        return notes
    notes = read_json(path)
    changed = sorted(name for name in asked if notes["asked"].get(name) != plain(asked[name]))
    if changed:
        lines = "; ".join(f"{name} was {notes['asked'].get(name)!r} and is {asked[name]!r}" for name in changed)
        raise SubquadError(
            f"{directory}: holds a block-wise transfer with other settings ({lines}); give the same ones to go on, or "
            "name another folder"
        )
    return notes


def _numbers_read(sequences: int, steps: int, *, batch: int, seed: int, mixture: Mixture | None) -> Int[Tensor, " N"]:
    """Return the numbers of the sequences that so many steps read, smallest first."""
    read: list[Tensor] = []
    epoch = 0
    while len(read) < steps:
        read += order(sequences, batch=batch, seed=seed, epoch=epoch, mixture=mixture)[: steps - len(read)]
        epoch += 1
    return torch.cat(read).unique()


@dataclass(frozen=True, kw_only=True)
class _Job:
    skeleton: Skeleton
    calls: list[Call]
    edges: Edges
    ids: Tensor
    learnt: int
    settings: LinearizeSettings
    block: int
    how: dict[str, Any]
    notes: dict[str, Any]
    quiet: bool

    @property
    def directory(self) -> Path:
        return self.edges.directory

    @property
    def blocks(self) -> list[range]:
        layers = len(self.skeleton.layers)
        return [range(start, min(start + self.block, layers)) for start in range(0, layers, self.block)]

    def maps(self, number: int) -> Path:
        return self.directory / f"maps-{number}.safetensors"

    def do(self) -> None:
        """Train the blocks that are left, first to last, and put their maps together."""
        edges = self.edges
        edges.remove_leftovers()
        left = [number for number in range(len(self.blocks)) if not self.maps(number).is_file()]
        if left:
            begun = max((edge for edge in range(left[0] + 1) if edges.has(edge)), default=-1)
            start = max(begun, 0)
            for number in range(start):
                edges.remove(number)
            # at most a block's two edges stand on the disk at a time
            edges.check_space((begun < 0) + (start < left[-1] and not edges.has(start + 1)))
            if begun < 0:
                self.timed("states-0", lambda: edges.write(0, self.embedded()))
            for number in range(start, left[-1] + 1):
                self.advance(number, is_last=number == left[-1])
        self.gather()

    def advance(self, number: int, *, is_last: bool) -> None:
        """Train one block where that is left, and write the states behind it for the next one."""
        edges, layers = self.edges, self.blocks[number]
        say(
            f"layers {layers[0]} to {layers[-1]} of {len(self.skeleton.layers)}, from {edges.path(number).name}",
            quiet=self.quiet,
        )
        block = self.open(number)
        if not self.maps(number).is_file():
            self.train(number, block)
        if not is_last and not edges.has(number + 1):
            self.timed(f"states-{number + 1}", lambda: edges.write(number + 1, self.behind(number, block)))
        edges.remove(number)
        # the layers' memory goes back, their shapes stay
        block.to("meta")

    def open(self, number: int) -> Block:
        layers = [self.skeleton.layers[index] for index in self.blocks[number]]
        for layer in layers:
            self.skeleton.fill(layer)
            if id(layer) in self.skeleton.replaced:
                replace_in_layer(self.skeleton.model, layer, self.settings.attention, check=True)
        calls = [self.calls[index] for index in self.blocks[number]]
        block = Block(layers, calls, lambda numbers: self.edges.read(number, numbers))
        return block.to(processes().device)

    def train(self, number: int, block: Block) -> None:
        if not block.hybrids:
            write_tensors(self.maps(number), {}, {"outcome": json.dumps(asdict(NOTHING))})
            return
        numbers = torch.arange(len(self.ids))[:, None]
        outcome = transfer(
            block,
            numbers[: self.learnt],
            self.settings,
            validation=numbers[self.learnt :],
            directory=self.directory,
            name=f"transfer-{number}",
            quiet=self.quiet,
            **self.how,
        )
        maps = {
            f"{self.skeleton.names[id(layer)]}.self_attn.hybrid.{name}": tensor
            for layer in block.layers
            if id(layer) in self.skeleton.replaced
            for name, tensor in layer.self_attn.hybrid.named_parameters()
        }
        write_tensors(self.maps(number), maps, {"outcome": json.dumps(asdict(outcome))})

    def embedded(self) -> Iterator[Tensor]:
        """Yield the hidden states before the first layer, sequence by sequence."""
        with track("hidden states", len(self.edges.numbers), quiet=self.quiet) as advance:
            for number in self.edges.numbers.tolist():
                yield self.skeleton.first_states(self.ids[number : number + 1])[0]
                advance(1)

    @torch.no_grad()
    def behind(self, number: int, block: Block) -> Iterator[Tensor]:
        """Yield the softmax model's hidden states behind a block, a batch at a time."""
        device, is_half = processes().device, self.how["precision"] == "bfloat16"
        numbers = self.edges.numbers
        with (
            using(block, "softmax"),
            track(f"hidden states behind block {number}", len(numbers), quiet=self.quiet) as advance,
        ):
            for batch in numbers.split(self.settings.batch):
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half):
                    states = block(batch[:, None])
                yield states
                advance(len(batch))

    def timed(self, name: str, work: Callable[[], None]) -> None:
        began = time.monotonic()
        work()
        self.notes["seconds"][name] = time.monotonic() - began
        write_json(self.directory / NOTES, self.notes)

    def gather(self) -> None:
        """Write the maps of all blocks as one file, and remove what led to it."""
        maps: dict[str, Tensor] = {}
        outcomes = []
        for number in range(len(self.blocks)):
            tensors, header = read_tensors_and_metadata(self.maps(number))
            maps |= tensors
            outcomes.append(json.loads(header["outcome"]))
        seconds = sum(self.notes["seconds"].values()) + sum(outcome["seconds"] for outcome in outcomes)
        write_tensors(
            self.directory / MAPS, maps, {"outcomes": json.dumps(outcomes), "seconds": str(round(seconds, 3))}
        )
        for number in range(len(self.blocks)):
            self.maps(number).unlink()
            (self.directory / f"checkpoint-transfer-{number}.safetensors").unlink(missing_ok=True)


def put_maps(model: nn.Module, maps: Path | str) -> None:
    """Put the feature maps of a file that `transfer_blockwise` wrote on a converted model, in place.

    Raises:
        SubquadError: they belong to another model, or to other attention settings.
    """
    tensors = read_tensors(maps)
    own = {
        f"{name}.hybrid.{key}": parameter
        for name, module in model.named_modules()
        if isinstance(module, HybridSelfAttention)
        for key, parameter in module.hybrid.named_parameters()
    }
    shapes, given = ({name: list(tensor.shape) for name, tensor in side.items()} for side in (own, tensors))
    wrong = sorted(name for name in {*shapes, *given} if shapes.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        raise SubquadError(
            f"{maps}: {len(wrong)} of its maps do not fit the model, such as {name}: the file has "
            f"{given.get(name, 'none')}, the model {shapes.get(name, 'none')}"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
