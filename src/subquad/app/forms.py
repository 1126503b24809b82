"""Forms of commands: each field of a form is an argument of the command line, with its type, default and help.

What a form shows is read from the command itself, so that no setting is declared a second time.
"""

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from cyclopts import Argument

from subquad.app.inputs import Inputs, Source
from subquad.app.jobs import OUT
from subquad.errors import SubquadError
from subquad.runs.options import MORE

SET_BY_PAGE = {"out", "force", "quiet"}
EARLIER = "earlier"
OFFERED: dict[str, Any] = {"allow_custom_value": True}
"""Of lists that change: gradio would refuse each event of a page whose entry is gone, so the functions check it."""
CONTROL = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a command is shown."""

    command: str
    """Name of the command, such as `bio fit`."""
    action: str
    """Text of the button."""
    title: str
    """What the command makes; with the name of its input it is the title of the job."""
    about: str
    """One sentence on what it does."""
    sources: dict[str, Source]
    """Arguments whose values are chosen from a list, in the order of the form; the first one names the job."""
    first: Sequence[str] = ()
    """Names of the settings that are seen at once; those of the other groups of `--help` can be unfolded."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Texts that stand in fields at first."""
    hidden: Sequence[str] = ()
    """Names of arguments that the form does not have."""
    columns: Sequence[str] = ()
    """Names of the settings that name columns of the table."""
    file: str = ""
    """Name of the file that the command writes; empty for a folder."""
    words: Sequence[str] = ()
    """Further words of the command line."""
    continues: bool = False
    """Whether the command can add to the folder of an earlier job."""


@dataclass(frozen=True, kw_only=True)
class BuiltForm:
    """The components of a form on the page."""

    form: Form
    inputs: Inputs
    fields: dict[str, Any] = field(default_factory=dict)
    """Components by the name of their argument; `NAME text` for a content that is typed."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Texts under lists of tables whose columns are settings."""

    @property
    def sources(self) -> list[tuple[Any, Source]]:
        """The lists that follow what there is to choose."""
        earlier = {EARLIER: self._earlier} if self.form.continues else {}
        return [(self.fields[name], source) for name, source in (self.form.sources | earlier).items()]

    @property
    def _earlier(self) -> Source:
        return Source(commands=(self.form.command,), is_optional=True)

    def build(self) -> None:
        """Add the components to the page."""
        known = {name_of(argument): argument for argument in arguments(self.form.command)}
        gr.Markdown(self.form.about)
        folded = []
        for name, source in self.form.sources.items():
            if source.is_optional and not source.has_text and name not in self.form.first:
                folded.append(name)
            else:
                self._build_source(name, source, known[name])
        if self.form.continues:
            self.fields[EARLIER] = gr.Dropdown(
                [], label="Earlier rounds", info="Default: none; this is the first round.", **OFFERED
            )
        shown = [name for name in self.form.first if name in known and name not in self.form.sources]
        if shown:
            self._build_row([known[name] for name in shown])
        skipped = {*SET_BY_PAGE, *self.form.hidden, *self.form.sources, *shown}
        rest = [argument for name, argument in known.items() if name not in skipped and _is_typed(argument)]
        common = [argument for argument in rest if not group_of(argument).startswith(MORE)]
        if common or folded:
            with gr.Accordion("More settings", open=False):
                for name in folded:
                    self._build_source(name, self.form.sources[name], known[name])
                self._build_row(common)
        rare = [argument for argument in rest if argument not in common]
        if rare:
            with gr.Accordion("All other settings", open=False):
                for group in dict.fromkeys(map(group_of, rare)):
                    gr.Markdown(f"**{group.removeprefix(MORE).capitalize()}**")
                    self._build_row([argument for argument in rare if group_of(argument) == group])

    def _build_row(self, row: Sequence[Argument]) -> None:
        with gr.Row(elem_classes="sq-fields"):
            for argument in row:
                self.fields[name_of(argument)] = self._component(argument)

    def _build_source(self, name: str, source: Source, argument: Argument) -> None:
        label = label_of(name)
        if source.has_text:
            self.fields[f"{name} text"] = gr.Textbox(
                label="Sequences or variants", lines=4, info="One per line, such as A24G:K30R; or FASTA."
            )
            label = f"{label}, in place of the text"
        choices = self.inputs.choices(source)
        first = [value for _, value in choices[:1] if not source.is_optional]
        self.fields[name] = gr.Dropdown(
            choices,
            value=first if source.is_several else next(iter(first), None),
            label=label,
            info=info_of(argument),
            multiselect=source.is_several,
            **OFFERED,
        )
        if self.form.columns and not source.is_optional:
            self.notes[name] = gr.HTML(elem_classes="sq-note")

    def _component(self, argument: Argument) -> Any:
        """Return the component of a setting: its type decides which one."""
        name, default, types = name_of(argument), default_of(argument), types_of(argument)
        about: dict[str, Any] = {"label": label_of(name), "info": info_of(argument), "min_width": 200}
        is_several, choices = get_origin(types[0]) in (tuple, list), list(argument.get_choices() or ())
        if name in self.form.columns:
            value = list(default or ()) if is_several else default
            return gr.Dropdown([], value=value, multiselect=is_several, allow_custom_value=True, **about)
        if types == [bool]:
            return gr.Checkbox(bool(default), **about)
        if choices and is_several:
            return gr.Dropdown(choices, value=list(default or ()), multiselect=True, **about)
        if choices and all(get_origin(hint) is Literal for hint in types):
            return gr.Dropdown([("default", "")] * (default is None) + choices, value=default or "", **about)
        if types in ([int], [float]) and default is not None:
            return gr.Number(default, precision=0 if types == [int] else None, **about)
        text = self.form.values.get(name, shlex.join(map(str, default or ())) if is_several else default)
        return gr.Textbox(text, placeholder="default", max_lines=4, **about)

    def command_words(self, values: Sequence[Any], folder: Path) -> tuple[list[str], str]:
        """Return the words of the command line and the title of the job.

        Args:
            values: Values of the components, in the order of `fields`.
            folder: Folder of the job, for contents that were typed.

        Raises:
            SubquadError: A required value is missing, or a text names a file of the server.
        """
        entered = dict(zip(self.fields, values, strict=True))
        positional, flags, title = [*self.form.command.split()], [], ""
        for argument in arguments(self.form.command):
            name = name_of(argument)
            if name not in entered:
                continue
            texts = self._texts(argument, entered, folder)
            if name in self.form.sources:
                title = title or (f" of {self.inputs.name(texts[0])}" if texts else "")
            if argument.required and not texts:
                raise SubquadError(f"{label_of(name)}: nothing is chosen")
            if argument.index is not None:
                positional += texts
            elif types_of(argument) == [bool]:
                flags += [argument.name] * len(texts)
            else:
                flags += [f"{argument.name}={text}" for text in texts]
        if entered.get(EARLIER):
            shutil.copytree(self.inputs.checked(self._earlier, [entered[EARLIER]])[0], folder / OUT)
        return [*positional, *flags, *self.form.words], f"{self.form.title}{title}"

    def _texts(self, argument: Argument, entered: Mapping[str, Any], folder: Path) -> list[str]:
        """Return the values of an argument as words; none if it has its default."""
        name = name_of(argument)
        value, typed, source = entered[name], entered.get(f"{name} text"), self.form.sources.get(name)
        if typed and typed.strip():
            return [str(_write_typed(typed.strip(), folder))]
        if source is not None:
            return self.inputs.checked(source, value if isinstance(value, list) else [value] if value else [])
        if isinstance(value, str) and get_origin(types_of(argument)[0]) in (tuple, list):
            try:
                value = shlex.split(value)
            except ValueError as error:
                raise SubquadError(f"{label_of(name)}: {value}: {error}") from error
        default = default_of(argument)
        if value is None or value is False or value in ("", default):
            return []
        texts = [str(entry).strip() for entry in (value if isinstance(value, list) else [value])]
        if isinstance(value, list) and texts == [*map(str, default or ())]:
            return []
        for text in texts:
            # a page that is served to others must not read the files of its owner, nor those of its owner's network
            is_flag = argument.index is not None and text.startswith("-")
            is_path = text.startswith(("/", "~")) or "://" in text or ".." in Path(text).parts
            if is_flag or is_path or CONTROL.search(text):
                raise SubquadError(f"{label_of(name)}: {text!r} cannot be named here; upload the file instead")
        return texts


@lru_cache
def arguments(command: str) -> list[Argument]:
    """Return the arguments of a command that are a word or a flag each."""
    group, _, name = command.partition(" ")
    app = import_module(f"subquad.{group}.cli").app
    return [argument for argument in app[name].assemble_argument_collection(parse_docstring=True) if argument.show]


def name_of(argument: Argument) -> str:
    """Return the name of an argument on the page: `--split-by` → `split-by`, `TABLE` → `table`."""
    return argument.name.removeprefix("--").lower()


def label_of(name: str) -> str:
    """Return the label of a field."""
    words = re.sub(r"[-_.]", " ", name)
    return words[:1].upper() + words[1:]


def info_of(argument: Argument) -> str:
    """Return the beginning of the help of an argument, and its sentence on the default; long ones are cut."""
    text = " ".join((argument.parameter.help or "").replace("`", "").split())
    text = re.sub(r"--([a-z][\w.-]*\w)", lambda flag: f'"{label_of(flag[1])}"', text)
    sentences = re.split(r"(?<=\.) ", text)
    default = [sentence for sentence in sentences[1:] if sentence.startswith("Default:")]
    return " ".join([_cut(sentences[0], r"[:;]", 100), *(_cut(sentence, r"[,;]", 60) for sentence in default)])


def _cut(sentence: str, mark: str, most: int) -> str:
    """Return a sentence up to the first mark if it is long and the mark does not follow a name."""
    first = re.split(rf"{mark} ", sentence)[0]
    return sentence if len(sentence) <= most or " " not in first else f"{first.rstrip('.')}."


def default_of(argument: Argument) -> Any:
    """Return the default of an argument; None if it is required."""
    return None if argument.required else argument.field_info.default


def types_of(argument: Argument) -> list[Any]:
    """Return the types of an argument without None."""
    members = [*get_args(argument.hint)] if NoneType in get_args(argument.hint) else [argument.hint]
    return [_plain(member) for member in members if member is not NoneType]


def _plain(hint: Any) -> Any:
    return _plain(get_args(hint)[0]) if hasattr(hint, "__metadata__") else hint


def group_of(argument: Argument) -> str:
    """Return the name of the group of an argument in the help, such as `Training`."""
    groups = argument.parameter.group
    first = groups[0] if isinstance(groups, tuple) and groups else groups
    return str(getattr(first, "name", first))


def _is_typed(argument: Argument) -> bool:
    """Return whether a setting can be typed: not files, and tuples of a fixed length."""
    first = types_of(argument)[0]
    is_fixed = get_origin(first) is tuple and get_args(first)[1:] != (...,)
    return not is_fixed and Path not in (first, *get_args(first))


def _write_typed(text: str, folder: Path) -> Path:
    """Write sequences or variants as a file that `bio predict` reads."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines[0].startswith(">"):
        path = folder / "typed.fasta"
    else:
        path = folder / "typed.csv"
        lines.insert(0, "mutant" if all(re.search(r"\d", line) for line in lines) else "sequence")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
