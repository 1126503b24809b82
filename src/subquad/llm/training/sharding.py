"""Frozen weights sharded over processes (FSDP2): each process keeps a shard, and a layer is gathered while it runs.

The trained parameters are small and stay whole in every process, so the loop, its checkpoints and the optimizer do not
depend on sharding. A pass over the model gathers each layer once forward and, in stage 2, once more backward.
"""

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft import LoraModel
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication
from transformers.modeling_utils import PreTrainedModel

from subquad.errors import SubquadError
from subquad.llm.models.attention import IMPLEMENTATION
from subquad.llm.models.convert import adopt, decoder_layers, feature_parameters, replace_in_layer
from subquad.llm.models.loading import to_device
from subquad.llm.models.meta_model import MetaModel
from subquad.llm.settings import AttentionSettings
from subquad.train.distributed import process_device, processes


def check_processes() -> None:
    """Check that weights can be sharded.

    Raises:
        SubquadError: There is only one process.
    """
    if processes().num_processes == 1:
        raise SubquadError("sharding needs several processes: torchrun --nproc-per-node 2 -m subquad llm linearize …")


def shard(model: PreTrainedModel) -> PreTrainedModel:
    """Shard a converted model's frozen weights in place, and move the model to the process's device layer by layer.

    LoRA updates may be added afterwards. From then on the model must be called as a whole, and by all processes.
    """
    # modules outside the layers form the model's own group, where tied weights are found
    for module in (*decoder_layers(model), model):
        _shard(module)
    return to_device(model)


def read_shards(meta: MetaModel, attention: AttentionSettings) -> PreTrainedModel:
    """Read, convert and shard a checkpoint layer by layer; see `shard`.

    A process needs memory for its shard and for one layer, or for the embeddings.

    Args:
        meta: The checkpoint, whose weights are stored under their names in transformers.
        attention: Settings of the hybrid attention.

    Raises:
        SubquadError: Weights are missing or have other shapes, or the attention is not supported.
    """
    model = meta.model
    for layer in meta.layers:
        meta.fill(layer)
        if id(layer) in meta.replaced:
            replace_in_layer(model, layer, attention, check=True)
        _shard(layer)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    meta.fill(embedding)
    if model.config.tie_word_embeddings:
        model.tie_weights()
    elif head is not None:
        meta.fill(head)
    model.config._attn_implementation = IMPLEMENTATION
    adopt(model, attention)
    _shard(model)
    return to_device(model)


def _shard(module: nn.Module) -> None:
    """Shard a module's weights that are neither trained nor sharded yet."""
    module.requires_grad_(False)
    trained = set(feature_parameters(module))
    # by this mesh name peft recognises weights that are gathered for a product
    mesh = init_device_mesh(process_device().type, (processes().num_processes,), mesh_dim_names=("fsdp",))
    for linear in module.modules():
        if isinstance(linear, nn.Linear) and linear.weight not in trained:
            linear.forward = MethodType(_frozen_forward, linear)
    fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=trained)


class _FrozenLinear(torch.autograd.Function):
    """A product with a frozen weight, which is freed between the passes; autograd would keep autocast's copy of it."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*batch H"], weight: Float[Tensor, "F H"], bias: Float[Tensor, " F"] | None
    ) -> Float[Tensor, "*batch F"]:
        ctx.save_for_backward(weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *above: Float[Tensor, "*batch F"]
    ) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return above[0] @ weight.to(above[0].dtype), None, None


def _frozen_forward(linear: nn.Linear, x: Tensor) -> Tensor:
    return _FrozenLinear.apply(x, linear.weight, linear.bias)  # pyright: ignore[reportReturnType]


def merge_lora(tuned: LoraModel) -> PreTrainedModel:
    """Return the model with its LoRA updates merged into its weights, sharded or not."""
    # an update is whole in every process, which adds the rows of its own shard
    with implicit_replication():
        merged: Any = tuned.merge_and_unload()
    return merged


def gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors in the first process's main memory.

    All processes must call it; only the first one gets the gathered tensors. Whole tensors are returned as they are.
    """
    gathered, is_first = {}, processes().is_main_process
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            gathered[name] = tensor
            continue
        whole = tensor.full_tensor()
        if is_first:
            gathered[name] = whole.cpu()
    return gathered
