"""Forms: what is entered on the page becomes the words of a command that the command line takes."""

import time
import zipfile

import gradio as gr
import pandas as pd
import pytest

from subquad.app import jets, language, sequences
from subquad.app.forms import BuiltForm, arguments, name_of
from subquad.app.inputs import RUNS, TABLES, Inputs
from subquad.app.jobs import Jobs
from subquad.cli import app
from subquad.errors import SubquadError

FORMS = {form.command: form for module in (sequences, language, jets) for _, form in module.FORMS}


@pytest.fixture
def inputs(tmp_path):
    uploads = tmp_path / "uploads"
    (uploads / "hash").mkdir(parents=True)
    (uploads / "hash" / "mine.csv").write_text("sequence,y\nACD,1\n")
    (uploads / "hash" / "genes.fa").write_text(">g\nACGT\n")
    (uploads / "hash" / "text.txt").write_text("A text.")
    return Inputs(uploads, [], Jobs(tmp_path / "jobs", 1))


def words_of(command, inputs, folder, **entered):
    """Build a form, change some of its values, and return the words of its command and its title."""
    with gr.Blocks():
        form = BuiltForm(form=FORMS[command], inputs=inputs)
        form.build()
    values = {name: component.value for name, component in form.fields.items()}
    values |= {name.replace("_", "-").replace("--", " "): value for name, value in entered.items()}
    return form.command_words([values[name] for name in form.fields], folder)


def parsed(words):
    out = FORMS[" ".join(words[:2])].file or "out"
    return app.parse_args([*words, "--out", out], exit_on_error=False, print_error=False)[1].arguments


def test_a_sheet_may_have_any_name(inputs, tmp_path):
    path = tmp_path / "uploads" / "hash" / "sheets.xlsx"
    with pd.ExcelWriter(tmp_path / "plain.xlsx") as file:
        for name in ("first", "aXb"):
            pd.DataFrame({"sequence": ["ACD"]}).to_excel(file, sheet_name=name)
    # which openpyxl does not write
    with zipfile.ZipFile(tmp_path / "plain.xlsx") as plain, zipfile.ZipFile(path, "w") as changed:
        for name in plain.namelist():
            changed.writestr(name, plain.read(name).replace(b"aXb", b"a/b"))
    assert ("sheets.xlsx, a/b", f"{path}#a/b") in inputs.choices(TABLES)
    assert inputs.checked(TABLES, [f"{path}#a/b"]) == [f"{path}#a/b"]


def test_control_characters_are_refused(inputs, tmp_path):
    with pytest.raises(SubquadError, match="cannot be named here"):
        words_of("bio fit", inputs, tmp_path, wild_type="AC\0D")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_name_in_a_form_is_an_argument_of_its_command(form):
    known = {name_of(argument) for argument in arguments(form.command)}
    assert {*form.sources, *form.first, *form.hidden, *form.columns, *form.values} <= known


@pytest.mark.parametrize("command", FORMS)
def test_a_form_as_it_is_opened_gives_words_that_the_command_takes(command, inputs, tmp_path):
    entered = {"table__text": "ACD"} if command == "bio predict" else {}
    words, title = words_of(command, inputs, tmp_path, **entered)
    assert " ".join(words[:2]) == command
    assert title.startswith(FORMS[command].title)
    flags = [word for word in words if word.startswith("--")]
    assert flags == [word for word in flags if word.startswith(("--text", "--files", "--speed", "--page"))]
    parsed(words)


def test_values_arrive_as_they_were_entered(inputs, tmp_path):
    words, title = words_of(
        *("bio fit", inputs, tmp_path), table="example:tdp43", target=["a b", "--out=x"], models="ridge lyra",
        tokens=20_000, seed=0,
    )  # fmt: skip
    settings = parsed(words)["settings"]
    assert settings.target == ("a b", "--out=x")
    assert settings.models == ("ridge", "lyra")
    assert settings.tokens == 20_000
    assert title == "Models of example:tdp43"


def test_a_value_of_zero_is_no_default(inputs, tmp_path):
    words, _ = words_of("hep fit", inputs, tmp_path, epochs=0)
    assert "--epochs=0" in words


@pytest.mark.parametrize("text", ["/etc/passwd", "~/key", "a/../../key", "file:///etc/passwd", "http://10.0.0.1/"])
def test_a_text_cannot_name_a_file_of_the_server_or_its_network(inputs, tmp_path, text):
    with pytest.raises(SubquadError, match="upload"):
        words_of("bio fit", inputs, tmp_path, sequence=text)


def test_a_positional_text_cannot_be_a_flag(inputs, tmp_path):
    with pytest.raises(SubquadError, match="upload"):
        words_of("llm linearize", inputs, tmp_path, model="--trust")


def test_only_what_was_offered_can_be_chosen(inputs, tmp_path):
    with pytest.raises(SubquadError, match="passwd is not there"):
        words_of("bio fit", inputs, tmp_path, table="/etc/passwd")
    with pytest.raises(SubquadError, match="nothing is chosen"):
        words_of("bio fit", inputs, tmp_path, table=None)
    with pytest.raises(SubquadError, match="No closing quotation"):
        words_of("bio fit", inputs, tmp_path, models='ridge "')


@pytest.mark.parametrize(
    ("text", "name", "content"),
    [
        ("ACD\n\n EFG ", "typed.csv", "sequence\nACD\nEFG\n"),
        ("A1C:D2E\nA1G", "typed.csv", "mutant\nA1C:D2E\nA1G\n"),
        (">one\nACD", "typed.fasta", ">one\nACD\n"),
    ],
)
def test_typed_sequences_become_a_file(inputs, tmp_path, text, name, content):
    words, _ = words_of("bio predict", inputs, tmp_path, table__text=text)
    assert words == ["bio", "predict", "example:tdp43-model", str(tmp_path / name)]
    assert (tmp_path / name).read_text() == content


def test_settings_that_few_need_are_on_the_page_too(inputs, tmp_path):
    settings = parsed(words_of("bio fit", inputs, tmp_path, group="batch", learning_rate=0.01)[0])["settings"]
    assert settings.group == "batch"
    assert settings.learning_rate == 0.01


def test_each_sheet_of_an_excel_file_can_be_chosen(inputs, tmp_path):
    path = tmp_path / "uploads" / "hash" / "book.xlsx"
    with pd.ExcelWriter(path) as book:
        for name in ("Notes", "Data"):
            pd.DataFrame({"sequence": ["ACD"], "y": [1.5]}).to_excel(book, sheet_name=name, index=False)
    assert (("book.xlsx, Data", f"{path}#Data")) in inputs.choices(TABLES)
    words, title = words_of("bio fit", inputs, tmp_path, table=f"{path}#Data")
    assert parsed(words)["table"] == f"{path}#Data"
    assert title == "Models of book.xlsx#Data"
    path.write_bytes(b"PK damaged")
    assert (path.name, str(path)) in inputs.choices(TABLES)


def test_uploads_results_and_shared_folders_are_offered(tmp_path):
    uploads, data = tmp_path / "uploads", tmp_path / "data"
    for path in (uploads / "one" / "a.csv", uploads / "two" / "a.csv", uploads / "two" / "a.root", data / "b.csv.gz"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (data / "other").mkdir()
    inputs = Inputs(uploads, [data], Jobs(tmp_path / "jobs", 1))
    labels = [label for label, _ in inputs.choices(TABLES)]
    assert labels[0] == "a.csv"
    assert labels[1].startswith("a.csv (")
    assert labels[2:] == ["b.csv.gz", "example:tdp43"]
    assert inputs.choices(RUNS["bio"]) == [("example:tdp43-model", "example:tdp43-model")]


def test_the_results_of_earlier_rounds_are_continued(inputs, tmp_path):
    jobs = Jobs(tmp_path / "jobs", 1, ("/bin/sh", "-c", "true"))
    job = jobs.start(jobs.new(), ["bio", "rounds", "run"], title="Round")
    while job.state != "finished":
        time.sleep(0.01)
    jobs.close()
    (job.out / "round-1").mkdir(parents=True)
    inputs = Inputs(tmp_path / "uploads", [], jobs)
    words_of("bio rounds", inputs, tmp_path, earlier=str(job.out), propose="4")
    assert (tmp_path / "out" / "round-1").is_dir()
