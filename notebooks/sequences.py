"""Notebook: fit a deep mutational scan, compare models, scan all single mutants. About a minute of one core.

Open it with `marimo edit notebooks/sequences.py`, or run it as a script: `python notebooks/sequences.py [--small]`.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="subquad: sequences")


@app.cell
def _():
    import tempfile
    from pathlib import Path

    import marimo as mo
    import pandas as pd
    from matplotlib import pyplot as plt

    from subquad import bio

    return Path, bio, mo, pd, plt, tempfile


@app.cell
def _(mo):
    mo.md(
        """
        # Effects of mutations

        `example:tdp43` is a deep mutational scan that ships with subquad: variants of the prion-like domain of
        TDP-43 with one or two mutations, and their toxicity in yeast. Lower is less toxic.
        """
    )


@app.cell
def _(Path, mo, tempfile):
    is_small = "small" in mo.cli_args()
    rows = mo.ui.slider(200, 3000, value=200 if is_small else 1000, step=100, label="training rows")
    folder = Path(tempfile.mkdtemp())
    rows  # noqa: B018
    return folder, is_small, rows


@app.cell
def _(bio, is_small, rows):
    settings = bio.FitSettings(
        train_rows=rows.value,
        tokens=20_000 if is_small else 300_000,
        boosting_iterations=5 if is_small else 50,
        ensemble_size=1,
        models=("ridge", "boosting", "lyra-additive", "lyra"),
    )
    return (settings,)


@app.cell
def _(bio, folder, rows, settings):
    run = folder / f"run-{rows.value}"
    metrics = bio.fit("example:tdp43", settings, out=run, quiet=True)
    return metrics, run


@app.cell
def _(metrics, mo, pd):
    table = pd.DataFrame(metrics["test"]).T[["spearman", "r2"]]
    table["weight"] = pd.Series(metrics["weights"]["ensemble"])
    mo.vstack(
        [
            mo.md(
                "## Which model?\n\nOn test rows unseen by all models. Compare *ensemble* with *ensemble-without-lyra*."
            ),
            mo.ui.table(table.round(4).reset_index(names="model"), selection=None),
        ]
    )
    return (table,)


@app.cell
def _(metrics, mo, pd, plt):
    differences = pd.DataFrame(metrics["intervals"]["test"]).T["spearman"]
    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
    for place, (low, high) in enumerate(differences):
        axes.plot([low, high], [place, place], color="#1f6f54", linewidth=3)
    axes.set(
        yticks=range(len(differences)), yticklabels=differences.index, xlabel="Spearman, 95 % interval over test rows"
    )
    mo.vstack(
        [
            mo.md("Intervals that overlap widely separate no winner; they do not cover the variation of the training."),
            figure,
        ]
    )


@app.cell
def _(bio, folder, mo, rows, run):
    scan = folder / f"scan-{rows.value}"
    bio.scan(run, bio.ScanSettings(direction="minimize"), out=scan, quiet=True)
    mo.vstack(
        [
            mo.md("## All single mutants\n\nHatched: letters that training never saw at the position."),
            mo.image(scan / "heatmap.png"),
        ]
    )
    return (scan,)


@app.cell
def _(mo, pd, scan):
    best = pd.read_csv(scan / "scan.csv").sort_values("prediction").head(20)
    mo.vstack([mo.md("The least toxic ones, by prediction:"), mo.ui.table(best, selection=None)])


@app.cell
def _(mo):
    mo.md(
        """
        The tutorial goes on from here: docs/tutorial-sequences.md. On most tables Lyra is one good model among
        several, and the ensemble is nearly as good without it: docs/bio-results.md.
        """
    )


if __name__ == "__main__":
    app.run()
