"""The documentation site, without the programs that build it: navigation, links, anchors, pictures and commands."""

import importlib
import re
import shlex
import sys
import unicodedata
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from subquad.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOOLS = ROOT / "tools"
REPOSITORY = "https://github.com/subquad/subquad/blob/main/"
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
JET_GUIDES = ("hep-data.md", "hep-evaluate.md", "hep-explain.md", "hep-deploy.md", "hep-simulation.md")
RUN = (
    *sorted(path.name for path in DOCS.glob("bio-*.md") if "results" not in path.name and "suite" not in path.name),
    *sorted(path.name for path in DOCS.glob("llm-*.md") if "results" not in path.name),
    *("tutorial-sequences.md", "tutorial-language-models.md", *JET_GUIDES),
)
"""Pages whose commands run in the tests of their field."""
SHOWN = ("app.md", "coming-from.md")
"""Pages whose commands need files that are not there, or run until they are stopped."""


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python functions; the functions are not called."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _, name, __: name)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
WRITTEN = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if path.parent.name != "reference"
}
"""Pages of the repository; those of docs/reference are made by `generated`."""


@pytest.fixture(scope="module")
def generated():
    """Return the reference pages, as `make docs` writes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(TOOLS), *sys.path])
        return importlib.import_module("write_reference").pages()


def entries(nav):
    """Return the pages of a navigation in order."""
    for item in nav:
        for target in item.values():
            yield from entries(target) if isinstance(target, list) else [target]


def slug(heading):
    """Return the anchor of a heading, as GitHub and pymdownx make it."""
    if (own := re.search(r"\{ #([\w-]+) \}$", heading)) is not None:
        return own[1]
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", unicodedata.normalize("NFC", text.strip())).lower().replace(" ", "-")


def anchors(text):
    found = [slug(heading) for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)]
    return {*found, *re.findall(r'<a id="([\w-]+)">', text)}


def links(text):
    """Return the targets of links and images outside of code."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)))


def commands(page):
    blocks = re.findall(r"^```sh\n(.*?)^```", WRITTEN[page], re.DOTALL | re.MULTILINE)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("subquad ")]


def test_the_navigation_lists_every_page_once(generated):
    listed = list(entries(SITE["nav"]))
    assert sorted(listed) == sorted({*WRITTEN, *generated})


def test_every_link_leads_to_a_page_or_file_and_to_an_anchor_of_it(generated):
    pages, broken = {**generated, **WRITTEN}, []
    for page, text in pages.items():
        for target in links(text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = unquote(target).partition("#")
            place = (DOCS / page).parent.joinpath(path).resolve() if path else DOCS / page
            name = str(place.relative_to(DOCS))
            if name not in pages and not place.is_file():
                broken.append(f"{page}: {target}: no such file")
            elif anchor and anchor not in anchors(pages.get(name, "")):
                broken.append(f"{page}: {target}: no such anchor")
    assert broken == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/index.md"])
def test_links_to_files_of_the_repository_lead_to_files_and_anchors(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in [*links(text), *re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)]:
        if target.startswith(REPOSITORY):
            path, _, anchor = target.removeprefix(REPOSITORY).partition("#")
            assert (ROOT / path).is_file(), target
            assert not anchor or anchor in anchors((ROOT / path).read_text(encoding="utf-8")), target


def test_the_site_loads_nothing_from_elsewhere():
    assert SITE["theme"]["font"] is False
    assert "repo_url" not in SITE, "for it every page would ask GitHub for the number of stars"
    plugins = [plugin if isinstance(plugin, str) else next(iter(plugin)) for plugin in SITE["plugins"]]
    assert plugins == ["search", "offline", "mkdocstrings"]
    # without a shim of its own, the plugin `offline` takes the one on unpkg.com
    assert any("iframe-worker" in name for name in SITE["extra"]["polyfills"])
    for name in (*SITE["extra_css"], *SITE["extra_javascript"], *SITE["extra"]["polyfills"]):
        assert (DOCS / name).is_file(), name
    # an image from elsewhere would be loaded with its page
    for page, text in WRITTEN.items():
        assert not re.search(r"!\[[^\]]*\]\(https?:|<img", text), page


def test_pictures_are_small_and_described():
    for page, text in WRITTEN.items():
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
            assert len(words) > 20, f"{page}: {target} needs a description"
            if target.startswith("assets/"):
                assert (DOCS / target).stat().st_size < 150_000, target


def test_every_command_and_flag_has_an_entry(generated):
    for field in ("bio", "llm", "hep"):
        text = generated[f"reference/cli-{field}.md"]
        for name in app[field]:
            if name.startswith("-"):
                continue
            assert f"## `subquad {field} {name}` {{ #{field}-{name} }}" in text
            section = text.partition(f"{{ #{field}-{name} }}")[2].partition("\n## ")[0]
            for argument in app[field][name].assemble_argument_collection():
                if argument.show and argument.name.startswith("--"):
                    assert f"`{argument.name}" in section, f"{field} {name} {argument.name}"
    assert "## `subquad demo` { #demo }" in generated["reference/cli.md"]
    assert "## `subquad app` { #app }" in generated["reference/cli.md"]


def test_every_public_name_of_a_field_has_an_entry(generated):
    shown = {name for text in generated.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    for field in ("subquad.bio", "subquad.llm", "subquad.hep"):
        assert {f"{field}.{name}" for name in importlib.import_module(field).__all__} <= shown


@pytest.mark.parametrize("page", ["index.md", "tutorial-jets.md", "install.md"])
def test_the_first_pages_show_commands_that_other_tests_run(page):
    def without_output(line):
        return re.sub(r" --out \S+", "", line.strip())

    readme = re.findall(r"^subquad [^#\n]*", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    # the tests add flags that make commands shorter
    known = [without_output(line) for line in [*(line for guide in RUN for line in commands(guide)), *readme]]
    lines = map(without_output, commands(page))
    assert [line for line in lines if not any(own.startswith(line) for own in known)] == []


@pytest.mark.parametrize("page", [page for page in WRITTEN if commands(page)])
def test_the_commands_of_a_page_have_flags_that_exist(page):
    for line in commands(page):
        # a shell would redirect standard input, and `--config` is read before the other flags
        words = shlex.split(re.sub(r" --config \w+", "", line.partition(" < ")[0]))
        app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_every_page_with_commands_is_run_or_is_known_to_show_them_only():
    known = {*RUN, *SHOWN, "index.md", "tutorial-jets.md", "reproduce.md"}
    assert [page for page in WRITTEN if commands(page) and page not in known] == []


@pytest.mark.parametrize("page", ["coming-from.md"])
def test_the_python_of_an_explanation_runs(page):
    for block in re.findall(r"^```python\n(.*?)^```", WRITTEN[page], re.DOTALL | re.MULTILINE):
        exec(compile(block, page, "exec"), {})
