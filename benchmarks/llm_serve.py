"""Requests per second and memory of `subquad llm serve` beside `transformers serve`, by number of streams.

    python benchmarks/llm_serve.py [--streams 1 8 32] [--context 4096] [--new-tokens 64] [--threads 2]

Both serve SmolLM2-135M-Instruct in float32 on the CPU: ours with the default attention, converted but not trained, so
that its answers may end at other places; transformers with softmax attention, alone and with --continuous-batching.
Each stream sends one request to /v1/completions: a prompt of its own of `--context` tokens, then `--new-tokens` greedy
tokens. Servers run one after the other, each in a process of its own with the same number of threads. Memory is the
peak of that process over its memory after loading, so weights do not count; `cpu_seconds` is its processor time. First
it is checked that both give the same text after a prompt that lies within the window. The last line is JSON.
"""

import argparse
import json
import os
import pydoc_data.topics
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bio_speed import machine

SHORT = "A list in Python is"
SERVERS = {
    "subquad": ["-m", "subquad", "llm", "serve"],
    "transformers": ["-m", "transformers.cli.transformers", "serve"],
    "transformers, continuous batching": ["-m", "transformers.cli.transformers", "serve", "--continuous-batching"],
}


def write_models(folder):
    """Write the softmax model and its converted form; return their folders and the tokenizer."""
    from subquad.llm.models.checkpoints import open_checkpoint, open_tokenizer
    from subquad.llm.models.convert import convert
    from subquad.llm.models.location import locate
    from subquad.llm.settings import AttentionSettings

    model, tokenizer = open_checkpoint(locate("smollm2")), open_tokenizer(locate("smollm2"))
    folders = {name: folder / name for name in ("softmax", "linear")}
    for name, path in folders.items():
        if name == "linear":
            convert(model, AttentionSettings(), check=False)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return folders, tokenizer


@contextmanager
def server(name, folder, *, streams, threads):
    """Start a server; yield its address and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, *SERVERS[name], str(folder), "--port", str(port)]
    if name == "subquad":
        command += ["--max-batch-size", str(streams), "--prefix-states", "0"]
    else:
        command += ["--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait(f"{address}/health", process)
        yield address, process
    finally:
        process.terminate()
        process.wait(60)


def wait(url, process):
    """Wait until a server answers."""
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                raise SystemExit(f"the server ended with status {process.returncode}") from None
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the server did not start in five minutes")


def complete(address, model, prompt, new_tokens):
    """Return the reply to one request."""
    body = {"model": str(model), "prompt": prompt, "max_tokens": new_tokens, "temperature": 0}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=7200) as reply:
        return json.load(reply)


def memory(process, line):
    """Return a line of the process's status in MiB (Linux only)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) / 1024


def cpu_seconds(process):
    """Return the processor time of a process (Linux only): on a busy machine it says more than the clock."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name, folder, prompts, *, new_tokens, threads):
    """Return a row of the table."""
    model = folder.name if name == "subquad" else folder
    with server(name, folder, streams=len(prompts), threads=threads) as (address, process):
        short = complete(address, model, SHORT, 16)["choices"][0]["text"]
        loaded = memory(process, "VmRSS")
        # the peak from here on, without that of loading
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        start, cpu = time.perf_counter(), cpu_seconds(process)
        with ThreadPoolExecutor(len(prompts)) as pool:
            replies = list(pool.map(lambda prompt: complete(address, model, prompt, new_tokens), prompts))
        seconds, cpu = time.perf_counter() - start, cpu_seconds(process) - cpu
        tokens = sum(reply["usage"]["completion_tokens"] for reply in replies)
        return {
            "server": name,
            "streams": len(prompts),
            "seconds": seconds,
            "cpu_seconds": cpu,
            "requests_per_second": len(prompts) / seconds,
            "new_tokens": tokens,
            "new_tokens_per_second": tokens / seconds,
            "mib_over_weights": memory(process, "VmHWM") - loaded,
            "short": short,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--servers", nargs="+", default=[*SERVERS], choices=[*SERVERS])
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folders, tokenizer = write_models(Path(temporary))
        ids = tokenizer("\n\n".join(pydoc_data.topics.topics.values()))["input_ids"]
        for streams in options.streams:
            starts = range(0, streams * 97, 97)
            prompts = [tokenizer.decode(ids[start : start + options.context]) for start in starts]
            for name in options.servers:
                folder = folders["linear" if name == "subquad" else "softmax"]
                try:
                    row = measure(name, folder, prompts, new_tokens=options.new_tokens, threads=options.threads)
                except OSError as error:
                    # a server that was killed for its memory, or closed the connection
                    row = {"server": name, "streams": streams, "failed": repr(error)}
                print(row, flush=True)
                rows.append(row)
    texts = {row.pop("short") for row in rows if "short" in row}
    if len(texts) > 1:
        raise SystemExit(f"within the window the texts differ: {texts}")
    print(json.dumps({"benchmark": "llm_serve", **machine(options.threads), "context": options.context, "rows": rows}))


if __name__ == "__main__":
    main()
