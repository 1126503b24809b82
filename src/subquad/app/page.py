"""The page: its three tabs, what refreshes them, and how it looks."""

from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import themes

from subquad import __version__
from subquad.app.jets import build_jets
from subquad.app.language import build_language
from subquad.app.sequences import build_sequences
from subquad.app.tab import Context, FieldTab

SECONDS = 1.5
"""Time between two looks at the jobs."""
HEAD = """<header class="sq-head"><h1>subquad</h1>
<p>Models of sequences, language and jets beside their baselines, on this computer.</p></header>"""
FONT = ["system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"]
FIXED_FONT = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def build_page(context: Context) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title="subquad", analytics_enabled=False) as page:
        gr.HTML(HEAD)
        tabs = []
        with gr.Tabs(elem_id="sq-tabs"):
            for title, build in (
                ("Sequences", build_sequences), ("Language models", build_language), ("Jets", build_jets)
            ):  # fmt: skip
                with gr.Tab(title):
                    tabs.append(build(context))
        gr.Markdown(f"subquad {__version__}. Jobs go on when this page is closed.", elem_classes="sq-foot")
        _refresh(page, context, tabs)
    # gradio looks for events a thousand times per second, which takes 6 % of a core
    page._queue.sleep_when_free = 0.02
    return page


def _refresh(page: gr.Blocks, context: Context, tabs: list[FieldTab]) -> None:
    """Keep what the tabs show up to date."""
    seen = gr.State()

    def on_tick(before: list[list[dict[str, Any]]] | None, *values: Any) -> list[Any]:
        rest, now, offered_by = iter(values), [], cache(context.inputs.choices)
        for number, tab in enumerate(tabs):
            name, *chosen = islice(rest, len(tab.watched))
            now.append(tab.look(name, chosen, None if before is None else before[number], offered_by))
        new = [entry for tab in now for entry in tab]
        old = [{}] * len(new) if before is None else [entry for tab in before for entry in tab]
        changed = [gr.skip() if entry == known else gr.update(**entry) for entry, known in zip(new, old, strict=True)]
        return [now, *changed]

    gr.on(
        [page.load, gr.Timer(SECONDS).tick, *(tab.view["job"].change for tab in tabs)],
        on_tick,
        [seen, *(component for tab in tabs for component in tab.watched)],
        [seen, *(component for tab in tabs for component in tab.outputs)],
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )


def look() -> dict[str, Any]:
    """Return theme and styles of the page; nothing of them is loaded from another host."""
    theme = themes.Base(
        primary_hue=themes.colors.emerald, neutral_hue="slate", radius_size="md", font=FONT, font_mono=FIXED_FONT
    ).set(
        color_accent="#1f6f54",
        button_primary_background_fill="#1f6f54",
        button_primary_background_fill_dark="#1f6f54",
        button_primary_background_fill_hover_dark="#195a45",
        button_primary_text_color_dark="#ffffff",
        button_primary_background_fill_hover="#195a45",
        button_primary_text_color="#ffffff",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    # in the head, since gradio rewrites the selectors of styles that it is given
    return {"theme": theme, "head": f"<style>{style}</style>"}
