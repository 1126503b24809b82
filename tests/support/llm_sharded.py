"""One process of several that share a sharded tiny model: `torchrun -m support.llm_sharded OUT`."""

import copy
import gc
import json
import sys
from pathlib import Path

import torch

from subquad.llm.data.packing import PackedSequences, TextDataset
from subquad.llm.models.adapter import add_lora
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.checkpoints import saved_tensors
from subquad.llm.models.convert import convert, feature_parameters
from subquad.llm.models.meta_model import MetaModel, open_meta_model
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training.budget import budget_from_time
from subquad.llm.training.lora import fine_tune_step
from subquad.llm.training.sharding import gather, merge_lora, read_shards, shard
from subquad.llm.training.transfer import freeze_for_transfer, transfer_step
from subquad.train.distributed import broadcast_object, processes
from subquad.train.loop import train
from subquad.train.settings import LoopSettings
from support.llm_models import tiny_model

SETTINGS = LinearizeSettings(
    attention=AttentionSettings(window=3, cache=5), sequence_length=31, minutes=0.01, distillation_weight=0.25
)


def allocated_bytes():
    """Return the bytes of all tensors that live in this process."""
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in kinds:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def draw_updates(tuned):
    generator = torch.Generator().manual_seed(3)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)


def gradients_of_both_stages(model, ids):
    """Return the gradients that a step of each stage makes, and the model with updates."""
    freeze_for_transfer(model)
    loss = transfer_step(model, ids, torch.Tensor.backward)["loss"]
    found = {"transfer": loss, **{f"transfer {i}": p.grad for i, p in enumerate(feature_parameters(model))}}
    model.zero_grad(set_to_none=True)
    tuned = add_lora(model, SETTINGS, seed=0)
    draw_updates(tuned)
    with attention_mode(tuned, "hybrid"):
        found["lora"] = fine_tune_step(tuned, ids, torch.Tensor.backward, settings=SETTINGS)["loss"]
    found |= {f"tune {name}": p.grad.clone() for name, p in tuned.named_parameters() if p.grad is not None}
    tuned.zero_grad(set_to_none=True)
    return found, tuned


def step_in_halves(tuned, ids, weights):
    """Return how many bytes in the form of frozen weights autograd keeps of a step in bfloat16, and its gradients."""
    sizes, storages = {weight.shape for weight in weights}, {}
    sizes |= {shape[::-1] for shape in sizes}

    def pack(tensor):
        if tensor.shape in sizes and tensor.dtype == torch.bfloat16:
            storages[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fine_tune_step(tuned, ids, torch.Tensor.backward)
    gradients = {f"halves {name}": p.grad.clone() for name, p in tuned.named_parameters() if p.grad is not None}
    tuned.zero_grad(set_to_none=True)
    return sum(storages.values()), gradients


def look(out, *, is_tied):
    ids = torch.randint(0, 151, (2, 31), generator=torch.Generator().manual_seed(processes().process_index))
    same = broadcast_object(ids)
    # once before counting: what autograd and the processes keep for good
    convert(tiny_model("llama"), SETTINGS.attention)
    before = allocated_bytes()
    model = convert(tiny_model("llama", tie_word_embeddings=is_tied), SETTINGS.attention)
    alone, trained = copy.deepcopy(model), {id(parameter) for parameter in feature_parameters(model)}
    frozen = size(parameter for parameter in model.parameters() if id(parameter) not in trained)
    double = allocated_bytes() - before
    model = shard(model)
    found = {"frozen": frozen, "trained": size(feature_parameters(model)), "whole": double / 2}
    found["bytes"] = allocated_bytes() - before - double / 2

    packed = PackedSequences(
        ids=same, documents=torch.zeros_like(same), loss_mask=torch.ones_like(same, dtype=torch.bool)
    )
    text = TextDataset(training=packed, validation=packed, holdout=packed, holdout_source="drawn")
    found["budget"] = vars(budget_from_time(model, text, SETTINGS, directory=out, elapsed=0.0, seed=0))
    found["bytes_after_both_stages"] = allocated_bytes() - before - double / 2

    (mine, tuned), (wanted, other) = (gradients_of_both_stages(net, ids) for net in (model, alone))
    weights = [module.weight for name, module in other.named_modules() if name.endswith("base_layer")]
    with attention_mode(tuned, "hybrid"), attention_mode(other, "hybrid"):
        (kept, of_mine), (kept_alone, of_other) = (step_in_halves(net, ids, weights) for net in (tuned, other))
    found["kept"] = [kept, kept_alone]
    mine |= of_mine
    wanted |= of_other
    merged, expected = merge_lora(tuned), merge_lora(other)
    with torch.no_grad():
        mine["merged"], wanted["merged"] = merged(input_ids=same).logits, expected(input_ids=same).logits
        # all go on until the last has ended
        mine["text"], wanted["text"] = (net.generate(same[:1], max_new_tokens=5) for net in (merged, expected))
    tensors, all_tensors = gather(saved_tensors(merged)), saved_tensors(expected)
    if processes().is_main_process:
        assert tensors.keys() == all_tensors.keys()
        mine |= {f"saved {name}": tensor for name, tensor in tensors.items()}
        wanted |= {f"saved {name}": tensor for name, tensor in all_tensors.items()}
    assert mine.keys() == wanted.keys()
    found["errors"] = {key: float((mine[key] - wanted[key]).abs().max()) for key in wanted}
    return found


def read(out):
    """Return the bytes that reading a checkpoint of eight layers by shard needs, and how far its weights are off."""
    model = tiny_model("llama", num_hidden_layers=8)
    with processes().main_process_first():
        if processes().is_main_process:
            model.save_pretrained(out)
    expected = saved_tensors(convert(model, SETTINGS.attention))
    frozen, layer = size(model.parameters()), size(model.model.layers[0].parameters())
    before, most, fill = allocated_bytes(), [0], MetaModel.fill

    def counted(*given, **how):
        fill(*given, **how)
        most[0] = max(most[0], allocated_bytes() - before)

    MetaModel.fill = counted
    found = gather(saved_tensors(read_shards(open_meta_model(out, SETTINGS.attention), SETTINGS.attention)))
    MetaModel.fill = fill
    names = [name for name in found if ".hybrid." not in name]
    errors = [float((found[name] - expected[name]).abs().max()) for name in names]
    return {"frozen": frozen, "layer": layer, "most": most[0], "names": sorted(found), "errors": errors} | {
        "expected": sorted(expected)
    }


def trained():
    """Return by how much a step on batches of unequal sizes, one for each process, differs from one on all examples."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(20, 7, generator=generator), torch.randn(20, 1, generator=generator)
    model = torch.nn.Linear(7, 1)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    alone = copy.deepcopy(model)

    def step(module, rows, backward):
        loss = torch.nn.functional.mse_loss(module(x[rows]), y[rows])
        backward(loss)
        return {"loss": loss}

    train(
        model,
        batches=lambda epoch: list(torch.arange(20).split([5, 15])),
        step=step,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        settings=LoopSettings(steps=1, clip=None),
        counts=len,
        quiet=True,
    )
    step(alone, torch.arange(20), torch.Tensor.backward)
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    return float((model.weight - alone.weight).abs().max() / alone.weight.abs().max())


if __name__ == "__main__":
    place = Path(sys.argv[1])
    results = {"read": read(place / "checkpoint"), "trained": trained()}
    for is_tied in (False, True):
        folder = place / f"plan_{is_tied}"
        folder.mkdir(exist_ok=True)
        results["tied" if is_tied else "untied"] = look(folder, is_tied=is_tied)
    (place / f"{processes().process_index}.json").write_text(json.dumps(results))
