"""Notebook: train a jet tagger beside gradient boosting, and look at the jets that it confuses. About a minute.

Open it with `marimo edit notebooks/jets.py`, or run it as a script: `python notebooks/jets.py [--small]`.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="subquad: jets")


@app.cell
def _():
    import tempfile
    from pathlib import Path

    import marimo as mo
    import numpy as np
    import pandas as pd
    import uproot
    from matplotlib import pyplot as plt

    from subquad import hep

    return Path, hep, mo, np, pd, plt, tempfile, uproot


@app.cell
def _(hep, mo):
    jets = hep.read("example:jets")
    mo.md(
        f"""
        # A jet tagger

        `example:jets` are {len(jets.class_names):,} simulated jets that ship with subquad. Classes:
        {", ".join(jets.classes)}.
        """
    )
    return (jets,)


@app.cell
def _(Path, mo, tempfile):
    is_small = "small" in mo.cli_args()
    epochs = mo.ui.slider(1, 20, value=1 if is_small else 8, label="epochs")
    folder = Path(tempfile.mkdtemp())
    epochs  # noqa: B018
    return epochs, folder


@app.cell
def _(epochs, folder, hep):
    settings = hep.FitSettings(preset="standard", epochs=epochs.value)
    run = folder / f"tagger-{epochs.value}"
    metrics = hep.fit("example:jets", settings, out=run, quiet=True)
    return metrics, run


@app.cell
def _(metrics, mo, pd):
    shown = ["accuracy", "auc_ovo", "average_precision", "calibration_error"]
    table = pd.DataFrame({name: {key: own[key] for key in shown} for name, own in metrics["test"].items()})
    low_high = {name: own["accuracy"] for name, own in metrics["intervals"]["test"].items()}
    mo.vstack(
        [
            mo.md(
                f"## Network and gradient boosting on {metrics['jets']['test']} test jets\n\n"
                "68.3 % intervals of the accuracy: "
                + "; ".join(f"{name} {low:.3f} to {high:.3f}" for name, (low, high) in low_high.items())
                + ". With so few jets expect gradient boosting to be as good or better."
            ),
            mo.ui.table(table.round(3).reset_index(names="metric"), selection=None),
        ]
    )


@app.cell
def _(epochs, folder, hep, jets, np, run, uproot):
    scores = folder / f"scores-{epochs.value}.root"
    hep.predict(run, "example:jets", out=scores, quiet=True)
    with uproot.open(scores) as _file:
        _branches = _file["Events"].arrays([f"score_{_name}" for _name in jets.classes], library="np")
    _predicted = np.stack(list(_branches.values())).argmax(0)
    confused = np.zeros((len(jets.classes),) * 2)
    for _true, _own in zip(jets.class_names, _predicted, strict=True):
        confused[jets.classes.index(_true), _own] += 1
    return (confused,)


@app.cell
def _(confused, jets, mo, plt):
    figure, axes = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    picture = axes.imshow(100 * confused / confused.sum(1, keepdims=True), cmap="Greens", vmin=0, vmax=100)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(jets.classes)), yticks=range(len(jets.classes)))
    axes.set_xticklabels(jets.classes, rotation=60)
    axes.set_yticklabels(jets.classes)
    figure.colorbar(picture, label="% of the true class")
    mo.vstack([mo.md("## What is confused with what\n\nOf all jets, those of the training among them."), figure])


@app.cell
def _(mo):
    mo.md(
        """
        The tutorial goes on from here, with rejection, explanation and export: docs/tutorial-jets.md. What was
        measured with more jets: docs/hep-results.md.
        """
    )


if __name__ == "__main__":
    app.run()
