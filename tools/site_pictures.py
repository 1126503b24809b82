"""Make the pictures of docs/index.md and of the tutorials again: python tools/site_pictures.py FOLDER.

Runs the commands below on shipped data in the folder, about ten minutes of one core, and writes docs/assets/*.png and
docs/images/tutorial-*.png. Commands that are finished are not repeated.
"""

import base64
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from unittest.mock import patch

from matplotlib.figure import Figure
from PIL import Image

from subquad.bio.plots.fit_page import sections as bio_sections
from subquad.cli import main as subquad
from subquad.hep.plots.fit_page import sections as hep_sections
from subquad.llm.plots.linearize_page import sections as llm_sections
from subquad.reporting.page import Picture, Section

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = {
    "tagger/metrics.json": "hep fit example:jets --preset standard --epochs 12 --out tagger",
    "run/metrics.json": "bio fit example:tdp43 --train-rows 5000 --models ridge boosting lyra "
    "--boosting-iterations 100 --tokens 1000000 --out run",
    "scan/heatmap.png": "bio scan run --direction minimize --out scan",
    "epistasis/epistasis.html": "bio epistasis example:tdp43 --out epistasis",
    "explained/report.html": "hep explain tagger --files example:jets --out explained",
    "linear/metrics.json": "llm linearize smollm2 --text corpus.txt --sequence-length 2048 --transfer-tokens 8192 "
    "--lora-tokens 16384 --evaluation-tokens 4096 --out linear",
}
"""What a finished command has written, and the command, as the tutorials have it."""
COLOURS, WIDTH = 128, 1800


def as_png(figure: Figure, *, label: str = "") -> str:
    """Return a figure as PNG in base64, in place of the SVG of `vector_figure`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Write each figure of the pages that are made meanwhile as PNG into a folder, named by its caption."""
    from subquad.reporting import page

    original = page.vector_figure

    def recorded(figure: Figure, *, label: str) -> str:
        folder.mkdir(exist_ok=True)
        name = re.sub(r"\W+", "-", label[:60]).strip("-").lower()
        (folder / f"{name}.png").write_bytes(base64.b64decode(as_png(figure)))
        return original(figure, label=label)

    with patch("subquad.reporting.page.vector_figure", recorded):
        yield


def picture(sections: list[Section], words: str) -> bytes:
    """Return the first picture of a report whose caption has these words, as PNG."""
    blocks = [block for section in sections for block in section.blocks if isinstance(block, Picture)]
    return base64.b64decode(next(block.svg for block in blocks if words in block.caption))


def compressed(png: bytes) -> bytes:
    """Return a PNG of at most `WIDTH` pixels and few colours, which is much smaller."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((WIDTH, 2 * WIDTH))
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def run(folder: Path) -> None:
    """Run the commands that have not finished; figures that no folder of theirs has as PNG go to `figures`."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    os.chdir(folder)
    for written, command in COMMANDS.items():
        if not Path(written).is_file():
            with kept(Path("figures")):
                if subquad(command.split()):
                    raise SystemExit(f"failed: {command}")


def drawn(folder: Path) -> dict[str, bytes]:
    """Return the pictures below docs/, by their path."""
    (epistasis,) = folder.glob("figures/specific-epistasis-only*.png")
    (importance,) = folder.glob("figures/left-attribution*.png")
    with patch("subquad.reporting.page.vector_figure", as_png):
        return {
            "assets/scan.png": (folder / "scan" / "heatmap.png").read_bytes(),
            "assets/perplexity.png": picture(llm_sections(folder / "linear"), "erplexity"),
            "assets/confusion.png": picture(hep_sections(folder / "tagger"), "onfusion"),
            "images/tutorial-sequences-fit.png": picture(bio_sections(folder / "run"), "easurements"),
            "images/tutorial-sequences-epistasis.png": epistasis.read_bytes(),
            "images/tutorial-jets-roc.png": picture(hep_sections(folder / "tagger"), "ROC"),
            "images/tutorial-jets-importance.png": importance.read_bytes(),
        }


def main(folder: Path) -> None:
    """Run what has not finished, and write the pictures."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    run(folder)
    for name, png in drawn(folder).items():
        content, largest = compressed(png), 150_000 if name.startswith("assets/") else 300_000
        if len(content) > largest:
            raise SystemExit(f"{name} has {len(content):,} bytes, more than {largest:,}")
        (DOCS / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
