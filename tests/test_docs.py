"""Pages stay short, and what they point at is there."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
LONGEST = {"README.md": 400}


@pytest.mark.parametrize("name", LONGEST)
def test_pages_are_short(name):
    words = (ROOT / name).read_text().split()
    assert len(words) <= LONGEST[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("name", ["README.md", "docs/getting_started.md"])
def test_configs_and_code_that_are_named_exist(name):
    text = (ROOT / name).read_text()
    for config in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / config).is_file(), config
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)
