"""Write the pictures of README from the runs of `make demo`: python docs/images/from_demo.py demo."""

import base64
import io
import sys
from pathlib import Path
from unittest.mock import patch

from matplotlib.figure import Figure

from subquad.bio.plots.fit_page import sections as bio_sections
from subquad.hep.plots.fit_page import sections as hep_sections
from subquad.llm.plots.linearize_page import sections as llm_sections
from subquad.reporting.page import Picture, Section


def as_png(figure: Figure, *, label: str) -> str:
    """Return a figure as PNG in base64; a page has it as SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def first_picture(sections: list[Section]) -> bytes:
    """Return the first picture of a report as PNG."""
    pictures = [block for section in sections for block in section.blocks if isinstance(block, Picture)]
    return base64.b64decode(pictures[0].svg)


def main(demo: Path) -> None:
    """Write one picture per field beside this script."""
    with patch("subquad.reporting.page.vector_figure", as_png):
        for name, sections in (("bio", bio_sections), ("llm", llm_sections), ("hep", hep_sections)):
            (Path(__file__).parent / f"{name}.png").write_bytes(first_picture(sections(demo / name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
