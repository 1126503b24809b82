"""Perplexity by position and recall far beyond the training length: which part of the attention holds, beside controls.

Run: SUBQUAD_DATA=DATA python benchmarks/llm_length.py --out length [--arms default] [--seeds 0 1 2]

SmolLM2-135M-Instruct is linearized on four kinds of text (WikiText-2, radio news, film reviews, role-play) in equal
parts and measured on long texts of other kinds, and by whether it finds a number in a long text: in sentences that are
repeated, and in speeches. Nothing was chosen by the four texts of the default; by the other four, the cache and the
moments were. Arms:

- default: four sinks, a sparse cache of 384 tokens, and moments; the state has 29 MB in float32.
- feature maps: the same cache and one feature map per key head; the state has 30 MB.
- no cache: unrotated feature maps, a horizon, four sinks. no horizon, rotated features, no sinks: without one of them.
  paper: without all.
- controls, trained by `linearize --controls` beside the arms default and no cache on as many tokens: the teacher; the
  window of the student; a window that slides; and the student's window with a larger cache. The last two have no linear
  branch, and take as much memory as the student.

`--model` names another teacher. Each run is resumed, and each measurement kept, so that the same command continues. The
last line is JSON: perplexities by text and bin of positions, and fractions of numbers that were found, mean and
standard deviation over seeds.
"""

import argparse
import json
import math
import os
import random
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from statistics import fmean, stdev

import torch
from bio_speed import machine

from subquad import llm
from subquad.llm.data.packing import prepare_text
from subquad.llm.evaluation.probes import passkey_prompt
from subquad.llm.models.attention import attention_mode
from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
from subquad.llm.models.convert import convert
from subquad.llm.models.location import locate
from subquad.llm.settings import AttentionSettings, LinearizeSettings
from subquad.llm.training.controls import MODES, as_control, control_folder, control_names, controls_of
from subquad.llm.training.metrics import token_losses
from subquad.runs.storage import read_json, write_json

MAPS = {"cache": 0, "feature_map": "hedgehog"}
PAPER = {**MAPS, "rotate_features": True, "horizon": 0.0, "sinks": 0}
ARMS = {
    "default": {},
    "feature maps": {"feature_map": "hedgehog"},
    "no cache": MAPS,
    "no horizon": {**MAPS, "horizon": 0.0},
    "rotated features": {**MAPS, "rotate_features": True},
    "no sinks": {**MAPS, "sinks": 0},
    "paper": PAPER,
}
WITH_CONTROLS = ("default", "no cache")
TEXTS = ("inaugurals", "conversations", "wine", "python")
"""Inaugural addresses, overheard conversations, reviews of wines, Python's help topics."""
EARLIER = ("speeches", "screenplay", "shakespeare", "wikitext")
"""Speeches, a screenplay, Shakespeare, and WikiText-2's test text, which is like a part of the training text."""
EDGES = (0, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
DECISIVE = (
    "transfer_tokens",
    "lora_tokens",
    "sequence_length",
    "length",
    "sequences",
    "passkeys",
    "settings",
    "precision",
    "model",
    "texts",
)
"""Options that a measurement depends on."""
HIDDEN = {0.1: 48213, 0.3: 90517, 0.5: 37264, 0.7: 61829, 0.9: 25943}
"""Numbers that are hidden, by their depth in the text."""


def main():
    parser = parser_for(__doc__, ARMS)
    parser.add_argument("--model", default="smollm2", help="teacher, as `subquad llm linearize` takes it")
    parser.add_argument("--settings", default="{}", help="JSON of further settings of linearize")
    options = parser.parse_args()
    if "SUBQUAD_DATA" not in os.environ:
        parser.error("SUBQUAD_DATA must name the folder of the data")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    training, texts = write_texts(Path(os.environ["SUBQUAD_DATA"]) / "llm", options.out)
    extra = json.loads(options.settings)
    dtype = getattr(torch, extra.get("dtype", "float32"))
    # its weights are let go: a run opens them again
    tokenizer = open_tokenizer(locate(options.model))
    held_out = {
        name: prepare_text(tokenizer, training, [file], sequence_length=options.length, quiet=True).holdout.ids
        for name, file in texts.items()
        if name in options.texts
    }
    held_out = {name: ids[: options.sequences] for name, ids in held_out.items()}
    given = {
        "held_out": held_out, "tokenizer": tokenizer, "passkeys": options.passkeys, "haystack": texts["speeches"],
    }  # fmt: skip
    found = {}
    for seed in options.seeds:
        for arm in options.arms:
            run = options.out / f"{arm.replace(' ', '-')}-{seed}"
            settings = LinearizeSettings(
                attention=AttentionSettings(**ARMS[arm]),
                sequence_length=options.sequence_length,
                transfer_tokens=options.transfer_tokens,
                lora_tokens=options.lora_tokens,
                text_weights=(1.0,) * len(training),
                evaluation_tokens=options.sequence_length,
                controls=arm in WITH_CONTROLS,
            )
            settings = replace(settings, **extra)
            if not (run / "metrics.json").is_file():
                llm.linearize(options.model, training, settings, out=run, seed=seed)
            measured = [(arm, run, "hybrid"), (f"{arm}, without linear", run, "without_linear")]
            if settings.controls:
                names = control_names(settings.attention)
                measured += [(f"{arm}: {name}", run / control_folder(name), MODES[name]) for name in names]
            for name, folder, mode in measured:

                def compute(folder=folder, mode=mode):
                    return measure(llm.load(folder)[0], mode=mode, **given)

                own = kept(options.out / file_name(name, seed), options, compute)
                found.setdefault(name, []).append(own)
                print(name, seed, json.dumps(own), flush=True)
    found |= measure_untrained(open_checkpoint(locate(options.model), dtype), options, given)
    print(
        json.dumps(
            {
                "benchmark": "llm_length",
                "model": Path(options.model).name,
                **machine(options.threads),
                "seeds": options.seeds,
                "tokens": [options.transfer_tokens, options.lora_tokens],
                "sequence_length": options.sequence_length,
                "passkeys": options.passkeys,
                "edges": [edge for edge in EDGES if edge <= options.length],
                "results": {name: summary(runs) for name, runs in found.items()},
            }
        )
    )


def measure_untrained(model, options, given):
    """Return the measurements of a model before any training, as teacher, as student and as each control."""
    found, attention = {}, AttentionSettings(**ARMS["default"])
    convert(model, attention, check=False)
    modes = {
        "teacher": "softmax",
        "window, untrained": "window",
        "cache, untrained, without linear": "without_linear",
        "default, untrained": "hybrid",
    }
    for name, mode in modes.items():
        path = options.out / file_name(name)
        found[name] = [kept(path, options, lambda mode=mode: measure(model, mode=mode, **given))]
    controls = {control.name: control for control in controls_of(model, attention)}
    for name in ("wide_window_fine_tuned", "cache_fine_tuned"):
        control, title = controls[name], f"{name.removesuffix('_fine_tuned')}, untrained"
        with as_control(model, control):
            path = options.out / file_name(title)
            found[title] = [kept(path, options, lambda mode=control.mode: measure(model, mode=mode, **given))]
    return found


def parser_for(text, arms):
    """Return a parser with the options that benchmarks of several arms share."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=tuple(arms), choices=tuple(arms))
    parser.add_argument("--texts", nargs="+", default=TEXTS, choices=TEXTS + EARLIER, help="held-out texts")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--transfer-tokens", type=int, default=32_768)
    parser.add_argument("--lora-tokens", type=int, default=65_536)
    parser.add_argument("--sequence-length", type=int, default=1024, help="of training")
    parser.add_argument("--length", type=int, default=8192, help="of a text")
    parser.add_argument("--sequences", type=int, default=2, help="per text")
    parser.add_argument("--passkeys", type=int, nargs="*", default=(4000, 8000), help="tokens of texts with a number")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def write_texts(data, out):
    """Write the texts; return the training files and the held-out ones."""
    folder = out / "texts"
    folder.mkdir(exist_ok=True)
    nltk, wiki = data / "text" / "nltk", data / "text" / "wikitext2"

    def members(name):
        with zipfile.ZipFile(nltk / f"{name}.zip") as archive:
            names = sorted(one for one in archive.namelist() if one.endswith(".txt"))
            return {one: archive.read(one).decode("latin1") for one in names}

    speeches, inaugurals = (
        [text for name, text in members(source).items() if "README" not in name]
        for source in ("state_union", "inaugural")
    )
    web = members("webtext")
    reviews = list(members("movie_reviews").values())
    random.Random(0).shuffle(reviews)
    made = {
        "news": "\n".join(text for name, text in members("abc").items() if "README" not in name),
        "reviews": "\n\n".join(reviews[:600]),
        "speeches": "\n\n".join(speeches[-6:]),
        "screenplay": web["webtext/pirates.txt"],
        "inaugurals": "\n\n".join(inaugurals[-12:]),
        "conversations": web["webtext/overheard.txt"],
        "wine": web["webtext/wine.txt"],
        "python": "\n\n".join(topics[name] for name in sorted(topics)),
    }
    for name, text in made.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    training = [wiki / "train_5k.txt", folder / "news.txt", folder / "reviews.txt"]
    held_out = {name: folder / f"{name}.txt" for name in (*TEXTS, "speeches", "screenplay")}
    held_out |= {"shakespeare": data / "text/tinyshakespeare/input.txt", "wikitext": wiki / "test.txt"}
    return [*training, data / "instruct/gpteacher/roleplay.json"], held_out


@torch.no_grad()
def measure(model, *, mode, held_out, tokenizer, passkeys, haystack):
    """Return the perplexity of each text in each bin of positions, and how many numbers are found at each length.

    Numbers are hidden in repeated sentences, and in a text, each in another part of it.
    """
    model.eval()
    found = {}
    for name, sequences in held_out.items():
        losses = torch.stack([token_losses(model, row, mode=mode) for row in sequences]).double().mean(0)
        bins = pairwise(edge for edge in EDGES if edge <= sequences.shape[1])
        found[name] = [math.exp(losses[low:high].mean()) for low, high in bins]
    text = haystack.read_text(encoding="utf-8")
    for tokens in passkeys:
        for name, around in (("repeated sentences", None), ("speeches", text)):
            numbers, digits = find_numbers(model, tokenizer, tokens, mode, text=around)
            found[f"numbers in {tokens} tokens of {name}"] = [numbers, digits]
    return found


def find_numbers(model, tokenizer, tokens, mode, *, text):
    """Return the fraction of numbers that are found, and that of their digits.

    A digit is found if it is the most likely of the ten digits after the question and the digits before it; by chance
    that is a tenth.
    """
    right = []
    digits = torch.tensor([tokenizer.encode(str(digit), add_special_tokens=False)[-1] for digit in range(10)])
    for number, (depth, key) in enumerate(HIDDEN.items()):
        part = None if text is None else text[number * len(text) // (2 * len(HIDDEN)) :]
        prompt = passkey_prompt(tokenizer, tokens=tokens, depth=depth, key=key, text=part)
        answer = torch.tensor(tokenizer.encode(f" {key}", add_special_tokens=False))
        with attention_mode(model, mode):
            logits = model(torch.cat((prompt, answer))[None], use_cache=False, logits_to_keep=len(answer) + 1).logits
        is_digit = torch.isin(answer, digits)
        if int(is_digit.sum()) != len(str(key)):
            raise SystemExit(f"{tokenizer.tokenize(str(key))}: the tokenizer has no token for each digit")
        right.append(digits[logits[0, :-1, digits][is_digit].argmax(-1)] == answer[is_digit])
    return fmean(float(one.all()) for one in right), fmean(float(one.float().mean()) for one in right)


def file_name(name, seed=0):
    return f"{name.replace(',', '').replace(':', '').replace(' ', '-')}-{seed}.json"


def kept(path, options, compute):
    """Return a measurement, which is computed once and saved together with the options that it depends on."""
    about = {name: value for name, value in vars(options).items() if name in DECISIVE}
    about = json.loads(json.dumps(about))
    if not path.is_file():
        write_json(path, {"options": about, "result": compute()})
    saved = read_json(path)
    if saved["options"] != about:
        raise SystemExit(f"{path}: measured with {saved['options']}, now {about}; choose another --out")
    return saved["result"]


def summary(runs):
    """Return mean and standard deviation over seeds of each perplexity."""
    return {
        text: [
            [round(fmean(values), 3), round(stdev(values), 3) if len(values) > 1 else None]
            for values in zip(*(run[text] for run in runs), strict=True)
        ]
        for text in runs[0]
    }


if __name__ == "__main__":
    main()
