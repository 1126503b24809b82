"""Frozen weights shared out among processes (FSDP2): each keeps its share, and a layer is whole while it works.

What is trained is small and stays whole in every process, so the loop, its checkpoints and the optimizer know nothing
of this. A pass over the model gathers each layer once forward and, in stage 2, once more backward.
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
from subquad.llm.models.convert import decoder_layers, feature_parameters
from subquad.train.distributed import processes

__all__ = ["check_processes", "gather", "merge_updates", "shard"]

# the first that can leave parameters out
TORCH = "2.7"


def check_processes() -> None:
    """Raise where weights cannot be shared out: one process alone, or a torch that does not know how."""
    if processes().num_processes == 1:
        raise SubquadError(
            "--shard: there is one process, and nobody to share the weights with; start several with "
            "`torchrun --nproc-per-node 2 -m subquad llm linearize …`, or leave --shard out"
        )
    if torch.__version__ < TORCH:
        raise SubquadError(f"--shard needs torch {TORCH} or newer, and this is {torch.__version__}")


def shard(model: PreTrainedModel) -> PreTrainedModel:
    """Leave each process its share of a converted model's frozen weights, in place, and move all to its device.

    Layers go to the device one by one. Low-rank updates may be put on afterwards. From then on the model has to be
    called as a whole, and by all processes.
    """
    model.requires_grad_(False)
    group, learnt = processes(), set(feature_parameters(model))
    # peft takes a mesh of this name for weights that are whole in a product, and others for tensor parallelism
    mesh = init_device_mesh(group.device.type, (group.num_processes,), mesh_dim_names=("fsdp",))
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight not in learnt:
            module.forward = MethodType(_product, module)
    # what lies around the layers is the model's own group, where tied weights are found
    for module in (*decoder_layers(model), model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=learnt)
    return model.to(group.device)


class _FrozenProduct(torch.autograd.Function):
    """Keeps the weight for the backward pass, which is freed meanwhile; autograd would keep autocast's copy of it."""

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


def _product(linear: nn.Linear, x: Tensor) -> Tensor:
    return _FrozenProduct.apply(x, linear.weight, linear.bias)  # pyright: ignore[reportReturnType]


def merge_updates(tuned: LoraModel) -> PreTrainedModel:
    """Return the model with its low-rank updates added to its weights, whether they are shared out or not."""
    # of an update that every process has whole, each adds its own rows
    with implicit_replication():
        return tuned.merge_and_unload()


def gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which each process has a share in one piece, in the first process's main memory.

    All processes have to ask; to the others those are not given. Tensors that are whole stay where they are.
    """
    found, is_first = {}, processes().is_main_process
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            found[name] = tensor
            continue
        gathered = tensor.full_tensor()
        if is_first:
            found[name] = gathered.cpu()
    return found
