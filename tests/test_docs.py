"""Pages stay short, and what they point at is there."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
LONGEST = {"README.md": 400, "ARCHITECTURE.md": 1200}


@pytest.mark.parametrize("name", LONGEST)
def test_pages_are_short(name):
    words = (ROOT / name).read_text().split()
    assert len(words) <= LONGEST[name]


def test_the_tree_is_that_of_the_package():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text.split("    jaxrobust/\n")[1].split("\n\n")[0]
    told = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    found = {p.name for p in (ROOT / "jaxrobust").iterdir() if p.name[:2] != "__"}
    assert told == found - {"py.typed"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_and_code_that_are_named_exist(page):
    text = page.read_text()
    for config in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / config).is_file(), config
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(block)


def test_every_package_has_a_page_of_reference():
    packages = {p.parent.name for p in ROOT.glob("jaxrobust/*/__init__.py")}
    pages = {page.stem for page in (ROOT / "docs/reference").glob("*.md")}
    assert packages - pages == {"runtime"}


def test_tutorials_are_pages_of_the_site():
    # That they run, and that links and anchors lead somewhere, the build looks at.
    nav = (ROOT / "mkdocs.yml").read_text()
    tutorials = [*ROOT.glob("docs/tutorials/*.py")]
    assert tutorials
    for tutorial in tutorials:
        ast.parse(tutorial.read_text())
        assert f"tutorials/{tutorial.stem}.md" in nav
