"""Results of the fitted runs that ship with subquad, on wide and narrow screens: nothing has to be trained for them."""

import re

import pandas as pd
import pytest
from e2e_browser import browser_of, check, patience, wait_finished, wait_read

from subquad.bio.data.examples import resolve_table

SCREENS = pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])


def choose(page, label, name):
    page.get_by_label(label, exact=True).locator("visible=true").click()
    page.get_by_role("option", name=name).click()


@SCREENS
def test_a_shipped_model_predicts_and_maps_mutants(chromium, server, width, scheme):
    sequence = pd.read_csv(resolve_table("example:tdp43"), nrows=1)["sequence"].iloc[0]
    with browser_of(chromium, server.address, width=width, scheme=scheme) as (page, complaints):
        wait_read(page)
        choose(page, "Fitted model", "example:tdp43-model")
        page.get_by_role("textbox", name="Sequences").fill(sequence)
        page.get_by_role("button", name="Predict", exact=True).click()
        page.locator("#sq-prediction").get_by_text("90 % from").wait_for(timeout=patience(240))
        check(page, f"example-prediction-{width}-{scheme}")
        page.get_by_role("tab", name="Single mutants").click()
        page.get_by_role("button", name="Scan all single mutants").click()
        wait_finished(page, "bio-scan")
        check(page, f"example-map-{width}-{scheme}")
        assert not complaints


@SCREENS
def test_a_shipped_linear_model_is_chosen_by_itself_and_shows_how_far_it_is(chromium, server, width, scheme):
    with browser_of(chromium, server.address, width=width, scheme=scheme) as (page, complaints):
        page.get_by_role("tab", name="Language", exact=True).click()
        facts = page.locator("#sq-run-llm")
        facts.get_by_text("example:linear-smollm2 ships with subquad").wait_for()
        assert page.get_by_label("Linearized model").input_value() == "example:linear-smollm2"
        length = re.search(r"trained on texts of ([\d,]+) tokens", facts.inner_text())[1]
        page.get_by_label("number input for Tokens of an answer, at most").fill("16")
        page.get_by_role("textbox", name="Your question").fill("What is a list?")
        page.get_by_role("button", name="Ask both").click()
        chat = page.locator("#sq-chat")
        if width == 1280:
            # afterwards the models are open
            chat.get_by_text("Opening both models, step 2 of 3").wait_for()
            check(page, f"example-opening-{width}-{scheme}")
        chat.get_by_text("tokens per second").nth(1).wait_for(timeout=patience(240))
        page.get_by_role("tab", name="Perplexity by position").click()
        page.get_by_text(f"The chosen model was trained on texts of {length} tokens").wait_for()
        page.get_by_label("Length of the texts in tokens").click()
        page.get_by_role("option", name="256").click()
        page.get_by_role("button", name="Measure perplexity").click()
        progress = page.locator("#sq-llm-evaluate")
        progress.get_by_text("Model 1 of 5, teacher: it is opened").wait_for()
        check(page, f"example-perplexity-{width}-{scheme}")
        progress.get_by_text("Model 2 of 5").wait_for(timeout=patience(240))
        page.get_by_role("button", name="Stop").locator("visible=true").last.click()
        progress.get_by_text("was stopped after").wait_for()
        # what was measured stays
        progress.get_by_text("Model 2 of 5").wait_for()
        page.get_by_role("button", name="Resume").locator("visible=true").click()
        progress.get_by_text("running for").wait_for()
        progress.get_by_text("Model 2 of 5").wait_for()
        page.get_by_role("button", name="Stop").locator("visible=true").last.click()
        progress.get_by_text("was stopped after").wait_for()
        assert not complaints


@SCREENS
def test_a_shipped_tagger_has_curves_and_displays_of_jets(chromium, server, width, scheme):
    with browser_of(chromium, server.address, width=width, scheme=scheme) as (page, complaints):
        page.get_by_role("tab", name="Jets").click()
        choose(page, "Tagger", "example:tagger")
        page.get_by_role("tab", name="Curves").click()
        page.get_by_role("img", name="Rejection of QCD").first.wait_for(timeout=patience(240))
        # figures stay white in the dark theme, so their text stays dark
        inks = page.locator(".sq-figure svg *").evaluate_all("all => all.map(one => getComputedStyle(one).color)")
        assert {*inks} == {"rgb(28, 35, 48)"}
        check(page, f"example-curves-{width}-{scheme}")
        page.get_by_role("tab", name="Single jets").click()
        page.get_by_role("button", name="Show the jet").click()
        page.locator("#sq-jet [role=img]").first.wait_for(timeout=patience(240))
        check(page, f"example-jet-{width}-{scheme}")
        assert not complaints
