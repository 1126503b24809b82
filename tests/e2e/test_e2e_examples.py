"""Results of the fitted runs that ship with subquad, on wide and narrow screens: nothing has to be trained for them."""

import pandas as pd
import pytest
from e2e_browser import browser_of, check, patience, wait_finished

from subquad.bio.data.examples import resolve_table

SCREENS = pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])


def choose(page, label, name):
    page.get_by_label(label, exact=True).locator("visible=true").click()
    page.get_by_role("option", name=name).click()


@SCREENS
def test_a_shipped_model_predicts_and_maps_mutants(chromium, server, width, scheme):
    sequence = pd.read_csv(resolve_table("example:tdp43"), nrows=1)["sequence"].iloc[0]
    with browser_of(chromium, server.address, width=width, scheme=scheme) as (page, complaints):
        page.get_by_text("What was read").wait_for()
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
