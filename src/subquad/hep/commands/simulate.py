"""`subquad hep simulate`: labelled jets of JetClass's ten classes in its branch layout, 90 jets per second and core.

Collisions from Pythia 8 (arXiv:2203.11601) pass an emulation of a detector like CMS without pile-up, and FastJet
clusters the candidates into anti-kT jets of radius 0.8 with 500 < pT < 1000 GeV and |η| < 2, which are matched to the
decays that produced them (arXiv:2202.03772). The steps are modules of `subquad.hep.simulation`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subquad.errors import SubquadError, reading, require
from subquad.hep.settings import SimulateSettings
from subquad.hep.simulation.generator import pythia
from subquad.hep.simulation.processes import PROCESSES
from subquad.hep.simulation.workers import Job, run_jobs
from subquad.progress import say, track
from subquad.runs.folder import CONFIG
from subquad.runs.lock import is_blank, locks_output
from subquad.runs.storage import as_folder, read_json, remove_temporaries, write_json

RECORD = "simulation.json"
"""The settings of the simulation in its folder, by which an interrupted one is resumed."""

PHYSICS = 2
"""Version of generator and detector: another version gives other jets for the same seed. Version 1, which older records
do not name, kept K⁰S and hyperons undecayed and counted particles that curl up in the field as tracks."""


@locks_output
def simulate(
    settings: SimulateSettings | None = None,
    *,
    out: Path | str,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Simulate labelled jets and return the ROOT files.

    The jets depend on `seed` and on the settings, not on the number of workers. An interrupted simulation is resumed by
    the same call: complete files are kept, and no file is ever partly written.

    Args:
        settings: Numbers of jets and processes; defaults if None.
        out: Folder to write.
        seed: Seed of the collisions and the detector.
        force: Simulate all files again, and remove those of an earlier simulation.
        quiet: Print no progress.

    Raises:
        MissingExtra: Pythia, FastJet or uproot is not installed.
        SubquadError: `out` has files that this command did not write, a damaged record or, without `force`, jets of
            other settings or of another version of the physics.
    """
    settings = settings or SimulateSettings()
    pythia()
    for module in ("fastjet", "awkward", "uproot"):
        require(module, extra="hep")
    out = as_folder(out)
    jobs = _jobs(out, settings, seed)
    _prepare_folder(out, jobs, settings, seed=seed, force=force)
    missing = [job for job in jobs if not job.path.is_file()]
    total, left = sum(job.jets for job in jobs), sum(job.jets for job in missing)
    if len(missing) < len(jobs):
        say(f"{len(jobs) - len(missing)} of {len(jobs)} files exist already", quiet=quiet)
    if missing:
        # the longest first, so that no core is idle at the end
        missing.sort(key=lambda job: -job.jets)
        with track("simulating jets", total=total, done=total - left, quiet=quiet) as advance:
            run_jobs(missing, settings.workers, advance)
    return [job.path for job in jobs]


def _jobs(out: Path, settings: SimulateSettings, seed: int) -> list[Job]:
    jobs = []
    for name in settings.classes:
        for shard, start in enumerate(range(0, settings.jets_per_class, settings.jets_per_file)):
            jets = min(settings.jets_per_file, settings.jets_per_class - start)
            jobs.append(Job(name=name, jets=jets, shard=shard, seed=seed, path=out / f"{name}_{shard:03d}.root"))
    return jobs


def _prepare_folder(out: Path, jobs: Sequence[Job], settings: SimulateSettings, *, seed: int, force: bool) -> None:
    """Check that the folder holds a simulation with the same settings, or clear it with `force`."""
    asked = {"physics": PHYSICS, "seed": seed, **dataclasses.asdict(settings), "classes": list(settings.classes)}
    del asked["workers"]
    record = out / RECORD
    before = _read(record)
    own = [] if before is None else [path for path in sorted(out.glob("*_*.root")) if _is_of(before, path)]
    foreign = [job.path for job in jobs if job.path.exists() and job.path not in own]
    is_other = (out / CONFIG).exists() or (before is None and not is_blank(out, RECORD))
    if foreign or is_other:
        raise SubquadError(f"{(foreign or [out])[0]}: was not written by this simulation; choose another folder")
    if before is not None and before != asked and not force:
        changed = ", ".join(
            f"{key} {before.get(key)!r} → {value!r}" for key, value in asked.items() if before.get(key) != value
        )
        raise SubquadError(f"{out}: has jets of other settings ({changed}); choose another folder, or overwrite it")
    if force:
        for path in own:
            path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    remove_temporaries(out)
    if force or before is None:
        write_json(record, asked)


def _is_of(record: dict[str, Any], path: Path) -> bool:
    """Return whether a file has the name of a file of that simulation."""
    name, _, shard = path.stem.rpartition("_")
    if name not in record["classes"] or not (shard.isascii() and shard.isdecimal()):
        return False
    is_named = path.name == f"{name}_{int(shard):03d}.root"
    return is_named and int(shard) * record["jets_per_file"] < record["jets_per_class"]


def _read(record: Path) -> dict[str, Any] | None:
    """Return the record of an earlier simulation; its classes are known ones, since names of files begin with them."""
    if not record.is_file():
        return None
    with reading(record, "a simulation"):
        before = read_json(record)
        _ = before["jets_per_file"] + 0, before["jets_per_class"] + 0
        if not {*before["classes"]} <= PROCESSES.keys():
            raise ValueError("unknown classes")
        return before
