"""From file to result in each tab, in a browser: training, reload, reports, maps, chats, displays, downloads."""

import zipfile

import pandas as pd
from e2e_browser import browser_of, check, patience, wait_finished, wait_read
from support.llm_models import byte_tokenizer, tiny_model

from subquad.bio.data.examples import resolve_table
from subquad.hep.data.examples import example_path


def choose_models(page, *names):
    for label in ("ridge", "gradient boosting", "MLP", "Lyra"):
        page.get_by_label(label, exact=True).set_checked(label in names)


def open_tab(page, name, action):
    """Open a tab with a button for an action; what is entered while a tab is still being built is lost."""
    page.get_by_role("tab", name=name).click()
    page.get_by_role("button", name=action).wait_for()
    page.wait_for_timeout(patience(1))


def opened_report(page, panel):
    """Open the report of a panel; it must not complain, nor have serious faults of accessibility."""
    complaints = []
    with page.context.expect_page() as opened:
        page.locator(f"#sq-{panel}").get_by_role("link", name="Open the report").click()
    report = opened.value
    report.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    # a page that is still opening cannot be loaded again
    report.wait_for_load_state()
    report.reload()
    report.locator("h1").wait_for()
    assert not complaints
    check(report, f"{panel}-report")
    return report


def test_a_table_becomes_a_model_and_a_map_and_survives_a_reload(browser, tmp_path):
    frame = pd.read_csv(resolve_table("example:tdp43"), usecols=["sequence", "toxicity"]).sample(1500, random_state=0)
    frame.to_csv(tmp_path / "assay.csv", index=False)
    browser.locator("#sq-table input[type=file]").set_input_files(tmp_path / "assay.csv")
    browser.locator("#sq-data").get_by_text("1,500").first.wait_for()
    choose_models(browser, "ridge", "Lyra")
    browser.get_by_role("button", name="Train").locator("visible=true").click()
    browser.locator("#sq-bio-fit").get_by_text("running for").wait_for()
    browser.locator("#sq-bio-fit svg[role=img]").first.wait_for(timeout=patience(240))
    check(browser, "sequences-training")
    browser.reload()
    browser.locator("#sq-bio-fit").get_by_text("running for").wait_for()
    wait_finished(browser, "bio-fit")
    browser.get_by_label("Fitted model").wait_for()
    check(browser, "sequences-fitted")
    assert "assay" in opened_report(browser, "bio-fit").title()
    with browser.expect_download() as download:
        browser.locator("#sq-bio-fit").get_by_role("link", name="Model folder (zip)").click()
    download.value.save_as(tmp_path / "model.zip")
    assert "bio-fit/config.json" in zipfile.ZipFile(tmp_path / "model.zip").namelist()

    browser.get_by_role("textbox", name="Sequences").fill(frame["sequence"].iloc[0])
    browser.get_by_role("button", name="Predict", exact=True).click()
    browser.locator("#sq-prediction").get_by_text("90 % from").wait_for()

    browser.get_by_role("tab", name="Single mutants").click()
    browser.get_by_role("button", name="Scan all single mutants").click()
    wait_finished(browser, "bio-scan")
    tip = browser.locator("#sq-bio-scan .sq-tip")
    browser.locator("#sq-bio-scan rect").nth(100).hover()
    assert "90 % interval" in tip.text_content()
    region = browser.locator("#sq-bio-scan [role=application]")
    region.focus()
    before = tip.text_content()
    browser.keyboard.press("ArrowRight")
    assert tip.text_content() != before
    check(browser, "sequences-map")

    open_tab(browser, "Designs", "Design variants")
    browser.get_by_label("Number of designs").fill("4")
    browser.get_by_label("Positions that stay").fill("1-20")
    browser.get_by_role("button", name="Design variants").click()
    wait_finished(browser, "bio-design")
    assert browser.locator("#sq-bio-design tbody tr").count() == 4
    check(browser, "sequences-designs")
    open_tab(browser, "Next round", "Propose a batch")
    browser.get_by_label("Variants to propose").fill("3")
    browser.get_by_role("button", name="Propose a batch").click()
    wait_finished(browser, "bio-rounds")
    assert browser.locator("#sq-bio-rounds tbody tr").count() == 3
    check(browser, "sequences-round")
    browser.get_by_role("tab", name="Epistasis").click()
    browser.get_by_role("button", name="Map epistasis").click()
    wait_finished(browser, "bio-epistasis")
    assert browser.locator("#sq-bio-epistasis img").count()
    check(browser, "sequences-epistasis")


def test_a_training_is_stopped(browser):
    choose_models(browser, "Lyra")
    browser.get_by_text("Thorough", exact=True).click()
    browser.get_by_role("button", name="Train").locator("visible=true").click()
    browser.locator("#sq-bio-fit").get_by_text("running for").wait_for()
    browser.get_by_role("button", name="Stop").locator("visible=true").first.click()
    browser.locator("#sq-bio-fit").get_by_text("was stopped after").wait_for()
    browser.get_by_role("button", name="Resume").locator("visible=true").wait_for()
    check(browser, "sequences-stopped")


def test_jets_become_a_tagger_with_curves_displays_and_scores(browser, tmp_path):
    browser.get_by_role("tab", name="Jets").click()
    browser.locator("#sq-hep input[type=file]").first.set_input_files(example_path())
    browser.get_by_text("jets_small.root").first.wait_for()
    browser.get_by_label("number input for Epochs").fill("2")
    browser.get_by_role("button", name="Train").locator("visible=true").click()
    wait_finished(browser, "hep-fit")
    opened_report(browser, "hep-fit")
    browser.get_by_role("tab", name="Curves").click()
    browser.get_by_role("img", name="Rejection of QCD").first.wait_for(timeout=patience(180))
    check(browser, "jets-curves")
    # a page at which nobody does anything asks the server for nothing
    asked = []
    browser.on("request", lambda one: asked.append(one.url) if "queue/join" in one.url else None)
    browser.wait_for_timeout(3000)
    assert not asked
    browser.get_by_role("tab", name="Single jets").click()
    browser.get_by_role("button", name="Show the jet").click()
    browser.locator("#sq-jet [role=img]").first.wait_for(timeout=patience(120))
    check(browser, "jets-display")
    browser.get_by_role("tab", name="Score files").click()
    browser.get_by_role("button", name="Score the files").click()
    wait_finished(browser, "hep-predict")
    with browser.expect_download() as download:
        browser.locator("#sq-hep-predict").get_by_role("link", name="Scores (ROOT)").click()
    download.value.save_as(tmp_path / "scores.root")
    import uproot

    with uproot.open(tmp_path / "scores.root") as file:
        assert file["Events"].num_entries == 1500
    check(browser, "jets-scores")


def test_a_language_model_is_linearized_and_answers_beside_its_teacher(browser, tmp_path):
    teacher, tokenizer = tmp_path / "tiny", byte_tokenizer(tmp_path)
    tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    browser.get_by_role("tab", name="Language").click()
    browser.get_by_label("Model", exact=True).fill(str(teacher))
    browser.keyboard.press("Enter")
    browser.get_by_label("number input for Minutes").fill("1")
    browser.get_by_label("Sequence length in tokens").fill("1024")
    browser.keyboard.press("Enter")
    browser.get_by_role("button", name="Linearize").click()
    wait_finished(browser, "llm-linearize", 600)
    browser.locator("#sq-llm-linearize").get_by_text("Error of layers").wait_for()
    check(browser, "language-linearized")
    opened_report(browser, "llm-linearize")
    browser.get_by_label("number input for Tokens of an answer, at most").fill("32")
    browser.get_by_role("textbox", name="Your question").fill("What is a list?")
    browser.get_by_role("button", name="Ask both").click()
    browser.locator("#sq-chat").get_by_text("tokens per second").nth(1).wait_for(timeout=patience(240))
    browser.locator("#sq-chat svg[role=img]").wait_for(timeout=patience(120))
    check(browser, "language-chat")
    browser.get_by_role("tab", name="Perplexity by position").click()
    browser.get_by_label("Length of the texts in tokens").fill("2048")
    browser.keyboard.press("Enter")
    browser.get_by_role("button", name="Measure perplexity").click()
    wait_finished(browser, "llm-evaluate", 600)
    assert browser.locator("#sq-llm-evaluate").get_by_text("trained length").count()
    check(browser, "language-perplexity")


def test_a_reload_finds_the_jobs_of_the_same_browser_only(chromium, server):
    with browser_of(chromium, server.address) as (first, _), browser_of(chromium, server.address) as (second, _):
        for page in (first, second):
            wait_read(page)
        choose_models(first, "Lyra")
        first.get_by_role("button", name="Train").locator("visible=true").click()
        first.locator("#sq-bio-fit").get_by_text("running for").wait_for()
        for page in (first, second):
            page.reload()
            wait_read(page)
        first.locator("#sq-bio-fit").get_by_text("running for").wait_for()
        # so that what the page shows of jobs has arrived too
        second.wait_for_timeout(patience(3))
        assert second.locator("#sq-bio-fit").get_by_text("Choose a table and press Train").count()
        assert not second.get_by_text("Fit of").count()
        first.get_by_role("button", name="Stop").locator("visible=true").first.click()
        first.locator("#sq-bio-fit").get_by_text("was stopped after").wait_for()
