"""The main job of the three fields on real input, two at a time, and one HTML page: about six minutes on two cores."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from shlex import quote, split

from subquad.errors import SubquadError, require
from subquad.progress import say
from subquad.reporting.page import Link, Section, page
from subquad.reporting.tables import print_table
from subquad.runs.examples import write_python_topics
from subquad.runs.folder import METRICS, REPORT, open_run
from subquad.runs.storage import atomic, fingerprint, read_json, write_text

TITLES = {
    "llm": "A state of constant size: SmolLM2-135M-Instruct",
    "bio": "Variant effects: TDP-43",
    "hep": "Jet tagging: ten classes of simulated jets",
}
"""Field, and folder of its run → title of the job; the longest job first, so that the others share a core."""
PAGES = {
    "llm": lambda: require("subquad.llm.plots.linearize_page", extra="llm"),
    "bio": lambda: require("subquad.bio.plots.fit_page", extra="bio"),
    "hep": lambda: require("subquad.hep.plots.fit_page", extra="hep"),
}
"""Field → module whose `sections` shows a run: the first one begins with the result in a sentence."""


def demo(
    *,
    out: Path = Path("demo"),
    quick: bool = False,
    text: Path | None = None,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Run the main job of the three fields, two at a time on one core each, and write one HTML page about them.

    Args:
        out: Folder for the three runs and report.html.
        quick: Use a small part of the data and few training steps: under 90 seconds on two cores.
        text: English text that the language model is trained on. Default: the help topics of Python.
        seed: Seed of the three runs.
        force: Delete all that is in the folder first.
        quiet: Print no progress.

    Raises:
        SubquadError: A package or `text` is missing, or a job failed; the others are finished first.
    """
    settings = {"quick": quick, "seed": seed, "text": None if text is None else fingerprint(text)}
    open_run(out, kind="demo", settings=settings, force=force)
    failed, children = [], list[subprocess.Popen[str]]()
    with ThreadPoolExecutor(2) as pool:
        jobs = {
            pool.submit(_finish, name, commands, out, children, quiet=quiet): name
            for name, commands in _commands(out, text, quick=quick, seed=seed, quiet=quiet).items()
        }
        try:
            for done in as_completed(jobs):
                if (error := done.exception()) is not None:
                    failed.append(f"{TITLES[jobs[done]]}: {error}")
                else:
                    say(f"[{jobs[done]}] finished; see {_write_page(out)}", quiet=quiet)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # each has written checkpoints to resume from
            for child in children:
                child.terminate()
            raise
    if failed:
        raise SubquadError("\n".join(failed))
    rows = [[TITLES[name], str(_section(name, out).blocks[0]), f"{_minutes(name, out):.1f}"] for name in TITLES]
    print_table(["job", "result", "minutes"], rows, title="subquad demo")
    print(f"Wrote {out / REPORT}. Next: open it, or run your own data; see subquad --help")


def _finish(name: str, commands: list[str], out: Path, children: list[subprocess.Popen[str]], *, quiet: bool) -> None:
    """Run the commands of a job one after the other, unless its run is finished.

    Raises:
        SubquadError: A command failed; the message is its own.
    """
    # one core each, since two jobs run at a time
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for command in [] if (out / name / METRICS).is_file() else commands:
        say(f"[{name}] subquad {command}", quiet=quiet)
        program = [sys.executable, "-m", "subquad", *split(command)]
        with subprocess.Popen(
            program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", env=environment
        ) as child:
            children.append(child)
            lines = []
            for line in child.stderr or ():
                lines.append(line.rstrip())
                say(f"[{name}] {lines[-1]}", quiet=quiet)
        if child.returncode != 0:
            raise SubquadError(f"subquad {command} failed:\n" + "\n".join(lines[-10:]))


def _section(name: str, out: Path) -> Section:
    """Return the first section of a finished run's report, under the title of the job."""
    result = PAGES[name]().sections(out / name)[0]
    time = f"This run took {_minutes(name, out):.1f} minutes on one core."
    return Section(TITLES[name], [*result.blocks, time, Link("Full report", f"{name}/{REPORT}")])


def _minutes(name: str, out: Path) -> float:
    return read_json(out / name / METRICS)["seconds"]["total"] / 60


def _write_page(out: Path) -> Path:
    finished = [name for name in TITLES if (out / name / METRICS).is_file()]
    left = "This job is not finished; the page is written again when it is."
    html = page(
        "subquad demo",
        lead=f"The main job of each field, run on this machine beside its baselines: {len(finished)} of {len(TITLES)} "
        "are finished. Each section begins with the result.",
        sections=[_section(name, out) if name in finished else Section(TITLES[name], [left]) for name in TITLES],
    )
    write_text(out / REPORT, html)
    return out / REPORT


def _commands(out: Path, text: Path | None, *, quick: bool, seed: int, quiet: bool) -> dict[str, list[str]]:
    """Return the commands of each job, without `subquad`; the last one writes the run."""

    def command(words: str, source: Path | str, flags: str, folder: str) -> str:
        return f"{words} {quote(str(source))} {flags} --seed {seed} --out {quote(str(out / folder))}"

    corpus, table = text or write_python_topics(out / "python_topics.txt"), "example:tdp43"
    jets, simulate = "example:jets", []
    budget = "--transfer-tokens 6144 --lora-tokens 15360 --evaluation-tokens 3072 --sequence-length 1536"
    training, epochs = "--boosting-iterations 100 --tokens 1000000", ""
    if quick:
        budget = "--transfer-tokens 1024 --lora-tokens 2048 --evaluation-tokens 1024 --sequence-length 1024"
        training, epochs = "--boosting-iterations 100 --epochs 3 --ensemble-size 1", "--epochs 12"
        table = _some_variants(out)
    elif find_spec("pythia8mc") is not None:
        jets = out / "jets" / "*.root"
        simulate = [command("hep simulate --jets-per-class", "350", "--workers 1", "jets")]
    else:
        say("pythia8mc is not installed: the tagger is trained on the few jets of subquad", quiet=quiet)
    return {
        "llm": [command("llm linearize smollm2 --text", corpus, budget, "llm")],
        "bio": [command("bio fit", table, training, "bio")],
        "hep": [*simulate, command("hep fit", jets, epochs, "hep")],
    }


def _some_variants(out: Path) -> Path:
    """Write a random subset of TDP-43's variants as a table."""
    import pandas as pd

    from subquad.bio import resolve_table

    frame = pd.read_csv(resolve_table("example:tdp43"))
    with atomic(out / "tdp43_3000.csv") as temporary:
        frame.sample(3_000, random_state=0).sort_index().to_csv(temporary, index=False)
    return out / "tdp43_3000.csv"
