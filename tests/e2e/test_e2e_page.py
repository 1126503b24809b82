"""The page in a browser: first sight, narrow screens, both themes, accessibility, mistakes, users, passwords."""

import random
import time

import pandas as pd
import pytest
from e2e_browser import Server, browser_of, faults_of, keep, patience, wait_read

TABS = ("Sequences", "Language", "Jets")


def open_tab(page, name):
    page.get_by_role("tab", name=name, exact=True).first.click()
    page.wait_for_timeout(patience(1.0))


def test_the_first_page_is_there_in_five_seconds(chromium, server):
    with browser_of(chromium, server.address) as (page, _):
        began = time.monotonic()
        page.goto(server.address)
        page.get_by_role("tab", name="Jets").wait_for()
        assert time.monotonic() - began < patience(5) / 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_tab_fits_the_screen_and_has_no_serious_fault_of_accessibility(chromium, server, width, scheme):
    with browser_of(chromium, server.address, width=width, scheme=scheme) as (page, complaints):
        wait_read(page)
        faults = []
        for tab in TABS:
            open_tab(page, tab)
            keep(page, f"{tab.lower()}-{width}-{scheme}")
            faults += faults_of(page, tab, width)
        assert not faults, "\n".join(faults)
        assert not complaints


def test_the_tabs_are_reached_by_keyboard(browser):
    browser.get_by_role("tab", name="Sequences").focus()
    browser.keyboard.press("Tab")
    browser.keyboard.press("Enter")
    browser.get_by_text("1. Linearize a model").wait_for()
    browser.get_by_role("button", name="Linearize", exact=True).wait_for()
    seen = []
    while len(seen) < 40 and "Linearize" not in seen:
        browser.keyboard.press("Tab")
        seen.append(browser.evaluate("document.activeElement.textContent.trim()"))
    assert "Linearize" in seen, seen


NONSENSE = {"nonsense.csv": bytes(range(256)) * 40_000, "pickle.csv": b"\x80\x04\x95\x00\x00csystem\n" * 50}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_bad_file_is_refused_with_a_sentence_and_leaves_nothing(browser, server, tmp_path, name):
    (tmp_path / name).write_bytes(NONSENSE[name])
    browser.locator("#sq-table input[type=file]").set_input_files(tmp_path / name)
    browser.get_by_role("alert").get_by_text(f"The file was not taken. {name}: ").wait_for()
    keep(browser, f"refused-{name.split('.')[0]}")
    assert not server.uploads


def test_a_text_that_is_not_utf_8_is_refused_at_the_drop_and_a_good_one_is_described(browser, server, tmp_path):
    open_tab(browser, "Language")
    dropped_text, said = (browser.locator(f"#sq-training-text{part}") for part in (" input[type=file]", "-read"))
    said.get_by_text("Without a file: the help topics of Python").wait_for()
    (tmp_path / "latin.txt").write_bytes("The café\nwas closed.\n".encode("latin-1"))
    dropped_text.set_input_files(tmp_path / "latin.txt")
    said.get_by_role("alert").get_by_text("latin.txt: line 1, character 8 is not UTF-8").wait_for()
    keep(browser, "refused-text")
    assert not [path for path in server.uploads if path.name == "latin.txt"]
    (tmp_path / "utf8.txt").write_text("The café\nwas closed.\n" * 90, encoding="utf-8")
    dropped_text.set_input_files(tmp_path / "utf8.txt")
    said.get_by_text("utf8.txt: plain text, one document").wait_for()
    browser.locator("#sq-training-text").get_by_role("button", name="Clear").or_(
        browser.locator("#sq-training-text").get_by_role("button", name="Remove")
    ).first.click()
    said.get_by_text("Without a file").wait_for()


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(chromium, server, tmp_path):
    before = server.uploads
    with (tmp_path / "large.csv").open("wb") as file:
        file.write(b"sequence,y\n" + b"nonsense" * 7_000_000)
    with browser_of(chromium, server.address) as (page, _):
        wait_read(page)
        page.locator("#sq-table input[type=file]").set_input_files(tmp_path / "large.csv")
        page.wait_for_timeout(patience(3))
        keep(page, "refused-large")
        page.get_by_text("exceed the maximum allowed size").first.wait_for()
    assert server.uploads == before


def test_wrong_rows_are_listed_by_number(browser, tmp_path):
    letters = "ACDEFGHIKLMNW"
    rows = [f"ACDEFGHIK{letter}LMN,{'high' if letter == 'W' else k}" for k, letter in enumerate(letters)]
    (tmp_path / "rows.csv").write_text("\n".join(["sequence,activity", *rows]))
    browser.locator("#sq-table input[type=file]").set_input_files(tmp_path / "rows.csv")
    browser.get_by_role("alert").get_by_text("row 13: 'high'").wait_for()
    keep(browser, "wrong-rows")


WILD_TYPE = "MKVLAGTREWHYNDQSPFIC"
VARIANTS = [
    (f"{old}{k + 21}{letter}", k / 7 - j / 3, 0.1 + j / 9)
    for k, old in enumerate(WILD_TYPE)
    for j, letter in enumerate("ACDEF")
    if letter != old
]


def dropped(page, path):
    page.locator("#sq-table input[type=file]").set_input_files(path)


def open_columns(page):
    page.get_by_text("Columns and split", exact=True).first.click()
    # what is entered while the fields are still being built is lost
    page.wait_for_timeout(patience(1.0))


@pytest.mark.parametrize("width", [1280, 390])
def test_a_table_of_variants_is_described_once_its_wild_type_is_pasted(chromium, server, tmp_path, width):
    pd.DataFrame(VARIANTS, columns=["variant", "fitness", "se"]).to_csv(tmp_path / "scan.csv", index=False)
    with browser_of(chromium, server.address, width=width) as (page, _):
        wait_read(page)
        dropped(page, tmp_path / "scan.csv")
        data = page.locator("#sq-data")
        data.get_by_text('paste their wild type under "Columns and split"').wait_for()
        page.get_by_role("button", name="Train").locator("visible=true").click()
        page.locator("#sq-bio-fit").get_by_text("paste their wild type").wait_for()
        open_columns(page)
        page.get_by_role("textbox", name="Wild type").fill(WILD_TYPE)
        data.get_by_text(f"first position 21 fits all {len(VARIANTS)} rows").wait_for()
        page.locator("#sq-bio-fit").get_by_text("Choose a table and press Train").wait_for()
        page.get_by_label("First position of the wild type").fill("1")
        data.get_by_text('set it under "Columns and split"').wait_for()
        page.get_by_label("First position of the wild type").fill("21")
        wait_read(data)
        page.get_by_label("Column of the standard errors").click()
        page.get_by_role("option", name="se", exact=True).click()
        data.get_by_text("weights: ").wait_for()
        keep(page, f"variants-{width}")
        faults = faults_of(page, "variants", width)
        assert not faults, "\n".join(faults)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_sequence_of_another_length_is_refused_until_any_lengths_are_accepted(chromium, server, tmp_path, width):
    draw = random.Random(0)
    rows = ["".join(draw.choices("ACDEFGHIKL", k=13 - (k == 6))) for k in range(61)]
    (tmp_path / "cut.csv").write_text("sequence,y\n" + "".join(f"{row},{k % 7}\n" for k, row in enumerate(rows)))
    with browser_of(chromium, server.address, width=width) as (page, _):
        wait_read(page)
        dropped(page, tmp_path / "cut.csv")
        data = page.locator("#sq-data")
        data.get_by_text("1 of 61 sequences has 12 letters, the others 13 (row 7)").wait_for()
        open_columns(page)
        page.get_by_label("Lengths of the sequences").click()
        page.get_by_role("option", name="accept any lengths").click()
        data.get_by_text("12 to 13").wait_for()
        keep(page, f"lengths-{width}")
        faults = faults_of(page, "lengths", width)
        assert not faults, "\n".join(faults)


def test_the_sheet_of_a_workbook_is_found_and_another_can_be_chosen(browser, tmp_path):
    frame = pd.DataFrame([(f"ACDEF{a}{b}", k) for k, (a, b) in enumerate((a, b) for a in "ACDE" for b in "FGHIK")])
    with pd.ExcelWriter(tmp_path / "scan.xlsx") as file:
        pd.DataFrame({"read me": ["by"], "of": ["the lab"]}).to_excel(file, sheet_name="Notes", index=False)
        frame.set_axis(["sequence", "y"], axis=1).to_excel(file, sheet_name="Data", index=False)
    dropped(browser, tmp_path / "scan.xlsx")
    browser.locator("#sq-data").get_by_text("20", exact=True).first.wait_for()
    open_columns(browser)
    sheet = browser.get_by_label("Sheet", exact=True)
    assert sheet.input_value() == "Data"
    sheet.click()
    browser.get_by_role("option", name="Notes").click()
    browser.locator("#sq-data").get_by_text("scan.xlsx, sheet 'Notes': no column looks like sequences").wait_for()


def test_a_refusal_does_not_stay_when_the_next_file_is_too_large(browser, tmp_path):
    (tmp_path / "nonsense.csv").write_bytes(NONSENSE["nonsense.csv"])
    with (tmp_path / "large.csv").open("wb") as file:
        file.write(b"sequence,y\n" + b"nonsense" * 7_000_000)
    dropped(browser, tmp_path / "nonsense.csv")
    refusal = browser.get_by_text("The file was not taken.")
    refusal.wait_for()
    dropped(browser, tmp_path / "large.csv")
    browser.get_by_text("exceed the maximum allowed size").first.wait_for()
    refusal.wait_for(state="hidden")
    assert browser.locator("#sq-data").get_by_text("What was read").count()


def test_an_upload_is_deleted_below_the_tabs_and_its_list_forgets_it(browser, server, tmp_path):
    rows = ["sequence,y", *(f"ACDEF{a}{b},{k}" for k, (a, b) in enumerate((a, b) for a in "ACDE" for b in "FGHIK"))]
    (tmp_path / "gone.csv").write_text("\n".join(rows))
    browser.locator("#sq-table input[type=file]").set_input_files(tmp_path / "gone.csv")
    browser.locator("#sq-data").get_by_text("20", exact=True).first.wait_for()
    open_tab(browser, "Jets")
    browser.get_by_label("Uploads and results of all tabs").click()
    browser.get_by_role("option", name="upload gone.csv").click()
    keep(browser, "deletion")
    browser.get_by_role("button", name="Delete the chosen uploads and results").click()
    browser.get_by_text("1 upload deleted.").wait_for()
    assert not [path for path in server.uploads if path.name == "gone.csv"]
    open_tab(browser, "Sequences")
    browser.get_by_label("Table", exact=True).first.click()
    browser.get_by_role("option", name="example:tdp43").wait_for()
    assert not browser.get_by_role("option", name="gone.csv").count()


def test_another_user_sees_nothing_of_it(chromium, server, tmp_path):
    rows = ["sequence,y", *(f"ACDEF{a}{b},{k}" for k, (a, b) in enumerate((a, b) for a in "ACDE" for b in "FGHIK"))]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    with browser_of(chromium, server.address) as (first, _), browser_of(chromium, server.address) as (second, _):
        wait_read(second)
        wait_read(first)
        first.locator("#sq-table input[type=file]").set_input_files(tmp_path / "mine.csv")
        first.locator("#sq-data").get_by_text("20", exact=True).first.wait_for()
        second.reload()
        wait_read(second)
        second.get_by_role("listbox", name="Table").or_(second.get_by_label("Table", exact=True)).first.click()
        second.get_by_role("option", name="example:tdp43").wait_for()
        assert not second.get_by_role("option", name="mine.csv").count()
        first.reload()
        wait_read(first)
        first.get_by_label("Table", exact=True).first.click()
        first.get_by_role("option", name="mine.csv").wait_for()


def test_other_computers_need_the_password(chromium, tmp_path):
    password = "eleven little ducks"
    server = Server(tmp_path, "--host", "0.0.0.0", SUBQUAD_APP_PASSWORD=password).start()
    try:
        with browser_of(chromium, server.address) as (page, _):
            keep(page, "login")
            page.get_by_label("Password").fill("wrong password")
            page.get_by_role("button", name="Open the page").click()
            page.get_by_text("This is not the password.").wait_for()
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Open the page").click()
            wait_read(page)
            assert not page.get_by_text("Or type the folder").count()
            (tmp_path / "table.csv").write_text("sequence,y\n" + "".join(f"ACDEF{a},1\n" for a in "ACDEFGHIKLM"))
            page.locator("#sq-table input[type=file]").set_input_files(tmp_path / "table.csv")
            page.locator("#sq-data").get_by_text("same").or_(page.get_by_role("alert")).first.wait_for()
            assert server.uploads
    finally:
        server.stop()
    assert not server.uploads
