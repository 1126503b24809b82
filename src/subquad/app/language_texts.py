"""Texts that are dropped on the page: read to their end at once, so that no job starts on one that cannot be used."""

import re
from pathlib import Path

import gradio as gr

from subquad.app.markup import hint, notice
from subquad.app.panels import QUIET, Context, script_of_hint, session_of
from subquad.app.reading import Busy, call_in_process
from subquad.app.sessions import Session
from subquad.errors import SubquadError, counted
from subquad.llm.data.readers import open_documents
from subquad.runs.storage import atomic
from subquad.runs.unpacking import lines_within, most_bytes, open_unpacked

__all__ = ["ENDINGS", "describe_text", "help_topics", "text_field"]

ENDINGS = [".txt", ".md", ".json", ".jsonl", ".parquet", ".gz"]
PLAIN = (".txt", ".md")
AGAIN = "and drop the file again"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def text_field(context: Context, label: str, *, name: str, without: str) -> gr.File:
    """Build the field of a text, which says below it what was read, or why the file was not taken.

    Args:
        context: What the parts of the page share.
        label: Label of the field.
        name: Name of the field in the page: `sq-NAME`, and `sq-NAME-read` of what is said below it.
        without: What is said as long as there is no file.
    """
    file = gr.File(label=label, file_types=ENDINGS, height=150, elem_id=f"sq-{name}")
    view = gr.HTML(hint(without), elem_classes="sq-view", elem_id=f"sq-{name}-read")

    def on_text(path: str, request: gr.Request) -> tuple[str | None, str]:
        session = session_of(context, request)
        try:
            with session.trying([path]) as (taken,):
                return path, hint(call_in_process(describe_text, taken, session=session))
        except Busy:
            return path, notice("The file was taken, but not read yet, since too many others are being read.")
        except SubquadError as error:
            return None, notice(f"The file was not taken. {session.readable(str(error))}", "error")

    file.upload(None, None, [view], js=script_of_hint("Reading the file …"), **QUIET)
    file.upload(on_text, [file], [file, view], **QUIET)
    file.clear(None, None, [view], js=script_of_hint(without), **QUIET)
    return file


def describe_text(path: Path) -> str:
    """Read a text as trainings and evaluations do, and return what was read.

    Raises:
        SubquadError: The file has no text, is not UTF-8, or has rows that cannot be read; with the places.
    """
    path = Path(path)
    if not path.stat().st_size:
        raise SubquadError(f"{path}: the file is empty; write a text into it, {AGAIN}")
    if path.name.lower().removesuffix(".gz").endswith(PLAIN):
        _check_characters(path)
    documents = characters = 0
    try:
        source = open_documents(path)
        for document in source.documents:
            documents += 1
            characters += sum(len(block.strip()) for block in document.blocks)
    except SubquadError as error:
        # the page has no field for the name of the column
        raise SubquadError(re.sub(r" \(see --text-key\)", "", str(error))) from error
    if not characters:
        raise SubquadError(f"{path}: none of the {documents:,} rows has any text; fill them in, {AGAIN}")
    count = f"{counted(documents, 'document')} with " if documents > 1 else ""
    return f"{path.name}: {source.description}; {count}{counted(characters, 'character')}."


def _check_characters(path: Path) -> None:
    """Check that a plain text has some, and that each line is UTF-8; the place is counted as editors do, from 1."""
    is_packed = path.name.lower().endswith(".gz")
    has_text = False
    with open_unpacked(path, is_packed=is_packed) as (file, _):
        for number, line in enumerate(lines_within(path, file, most_bytes(path)), start=1):
            if number == 1 and line.startswith(UTF_16):
                raise SubquadError(f"{path}: the file is UTF-16 and not UTF-8; save it as UTF-8, {AGAIN}")
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                column = len(line[: error.start].decode()) + 1
                raise SubquadError(
                    f"{path}: line {number:,}, character {column:,} is not UTF-8 (byte 0x{line[error.start]:02X}); "
                    f"save the file as UTF-8, {AGAIN}"
                ) from error
            if "\0" in text:
                raise SubquadError(
                    f"{path}: line {number:,}, character {text.index(chr(0)) + 1:,} is a NUL character, so that the "
                    f"file is no text, or not UTF-8; save it as UTF-8, {AGAIN}"
                )
            has_text = has_text or bool(text.removeprefix("\ufeff").strip())
    if not has_text:
        raise SubquadError(f"{path}: the file has no text, only white space; write a text into it, {AGAIN}")


def help_topics(session: Session, *, is_held_out: bool = False) -> Path:
    """Write the help topics that every Python contains, 460 kB of English, as a text file of the session.

    The held-out text is their last tenth, which a linearization on the help topics is measured on, not trained on.
    """
    from pydoc_data.topics import topics

    path = session.folder / ("python_topics_held_out.txt" if is_held_out else "python_topics.txt")
    if not path.is_file():
        text = "\n\n".join(topics[name] for name in sorted(topics))
        with atomic(path) as temporary:
            temporary.write_text(text[-len(text) // 10 :] if is_held_out else text, encoding="utf-8")
    return path
