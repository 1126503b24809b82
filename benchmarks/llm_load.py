"""`subquad llm serve` under load: clients that stream at the same time, an overload, and clients that disconnect.

    pip install "subquad[serve]" openai psutil
    python benchmarks/llm_load.py [--clients 200] [--minutes 10] [--smollm2]

Each client sends one request after the other to /v1/completions and reads the stream: one of `--prompts` prompts, drawn
at random, and `--new-tokens` tokens. One prompt of four is always answered by sampling with a seed, the others
greedily. Before that, each prompt is answered alone; under load its text must be the same, and no two prompts have the
same answer, so that exchanged, lost and repeated tokens are seen. The model is a small Llama with random weights, so
that the server is loaded rather than the processor, or SmolLM2-135M-Instruct, converted but not trained. Times are
those that a client sees, which shares the cores with the server: until the first chunk of a stream, between two chunks
(tokens without text have none), and until the end. Then more requests than the queue holds are sent at once, and all
streams of a full batch are closed. The exit status is 1 if an answer is lost or differs, if no request is refused or a
refusal has no Retry-After, or if rows of the batch stay occupied; with SmolLM2 two tokens may be so close that a batch
decides otherwise. The last line is JSON.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
import urllib.request
from collections import Counter
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import openai
import psutil
import torch
from bio_speed import machine
from llm_serve import server, write_models
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, WAITING = 32, 256
"""Defaults of `llm serve`: sequences that are decoded together, and requests that wait."""
PERCENTILES = (50, 95, 99)


def form_of(number):
    """Return the parameters of the request for a prompt."""
    return {"temperature": 1.0, "seed": number} if number % 4 == 1 else {"temperature": 0}


def write_small_model(folder):
    """Write a converted Llama with random weights and the tokenizer of SmolLM2; return its folder."""
    from subquad.llm.models.checkpoints import open_tokenizer
    from subquad.llm.models.convert import convert
    from subquad.llm.models.location import locate
    from subquad.llm.settings import AttentionSettings

    tokenizer = open_tokenizer(locate("smollm2"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
    with torch.no_grad():
        # so that the most likely token is clearly above the second one
        for weight in model.parameters():
            weight.mul_(3)
    convert(model.eval(), AttentionSettings(), check=False)
    model.save_pretrained(folder / "linear")
    tokenizer.save_pretrained(folder / "linear")
    return folder / "linear"


def prompts_of(count):
    """Return different texts of about a hundred tokens, from help topics of Python."""
    texts = list(dict.fromkeys(topics[name][:400] for name in sorted(topics) if len(topics[name]) > 500))
    if count > len(texts):
        raise SystemExit(f"--prompts is {count}; there are {len(texts)} texts")
    return texts[:count]


class Load:
    """Clients of one server, and what they measured."""

    def __init__(self, address, model, prompts, new_tokens):
        self.client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)
        self.address, self.model, self.prompts, self.new_tokens = address, model, prompts, new_tokens
        self.expected = []
        self.first, self.gaps, self.totals = [], [], []
        self.sent = self.in_time = self.lost = self.different = 0
        self.errors = Counter()

    async def stream(self, number, new_tokens=None):
        """Return the stream of a request."""
        prompt, count = self.prompts[number], new_tokens or self.new_tokens
        return await self.client.completions.create(
            model=self.model, prompt=prompt, max_tokens=count, stream=True, **form_of(number)
        )

    async def answer(self, number, *, is_measured=True):
        """Return the text of an answer, and note the times of its chunks; None if it has no end."""
        begin = last = time.perf_counter()
        texts, reason = [], None
        async for chunk in await self.stream(number):
            now = time.perf_counter()
            if is_measured:
                (self.gaps if texts else self.first).append(now - last)
            last = now
            texts.append(chunk.choices[0].text)
            reason = chunk.choices[0].finish_reason or reason
        if is_measured:
            self.totals.append(last - begin)
        return "".join(texts) if reason else None

    async def work(self, process, end, seed):
        """Send requests until `end`, or until the server has ended."""
        draw = random.Random(seed)
        while time.monotonic() < end and process.poll() is None:
            number, answer = draw.randrange(len(self.prompts)), None
            self.sent += 1
            try:
                answer = await self.answer(number)
            except openai.OpenAIError as error:
                self.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            is_right = answer is not None and answer == self.expected[number]
            self.lost += answer is None
            self.different += answer is not None and not is_right
            self.in_time += is_right and time.monotonic() < end

    def occupied(self):
        """Return how many sequences are active and how many requests wait."""
        with urllib.request.urlopen(f"{self.address}/health", timeout=60) as reply:
            found = json.load(reply)
        return found["active"] + found["waiting"]


async def memory_of(process, end):
    """Return the resident memory of a process in MiB, every two seconds until `end`."""
    found = []
    while time.monotonic() < end and process.is_running():
        found.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(2)
    return found


async def under_load(load, process, clients, seconds):
    """Return what the clients measured, and the memory of the server."""
    end = time.monotonic() + seconds
    own = psutil.Process(process.pid)
    memory, *_ = await asyncio.gather(memory_of(own, end), *(load.work(process, end, seed) for seed in range(clients)))
    # the first fifth has the growth up to the largest number of requests
    fifth = max(1, len(memory) // 5)
    return {
        "requests": load.sent,
        "lost": load.lost,
        "different": load.different,
        "errors": load.errors,
        "answers_per_second": load.in_time / seconds,
        "seconds": {
            "first_chunk": percentiles(load.first),
            "between_chunks": percentiles(load.gaps),
            "request": percentiles(load.totals),
        },
        "memory_mib": {"second_fifth": mean(memory[fifth : 2 * fifth]), "last_fifth": mean(memory[-fifth:])},
    }


def mean(values):
    return statistics.mean(values) if values else None


def percentiles(values):
    """Return percentiles of a list of times; None if there are too few."""
    if len(values) < 2:
        return None
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {f"p{percent}": cuts[percent - 1] for percent in PERCENTILES}


async def overload(load):
    """Send 100 requests more than a batch and the queue hold; return how many were refused, and how."""

    async def one(number):
        try:
            answer = await load.answer(number, is_measured=False)
            return answer is not None and answer == load.expected[number]
        except openai.RateLimitError as error:
            return str(error.response.headers.get("retry-after"))
        except openai.OpenAIError as error:
            return f"{type(error).__name__}: {error}"

    numbers = [number % len(load.prompts) for number in range(BATCH + WAITING + 100)]
    found = Counter(await asyncio.gather(*map(one, numbers)))
    answers = {"answered": found.pop(True, 0), "lost_or_different": found.pop(False, 0)}
    return {"sent": len(numbers), **answers, "refused_with_retry_after": found}


async def disconnect(load):
    """Close all streams of a full batch; return after how many decoding steps its rows are free."""
    streams = [await load.stream(0, 1000) for _ in range(BATCH)]
    readers = [aiter(stream) for stream in streams]
    times = []
    for _ in range(20):
        await asyncio.gather(*(anext(reader) for reader in readers))
        times.append(time.perf_counter())
    step = statistics.median(later - earlier for earlier, later in pairwise(times))
    begin = time.perf_counter()
    await asyncio.gather(*(stream.close() for stream in streams))
    while (occupied := await asyncio.to_thread(load.occupied)) and time.perf_counter() < begin + 200 * step + 10:
        await asyncio.sleep(step / 10)
    seconds = time.perf_counter() - begin
    return {"step_seconds": step, "steps_until_free": seconds / step, "occupied": occupied}


async def measure(load, process, options):
    load.expected = [await load.answer(number, is_measured=False) for number in range(len(load.prompts))]
    if None in load.expected or len(set(load.expected)) < len(load.prompts):
        raise SystemExit("two prompts have the same answer, so that exchanged answers would not be seen")
    return {
        "load": await under_load(load, process, options.clients, 60 * options.minutes),
        "overload": await overload(load),
        "disconnected": await disconnect(load),
    }


def is_good(found):
    """Return whether nothing was lost, changed or left, and what was too much was refused as it should be."""
    load, overload = found["load"], found["overload"]
    refused = overload["refused_with_retry_after"]
    wrong = load["lost"] + load["different"] + overload["lost_or_different"] + found["disconnected"]["occupied"]
    return not wrong and bool(refused) and all(value.isdecimal() for value in refused)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help=f"at most {BATCH + WAITING}")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--smollm2", action="store_true", help="serve SmolLM2 in place of the small model")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.clients > BATCH + WAITING:
        parser.error(f"--clients {options.clients}: more than {BATCH + WAITING} would be refused by the server")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_models(folder)[0]["linear"] if options.smollm2 else write_small_model(folder)
        with server("subquad", model, streams=BATCH, threads=options.threads) as (address, process):
            load = Load(address, model.name, prompts_of(options.prompts), options.new_tokens)
            found = asyncio.run(measure(load, process, options))
    about = {name: getattr(options, name) for name in ("clients", "minutes", "prompts", "new_tokens", "smollm2")}
    print(json.dumps({"benchmark": "llm_load", **machine(options.threads), **about, **found}))
    raise SystemExit(int(not is_good(found)))


if __name__ == "__main__":
    main()
