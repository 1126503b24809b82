"""Make the pictures of docs/index.md again, from runs on shipped data: python tools/site_pictures.py FOLDER.

Runs the commands below in the folder, which takes a few minutes on two cores, and writes docs/assets/*.png. Runs that
are finished are kept.
"""

import base64
import io
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

from PIL import Image

from subquad.hep.plots.fit_page import sections as hep_sections
from subquad.llm.plots.linearize_page import sections as llm_sections
from subquad.reporting.page import Picture, Section

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
COMMANDS = {
    "variants/metrics.json": "bio fit example:tdp43 --train-rows 5000 --models ridge boosting lyra "
    "--boosting-iterations 100 --tokens 1000000 --out variants",
    "scan/heatmap.png": "bio scan variants --out scan",
    "tagger/metrics.json": "hep fit example:jets --preset standard --epochs 12 --out tagger",
    "linear/metrics.json": "llm linearize smollm2 --text topics.txt --sequence-length 1024 --transfer-tokens 8192 "
    "--lora-tokens 8192 --evaluation-tokens 2048 --out linear",
}
"""What a finished command has written, and the command."""
LARGEST = 150_000
"""Size of a picture in bytes that a page may have."""


def picture(sections: list[Section], words: str) -> bytes:
    """Return the first picture of a report whose caption has these words, as PNG."""
    blocks = [block for section in sections for block in section.blocks if isinstance(block, Picture)]
    found = next(block for block in blocks if words in block.caption)
    return base64.b64decode(found.source.partition(",")[2])


def compressed(png: bytes) -> bytes:
    """Return a PNG with 128 colours, which is half as large."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(folder: Path) -> None:
    """Run the commands that have not finished, and write one picture per field."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "topics.txt").write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    for written, command in COMMANDS.items():
        if not (folder / written).is_file():
            words = [sys.executable, "-m", "subquad", *command.split()]
            subprocess.run(words, cwd=folder, check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    found = {
        "scan.png": (folder / "scan" / "heatmap.png").read_bytes(),
        "perplexity.png": picture(llm_sections(folder / "linear"), "erplexity"),
        "confusion.png": picture(hep_sections(folder / "tagger"), "onfusion"),
    }
    for name, png in found.items():
        content = compressed(png)
        if len(content) > LARGEST:
            raise SystemExit(f"{name} has {len(content):,} bytes, more than {LARGEST:,}")
        (ASSETS / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
