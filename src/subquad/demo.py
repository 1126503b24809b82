"""The main job of the three fields on real input, two at a time, and one HTML page: about six minutes on two cores."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError
from subquad.progress import say
from subquad.reporting.page import Link, Section, page
from subquad.reporting.tables import print_table
from subquad.runs.folder import METRICS, REPORT
from subquad.runs.lock import is_blank
from subquad.runs.storage import atomic, fingerprint, read_json, write_json

__all__ = ["demo"]

SETTINGS = "demo.json"
QUICK_VARIANTS = 3_000
QUICK_BUDGET = ("--epochs", "3", "--ensemble-size", "1", "--boosting-iterations", "100")
QUICK_EPOCHS = ("--epochs", "12")
JETS_PER_CLASS = 350


@dataclass(frozen=True, kw_only=True)
class _Job:
    name: str
    """Name of the field, and of the run's folder."""
    title: str
    commands: tuple[tuple[str, ...], ...]
    """Arguments of `subquad`, one command after the other; the last one writes the run."""
    section: Callable[[Path], Section]
    """Reads a finished run and returns its main table and figure."""
    result: Callable[[Mapping[str, Any]], tuple[str, str]]
    """From `metrics.json` to our result and the baselines', for the summary and the first lines of the page."""


@dataclass
class _Processes:
    """Child processes that are running, so that an interruption ends them too."""

    running: list[subprocess.Popen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, arguments: tuple[str, ...], *, label: str, quiet: bool) -> None:
        """Run `subquad` with these arguments and log its lines behind the label.

        Raises:
            SubquadError: The command failed; the message is its own.
        """
        # one core each, since two jobs run at a time
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with self.lock:
            child = subprocess.Popen(
                [sys.executable, "-m", "subquad", *arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=environment,
            )
            self.running.append(child)
        lines = []
        with child:
            for line in child.stderr or ():
                lines.append(line.rstrip())
                say(f"[{label}] {lines[-1]}", quiet=quiet)
        if child.returncode != 0:
            raise SubquadError(f"subquad {' '.join(arguments)} failed:\n" + "\n".join(lines[-10:]))

    def stop(self) -> None:
        """End all children; each has written checkpoints to resume from."""
        with self.lock:
            for child in self.running:
                if child.poll() is None:
                    child.terminate()


def demo(
    *, out: Path = Path("demo"), quick: bool = False, text: Path | None = None, seed: int = 0, quiet: bool = False
) -> None:
    """Run the main job of the three fields and write one HTML page about it.

    Fits the deep mutational scan of TDP-43, linearizes SmolLM2-135M-Instruct and trains a jet tagger, each beside its
    baselines. Two jobs run at a time, on one core each. The page is written again whenever a job ends, and an
    interrupted demo resumes where it stopped.

    Args:
        out: Folder for the three runs and report.html.
        quick: Use a small part of the data and few training steps: under 90 seconds on two cores.
        text: English text that the language model is trained on. Default: the help topics of Python.
        seed: Seed of the three runs.
        quiet: Print no progress.

    Raises:
        SubquadError: A package is missing, `text` is not a file, or a job failed; the others are finished first.
    """
    if text is not None and not text.is_file():
        raise SubquadError(f"{text}: no such file (--text)")
    _check_settings(out, {"quick": quick, "seed": seed, "text": None if text is None else fingerprint(text)})
    # the longest job first, so that the other two share the second core
    jobs = [_llm(out, text, quick=quick), _bio(out, quick=quick), _hep(out, quick=quick, quiet=quiet)]
    failed, finished, processes = [], {}, _Processes()
    with ThreadPoolExecutor(2) as pool:
        waiting = {pool.submit(_finish, job, out, processes, seed=seed, quiet=quiet): job for job in jobs}
        try:
            for done in as_completed(waiting):
                if (error := done.exception()) is not None:
                    failed.append(f"{waiting[done].title}: {error}")
                    continue
                job = waiting[done]
                finished[job.name] = _section(job, out / job.name)
                say(f"[{job.name}] finished; see {_write_page(jobs, finished, out)}", quiet=quiet)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    if failed:
        raise SubquadError("\n".join(failed))
    _print_summary(jobs, out)


def _check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings of a demo in its folder.

    Raises:
        SubquadError: The folder holds a demo with other settings, or other files and no demo.
    """
    path = out / SETTINGS
    if not is_blank(out, SETTINGS) and not path.is_file():
        raise SubquadError(f"{out}: not empty, and holds no demo; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    begun = read_json(path) if path.is_file() else settings
    changed = [name for name, value in settings.items() if begun.get(name) != value]
    if changed:
        lines = "; ".join(f"{name} was {begun.get(name)} and is {settings[name]}" for name in changed)
        raise SubquadError(f"{out}: holds a demo with other settings ({lines}); choose another --out")
    write_json(path, dict(settings))


def _finish(job: _Job, out: Path, processes: _Processes, *, seed: int, quiet: bool) -> None:
    run = out / job.name
    if (run / METRICS).is_file():
        return
    for command in job.commands:
        say(f"[{job.name}] subquad {' '.join(command)}", quiet=quiet)
        processes.run((*command, "--seed", str(seed)), label=job.name, quiet=quiet)


def _section(job: _Job, run: Path) -> Section:
    seconds = read_json(run / METRICS)["seconds"]["total"]
    closing = [f"This run took {seconds / 60:.1f} minutes on one core.", Link("Full report", f"{run.name}/{REPORT}")]
    return Section(job.title, [*job.section(run).blocks, *closing])


def _write_page(jobs: list[_Job], finished: Mapping[str, Section], out: Path) -> Path:
    unfinished = "This job is not finished; the page is written again when it is."
    html = page(
        "subquad demo",
        lead=" ".join(_sentence(job, out) for job in jobs),
        sections=[
            Section(
                "How to read this page",
                [
                    "Each job was run on this machine beside its baselines. The numbers above have no intervals and "
                    "name no winner; the sections below have intervals. The ensemble for TDP-43 averages baselines "
                    "and Lyra, whose weight may be small or 0; it is in the table."
                ],
            ),
            *(finished.get(job.name, Section(job.title, [unfinished])) for job in jobs),
        ],
    )
    with atomic(out / REPORT) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out / REPORT


def _sentence(job: _Job, out: Path) -> str:
    """Return the result of a job beside its baselines, in a sentence."""
    # the heading says what the job is for, and after the colon what it was run on
    subject = job.title.rpartition(": ")[2]
    subject = subject[0].upper() + subject[1:]
    if not (out / job.name / METRICS).is_file():
        return f"{subject}: not finished."
    ours, baselines = job.result(read_json(out / job.name / METRICS))
    return f"{subject}: {ours}; baselines: {baselines}."


def _print_summary(jobs: list[_Job], out: Path) -> None:
    rows = []
    for job in jobs:
        metrics = read_json(out / job.name / METRICS)
        rows.append((job.title, *job.result(metrics), f"{metrics['seconds']['total'] / 60:.1f}"))
    print_table(["job", "subquad", "baselines", "minutes"], rows, title="subquad demo")
    print(f"Wrote {out / REPORT}. Next: open it, or run your own data; see subquad --help")


def _bio(out: Path, *, quick: bool) -> _Job:
    def section(run: Path) -> Section:
        from subquad.bio.plots.fit_page import sections

        return sections(run)[0]

    def result(metrics: Mapping[str, Any]) -> tuple[str, str]:
        names = ("ensemble", "lyra", "ridge", "boosting", "mlp")
        ensemble, lyra, *baselines = (f"{name} {metrics['test'][name]['spearman']:.3f}" for name in names)
        weight = metrics["weights"]["ensemble"]["lyra"]
        return f"Spearman: {ensemble} (weight of lyra {weight:.2f}), {lyra}", ", ".join(baselines)

    table, title = "example:tdp43", "Variant effects: 57,996 variants of TDP-43"
    budget: tuple[str, ...] = ("--boosting-iterations", "100", "--tokens", "1000000")
    if quick:
        table, title = str(_some_variants(out)), f"Variant effects: {QUICK_VARIANTS:,} variants of TDP-43"
        budget = QUICK_BUDGET
    return _Job(
        name="bio",
        title=title,
        commands=(("bio", "fit", table, *budget, "--out", str(out / "bio")),),
        section=section,
        result=result,
    )


def _some_variants(out: Path) -> Path:
    """Write a random subset of TDP-43's variants as a table."""
    import pandas as pd

    from subquad.bio import resolve_table

    path = out / f"tdp43_{QUICK_VARIANTS}.csv"
    if not path.is_file():
        frame = pd.read_csv(resolve_table("example:tdp43"))
        with atomic(path) as temporary:
            frame.sample(QUICK_VARIANTS, random_state=0).sort_index().to_csv(temporary, index=False)
    return path


def _llm(out: Path, text: Path | None, *, quick: bool) -> _Job:
    def section(run: Path) -> Section:
        from subquad.llm.plots.linearize_page import sections

        return sections(run)[0]

    def result(metrics: Mapping[str, Any]) -> tuple[str, str]:
        test = metrics["test"]
        baselines = {
            "teacher": "softmax",
            "window": "window only",
            "cache": "window and cache, untrained",
            "fine_tuned_without_linear": "without moments",
        }
        return f"perplexity {test['fine_tuned']['perplexity']:.1f}", ", ".join(
            f"{label} {test[name]['perplexity']:.1f}" for name, label in baselines.items() if name in test
        )

    transfer, lora, evaluation, length = (1_024, 2_048, 1_024, 1_024) if quick else (6_144, 15_360, 3_072, 1_536)
    budget = ("--transfer-tokens", transfer, "--lora-tokens", lora, "--evaluation-tokens", evaluation)
    budget = (*budget, "--sequence-length", length)
    corpus = str(text or _python_topics(out))
    return _Job(
        name="llm",
        title="A state of constant size: SmolLM2-135M-Instruct",
        commands=(("llm", "linearize", "smollm2", "--text", corpus, *map(str, budget), "--out", str(out / "llm")),),
        section=section,
        result=result,
    )


def _python_topics(out: Path) -> Path:
    """Write the help topics that every Python contains, 460 kB of English, as a text file."""
    from pydoc_data.topics import topics

    path = out / "python_topics.txt"
    if not path.is_file():
        with atomic(path) as temporary:
            temporary.write_text("\n\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return path


def _hep(out: Path, *, quick: bool, quiet: bool) -> _Job:
    def section(run: Path) -> Section:
        from subquad.hep.plots.fit_page import sections

        return sections(run)[0]

    def result(metrics: Mapping[str, Any]) -> tuple[str, str]:
        ours, boosting = metrics["test"]["net"], metrics["test"]["boosting"]
        return (
            f"top-1 {ours['accuracy']:.3f}, AUC {ours['auc_ovo']:.3f}",
            f"boosting {boosting['accuracy']:.3f}, {boosting['auc_ovo']:.3f}; chance 0.100",
        )

    files, simulate = "example:jets", ()
    if not quick and find_spec("pythia8mc") is not None:
        files = str(out / "jets" / "*.root")
        jets = ("--jets-per-class", str(JETS_PER_CLASS), "--workers", "1")
        simulate = (("hep", "simulate", *jets, "--out", str(out / "jets")),)
    elif not quick:
        say("pythia8mc is not installed: the tagger is trained on the few jets that ship with subquad", quiet=quiet)
    return _Job(
        name="hep",
        title="Jet tagging: ten classes of simulated jets",
        commands=(*simulate, ("hep", "fit", files, *(QUICK_EPOCHS if quick else ()), "--out", str(out / "hep"))),
        section=section,
        result=result,
    )
