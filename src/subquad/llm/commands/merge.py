"""`subquad llm merge`: merge an adapter into its checkpoint and write the whole model."""

import shutil
from pathlib import Path

from subquad.errors import SubquadError
from subquad.llm.models.checkpoints import without_progress_bars
from subquad.llm.models.loading import load
from subquad.llm.models.location import checkpoint_kind, folder_of_run
from subquad.llm.models.standalone import write_code
from subquad.llm.training.controls import FOLDER as CONTROLS
from subquad.runs.folder import CARD, REPORT
from subquad.runs.storage import as_folder, check_not_inside, remove_temporaries, write_report_folder


def merge(
    adapter: Path | str,
    *,
    out: Path | str,
    base: str | Path | None = None,
    standalone: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Write the whole model of an adapter, as transformers' `save_pretrained` does.

    Args:
        adapter: Folder of the adapter, or its name on the Hugging Face Hub.
        out: Output folder.
        base: Checkpoint of the adapter; None for the place recorded in the adapter.
        standalone: Also write the code of the model, so that transformers opens the folder without subquad.
        force: Overwrite an existing model in `out`.
        quiet: Print nothing.

    Raises:
        SubquadError: The adapter cannot be loaded, or `out` exists.
    """
    adapter = folder_of_run(adapter)
    given, out = out, as_folder(out)
    remove_temporaries(out.absolute().parent, out.name)
    if out.exists() and any(out.iterdir()):
        if checkpoint_kind(out) not in ("linearized", "adapter"):
            raise SubquadError(f"{out}: contains something other than a linearized model; choose another --out")
        if not force:
            raise SubquadError(f"{out}: exists already; choose another output, or overwrite it with --force")
    check_not_inside(out, adapter)
    # else it is the name of a checkpoint
    if base is not None and Path(base).exists():
        check_not_inside(out, base)
    model, tokenizer = load(adapter, base=base)
    with write_report_folder(out) as temporary:
        if standalone:
            write_code(temporary, model)
        with without_progress_bars():
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for name in (CARD, REPORT):
            if (adapter / name).is_file():
                # the model card, and the figures to which it refers
                shutil.copyfile(adapter / name, temporary / name)
        if (adapter / CONTROLS).is_dir():
            # for `evaluate`
            shutil.copytree(adapter / CONTROLS, temporary / CONTROLS)
    if not quiet:
        print(f"Wrote {given}.")
        print(f'Next: subquad llm generate {given} --prompt "Once upon a time"')
