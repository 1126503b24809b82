"""`design`: the best variants that a fitted model predicts under constraints, as a diverse batch laid out on plates."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from subquad import __version__
from subquad.bio.design_search.proposal import COLUMNS, Proposal, measured_sequences, propose
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.models.scorer import folder_of, open_model, open_scorer, partner_sequence
from subquad.errors import SubquadError
from subquad.runs.storage import (
    check_files_not_inside,
    check_not_inside,
    check_report_folder,
    plain,
    write_json,
    write_report_folder,
)

if TYPE_CHECKING:
    from subquad.bio.models.fitted import BioModel

__all__ = ["design"]

KIND, RECORD = "bio design", "design.json"


def design(
    run: "BioModel | Path | str",
    settings: DesignSettings | None = None,
    *,
    out: Path | str,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Write the best variants under constraints, their plates and a page; return the variants, best first.

    Variants are ranked by their upper confidence bound `ucb`: the mean prediction plus `beta` standard deviations of
    the ensemble members; minus, if a low value is better.

    Args:
        run: Folder that `fit` wrote, or a `BioModel`.
        settings: Objective, constraints, number of designs and plates.
        out: Output folder: `designs.csv`, `designs.fasta`, `plates.csv`, `design.html` and `design.json`.
        seed: Seed of the search.
        force: Overwrite earlier designs.
        quiet: Show no progress and no remarks.

    Raises:
        SubquadError: The constraints contradict each other or nothing satisfies them, the model does not predict one
            value per sequence, or has a single member although `beta` is given, or the output exists; nothing has been
            written then.
    """
    settings = settings or DesignSettings()
    out = check_report_folder(out, kind=KIND, file=RECORD, force=force)
    check_not_inside(out, folder_of(run))
    check_files_not_inside(out, settings, "start", "partner", "table")
    model = open_model(run)
    if model.schema.partner and model.schema.partner_chain is None:
        raise SubquadError("the model reads pairs of sequences; guides for a target come from `subquad bio guides`")
    partner = partner_sequence(model, settings.partner)
    scorer = open_scorer(model, target=settings.target, partner=partner)
    measured = measured_sequences(run, scorer, settings.table, quiet=quiet)
    proposal = propose(
        scorer,
        settings,
        number=settings.number,
        measured=measured,
        allow_measured=settings.allow_measured,
        seed=seed,
        quiet=quiet,
    )
    designs = proposal.designs.filter(COLUMNS)
    record = {
        "subquad": {"kind": KIND, "version": __version__, "settings": plain(settings), "seed": seed},
        "run": str(run) if isinstance(run, str | Path) else None,
        "partner": partner,
        **proposal.record,
    }
    _write(out, proposal, designs, record)
    return designs


def _write(out: Path, proposal: Proposal, designs: pd.DataFrame, record: dict[str, Any]) -> None:
    from subquad.bio.design_search.page import render

    html = render(proposal, record)
    with write_report_folder(out) as folder:
        designs.to_csv(folder / "designs.csv", index=False, float_format="%.6g")
        proposal.plates.to_csv(folder / "plates.csv", index=False, float_format="%.6g")
        (folder / "designs.fasta").write_text(proposal.fasta, encoding="utf-8")
        (folder / "design.html").write_text(html, encoding="utf-8")
        write_json(folder / RECORD, record)
