"""The main job of the three systems on real input, one after the other, and one page: ten minutes on 2 cores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from subquad.errors import MissingExtra, SubquadError
from subquad.progress import say
from subquad.reporting.page import Link, Section, page
from subquad.runs.folder import METRICS, REPORT
from subquad.runs.storage import atomic, read_json

__all__ = ["demo"]

JETS_PER_CLASS = 800
TRANSFER_TOKENS, LORA_TOKENS, EVALUATION_TOKENS = 24_576, 16_384, 4_096


@dataclass(frozen=True, kw_only=True)
class _Part:
    name: str
    title: str
    """What the field's user does."""
    fit: Callable[[Path, int, bool], Any]
    """Fill the folder of the run, with a seed and quietly or not."""
    blocks: Callable[[Path], Section]
    """The main table and plot of a finished run."""
    result: Callable[[Mapping[str, Any]], tuple[str, str]]
    """The figures of ours and of what it was compared with, for the summary."""


def demo(*, out: Path = Path("demo"), text: Path | None = None, seed: int = 0, quiet: bool = False) -> None:
    """Run the main job of all three systems on real input and write one page about it.

    A biologist's job: Lyra on the deep mutational scan of TDP-43, beside ridge and boosting. An engineer's:
    SmolLM2-135M-Instruct made linear. A physicist's: jets from Pythia, tagged by PCN. Stopped and started again, it
    goes on.

    For example:

        subquad demo --out demo

    Args:
        out: Folder for the three runs and `report.html`.
        text: English text that the language model learns from; by default the one that every Python carries.
        seed: Of all three runs.
        quiet: No progress.

    Raises:
        SubquadError: a package is missing, or `text` is no file.
    """
    if text is not None and not text.is_file():
        raise SubquadError(f"{text}: no such file (--text)")
    out.mkdir(parents=True, exist_ok=True)
    parts = [_bio(), _llm(out, text), _hep(out)]
    sections = []
    for number, part in enumerate(parts, start=1):
        run = out / part.name
        say(f"\n[{number}/{len(parts)}] {part.title}", quiet=quiet)
        if (run / METRICS).is_file():
            say(f"{run} is finished already", quiet=quiet)
        else:
            part.fit(run, seed, quiet)
        sections.append(_section(part, run))
    with atomic(out / REPORT) as temporary:
        temporary.write_text(_page(sections), encoding="utf-8")
    _summary(parts, out)


def _section(part: _Part, run: Path) -> Section:
    seconds = read_json(run / METRICS)["seconds"]["total"]
    closing = [f"This took {seconds / 60:.1f} minutes.", Link("The whole page of this run", f"{run.name}/{REPORT}")]
    return Section(part.title, [*part.blocks(run).blocks, *closing])


def _page(sections: list[Section]) -> str:
    return page(
        "subquad: three systems, one idea",
        lead="Replace an all-pairs step, whose cost grows with the square of the input, by an operator that costs n or "
        "n log n. Each section is a real run on this machine, beside what its users would otherwise use.",
        sections=sections,
    )


def _summary(parts: list[_Part], out: Path) -> None:
    table = Table("", "subquad", "compared with", "minutes", title="subquad demo")
    for part in parts:
        metrics = read_json(out / part.name / METRICS)
        table.add_row(part.title, *part.result(metrics), f"{metrics['seconds']['total'] / 60:.1f}")
    console = Console()
    console.print(table)
    console.print(f"Wrote {out / REPORT}. Next: open it, or try your own data with: subquad --help", soft_wrap=True)


def _bio() -> _Part:
    def fit(run: Path, seed: int, quiet: bool) -> None:
        from subquad.bio import example, fit

        fit(example("tdp43"), out=run, seed=seed, quiet=quiet)

    def blocks(run: Path) -> Section:
        from subquad.bio.plots.fit_page import sections

        return sections(run)[0]

    def result(metrics: Mapping[str, Any]) -> tuple[str, str]:
        test = metrics["test"]
        rivals = ", ".join(f"{name} {test[name]['spearman']:.3f}" for name in ("ridge", "boosting"))
        return f"Spearman {test['net']['spearman']:.3f}", rivals

    return _Part(
        name="bio", title="Lyra on 57,996 variants of TDP-43", fit=fit, blocks=blocks, result=result
    )  # fmt: skip


def _llm(out: Path, text: Path | None) -> _Part:
    def fit(run: Path, seed: int, quiet: bool) -> None:
        from subquad.llm import LinearizeSettings, linearize

        settings = LinearizeSettings(
            transfer_tokens=TRANSFER_TOKENS, lora_tokens=LORA_TOKENS, evaluation_tokens=EVALUATION_TOKENS
        )
        linearize("smollm2", text or _python_topics(out), settings, out=run, seed=seed, quiet=quiet)

    def blocks(run: Path) -> Section:
        from subquad.llm.plots.linearize_page import sections

        return sections(run)[0]

    def result(metrics: Mapping[str, Any]) -> tuple[str, str]:
        values = metrics["perplexity"]
        rivals = {"softmax": "softmax", "window_only": "window only", "tuned_without_linear": "without linear branch"}
        return f"perplexity {values['tuned']:.1f}", ", ".join(
            f"{word} {values[key]:.1f}" for key, word in rivals.items()
        )

    return _Part(name="llm", title="SmolLM2-135M made linear", fit=fit, blocks=blocks, result=result)


def _python_topics(out: Path) -> Path:
    """Write the help topics that every Python carries, 460 kB of English, as a text file."""
    from pydoc_data.topics import topics

    path = out / "python_topics.txt"
    with atomic(path) as temporary:
        temporary.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return path


def _hep(out: Path) -> _Part:
    def fit(run: Path, seed: int, quiet: bool) -> None:
        from subquad.hep import fit

        fit(_jets(out, seed, quiet), out=run, seed=seed, quiet=quiet)

    def blocks(run: Path) -> Section:
        from subquad.hep.plots.fit_page import sections

        return sections(run)[0]

    def result(metrics: Mapping[str, Any]) -> tuple[str, str]:
        test, boosting = metrics["test"], metrics["test_boosting"]
        return (
            f"top-1 {test['accuracy']:.3f}, AUC {test['auc_ovo']:.3f}",
            f"boosting {boosting['accuracy']:.3f}, {boosting['auc_ovo']:.3f}; chance 0.100",
        )

    return _Part(name="hep", title="PCN on ten classes of simulated jets", fit=fit, blocks=blocks, result=result)


def _jets(out: Path, seed: int, quiet: bool) -> list[Path]:
    from subquad.hep import SimulateSettings, sample_path, simulate

    try:
        return simulate(out / "jets", SimulateSettings(jets_per_class=JETS_PER_CLASS), seed=seed, quiet=quiet)
    except MissingExtra as error:
        say(f"{error}\nNo Pythia here: the jets shipped with the package are used, fewer of them", quiet=quiet)
        return [sample_path()]
