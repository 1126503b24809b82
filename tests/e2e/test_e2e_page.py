"""A person's way through each tab, in a real browser: a result at once, then own data, training and use."""

import random
import signal

import pytest

SCREENS = pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (400, "light"), (1300, "dark")])
MODEL_OF_LETTERS = dict(zip("ACDEFGHIKLMNPQRSTVWY", range(20), strict=True))


@pytest.fixture
def table(tmp_path):
    """200 peptides, whose activity is the sum of the numbers of their letters."""
    draw = random.Random(0)
    rows = ["".join(draw.choices("".join(MODEL_OF_LETTERS), k=12)) for _ in range(200)]
    path = tmp_path / "peptides.csv"
    lines = [f"{row},{sum(map(MODEL_OF_LETTERS.get, row))},{draw.random():.3f}" for row in rows]
    path.write_text("\n".join(["peptide,activity,noise", *lines]))
    return path


@SCREENS
def test_each_tab_shows_a_result_after_one_click(opened, width, scheme):
    with opened(width, scheme) as page:
        page.press("Example: all single mutants of TDP-43")
        page.wait("finished")
        page.report.get_by_text("Preferred letters").first.wait_for()
        page.check(f"sequences-{width}-{scheme}")
        page.open("Jets")
        page.press("Example: report of a tagger of JetClass's ten classes")
        page.wait("finished")
        page.report.get_by_text("Background rejection").first.wait_for()
        page.check(f"jets-{width}-{scheme}")
        page.open("Language models")
        page.page.get_by_role("button", name="What is the capital of France?").click()
        page.wait_for_answer()
        page.check(f"language-{width}-{scheme}")


def test_sequences_are_loaded_trained_looked_at_and_predicted(opened, table):
    with opened() as page:
        with page.page.expect_file_chooser() as chooser:
            page.page.locator("button:has-text('Upload files') >> visible=true").click()
        chooser.value.set_files(table)
        page.wait_for_choice("Table", "peptides.csv")
        # the columns of the table can be chosen by their names
        page.page.get_by_label("Target", exact=True).locator("visible=true").click()
        page.page.get_by_role("option", name="activity").click()
        page.page.keyboard.press("Escape")
        page.enter("Models", "ridge")
        page.press("Train")
        page.wait("Models of peptides.csv finished")
        page.report.get_by_text("ridge").first.wait_for()
        page.page.get_by_text("model.safetensors").or_(page.page.get_by_text("config.json")).first.wait_for(
            state="attached"
        )
        page.open("Sequences", "Predict")
        page.enter("Sequences or variants", "YYYYYYYYYYYY\nAAAAAAAAAAAA")
        page.press("Predict")
        page.wait("Predictions of Models of peptides.csv finished")
        cells = page.page.locator(".sq-table tbody tr >> visible=true").all_inner_texts()
        high, low = (float(row.split()[1]) for row in cells)
        assert low < 50
        assert high > 150
        page.open("Sequences", "Mutants")
        page.enter("Sequence", "ACDEFGHIKLMN")
        page.press("Scan all single mutants")
        page.wait("Single mutants of Models of peptides.csv finished")
        page.report.get_by_text("All single mutants").first.wait_for()
        page.check("sequences-own")
        # a mistake is said where the results appear
        page.open("Sequences", "Train")
        page.enter("Models", "no-such-model")
        page.press("Train")
        page.wait("failed")
        page.page.locator(".sq-error >> visible=true").filter(has_text="no-such-model").wait_for()


def test_a_language_model_is_linearized_and_chats(opened):
    with opened() as page:
        page.open("Language models", "Linearize")
        page.enter("Minutes", "0.2")
        page.unfold("More settings")
        page.enter("Sequence length", "1024")
        page.unfold("All other settings")
        page.enter("Evaluation tokens", "4096")
        page.press("Linearize")
        page.wait("is running")
        page.wait("Linear model of python-help-topics.txt finished", 900)
        page.report.get_by_text("Perplexity").first.wait_for()
        page.check("language-own")
        page.open("Language models", "Chat")
        page.wait_for_choice("Linearized model", "Linear model of python-help-topics.txt")
        page.page.get_by_placeholder("Type a message...").fill("What is a list?")
        page.page.keyboard.press("Enter")
        page.wait_for_answer()


def test_jets_are_trained_on_and_tagged_and_the_scores_downloaded(opened, tmp_path):
    with opened() as page:
        page.open("Jets")
        page.enter("Epochs", "1")
        page.press("Train a tagger")
        page.wait("Tagger of example:jets finished", 600)
        page.report.get_by_text("Background rejection").first.wait_for()
        page.check("jets-own")
        page.open("Jets", "Tag jets")
        page.press("Tag jets")
        page.wait("Scores of Tagger of example:jets finished")
        with page.page.expect_download() as download:
            page.page.get_by_role("link", name="scores.root").locator("visible=true").click()
        download.value.save_as(tmp_path / "scores.root")
        import uproot

        scores = uproot.open(tmp_path / "scores.root")["Events"]
        assert scores.num_entries == 1500
        assert "score_QCD" in scores.keys()  # noqa: SIM118


def test_a_job_is_stopped_resumed_and_outlives_its_server(opened, server):
    with opened() as page:
        page.open("Jets")
        page.press("Example: report of a tagger of JetClass's ten classes")
        page.wait("finished")
        page.enter("Epochs", "40")
        page.press("Train a tagger")
        page.page.locator(".sq-progress >> visible=true").wait_for(timeout=300_000)
        page.press("Stop")
        page.wait("was interrupted")
        page.check("jets-stopped")
        page.press("Resume")
        page.wait("is running")
        server.stop(signal.SIGKILL)
    server.start()
    with opened() as page:
        page.open("Jets")
        # the newest job is shown; its process was not a child of this server
        page.wait("is running")
        page.press("Stop")
        page.wait("was interrupted")
        page.page.once("dialog", lambda dialog: dialog.accept())
        page.press("Delete")
        # results of the earlier server are there
        page.wait("finished")
        page.page.locator(".sq-files >> visible=true").wait_for()
