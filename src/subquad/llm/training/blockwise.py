r"""Attention transfer for models larger than memory: a few layers at a time (Eq. (8) of arXiv:2410.10254).

A layer learns from the teacher's hidden states alone, so blocks of layers are trained one after the other, with the
steps, learning rates and order of texts of `transfer`. Memory is one block's weights and one batch; disk is the hidden
states at a block's two boundaries. Compute is one more forward pass over the text than in the joint form.

Two things differ from the joint form: hidden states are rounded where they are stored, and gradients are clipped by the
norm over the layers of a block instead of all layers. With `validate_every` each block keeps its own best weights,
halves its own learning rate and stops by itself.

Axes: B sequences of a batch, N training and M validation sequences, T positions, D model width.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float, Int
from torch import Tensor, nn

from subquad.errors import SubquadError
from subquad.llm.data.packing import Mixture, epoch_batches
from subquad.llm.models.attention import HybridSelfAttention, attention_layers, attention_mode
from subquad.llm.models.convert import replace_in_layer
from subquad.llm.models.location import locate
from subquad.llm.models.meta_model import LayerArguments, MetaModel, open_meta_model
from subquad.llm.settings import LinearizeSettings
from subquad.llm.training.activation_store import ActivationStore
from subquad.llm.training.stages import Precision, steps_for
from subquad.llm.training.transfer import transfer
from subquad.progress import say, track
from subquad.runs.folder import WORK
from subquad.runs.storage import read_json, read_tensors, read_tensors_and_metadata, write_json, write_tensors
from subquad.train.distributed import process_device, processes
from subquad.train.settings import TrainingResult

FEATURE_MAPS, SECONDS = "feature_maps.safetensors", "blockwise.json"
NOT_TRAINED = TrainingResult(steps=0, best_step=0, best={}, seconds=0.0, cpu_seconds=0.0, stopped_early=False)
"""Result of a block whose layers all keep softmax attention."""


@dataclass(frozen=True, kw_only=True)
class BlockwiseResult:
    """Outcome of block-wise attention transfer."""

    feature_maps: Path
    """File of all layers' feature maps and mixing terms, under their names in the converted model."""
    blocks: list[TrainingResult]
    """Outcome of each block's training."""
    seconds: float
    """Time of training and of writing hidden states, summed over all starts of the run."""

    @property
    def steps(self) -> int:
        """Steps of each block; the most if some stopped early."""
        return max(block.steps for block in self.blocks)

    @property
    def stopped_early(self) -> bool:
        """Whether any block stopped early."""
        return any(block.stopped_early for block in self.blocks)


class _TransferDone(Exception):  # noqa: N818 (not an error)
    """The last trained layer of a block is done; the layers after it are not needed."""


class Block(nn.Module):
    """Some layers of the teacher; takes indices of sequences where a model takes tokens."""

    def __init__(
        self, layers: Sequence[nn.Module], arguments: Sequence[LayerArguments], read: Callable[[Tensor], Tensor]
    ):
        """Take over converted layers.

        Args:
            layers: Decoder layers, some of which may keep softmax attention.
            arguments: Arguments of each layer besides the hidden states.
            read: Returns the hidden states before the first layer for indices of sequences.
        """
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._arguments, self._read = list(arguments), read
        self.hybrids = attention_layers(self)
        if self.hybrids:
            self.hybrids[-1].register_forward_hook(_stop_after_transfer)

    @property
    def _weight(self) -> Tensor:
        """A frozen weight; feature maps are in float32."""
        return next(parameter for name, parameter in self.named_parameters() if ".hybrid." not in name)

    @property
    def base_model(self) -> nn.Module:
        """The module that attention transfer runs."""
        return self

    def forward(self, input_ids: Int[Tensor, "B 1"], use_cache: bool = False) -> Float[Tensor, "B T D"]:
        """Return the hidden states after the last layer; in transfer mode, those at the last trained layer."""
        # the teacher has no dropout
        self.layers.eval()
        device, dtype = self._weight.device, self._weight.dtype
        x = self._read(input_ids[:, 0]).to(device, dtype)
        with suppress(_TransferDone):
            for layer, arguments in zip(self.layers, self._arguments, strict=True):
                args, kwargs = send_to_device(arguments, device)
                y = layer(x, *args, **kwargs)
                x = y[0] if isinstance(y, tuple) else y
        return x


def _stop_after_transfer(attention: HybridSelfAttention, *_: Any) -> None:
    if attention.mode == "transfer":
        raise _TransferDone


def transfer_blockwise(
    checkpoint: Path | str,
    sequences: Int[Tensor, "N T"],
    settings: LinearizeSettings,
    *,
    block_layers: int,
    tokens: int,
    directory: Path,
    precision: Precision = "float32",
    validation: Int[Tensor, "M T"] | None = None,
    mixture: Mixture | None = None,
    states_dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    quiet: bool = False,
) -> BlockwiseResult:
    """Train the feature maps of a checkpoint whose model is never opened as a whole, and write them to `directory`.

    Called again with the same arguments after an interruption, it resumes and ends with the same feature maps.

    Args:
        checkpoint: A Hugging Face folder with safetensors.
        sequences: Training sequences.
        settings: Attention, loss, batch size, learning rate, schedule and validation.
        block_layers: Layers trained at a time.
        tokens: Training tokens; the text is repeated if it is shorter.
        directory: Folder of the run, whose working folder gets hidden states, checkpoints and feature maps.
        precision: Data type of matrix products.
        validation: Sequences for model selection in each block, used if `validate_every` is set.
        mixture: Proportions in which the sequences of several files are sampled.
        states_dtype: Type in which hidden states are stored.
        seed: Seed of the order of the sequences.
        quiet: Print nothing.

    Raises:
        SubquadError: The checkpoint cannot be read layer by layer, or the disk is too small.
    """
    if processes().num_processes > 1:
        raise SubquadError(f"layers are trained block by block in one process, not in {processes().num_processes}")
    meta = open_meta_model(locate(checkpoint), settings.attention, getattr(torch, settings.dtype))
    work = directory / WORK
    work.mkdir(parents=True, exist_ok=True)
    if not (work / FEATURE_MAPS).is_file():
        validation = validation if settings.validate_every and validation is not None else sequences[:0]
        read = _sequences_read(len(sequences), steps_for(tokens, settings), settings, seed=seed, mixture=mixture)
        numbers = torch.cat((read, torch.arange(len(sequences), len(sequences) + len(validation))))
        _, length, width = meta.embed(sequences[:1])[0].shape
        _BlockwiseTransfer(
            meta=meta,
            arguments=meta.layer_arguments(sequences[:1]),
            store=ActivationStore(
                directory=work, numbers=numbers, sequence_length=length, width=width, dtype=states_dtype
            ),
            ids=torch.cat((sequences, validation)),
            training_sequences=len(sequences),
            settings=settings,
            block_layers=block_layers,
            directory=directory,
            options={"tokens": tokens, "precision": precision, "mixture": mixture, "seed": seed},
            quiet=quiet,
        ).run()
    header = read_tensors_and_metadata(work / FEATURE_MAPS)[1]
    blocks = [TrainingResult(**block) for block in json.loads(header["blocks"])]
    return BlockwiseResult(feature_maps=work / FEATURE_MAPS, blocks=blocks, seconds=float(header["seconds"]))


def _sequences_read(
    count: int, steps: int, settings: LinearizeSettings, *, seed: int, mixture: Mixture | None
) -> Int[Tensor, " N"]:
    """Return the indices of the sequences that this many steps read, ascending."""
    batches: list[Tensor] = []
    epoch, wanted = 0, steps * settings.gradient_accumulation
    while len(batches) < wanted:
        of_epoch = epoch_batches(count, batch_size=settings.batch_size, seed=seed, epoch=epoch, mixture=mixture)
        batches += of_epoch[: wanted - len(batches)]
        epoch += 1
    return torch.cat(batches).unique()


@dataclass(frozen=True, kw_only=True)
class _BlockwiseTransfer:
    meta: MetaModel
    arguments: list[LayerArguments]
    store: ActivationStore
    ids: Tensor
    training_sequences: int
    settings: LinearizeSettings
    block_layers: int
    directory: Path
    options: dict[str, Any]
    quiet: bool

    @property
    def work(self) -> Path:
        return self.store.directory

    @property
    def blocks(self) -> list[range]:
        layers = len(self.meta.layers)
        return [range(start, min(start + self.block_layers, layers)) for start in range(0, layers, self.block_layers)]

    def feature_maps(self, number: int) -> Path:
        return self.work / f"feature_maps-{number}.safetensors"

    def run(self) -> None:
        """Train the remaining blocks in order, and merge their feature maps."""
        store = self.store
        remaining = [number for number in range(len(self.blocks)) if not self.feature_maps(number).is_file()]
        if remaining:
            written = max((number for number in range(remaining[0] + 1) if store.has(number)), default=-1)
            start = max(written, 0)
            for number in range(start):
                store.remove(number)
            # the two boundaries of a block are on disk at the same time
            store.check_space((written < 0) + (start < remaining[-1] and not store.has(start + 1)))
            if written < 0:
                self.timed("states-0", lambda: store.write(0, self.embeddings()))
            for number in range(start, remaining[-1] + 1):
                self.advance(number, is_last=number == remaining[-1])
        self.merge()

    def advance(self, number: int, *, is_last: bool) -> None:
        """Train one block if necessary, and write the hidden states after it for the next one."""
        store, layers = self.store, self.blocks[number]
        say(f"layers {layers[0]} to {layers[-1]} of {len(self.meta.layers)}", quiet=self.quiet)
        block = self.open(number)
        if not self.feature_maps(number).is_file():
            self.train(number, block)
        if not is_last and not store.has(number + 1):
            self.timed(f"states-{number + 1}", lambda: store.write(number + 1, self.states_after(number, block)))
        store.remove(number)
        # frees the weights; the shapes stay
        block.to("meta")

    def open(self, number: int) -> Block:
        layers: list[Any] = [self.meta.layers[index] for index in self.blocks[number]]
        for layer in layers:
            self.meta.fill(layer)
            if id(layer) in self.meta.replaced:
                replace_in_layer(self.meta.model, layer, self.settings.attention, check=True)
        arguments = [self.arguments[index] for index in self.blocks[number]]
        block = Block(layers, arguments, lambda numbers: self.store.read(number, numbers))
        return block.to(process_device())

    def train(self, number: int, block: Block) -> None:
        if not block.hybrids:
            write_tensors(self.feature_maps(number), {}, {"result": json.dumps(asdict(NOT_TRAINED))})
            return
        numbers = torch.arange(len(self.ids))[:, None]
        result = transfer(
            block,
            numbers[: self.training_sequences],
            self.settings,
            name=f"transfer-{number}",
            validation=numbers[self.training_sequences :],
            directory=self.directory,
            quiet=self.quiet,
            **self.options,
        )
        tensors = {
            f"{self.meta.names[id(layer)]}.self_attn.hybrid.{name}": tensor
            for layer, hybrid in zip(
                (layer for layer in block.layers if id(layer) in self.meta.replaced), block.hybrids, strict=True
            )
            for name, tensor in hybrid.hybrid.named_parameters()
        }
        write_tensors(self.feature_maps(number), tensors, {"result": json.dumps(asdict(result))})

    def embeddings(self) -> Iterator[Tensor]:
        """Yield the hidden states before the first layer, sequence by sequence."""
        with track("hidden states", len(self.store.numbers), quiet=self.quiet) as advance:
            for number in self.store.numbers.tolist():
                yield self.meta.embed(self.ids[number : number + 1])[0]
                advance(1)

    @torch.no_grad()
    def states_after(self, number: int, block: Block) -> Iterator[Tensor]:
        """Yield the teacher's hidden states after a block, batch by batch."""
        device, is_half = process_device(), self.options["precision"] == "bfloat16"
        numbers = self.store.numbers
        with (
            attention_mode(block, "softmax"),
            track(f"hidden states after block {number}", len(numbers), quiet=self.quiet) as advance,
        ):
            for batch in numbers.split(self.settings.batch_size):
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half):
                    states = block(batch[:, None])
                yield states
                advance(len(batch))

    def timed(self, name: str, work: Callable[[], None]) -> None:
        start = time.monotonic()
        work()
        write_json(self.work / SECONDS, {**self.seconds(), name: time.monotonic() - start})

    def seconds(self) -> dict[str, float]:
        path = self.work / SECONDS
        return read_json(path) if path.is_file() else {}

    def merge(self) -> None:
        """Write the feature maps of all blocks as one file, and delete the files of the blocks."""
        feature_maps: dict[str, Tensor] = {}
        results = []
        for number in range(len(self.blocks)):
            tensors, header = read_tensors_and_metadata(self.feature_maps(number))
            feature_maps |= tensors
            results.append(json.loads(header["result"]))
        seconds = sum(self.seconds().values()) + sum(result["seconds"] for result in results)
        header = {"blocks": json.dumps(results), "seconds": str(round(seconds, 3))}
        write_tensors(self.work / FEATURE_MAPS, feature_maps, header)
        for number in range(len(self.blocks)):
            self.feature_maps(number).unlink()
            (self.work / f"checkpoint-transfer-{number}.safetensors").unlink(missing_ok=True)


def load_feature_maps(model: nn.Module, path: Path | str) -> None:
    """Load the feature maps that `transfer_blockwise` wrote into a converted model, in place.

    Raises:
        ValueError: They belong to another model or other attention settings.
    """
    tensors = read_tensors(path)
    own = {
        f"{name}.hybrid.{key}": parameter
        for name, module in model.named_modules()
        if isinstance(module, HybridSelfAttention)
        for key, parameter in module.hybrid.named_parameters()
    }
    if wrong := own.keys() ^ tensors.keys():
        raise ValueError(f"{path}: {len(wrong)} feature maps do not fit the model, such as {min(wrong)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
