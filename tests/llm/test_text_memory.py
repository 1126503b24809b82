"""The tokens of a long text lie in files, not in memory."""

import subprocess
import sys

import pytest
from support.llm_models import word_tokenizer, write_text

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="peak memory as on Linux")]

READ = """
import sys, threading
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from subquad.llm.data import repeated_text
from subquad.llm.data.packing import prepare_text

# the short text fills one, as the long one fills many
repeated_text.BLOCK_TOKENS = 2**16
folder, peak, ended = Path(sys.argv[1]), [0], threading.Event()
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")

def watch():
    # without the pages of mapped files
    while not ended.wait(0.01):
        line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
        peak[0] = max(peak[0], int(line.split()[1]) * 1024)

def read(name):
    data = prepare_text(tokenizer, [folder / name], sequence_length=128, folder=folder)
    return data.training.ids.numel() + data.holdout.ids.numel()

threading.Thread(target=watch).start()
try:
    # imports, and the largest block of text
    few = read("short.txt")
    before = peak[0]
    many = read("long.txt")
finally:
    ended.set()
print(many - few, peak[0] - before)
"""


def test_memory_does_not_grow_with_the_tokens(tmp_path):
    text = write_text(tmp_path / "words.txt", words=150_001).read_text()
    word_tokenizer(tmp_path / "words.txt").save_pretrained(tmp_path / "tokenizer")
    for name, copies in (("short.txt", 6), ("long.txt", 22)):
        with (tmp_path / name).open("w") as file:
            for number in range(copies):
                # texts that differ, since a held-out tenth that repeats the others would be noticed
                file.write(f"{number} ".join(text.split(" ", 40 * number + 2)) + "\n")
    done = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tokens, grown = map(int, done.stdout.split())
    assert tokens > 2_000_000
    # as 64-bit numbers with their documents and masks they would take 17 bytes each
    assert grown < 6 * tokens, (grown, tokens)
