"""Peak memory of block-wise attention transfer, against all layers at once and against opening the model.

Run: python benchmarks/llm_blockwise.py [--hidden 2048] [--layers 16] [--threads 1] [--quick]

A Llama with random weights (1.1 billion parameters by default) is written to a temporary folder in bfloat16, one file
per layer, without ever being in memory as a whole. Each form of stage 1 then runs in its own process on the same
tokens; memory is the peak of that process. `joint` and `open` keep the model in float32, as `subquad llm linearize`
does without --block-layers. The feature maps of each block-wise run are compared with those of the joint run: the
distance is relative to how far training moved them. Gradients are not clipped here, since the norm over the layers of
one block differs from that over all layers; the remaining difference is the rounding of hidden states on disk, none
with --states-dtype float32. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

VOCABULARY = 32_000


def write_checkpoint(folder, hidden, layers):
    """Write the folder of a Llama with random weights, and return how many there are."""
    from accelerate import init_empty_weights
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 256, head_dim=64, tie_word_embeddings=True,
        max_position_embeddings=2048, dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(folder)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    parts = {"outside": {}}
    for name, tensor in model.named_parameters():
        # tied to the embeddings, which weights without memory do not show
        if name.startswith("lm_head"):
            continue
        part = name.split(".")[2] if ".layers." in name else "outside"
        parts.setdefault(part, {})[name] = tensor.shape
    places, count = {}, 0
    for part, shapes in parts.items():
        file = f"model-{part}.safetensors"
        tensors = {}
        for name, shape in shapes.items():
            drawn = torch.empty(shape).normal_(float("norm" in name), hidden**-0.5, generator=generator)
            tensors[name] = drawn.bfloat16()
            places[name], count = file, count + drawn.numel()
        save_file(tensors, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return count


def settings(options):
    from subquad.llm.settings import LinearizeSettings

    return LinearizeSettings(sequence_length=options.sequence_length)


def sequences(options):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(
        VOCABULARY, (options.tokens // options.sequence_length, options.sequence_length), generator=generator
    )


def opened(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


def do(what, options):
    """Do one thing and print its peak memory and its seconds."""
    from subquad.llm.models import convert
    from subquad.llm.training import blockwise, stages, transfer
    from subquad.runs.storage import write_tensors

    stages.LoopSettings = partial(stages.LoopSettings, clip=None)
    folder, out = Path(options.folder), Path(options.folder) / what
    out.mkdir(exist_ok=True)
    began = time.monotonic()
    if what == "open":
        opened(folder)
    elif what == "joint":
        model = convert.convert(opened(folder), settings(options).attention)
        transfer.transfer(
            model, sequences(options), settings(options), tokens=options.tokens, precision="float32", quiet=True
        )
        maps = {name: tensor for name, tensor in model.named_parameters() if ".hybrid." in name}
        write_tensors(out / blockwise.FEATURE_MAPS, maps)
    elif what != "imports":
        blockwise.transfer_blockwise(
            folder, sequences(options), settings(options), block_layers=int(what), tokens=options.tokens, directory=out,
            states_dtype=getattr(torch, options.states_dtype), quiet=True,
        )  # fmt: skip
    # of Linux: `getrusage` counts the memory of the process that started this one
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps([peak, time.monotonic() - began]))


def measured(what, options, folder):
    command = [
        sys.executable, __file__, "--do", what, "--folder", str(folder), "--threads", str(options.threads),
        "--tokens", str(options.tokens), "--sequence-length", str(options.sequence_length),
        "--states-dtype", options.states_dtype,
    ]  # fmt: skip
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def distance(folder, what):
    """Return how far the maps are from the joint form's, as a part of how far those moved."""
    from subquad.runs.storage import read_tensors

    joint, given = (read_tensors(folder / name / "feature_maps.safetensors") for name in ("joint", what))
    apart = sum((joint[name] - given[name]).square().sum() for name in joint)
    start = {name: 0.0 if name.endswith("mix") else torch.eye(tensor.shape[-1]) for name, tensor in joint.items()}
    moved = sum((tensor - start[name]).square().sum() for name, tensor in joint.items())
    return float((apart / moved).sqrt())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=2048, help="a multiple of 256")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--states-dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="5 layers of width 256")
    parser.add_argument("--do", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.do:
        do(options.do, options)
        return
    hidden, layers = (256, 5) if options.quick else (options.hidden, options.layers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = write_checkpoint(folder, hidden, layers)
        print(f"{parameters:,} parameters in {layers} layers: {parameters * 4 / 2**20:,.0f} MiB in float32")
        ways = ["imports", "open", "joint", *map(str, options.blocks)]
        figures = {way: measured(way, options, folder) for way in ways}
        apart = {way: distance(folder, way) for way in map(str, options.blocks)}
    imports, joint = figures["imports"][0], figures["joint"][0]
    shown = {"imports": "imports alone", "open": "open the model", "joint": f"all {layers} layers at once"}
    print("way                       peak MiB   beyond imports   of joint   seconds   distance of maps")
    for way, (peak, seconds) in figures.items():
        words = shown.get(way, f"blocks of {way}")
        part = f"{(peak - imports) / (joint - imports):10.3f}"
        print(f"{words:24s} {peak:9.0f} {peak - imports:16.0f} {part} {seconds:9.1f}   {apart.get(way, 0.0):.4f}")
    result = {
        "benchmark": "llm_blockwise",
        "threads": options.threads,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "parameters": parameters,
        "layers": layers,
        "states_dtype": options.states_dtype,
        "tokens": options.tokens,
        "peak_mib": {way: round(peak) for way, (peak, _) in figures.items()},
        "seconds": {way: round(seconds, 2) for way, (_, seconds) in figures.items()},
        "of_joint": {way: round((figures[way][0] - imports) / (joint - imports), 4) for way in apart},
        "distance": {way: round(value, 5) for way, value in apart.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
