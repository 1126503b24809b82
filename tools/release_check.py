"""Build the sdist and the wheel, check both, and run the wheel from an environment of its own.

`python tools/release_check.py` leaves both files in dist/. About 3 minutes.
"""

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
WORK = ROOT / "build" / "release"
IN_SDIST = (
    "src/subquad/py.typed", "src/subquad/bio/data/examples/tdp43.csv.gz",
    "tests/conftest.py",
    "tests/laws/test_s4d.py", "docs/operators.md", "benchmarks/ops_sequence.py", "constraints/oldest.txt",
    "Makefile", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE", "CITATION.cff",
)  # fmt: skip
IN_WHEEL = (
    "subquad/py.typed",
    "subquad/bio/data/examples/tdp43.csv.gz",
    "subquad/hep/data/examples/jets_small.root",
    "subquad/hep/data/examples/tagger/model.safetensors",
)
COMMANDS = (
    "--version",
    "--help",
    "bio --help",
    "llm --help",
    "hep --help",
    "bio fit example:tdp43 --epochs 0.1 --train-rows 100 --boosting-iterations 5 --ensemble-size 1 --out bio",
)
LARGEST = 20_000_000
"""Bytes that either file may have: the package index warns at much less than its limit."""


def fail_if(problems: list[str], where: str) -> None:
    """Exit with the problems that were found in one file."""
    if problems:
        sys.exit("\n".join([f"{where}:", *(f"  {problem}" for problem in problems)]))


def check_contents(path: Path, names: set[str], expected: tuple[str, ...]) -> None:
    """Check that an archive has what it must have, and nothing that only this machine needs."""
    problems = [f"lacks {name}" for name in expected if name not in names]
    strays = ("__pycache__", ".venv", ".pytest_cache", ".hypothesis", ".git/")
    problems += [f"has {name}" for name in sorted(names) if any(stray in name for stray in strays)]
    if path.stat().st_size > LARGEST:
        problems.append(f"is {path.stat().st_size:,} bytes, more than {LARGEST:,}")
    fail_if(problems, path.name)


def check_metadata(text: str, where: str) -> None:
    """Check the metadata that the package index shows."""
    found = Parser().parsestr(text)
    problems = [
        f"no {key}" for key in ("Name", "Version", "Summary", "License-Expression", "Requires-Python") if not found[key]
    ]
    labels = {line.split(",")[0] for line in found.get_all("Project-URL", [])}
    problems += [
        f"no URL {label}" for label in ("Homepage", "Documentation", "Changelog", "Issues") if label not in labels
    ]
    links = [word for word in str(found.get_payload()).split("](")[1:] if not word.startswith(("https://", "#"))]
    problems += [f"README: a link that is not absolute, {link.split(')')[0]}" for link in links]
    fail_if(problems, where)


def main() -> None:
    """Run all checks."""
    for folder in (DIST, WORK):
        shutil.rmtree(folder, ignore_errors=True)
    WORK.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", DIST, ROOT], check=True)
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel], check=True)

    with tarfile.open(sdist) as archive:
        check_contents(sdist, {name.partition("/")[2] for name in archive.getnames()}, IN_SDIST)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        check_contents(wheel, set(names), IN_WHEEL)
        fail_if([name for name in names if not name.startswith(("subquad/", "subquad-"))], f"{wheel.name} has")
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        check_metadata(archive.read(metadata).decode(), wheel.name)

    venv.create(WORK / "venv", with_pip=True)
    python = WORK / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[bio]"], check=True)
    for command in COMMANDS:
        subprocess.run([WORK / "venv" / "bin" / "subquad", *command.split()], cwd=WORK, check=True)
    print(f"\n{sdist.name} and {wheel.name} are ready in {DIST}")


if __name__ == "__main__":
    main()
